"""Predictions out of fold: each patient's once, by models that were not exposed to them; both are checked here."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octprep.format.errors import LeakError, ManifestError
from octprep.format.images_csv import ImageRow
from octprep.wording import listed, number
from octtrain.evaluation.metrics import balanced_accuracy, confusion
from octtrain.evaluation.predictions import SplitPredictions
from octtrain.evaluation.target import MAX_NAMED
from octtrain.runs import exposure
from octtrain.runs.exposure import Exposure


@dataclass(frozen=True)
class MeanAndStd:
    """The mean of some values and their standard deviation (n - 1), None where it is undefined."""

    mean: float | None
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> MeanAndStd:
        """Of the values that are defined."""
        defined = [value for value in values if value is not None]
        return cls(
            statistics.fmean(defined) if defined else None, statistics.stdev(defined) if len(defined) > 1 else None
        )


def require_unexposed(known: Exposure, rows: Sequence[ImageRow], fold: str, model: str) -> None:
    """Raise LeakError if a model was exposed in any way, selection of its epoch included, to patients of a fold.

    rows: the images of the dataset, from images.csv.  model: its name in the error.
    """
    found = exposure.exposed(known.images, exposure.images_of(rows, (fold,)))
    if found:
        patients = f": {listed(found.patients, MAX_NAMED)}" if found.patients else ""
        raise LeakError(
            f"{model} is to predict {fold}, but was exposed to {number(len(found.patients), 'patient')} and "
            f"{number(len(found.contents), 'image')} of it{patients}. Use initial weights and a teacher that were not."
        )


def require_each_once(predictions: Mapping[str, SplitPredictions], rows: Sequence[ImageRow]) -> None:
    """Raise ManifestError unless every image of the folds is predicted once, and every patient in one fold only.

    predictions: by fold.  rows: the images of the dataset, from images.csv.
    """
    predicted = Counter((fold, path) for fold, members in predictions.items() for path in members.paths)
    expected = Counter((row.split, row.path) for row in rows if row.split in predictions)
    if predicted != expected:
        different = sorted(path for _, path in (predicted - expected) + (expected - predicted))
        raise ManifestError(
            f"{number(len(different), 'image')} of the folds would not be predicted exactly once, such as "
            f"{different[0]}: the shards are not those of images.csv. Repair them by the `octprep build` that made "
            "them."
        )
    folds_of: dict[str, set[str]] = {}
    for row in rows:
        if row.split in predictions:
            folds_of.setdefault(row.patient_group, set()).add(row.split)
            folds_of.setdefault(row.patient, set()).add(row.split)
    if several := sorted(patient for patient, folds in folds_of.items() if len(folds) > 1):
        raise LeakError(f"{number(len(several), 'patient')} would be predicted in two folds: {listed(several)}.")


def mean_over_seeds(members: Sequence[SplitPredictions]) -> SplitPredictions:
    """The mean of the probabilities of several models for the same images."""
    first = members[0]
    if any(member.paths != first.paths for member in members):
        raise ValueError("the models predicted different images")
    total = np.zeros(first.probabilities.shape, np.float64)
    for member in members:
        total += member.probabilities
    return SplitPredictions(
        first.paths, first.patients, first.groups, first.truth, (total / len(members)).astype(np.float32)
    )


def pooled(parts: Sequence[SplitPredictions]) -> SplitPredictions:
    """The predictions of several folds, one after the other."""
    return SplitPredictions(
        [path for part in parts for path in part.paths],
        [patient for part in parts for patient in part.patients],
        [group for part in parts for group in part.groups],
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
    )


def balanced_accuracy_of(predictions: SplitPredictions) -> float | None:
    """The balanced accuracy of some predictions, 0..1."""
    predicted: NDArray[np.int64] = predictions.probabilities.argmax(axis=1)
    return balanced_accuracy(confusion(predictions.truth, predicted, predictions.probabilities.shape[1]))
