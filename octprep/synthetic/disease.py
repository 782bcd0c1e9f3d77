"""The disease of a class, as lists of lesions, from just visible to end stage."""

from __future__ import annotations

from dataclasses import dataclass

from octprep.synthetic.anatomy import PatientAppearance
from octprep.synthetic.difficulty import DIFFICULTIES, Difficulty, Rng
from octprep.synthetic.drusen import draw_drusen
from octprep.synthetic.edema import draw_edema
from octprep.synthetic.lesions import Lesion
from octprep.synthetic.marks import Mark
from octprep.synthetic.neovascularisation import draw_neovascularisation

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


@dataclass(frozen=True, kw_only=True)
class Disease:
    """The disease of one patient, for all scans of one class."""

    label: str  # of CLASSES
    lesions: tuple[Lesion, ...] = ()  # that change the layers, in this order
    marks: tuple[Mark, ...] = ()  # painted afterwards


def draw_disease(
    label: str, appearance: PatientAppearance, rng: Rng, difficulty: Difficulty = DIFFICULTIES["default"]
) -> Disease:
    """Draw the lesions of a class at random: none for NORMAL."""
    severity = rng.uniform(*difficulty.severity)
    draw = {"CNV": draw_neovascularisation, "DME": draw_edema, "DRUSEN": draw_drusen}.get(label)
    if draw is None:
        return Disease(label=label)
    lesions, marks = draw(severity, appearance, rng)
    return Disease(label=label, lesions=tuple(lesions), marks=tuple(marks))
