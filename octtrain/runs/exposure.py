"""Whom a model has seen: the patients and the files behind the images that it was trained on and chosen by."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from octprep.format.errors import ManifestError
from octprep.format.manifest import IMAGES_NAME, Leaks, Manifest, read_part

EXPOSURE_NAME = "exposure.csv"
INHERITED = "weights"  # in place of a split: seen by the model whose weights this one was begun from

Row = dict[str, str]  # of images.csv


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


def images(shards: Path, manifest: Manifest) -> list[Row]:
    """The rows of images.csv that are in a split, each image once.

    Raises ManifestError if the file is missing or not the one that the manifest names.
    """
    path = shards / IMAGES_NAME
    try:
        content = read_part(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(
            f"{path} cannot be read ({reason}), but it says which patients are in which split. "
            "Copy the folder again, or repair it by the `octprep build` that made it."
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != manifest.images_sha256:
        raise ManifestError(
            f"{path} has SHA-256 {found[:16]}... where the manifest says {manifest.images_sha256[:16]}..., so it is "
            "not what was built. Copy the folder again, or repair it by the `octprep build` that made it."
        )
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True))
        if missing := {*TrainingImage._fields} - {*(rows[0] if rows else TrainingImage._fields)}:
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        if any(row[name] is None for row in rows for name in TrainingImage._fields):
            raise ValueError("a row that is too short")
    except (ValueError, csv.Error) as error:
        raise ManifestError(
            f"{path} is not a table that octprep wrote ({error}). Copy the folder again, or repair it by the "
            "`octprep build` that made it."
        ) from None
    return [row for row in rows if row["split"]]


def sights(rows: Iterable[Row], splits: Sequence[str]) -> tuple[TrainingImage, ...]:
    """What a model sees in some splits of images.csv."""
    return tuple(
        TrainingImage(row["patient"], row["group"], row["sha256"], row["split"])
        for row in rows
        if row["split"] in splits
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
