"""Metrics of predictions, of the data and of resamples of its patients.

Classes are looked up by name, never by position. docs/evaluation.md says what each metric is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octtrain.evaluation.intervals import Resampled, Values, Weights, resample

MIN_PATIENTS = 5  # of a class; fewer get a warning, in training and in results
URGENT = ("CNV", "DME")  # classes that need urgent referral to a specialist (Kermany et al. 2018)

# Kermany et al., Cell 172 (2018), Fig. S4A: truth -> prediction -> cost.
COSTS: Mapping[str, Mapping[str, int]] = {
    "NORMAL": {"NORMAL": 0, "DRUSEN": 1, "CNV": 1, "DME": 1},
    "DRUSEN": {"NORMAL": 1, "DRUSEN": 0, "CNV": 1, "DME": 1},
    "CNV": {"NORMAL": 4, "DRUSEN": 2, "CNV": 0, "DME": 1},
    "DME": {"NORMAL": 4, "DRUSEN": 2, "CNV": 1, "DME": 0},
}

Key = tuple[str, ...]  # of a metric, its place in the JSON: ("mcc",), ("per_class", "CNV", "auc")
Counts = NDArray[np.float64]  # (resamples, classes, classes): truth down, prediction across


@dataclass(frozen=True)
class Sample:
    """Predictions to be evaluated, and which patient each is of."""

    truth: NDArray[np.int64]  # (n,) index into the class names
    probabilities: NDArray[np.floating[Any]]  # (n, classes), 0..1; the most probable class is the prediction
    patients: NDArray[np.int64]  # (n,) index of the patient, from 0 without gaps
    urgent: Binary | None  # CNV or DME against the rest; None where the classes are others
    unit: str = "image"  # what the n are

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(n,) index of the most probable class."""
        labels: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return labels


def sample_of_images(
    truth: NDArray[np.int64],
    probabilities: NDArray[np.floating[Any]],
    class_names: Sequence[str],
    patients: Sequence[str] | None = None,
) -> Sample:
    """The images as they are, each with its own prediction; referral is urgent if the prediction is CNV or DME.

    truth: (n,) index into class_names.  probabilities: (n, classes), 0..1.  patients: (n,) ids; None: each image is of
    another patient.
    """
    members = np.arange(len(truth)) if patients is None else indices(patients)
    urgent = urgent_classes(class_names)
    referral = None
    if urgent:
        referral = Binary(
            np.isin(truth, urgent),
            np.isin(probabilities.argmax(axis=1), urgent),
            probabilities[:, urgent].sum(axis=1, dtype=np.float64),
            members,
        )
    return Sample(truth, probabilities, members, referral)


def urgent_classes(class_names: Sequence[str]) -> list[int]:
    """The indices of the classes that need urgent referral; none where the classes are others."""
    return [list(class_names).index(name) for name in URGENT] if set(URGENT) < set(class_names) else []


def indices(names: Sequence[str]) -> NDArray[np.int64]:
    """(n,) index of each name among all that occur, from 0 without gaps."""
    return np.unique(np.asarray(names, str), return_inverse=True)[1].astype(np.int64)


class Binary:
    """Yes-or-no predictions with scores, prepared so that their metrics in many resamples are quick.

    truth, predicted: (n,) bool.  score: (n,), higher means more likely true.  patients: (n,) index of the patient.
    """

    METRICS = ("sensitivity", "specificity", "precision", "f1", "auc", "pr_auc")

    def __init__(
        self,
        truth: NDArray[np.bool_],
        predicted: NDArray[np.bool_],
        score: NDArray[np.floating[Any]],
        patients: NDArray[np.int64],
    ) -> None:
        self.counts = _by_patient(2 * truth + predicted, 4, patients)  # (patients, 4): TN, FP, FN, TP
        order = np.argsort(-score, kind="stable")
        score = -score[order]  # rising: the most likely first
        positive = np.flatnonzero(truth[order])
        self._is_ranked = 0 < len(positive) < len(truth)
        self._members = patients[order]
        self._positive_members = patients[order][positive]
        # Of each positive: the images, and the positives, that score higher, and those that score at least as high.
        self._higher = np.searchsorted(score, score[positive], "left")
        self._as_high = np.searchsorted(score, score[positive], "right")
        self._positives_higher = np.searchsorted(positive, self._higher)
        self._positives_as_high = np.searchsorted(positive, self._as_high)

    def __call__(self, weights: Weights) -> dict[str, Values]:
        """Each of METRICS for some resamples: (resamples,), NaN where undefined."""
        tn, fp, fn, tp = (weights @ self.counts).astype(np.float64).T
        auc, pr_auc = self.areas(weights)
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "precision": tp / (tp + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "auc": auc,
            "pr_auc": pr_auc,
        }

    def areas(self, weights: Weights) -> tuple[Values, Values]:
        """Areas under the ROC curve (ties count half) and under the steps of the precision-recall curve.

        The first is the Mann-Whitney statistic. The second is the mean over the positives of the precision among all
        images that score at least as high.
        """
        if not self._is_ranked:
            undefined = np.full(len(weights), np.nan)
            return undefined, undefined
        images = _cumulative(weights[:, self._members])
        positive = weights[:, self._positive_members]
        positives = _cumulative(positive)
        higher = images[:, self._higher] - positives[:, self._positives_higher]  # negatives that score higher
        true_positives, as_high = positives[:, self._positives_as_high], images[:, self._as_high]
        wrong = (positive * (higher + as_high - true_positives)).sum(axis=1, dtype=np.float64) / 2
        p = positives[:, -1].astype(np.float64)
        n = images[:, -1] - p
        average = (positive * true_positives / np.maximum(as_high, 1)).sum(axis=1, dtype=np.float64) / p
        return 1 - wrong / (p * n), np.where(n > 0, average, np.nan)

    @property
    def cells(self) -> NDArray[np.int64]:
        """(4,) numbers of true negatives, false positives, false negatives and true positives."""
        cells: NDArray[np.int64] = self.counts.sum(axis=0, dtype=np.int64)
        return cells

    @property
    def patients(self) -> dict[str, int]:
        """For each of METRICS the number of patients that it is of, or those of its smaller side."""
        tn, fp, fn, tp = self.counts.T
        sides = {
            "sensitivity": (fn + tp,),
            "specificity": (tn + fp,),
            "precision": (fp + tp,),
            "f1": (fp + fn + tp,),
        }
        return {
            key: min(int(np.count_nonzero(side)) for side in sides.get(key, (fn + tp, tn + fp))) for key in self.METRICS
        }


