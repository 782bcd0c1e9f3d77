"""Synthetic B-scans: a folder of them in the layout of OCT2017, with the real archive's faults, or single ones.

For every scan the true rows of its layers and its fill are known.
"""

from octprep.synthetic.anatomy import PatientAppearance, draw_appearance, next_visit
from octprep.synthetic.bscan import Phantom, draw_scan
from octprep.synthetic.dataset import Summary, draw, scans
from octprep.synthetic.difficulty import DIFFICULTIES
from octprep.synthetic.disease import CLASSES, Disease, draw_disease
from octprep.synthetic.population import MIN_PATIENTS

__all__ = [
    "CLASSES",
    "DIFFICULTIES",
    "MIN_PATIENTS",
    "Disease",
    "PatientAppearance",
    "Phantom",
    "Summary",
    "draw",
    "draw_appearance",
    "draw_disease",
    "draw_scan",
    "next_visit",
    "scans",
]
