"""Metrics of predictions: sensitivity, specificity, AUC, balanced accuracy, MCC, urgent referral, weighted error.

Classes are looked up by name, never by position. A metric that is undefined, such as the sensitivity for a class
without images, is None and shown as "-".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.wording import number

MIN_PATIENTS = 5  # of a class; fewer get a warning, in training and in results
URGENT = ("CNV", "DME")  # classes that need urgent referral to a specialist (Kermany et al. 2018)

# Kermany et al., Cell 172 (2018), Fig. S4A: truth -> prediction -> cost.
COSTS: Mapping[str, Mapping[str, int]] = {
    "NORMAL": {"NORMAL": 0, "DRUSEN": 1, "CNV": 1, "DME": 1},
    "DRUSEN": {"NORMAL": 1, "DRUSEN": 0, "CNV": 1, "DME": 1},
    "CNV": {"NORMAL": 4, "DRUSEN": 2, "CNV": 0, "DME": 1},
    "DME": {"NORMAL": 4, "DRUSEN": 2, "CNV": 1, "DME": 0},
}


@dataclass(frozen=True)
class Proportion:
    """A number of images out of a total."""

    count: int
    total: int

    @property
    def value(self) -> float | None:
        """0..1, or None if the total is 0."""
        return self.count / self.total if self.total else None

    def __str__(self) -> str:
        return f"{format_value(self.value)} ({self.count:,}/{self.total:,})"

    def as_json(self) -> dict[str, Any]:
        """For json.dumps: the value and both counts."""
        return {"value": self.value, "count": self.count, "total": self.total}


@dataclass(frozen=True, kw_only=True)
class ClassReport:
    """One class, or several, against the rest. AUC 0..1, None where either is empty."""

    sensitivity: Proportion
    specificity: Proportion
    auc: float | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All metrics of one split."""

    class_names: tuple[str, ...]
    confusion: NDArray[np.int64]  # (classes, classes): truth down, prediction across
    accuracy: Proportion
    balanced_accuracy: float | None  # 0..1, mean sensitivity over the classes that occur
    per_class: Mapping[str, ClassReport]
    macro_auc: float | None  # 0..1, mean over the classes that have one
    urgent: ClassReport | None  # CNV or DME against the rest; None where the classes are others
    weighted_error: float | None  # percent, 0..400; None where the classes are others than the cost matrix's

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return {
            "images": self.accuracy.total,
            "accuracy": self.accuracy.as_json(),
            "balanced_accuracy": self.balanced_accuracy,
            "macro_auc": self.macro_auc,
            "weighted_error_percent": self.weighted_error,
            "urgent_referral": _json(self.urgent) if self.urgent else None,
            "per_class": {name: _json(report) for name, report in self.per_class.items()},
            "confusion": {
                "truth down, prediction across": list(self.class_names),
                "counts": self.confusion.tolist(),
            },
        }


def compute_metrics(truth: NDArray[np.int64], probabilities: NDArray[np.float32], class_names: Sequence[str]) -> Report:
    """All metrics of predictions.

    truth: (n,) index into class_names.  probabilities: (n, classes), 0..1.  The prediction is the most probable class.
    """
    k = len(class_names)
    counts = confusion(truth, probabilities.argmax(axis=1), k)
    sensitivities = [Proportion(int(counts[i, i]), int(counts[i].sum())) for i in range(k)]
    per_class = {
        name: ClassReport(
            sensitivity=sensitivities[i],
            specificity=_specificity(counts, [i]),
            auc=auc(truth == i, probabilities[:, i]),
        )
        for i, name in enumerate(class_names)
    }
    return Report(
        class_names=tuple(class_names),
        confusion=counts,
        accuracy=Proportion(int(np.trace(counts)), int(counts.sum())),
        balanced_accuracy=balanced_accuracy(counts),
        per_class=per_class,
        macro_auc=_mean(report.auc for report in per_class.values()),
        urgent=_urgent(truth, probabilities, counts, class_names),
        weighted_error=weighted_error(counts, class_names),
    )


def caveats(report: Report, patients: Mapping[str, int], split: str = "test") -> list[str]:
    """Limits of a report, each with its numbers: classes with few patients or none, a model at chance.

    patients: class name -> number of patients.  split: its name in the sentences.
    """
    present = {name: count for name, count in patients.items() if count}
    missing = [name for name in report.class_names if name not in present]
    lines = []
    if missing:
        lines.append(
            f"{split} has no image of {', '.join(missing)}: sensitivity for {'it' if len(missing) == 1 else 'them'} is "
            f"unknown, and means are over {len(present)} of {len(report.class_names)} classes"
        )
    if len(present) == 1:
        lines.append(
            f"{split} has only one class, {next(iter(present))}, so it cannot show that the model distinguishes classes"
        )
    few = [f"{name} {count}" for name, count in present.items() if count < MIN_PATIENTS]
    if few:
        lines.append(f"few patients in {split} ({', '.join(few)}): results on them say little about other patients")
    predicted = [name for name, count in zip(report.class_names, report.confusion.sum(axis=0), strict=True) if count]
    if len(predicted) == 1:
        lines.append(
            f"the model classifies all {report.accuracy.total:,} images as {predicted[0]}, so it distinguishes nothing"
        )
    elif len(present) > 1 and (at_chance := _chance_caveat(report, present)):
        lines.append(at_chance)
    return lines