def resampled_metrics(
    sample: Sample, class_names: Sequence[str], prevalence: Mapping[str, float] | None = None
) -> dict[Key, Resampled]:
    """All metrics of a sample and of the resamples of its patients, the same resamples for the same patients.

    prevalence: class -> its share, 0..1, where the predictive values under "at_prevalence" hold.
    """
    metrics = _Metrics(sample, class_names, prevalence)
    return resample(metrics, len(metrics.counts), len(sample.truth), metrics.patients())


class _Metrics:
    """All metrics of a sample, for many resamples of its patients."""

    def __init__(self, sample: Sample, class_names: Sequence[str], prevalence: Mapping[str, float] | None) -> None:
        self.names, k = tuple(class_names), len(class_names)
        self.counts = _by_patient(sample.truth * k + sample.predicted, k * k, sample.patients)
        self.parts: dict[Key, Binary] = {
            ("per_class", name): Binary(
                sample.truth == i, sample.predicted == i, sample.probabilities[:, i], sample.patients
            )
            for i, name in enumerate(class_names)
        }
        if sample.urgent:
            self.parts["urgent_referral",] = sample.urgent
        self.prevalence = None if prevalence is None else np.array([prevalence[name] for name in class_names])
        self.costs = costs_of(class_names)
        total = confusion(sample.truth, sample.predicted, k)
        self.occurs = total.sum(axis=1) > 0
        self.is_counted = self.occurs | (total.sum(axis=0) > 0)
        self.is_ranked = self.occurs & (total.sum(axis=1) < total.sum())

    def __call__(self, weights: Weights) -> dict[Key, Values]:
        k = len(self.names)
        counts = (weights @ self.counts).astype(np.float64).reshape(-1, k, k)
        values: dict[Key, Values] = {
            (*key, name): found for key, part in self.parts.items() for name, found in part(weights).items()
        }

        def mean(metric: str, chosen: NDArray[np.bool_]) -> Values:
            columns = [values["per_class", name, metric] for name, use in zip(self.names, chosen, strict=True) if use]
            return np.mean(columns, axis=0) if columns else np.full(len(weights), np.nan)

        values["accuracy",] = accuracies(counts)
        values["balanced_accuracy",] = mean("sensitivity", self.occurs)
        values["macro_f1",] = mean("f1", self.is_counted)
        values["macro_auc",] = mean("auc", self.is_ranked)
        values["mcc",] = correlations(counts)
        if self.costs is not None:
            values["weighted_error_percent",] = weighted_errors(counts, self.costs)
        if self.prevalence is not None:
            values |= _at_prevalence(counts, self.prevalence, self.names)
        return values

    def patients(self) -> dict[Key, int]:
        """The number of patients that each metric is of."""
        found: dict[Key, int] = {
            (*key, name): n for key, part in self.parts.items() for name, n in part.patients.items()
        }
        with np.errstate(divide="ignore", invalid="ignore"):
            keys = self(np.ones((1, len(self.counts)), np.float32))
        return {key: found.get(key, len(self.counts)) for key in keys}


