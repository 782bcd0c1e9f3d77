"""Whom a model has seen: the patients and the files behind the images that it was trained on and chosen by."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from octprep.format import images_csv
from octprep.format.images_csv import ImageRow
from octprep.format.manifest import Leaks, Manifest

EXPOSURE_NAME = "exposure.csv"
INHERITED = "weights"  # in place of a split: seen by the model whose weights this one was begun from


class TrainingImage(NamedTuple):
    """One image that a model has seen."""

    patient: str  # the id in the file's name
    group: str  # the smallest id among those that octprep takes for the same person's
    sha256: str  # of the source file, hex
    split: str  # of the dataset it was trained on, or INHERITED


class Exposure(NamedTuple):
    """All that a model has seen."""

    sights: tuple[TrainingImage, ...]
    complete: bool  # False: it was begun from weights of which nobody knows what they had seen


def images(shards: Path, manifest: Manifest) -> Sequence[ImageRow]:
    """The rows of images.csv that are in a split, each image once.

    Raises ManifestError if the file is missing or not the one that the manifest names.
    """
    return images_csv.read_checked(shards, manifest).rows


def sights(rows: Iterable[ImageRow], splits: Sequence[str]) -> tuple[TrainingImage, ...]:
    """What a model sees in some splits of images.csv."""
    return tuple(
        TrainingImage(row.patient, row.patient_group, row.sha256, row.split) for row in rows if row.split in splits
    )


def overlap(seen: Iterable[TrainingImage], judged: Iterable[TrainingImage]) -> Leaks:
    """The judged patients, and contents of files, that have been seen; sorted. Other ids of a patient count as well."""
    seen, judged = list(seen), list(judged)
    ids = {name for sight in seen for name in (sight.patient, sight.group)}
    patients = {sight.patient for sight in judged if sight.patient in ids or sight.group in ids}
    contents = {sight.sha256 for sight in seen} & {sight.sha256 for sight in judged}
    return Leaks(patients=tuple(sorted(patients)), contents=tuple(sorted(contents)))


def encode(seen: Iterable[TrainingImage]) -> bytes:
    """The bytes of exposure.csv."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(TrainingImage._fields)
    writer.writerows(seen)
    return out.getvalue().encode()


def decode(data: bytes) -> tuple[TrainingImage, ...]:
    """What `encode` made `data` of. Raises ValueError or TypeError if it did not."""
    try:
        header, *rows = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if tuple(header) != TrainingImage._fields:
        raise ValueError(f"its columns are not {', '.join(TrainingImage._fields)}")
    return tuple(TrainingImage(*row) for row in rows)
