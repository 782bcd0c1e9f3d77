"""Predictions for the images of a split, as predictions-SPLIT.csv stores them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octprep.format.images_csv import ImageRow
from octtrain.calibration.unfamiliar import Distances

MEAN_LOG, MEAN, LARGEST = "mean log-probability", "mean probability", "largest probability"
AGGREGATIONS = (MEAN_LOG, MEAN, LARGEST)  # how the images of a case make one prediction; the first is the default

COLUMNS = ("path", "patient", "patient_group", "truth", "prediction")  # and the classes, with their probabilities


@dataclass(frozen=True)
class SplitPredictions:
    """A model's probabilities for every image of a split, in the order of the shards."""

    paths: list[str]  # relative to the source folder
    patients: list[str]  # ids, as in the files' names
    groups: list[str]  # patient groups: ids that are linked by duplicates are one patient's
    truth: NDArray[np.int64]  # (n,) index into the class names
    probabilities: NDArray[np.float32]  # (n, classes), 0..1
    distances: Distances | None = None  # from the training's scans, where they were asked for
    aggregation: str = MEAN_LOG  # one of AGGREGATIONS

    def chosen(self, places: Iterable[int]) -> SplitPredictions:
        """Some of the images, in the order given."""
        places = list(places)
        return SplitPredictions(
            [self.paths[i] for i in places],
            [self.patients[i] for i in places],
            [self.groups[i] for i in places],
            self.truth[places],
            self.probabilities[places],
            self.distances and self.distances.chosen(places),
            self.aggregation,
        )


def groups_of(paths: Sequence[str], rows: Iterable[ImageRow]) -> list[str]:
    """The patient group of each image. rows: the images in images.csv, of all splits."""
    group = {row.path: row.patient_group for row in rows}
    return [group[path] for path in paths]


def images_sha256(paths: Iterable[str], rows: Iterable[ImageRow]) -> str:
    """A digest of the names and contents of some images, in any order. rows: as of `groups_of`."""
    content = {row.path: row.sha256 for row in rows}
    lines = sorted(f"{content[path]} {path}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def predictions_csv(class_names: Sequence[str], predictions: SplitPredictions) -> bytes:
    """The bytes of predictions-SPLIT.csv. Probabilities have the digits from which float32 is read back exactly."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, *class_names])
    for path, patient, group, truth, probabilities in zip(
        predictions.paths,
        predictions.patients,
        predictions.groups,
        predictions.truth,
        predictions.probabilities,
        strict=True,
    ):
        cells = [f"{probability:.9g}" for probability in probabilities]
        writer.writerow([path, patient, group, class_names[truth], class_names[int(probabilities.argmax())], *cells])
    return out.getvalue().encode(errors="backslashreplace")


def read_predictions(data: bytes) -> tuple[tuple[str, ...], SplitPredictions]:
    """The class names and the predictions in a predictions-SPLIT.csv. Raises ValueError for any other bytes."""
    try:
        header, *rows = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
    except csv.Error as error:
        raise ValueError(str(error)) from None
    class_names = tuple(header[len(COLUMNS) :])
    if tuple(header[: len(COLUMNS)]) != COLUMNS or len(class_names) < 2 or len({*class_names}) < len(class_names):
        raise ValueError(f"its columns are not {', '.join(COLUMNS)} and classes")
    if not rows or any(len(row) != len(header) for row in rows):
        raise ValueError("it has no rows, or rows of another length than its header")
    label = {name: i for i, name in enumerate(class_names)}
    paths, patients, groups, truth, _ = (list(column) for column in list(zip(*rows, strict=True))[: len(COLUMNS)])
    if unknown := {*truth} - {*label}:
        raise ValueError(f"its column truth holds {min(unknown)!r}, which is none of its classes")
    probabilities = np.array([row[len(COLUMNS) :] for row in rows], np.float32)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("it holds probabilities that are not between 0 and 1")
    return class_names, SplitPredictions(
        paths, patients, groups, np.array([label[name] for name in truth], np.int64), probabilities
    )
