"""Warnings about what a training can show: few patients, a result at chance, exposed patients.

rows: the images of the dataset, from images.csv.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from octprep.format.images_csv import ImageRow
from octprep.wording import number
from octtrain.evaluation.metrics import MIN_PATIENTS
from octtrain.runs import exposure
from octtrain.runs.exposure import INITIAL_WEIGHTS, TrainingImage
from octtrain.runs.history import Row, best_epoch
from octtrain.runs.run import Run


def leak_warnings(run: Run) -> list[str]:
    """A warning if the dataset was built with patients or images in two splits."""
    leaks = run.manifest.leaks
    unknown = run.manifest.unknown_patients
    warnings = [f"WARNING: of these shards, {unknown}; results on them may be too good."] if unknown else []
    if not leaks:
        return warnings
    return [
        *warnings,
        f"WARNING: {number(len(leaks.patients), 'patient')} and {number(len(leaks.contents), 'image')} of these shards "
        "are in two splits; results on them are too good.",
    ]


def exposure_warnings(run: Run, rows: Sequence[ImageRow], train: Sequence[str]) -> list[str]:
    """Warnings if initial weights or the teacher were, or may have been, exposed to patients that are held out here.

    train: the splits that are trained on; all others are held out. That a teacher was itself selected on the splits
    that this run is selected on is no leak.
    """
    images, complete = run.exposure()
    lines = []
    if not complete:
        lines.append(
            f"WARNING: the training patients of {run.sources_of_exposure} are unknown, so `octtrain evaluate` cannot "
            "check whether the model was exposed to the patients it is tested on; it can for a model.keras in its run "
            "folder."
        )
    initial = [image for image in images if image.split == INITIAL_WEIGHTS]
    held_out = [name for name in run.manifest.splits if name not in train]
    lines += _exposure_warning(run.config.weights, initial, rows, held_out)
    if run.config.teacher:
        teacher = Run.load(Path(run.config.teacher))
        taught = teacher.exposure().images
        if teacher.manifest.digest == run.manifest.digest:
            shared = set(teacher.provenance.selected_on) & set(run.provenance.selected_on)
            taught = tuple(image for image in taught if image.split not in shared)
        lines += _exposure_warning(f"the teacher {run.config.teacher}", taught, rows, held_out)
    return lines


def _exposure_warning(
    name: str, images: Sequence[TrainingImage], rows: Sequence[ImageRow], held_out: Sequence[str]
) -> list[str]:
    patients = exposure.exposed(images, exposure.images_of(rows, held_out)).patients
    if not patients:
        return []
    return [
        f"WARNING: {name} was exposed to {len(patients):,} of the patients held out here "
        f"({', '.join(held_out)}); results on them are too good."
    ]


def few_patients_warnings(
    rows: Sequence[ImageRow], class_names: Sequence[str], train: Sequence[str], val: Sequence[str]
) -> list[str]:
    """Warnings of classes with fewer than MIN_PATIENTS patients to train on, or to select the best epoch on."""
    lines = []
    for name, splits, consequence in (
        ("training", train, "little can be learnt of it"),
        (", ".join(val), val, "the best epoch is selected on very little"),
    ):
        counts = exposure.patients_per_class(rows, splits, class_names)
        few = [
            f"{number(count, 'patient') if count else 'no patients'} of {label}"
            for label, count in counts.items()
            if count < MIN_PATIENTS
        ]
        if few:
            lines.append(f"WARNING: {name} has {', '.join(few)}: {consequence}.")
        if sum(count > 0 for count in counts.values()) == 1:
            lines.append(
                f"WARNING: {name} has images of one class only, so no model can be distinguished from a guess there."
            )
    return lines


def chance_warnings(
    rows: Sequence[ImageRow], class_names: Sequence[str], val: Sequence[str], history: Sequence[Row]
) -> list[str]:
    """A warning if the best epoch is not better than guessing: balanced accuracy <= 1/k + 2 standard errors of a guess.

    Each patient counts as one prediction, as those of one patient mostly agree: the variance of a guess is
    sum(p (1 - p) / patients of the class) / k^2, with p = 1/k.
    """
    patients = [count for count in exposure.patients_per_class(rows, val, class_names).values() if count]
    if len(patients) < 2:
        return []
    chance = 1 / len(patients)
    margin = 2 * math.sqrt(sum(chance * (1 - chance) / count for count in patients)) / len(patients)
    best = history[best_epoch(history) - 1]["val_balanced_accuracy"]
    if best > chance + margin:
        return []
    return [
        f"WARNING: that is not above chance: guessing among {len(patients)} classes gives {chance:.4f}, and on "
        f"{number(sum(patients), 'patient')} up to {chance + margin:.4f} by luck. No learning is shown; try more "
        "--epochs, another --lr, or more patients."
    ]