def _chance_caveat(report: Report, patients: Mapping[str, int]) -> str | None:
    """The caveat of a balanced accuracy whose 95 % interval includes guessing, 1/k; None if it does not.

    Every patient counts as one image, because images of one patient are similar, and each class's sensitivity p gets
    two successes and two failures more (Agresti and Coull 1998), without which few patients that agree would seem
    certain: standard error = sqrt(sum(p (1 - p) / (patients + 4))) / k.
    """
    assert report.balanced_accuracy is not None
    variance = 0.0
    for name, count in patients.items():
        value = report.per_class[name].sensitivity.value
        assert value is not None
        value = (value * count + 2) / (count + 4)
        variance += value * (1 - value) / (count + 4)
    error = variance**0.5 / len(patients)
    chance = 1 / len(patients)
    if report.balanced_accuracy - 1.96 * error > chance:
        return None
    return (
        f"balanced accuracy {report.balanced_accuracy:.3f} with an error of {1.96 * error:.3f} (95 %) from "
        f"{number(sum(patients.values()), 'patient')} does not differ from guessing, {chance:.3f}"
    )


def confusion(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts: truth down, prediction across. truth, predicted: (n,) class index."""
    pairs = truth.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def balanced_accuracy(counts: NDArray[np.int64]) -> float | None:
    """The mean sensitivity over the classes that occur, 0..1; None if there are no images."""
    return _mean(int(row[i]) / int(row.sum()) if row.sum() else None for i, row in enumerate(counts))


def mcc(counts: NDArray[np.int64]) -> float | None:
    """Matthews' correlation of truth and prediction for any number of classes (Gorodkin 2004), -1..1.

    None if all images are of one class, or all are predicted to be.
    """
    n, correct = float(counts.sum()), float(np.trace(counts))
    truth, predicted = counts.sum(axis=1).astype(np.float64), counts.sum(axis=0).astype(np.float64)
    variances = (n * n - float(truth @ truth)) * (n * n - float(predicted @ predicted))
    return (correct * n - float(truth @ predicted)) / variances**0.5 if variances > 0 else None


def auc(positive: NDArray[np.bool_], score: NDArray[np.floating[Any]]) -> float | None:
    """Area under the ROC curve: the probability that a positive scores higher than a negative, ties counting half.

    By ranks, as the Mann-Whitney statistic; None without positives or without negatives.

    positive: (n,).  score: (n,), higher means more likely positive.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    _, group, sizes = np.unique(score, return_inverse=True, return_counts=True)
    middle_ranks = np.cumsum(sizes) - (sizes - 1) / 2  # 1-based; equal scores share the mean of their ranks
    rank_sum = float(middle_ranks[group][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def weighted_error(counts: NDArray[np.int64], class_names: Sequence[str]) -> float | None:
    """The weighted error of Kermany et al. in percent, 100 * sum(cost * count) / n; None for other classes."""
    if set(class_names) != set(COSTS) or not counts.sum():
        return None
    costs = np.array([[COSTS[truth][predicted] for predicted in class_names] for truth in class_names])
    return float(100 * (costs * counts).sum() / counts.sum())


def format_value(value: float | None, digits: int = 3) -> str:
    """A number rounded to some decimals; "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def format_report(report: Report) -> str:
    """A report as a table and lines of text."""
    width = max(len("urgent referral"), *map(len, report.class_names))
    lines = [f"{'':{width}}  {'sensitivity':>21}  {'specificity':>21}  {'AUC':>6}"]
    rows = [*report.per_class.items(), *([("urgent referral", report.urgent)] if report.urgent else [])]
    for name, metrics in rows:
        auc_text = format_value(metrics.auc)
        lines.append(f"{name:{width}}  {metrics.sensitivity!s:>21}  {metrics.specificity!s:>21}  {auc_text:>6}")
    lines += ["", "truth down, prediction across"]
    cell = max(7, *(len(name) + 2 for name in report.class_names))
    lines.append(" " * width + "".join(f"{name:>{cell}}" for name in report.class_names))
    for name, row in zip(report.class_names, report.confusion, strict=True):
        lines.append(f"{name:{width}}" + "".join(f"{count:>{cell},}" for count in row))
    lines += [
        "",
        f"accuracy           {report.accuracy}",
        f"balanced accuracy  {format_value(report.balanced_accuracy)}",
        f"macro AUC          {format_value(report.macro_auc)}",
    ]
    if report.weighted_error is not None:
        lines.append(f"weighted error     {format_value(report.weighted_error, 1)} %")
    return "\n".join(lines)


def _urgent(
    truth: NDArray[np.int64], probabilities: NDArray[np.float32], counts: NDArray[np.int64], class_names: Sequence[str]
) -> ClassReport | None:
    """CNV or DME against the rest: predicted by the most probable class, ranked by p(CNV) + p(DME)."""
    if not set(URGENT) < set(class_names):
        return None
    urgent = [list(class_names).index(name) for name in URGENT]
    return ClassReport(
        sensitivity=Proportion(int(counts[np.ix_(urgent, urgent)].sum()), int(counts[urgent].sum())),
        specificity=_specificity(counts, urgent),
        auc=auc(np.isin(truth, urgent), probabilities[:, urgent].sum(axis=1, dtype=np.float64)),
    )


def _specificity(counts: NDArray[np.int64], positive: Sequence[int]) -> Proportion:
    """Of the images of other classes than `positive`, those that are predicted to be of such a class."""
    rest = [i for i in range(len(counts)) if i not in positive]
    return Proportion(int(counts[np.ix_(rest, rest)].sum()), int(counts[rest].sum()))


def _mean(values: Any) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _json(report: ClassReport) -> dict[str, Any]:
    return {
        "sensitivity": report.sensitivity.as_json(),
        "specificity": report.specificity.as_json(),
        "auc": report.auc,
    }
