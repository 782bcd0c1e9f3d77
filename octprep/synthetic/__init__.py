"""An OCT2017-shaped folder of synthetic B-scans, with the real archive's faults."""

from octprep.synthetic.anatomy import PatientAppearance, draw_appearance
from octprep.synthetic.bscan import Phantom, draw_scan
from octprep.synthetic.dataset import Summary, draw, scans
from octprep.synthetic.disease import CLASSES, Disease, draw_disease
from octprep.synthetic.population import MIN_PATIENTS

__all__ = [
    "CLASSES",
    "MIN_PATIENTS",
    "Disease",
    "PatientAppearance",
    "Phantom",
    "Summary",
    "draw",
    "draw_appearance",
    "draw_disease",
    "draw_scan",
    "scans",
]
