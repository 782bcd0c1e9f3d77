"""Exposure of a model: the patients and images that it was trained and selected on, or its initial weights or teacher.

A run keeps them in exposure.csv, so that evaluating the model on one of them is an error.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from octprep.format.images_csv import ImageRow
from octprep.format.manifest import Leaks

EXPOSURE_NAME = "exposure.csv"
EXPOSED_PATIENTS = "exposed_patients"  # in config.json, where exposure.csv lists some of them: how many there are
INITIAL_WEIGHTS = "initial_weights"  # in place of a split: images that the initial weights were exposed to
TEACHER = "teacher"  # in place of a split: images that the model's teacher was exposed to


class TrainingImage(NamedTuple):
    """One image that a model was exposed to: a row of exposure.csv."""

    patient: str
    patient_group: str
    sha256: str
    split: str  # of the dataset it was trained on, INITIAL_WEIGHTS or TEACHER


class Exposure(NamedTuple):
    """All images that a model was exposed to."""

    images: tuple[TrainingImage, ...]
    complete: bool  # False: it, or its teacher, was initialised from weights whose training images are unknown


def union(exposures: Iterable[Exposure]) -> Exposure:
    """What at least one of some models was exposed to, each image of a split once."""
    exposures = list(exposures)
    images = dict.fromkeys(image for exposure in exposures for image in exposure.images)
    return Exposure(tuple(images), all(exposure.complete for exposure in exposures))


def images_of(rows: Iterable[ImageRow], splits: Sequence[str]) -> tuple[TrainingImage, ...]:
    """The images of some splits: the exposure of a model that is trained or selected on them."""
    return tuple(
        TrainingImage(row.patient, row.patient_group, row.sha256, row.split) for row in rows if row.split in splits
    )


def patients_per_split(images: Iterable[TrainingImage]) -> dict[str, int]:
    """The number of patient groups in each split, or in place of it, of an exposure."""
    groups: dict[str, set[str]] = {}
    for image in images:
        groups.setdefault(image.split, set()).add(image.patient_group)
    return {split: len(members) for split, members in groups.items()}


def patients_per_class(rows: Iterable[ImageRow], splits: Sequence[str], class_names: Sequence[str]) -> dict[str, int]:
    """The number of patient groups with images of each class in some splits."""
    groups: dict[str, set[str]] = {name: set() for name in class_names}
    for row in rows:
        if row.split in splits and row.label in groups:
            groups[row.label].add(row.patient_group)
    return {name: len(members) for name, members in groups.items()}


def exposed(exposure: Iterable[TrainingImage], evaluated: Iterable[TrainingImage]) -> Leaks:
    """The patients and file contents among the evaluated images that are in an exposure, sorted.

    A patient counts as well if only another id of the same patient group is in the exposure.
    """
    exposure, evaluated = list(exposure), list(evaluated)
    ids = {name for image in exposure for name in (image.patient, image.patient_group)}
    patients = {image.patient for image in evaluated if image.patient in ids or image.patient_group in ids}
    contents = {image.sha256 for image in exposure} & {image.sha256 for image in evaluated}
    return Leaks(patients=tuple(sorted(patients)), contents=tuple(sorted(contents)))


def encode(images: Iterable[TrainingImage]) -> bytes:
    """The bytes of exposure.csv."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(TrainingImage._fields)
    writer.writerows(images)
    return out.getvalue().encode()


def decode(data: bytes) -> tuple[TrainingImage, ...]:
    """The images that `encode` made `data` of. Raises ValueError or TypeError for any other bytes."""
    try:
        header, *rows = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if tuple(header) != TrainingImage._fields:
        raise ValueError(f"its columns are not {', '.join(TrainingImage._fields)}")
    return tuple(TrainingImage(*row) for row in rows)
