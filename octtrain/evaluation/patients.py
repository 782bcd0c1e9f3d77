"""Predictions for patients instead of images.

A patient is a patient group: ids that octprep linked by duplicates are one. The archives do not say which images are of
one eye or one visit, and an id may occur under several classes. So a patient's images of one class are one case, with
one prediction, and a patient under two classes is two cases, but one patient when patients are resampled. The
prediction is of the mean log-probabilities of the images, or of another aggregation that a calibration chose. Referral
is of the whole patient, whatever the classes: urgent if any image is.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octtrain.evaluation.metrics import Binary, Sample, indices, urgent_classes
from octtrain.evaluation.predictions import LARGEST, MEAN, SplitPredictions

LEAST = 1e-7  # a probability below it counts as this one, so that no single image decides alone


@dataclass(frozen=True)
class Cases:
    """One prediction for all images of a patient that are of one class."""

    groups: list[str]  # patient group of each case, sorted
    images: NDArray[np.int64]  # (n,) how many it is of
    truth: NDArray[np.int64]  # (n,) index into the class names
    probabilities: NDArray[np.float64]  # (n, classes), 0..1
    worst: NDArray[np.float64] | None  # (n,) the highest p(CNV) + p(DME) of any image of the patient; None without them


def cases_of(predictions: SplitPredictions, class_names: Sequence[str]) -> Cases:
    """The cases of a split, by patient group and class."""
    group_of = indices(predictions.groups)
    names = sorted({*predictions.groups})
    keys, member, images = np.unique(
        group_of * len(class_names) + predictions.truth, return_inverse=True, return_counts=True
    )
    aggregated = _aggregated(predictions.probabilities, member, images, predictions.aggregation)
    groups, truth = np.divmod(keys, len(class_names))
    scores = urgent_scores(predictions.probabilities, class_names)
    worst = None if scores is None else _highest(scores, group_of)[groups]
    return Cases([names[i] for i in groups], images, truth, aggregated, worst)


def sample_of_cases(predictions: SplitPredictions, class_names: Sequence[str]) -> Sample:
    """The cases as a sample, and for referral the patients.

    A patient is urgent if an image of them is, is referred if an image is predicted to be, and their score is the
    highest p(CNV) + p(DME) of an image.
    """
    cases = cases_of(predictions, class_names)
    urgent = urgent_classes(class_names)
    referral = None
    scores = urgent_scores(predictions.probabilities, class_names)
    if scores is not None:
        group_of = indices(predictions.groups)
        truth, predicted = (
            _highest(np.isin(labels, urgent), group_of)
            for labels in (predictions.truth, predictions.probabilities.argmax(axis=1))
        )
        referral = Binary(truth, predicted, _highest(scores, group_of), np.arange(len(truth)))
    return Sample(cases.truth, cases.probabilities, indices(cases.groups), referral, unit="case")


def urgent_scores(probabilities: NDArray[np.float32], class_names: Sequence[str]) -> NDArray[np.float64] | None:
    """(n,) p(CNV) + p(DME) of each image; None where the classes are others."""
    urgent = urgent_classes(class_names)
    scores: NDArray[np.float64] = probabilities[:, urgent].sum(axis=1, dtype=np.float64)
    return scores if urgent else None


def patients_csv(class_names: Sequence[str], cases: Cases) -> bytes:
    """The bytes of patients-SPLIT.csv."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    urgent = [] if cases.worst is None else ["worst_urgent"]
    writer.writerow(["patient_group", "images", "truth", "prediction", *class_names, *urgent])
    for i, (group, images, truth) in enumerate(zip(cases.groups, cases.images, cases.truth, strict=True)):
        numbers = [*cases.probabilities[i], *([] if cases.worst is None else [cases.worst[i]])]
        prediction = class_names[int(cases.probabilities[i].argmax())]
        writer.writerow([group, images, class_names[truth], prediction, *(f"{value:.6g}" for value in numbers)])
    return out.getvalue().encode(errors="backslashreplace")


def _aggregated(
    probabilities: NDArray[np.float32], case: NDArray[np.intp], images: NDArray[np.int64], aggregation: str
) -> NDArray[np.float64]:
    """The probabilities of cases, (cases, classes), whose sum is 1.

    probabilities: (n, classes) of images.  case: (n,) number of the case of each, from 0.  images: (cases,) how many
    each is of.  aggregation: of a class's probabilities over the images of a case, before they are made to sum up to 1.
    """
    exact = probabilities.astype(np.float64)
    found = np.zeros((len(images), exact.shape[1]))
    if aggregation == LARGEST:
        np.maximum.at(found, case, exact)
    elif aggregation == MEAN:
        np.add.at(found, case, exact)
    else:
        np.add.at(found, case, np.log(np.maximum(exact, LEAST)))
        found = np.exp(found / images[:, None])
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def _highest(values: NDArray[np.float64] | NDArray[np.bool_], group_of: NDArray[np.int64]) -> NDArray:  # type: ignore[type-arg]
    """(groups,) the highest value of each group."""
    highest = np.zeros(int(group_of.max()) + 1, values.dtype)
    np.maximum.at(highest, group_of, values)
    return highest
