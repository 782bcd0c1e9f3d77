"""An OCT2017-shaped folder of synthetic B-scans, with the real archive's faults."""

from octprep.phantom.anatomy import Look, draw_look
from octprep.phantom.archive import MIN_PATIENTS, Summary, draw, scans
from octprep.phantom.bscan import Phantom, draw_scan
from octprep.phantom.disease import CLASSES, Disease, draw_disease

__all__ = [
    "CLASSES",
    "MIN_PATIENTS",
    "Disease",
    "Look",
    "Phantom",
    "Summary",
    "draw",
    "draw_disease",
    "draw_look",
    "draw_scan",
    "scans",
]
