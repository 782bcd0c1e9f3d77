"""An OCT2017-shaped folder of synthetic B-scans, with the real archive's faults."""

from octprep.synthetic.anatomy import PatientAppearance, draw_look
from octprep.synthetic.bscan import Phantom, draw_scan
from octprep.synthetic.dataset import MIN_PATIENTS, Summary, draw, scans
from octprep.synthetic.disease import CLASSES, Disease, draw_disease

__all__ = [
    "CLASSES",
    "MIN_PATIENTS",
    "Disease",
    "PatientAppearance",
    "Phantom",
    "Summary",
    "draw",
    "draw_disease",
    "draw_look",
    "draw_scan",
    "scans",
]