def _at_prevalence(counts: Counts, prevalence: NDArray[np.float64], names: Sequence[str]) -> dict[Key, Values]:
    """Accuracy, precision and negative predictive value where each class has a given share, at these sensitivities."""
    rates = prevalence[:, None] * counts / counts.sum(axis=2, keepdims=True)
    rates = np.where(prevalence[:, None] > 0, rates, 0.0)  # a class that does not occur there may lack images here
    values: dict[Key, Values] = {("at_prevalence", "accuracy"): np.trace(rates, axis1=1, axis2=2)}
    for i, name in enumerate(names):
        as_class, right = rates[:, :, i].sum(axis=1), rates[:, i, i]
        missed = prevalence[i] - right
        values["at_prevalence", "per_class", name, "precision"] = right / as_class
        values["at_prevalence", "per_class", name, "npv"] = 1 - missed / (rates.sum(axis=(1, 2)) - as_class)
    return values


def confusion(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts: truth down, prediction across. truth, predicted: (n,) class index."""
    pairs = truth.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def one_against_rest(counts: NDArray[np.int64], label: int) -> NDArray[np.int64]:
    """(4,) numbers of true negatives, false positives, false negatives and true positives of one class."""
    right, as_class, of_class = counts[label, label], counts[:, label].sum(), counts[label].sum()
    return np.array([counts.sum() - as_class - of_class + right, as_class - right, of_class - right, right])


def balanced_accuracy(counts: NDArray[np.int64]) -> float | None:
    """The mean sensitivity over the classes that occur, 0..1; None if there are no images."""
    occurs = counts.sum(axis=1) > 0
    return float(balanced_accuracies(counts[None].astype(np.float64), occurs)[0]) if occurs.any() else None


def mcc(counts: NDArray[np.int64]) -> float | None:
    """Matthews' correlation of truth and prediction for any number of classes (Gorodkin 2004), -1..1.

    None if all images are of one class, or all are predicted to be.
    """
    value = float(correlations(counts[None].astype(np.float64))[0])
    return None if np.isnan(value) else value


def weighted_error(counts: NDArray[np.int64], class_names: Sequence[str]) -> float | None:
    """The weighted error of Kermany et al. in percent, 100 * sum(cost * count) / n; None for other classes."""
    costs = costs_of(class_names)
    if costs is None or not counts.sum():
        return None
    return float(weighted_errors(counts[None].astype(np.float64), costs)[0])


def auc(positive: NDArray[np.bool_], score: NDArray[np.floating[Any]]) -> float | None:
    """Area under the ROC curve: the probability that a positive scores higher than a negative, ties counting half.

    None without positives or without negatives.  positive: (n,).  score: (n,), higher means more likely positive.
    """
    each = np.arange(len(score))
    value = float(Binary(positive, positive, score, each).areas(np.ones((1, len(score)), np.float32))[0][0])
    return None if np.isnan(value) else value


def accuracies(counts: Counts) -> Values:
    """The share of images that are classified right, of each resample."""
    shares: Values = np.trace(counts, axis1=1, axis2=2) / counts.sum(axis=(1, 2))
    return shares


def balanced_accuracies(counts: Counts, occurs: NDArray[np.bool_]) -> Values:
    """The mean sensitivity over the classes that occur, (classes,) bool; NaN where a resample lacks one of them."""
    right: Values = np.diagonal(counts, axis1=1, axis2=2)[:, occurs] / counts.sum(axis=2)[:, occurs]
    means: Values = right.mean(axis=1)
    return means


def correlations(counts: Counts) -> Values:
    """Matthews' correlation of each resample; NaN where truth or prediction is one class."""
    n, correct = counts.sum(axis=(1, 2)), np.trace(counts, axis1=1, axis2=2)
    truth, predicted = counts.sum(axis=2), counts.sum(axis=1)
    variances = (n * n - (truth**2).sum(axis=1)) * (n * n - (predicted**2).sum(axis=1))
    covariance = correct * n - (truth * predicted).sum(axis=1)
    return np.where(variances > 0, covariance / np.sqrt(np.where(variances > 0, variances, 1)), np.nan)


def weighted_errors(counts: Counts, costs: NDArray[np.float64]) -> Values:
    """The weighted error of each resample in percent."""
    errors: Values = 100 * (costs * counts).sum(axis=(1, 2)) / counts.sum(axis=(1, 2))
    return errors


def costs_of(class_names: Sequence[str]) -> NDArray[np.float64] | None:
    """(classes, classes) cost of each prediction; None for other classes than those of the published matrix."""
    if set(class_names) != set(COSTS):
        return None
    return np.array([[COSTS[truth][predicted] for predicted in class_names] for truth in class_names], np.float64)


def _by_patient(cells: NDArray[np.int64], number: int, patients: NDArray[np.int64]) -> NDArray[np.float32]:
    """(patients, number) images of each patient in each cell. cells: (n,) index."""
    rows = int(patients.max()) + 1 if len(patients) else 0
    return np.bincount(patients * number + cells, minlength=rows * number).reshape(rows, number).astype(np.float32)


def _cumulative(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rows, n + 1): the sum of the first 0, 1, ... n values of each row; exact, as they are whole and below 2**24."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1), np.float32)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums
