"""How good predictions are: numpy in, numbers and counts out.

Classes are looked up by name, never by position. What cannot be told, such as the sensitivity for a class of which
there is no image, is None and shown as "-".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW = 5  # patients of a class below which what is measured on them is said to mean little
URGENT = ("CNV", "DME")  # who must see a specialist at once (Kermany et al. 2018)

# Kermany et al., Cell 172 (2018), Fig. S4A: truth -> prediction -> cost.
COSTS: Mapping[str, Mapping[str, int]] = {
    "NORMAL": {"NORMAL": 0, "DRUSEN": 1, "CNV": 1, "DME": 1},
    "DRUSEN": {"NORMAL": 1, "DRUSEN": 0, "CNV": 1, "DME": 1},
    "CNV": {"NORMAL": 4, "DRUSEN": 2, "CNV": 0, "DME": 1},
    "DME": {"NORMAL": 4, "DRUSEN": 2, "CNV": 1, "DME": 0},
}


@dataclass(frozen=True)
class Proportion:
    """So many of so many."""

    hits: int
    of: int

    @property
    def value(self) -> float | None:
        """0..1, or None of nothing."""
        return self.hits / self.of if self.of else None

    def __str__(self) -> str:
        return f"{show(self.value)} ({self.hits:,}/{self.of:,})"

    def as_json(self) -> dict[str, Any]:
        """The value and both counts."""
        return {"value": self.value, "hits": self.hits, "of": self.of}


@dataclass(frozen=True, kw_only=True)
class ClassReport:
    """One class against the rest. AUC 0..1, None where one side is empty."""

    sensitivity: Proportion
    specificity: Proportion
    auc: float | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything measured on one split."""

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
            "images": self.accuracy.of,
            "accuracy": self.accuracy.as_json(),
            "balanced_accuracy": self.balanced_accuracy,
            "macro_auc": self.macro_auc,
            "weighted_error_percent": self.weighted_error,
            "urgent_referral": _json(self.urgent) if self.urgent else None,
            "per_class": {name: _json(found) for name, found in self.per_class.items()},
            "confusion": {
                "truth down, prediction across": list(self.class_names),
                "counts": self.confusion.tolist(),
            },
        }


def measure(truth: NDArray[np.int64], probabilities: NDArray[np.float32], class_names: Sequence[str]) -> Report:
    """Compare predictions with the truth.

    truth: (n,) index into class_names.  probabilities: (n, classes), 0..1.  The decision is the most probable class.
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
        macro_auc=_mean(found.auc for found in per_class.values()),
        urgent=_urgent(truth, probabilities, counts, class_names),
        weighted_error=weighted_error(counts, class_names),
    )


def doubts(report: Report, patients: Mapping[str, int], split: str = "test") -> list[str]:
    """Why a report says little, each with its numbers: classes with few patients or none, a model at chance.

    patients: of each class, by its name.  split: what to call it.
    """
    there = {name: count for name, count in patients.items() if count}
    missing = [name for name in report.class_names if name not in there]
    lines = []
    if missing:
        lines.append(
            f"{split} has no image of {', '.join(missing)}: how well {'it is' if len(missing) == 1 else 'they are'} "
            f"recognised cannot be said, and the means are over {len(there)} of {len(report.class_names)} classes"
        )
    if len(there) == 1:
        lines.append(
            f"{split} has one class alone, {next(iter(there))}: nothing here shows that the model tells any apart"
        )
    few = [f"{name} {count}" for name, count in there.items() if count < FEW]
    if few:
        lines.append(f"few patients in {split} ({', '.join(few)}): what is measured on them says little about others")
    called = [name for name, count in zip(report.class_names, report.confusion.sum(axis=0), strict=True) if count]
    if len(called) == 1:
        lines.append(f"the model calls all {report.accuracy.of:,} images {called[0]}, so it tells no classes apart")
    elif len(there) > 1 and (found := _at_chance(report, there)):
        lines.append(found)
    return lines


def _at_chance(report: Report, patients: Mapping[str, int]) -> str | None:
    """What to say of a balanced accuracy that so many patients do not set apart from guessing.

    Its standard error is taken as if every patient were one image, as the images of one patient are much alike, and
    with two hits and two misses more for each class, without which few patients that agree would seem certain.
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
        f"{sum(patients.values()):,} patients is not set apart from guessing, {chance:.3f}"
    )


def confusion(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts: truth down, prediction across."""
    pairs = truth.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def balanced_accuracy(counts: NDArray[np.int64]) -> float | None:
    """The mean sensitivity over the classes that occur, 0..1; None if there are no images."""
    return _mean(int(row[i]) / int(row.sum()) if row.sum() else None for i, row in enumerate(counts))


def mcc(counts: NDArray[np.int64]) -> float | None:
    """Matthews' correlation of truth and prediction for any number of classes (Gorodkin 2004), -1..1.

    None if all images are of one class, or all are called the same.
    """
    n, right = float(counts.sum()), float(np.trace(counts))
    truth, called = counts.sum(axis=1).astype(np.float64), counts.sum(axis=0).astype(np.float64)
    spread = (n * n - float(truth @ truth)) * (n * n - float(called @ called))
    return (right * n - float(truth @ called)) / spread**0.5 if spread > 0 else None


def auc(positive: NDArray[np.bool_], score: NDArray[np.floating[Any]]) -> float | None:
    """The chance that a positive scores higher than a negative, ties counting half; None if either is missing.

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
    """Kermany's cost of errors in percent, 100 * sum(cost * count) / n; None for other classes than theirs."""
    if set(class_names) != set(COSTS) or not counts.sum():
        return None
    costs = np.array([[COSTS[truth][predicted] for predicted in class_names] for truth in class_names])
    return float(100 * (costs * counts).sum() / counts.sum())


def show(value: float | None, digits: int = 3) -> str:
    """A number for people; "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def table(report: Report) -> str:
    """The whole report as lines of text."""
    width = max(len("urgent referral"), *map(len, report.class_names))
    lines = [f"{'':{width}}  {'sensitivity':>21}  {'specificity':>21}  {'AUC':>6}"]
    rows = [*report.per_class.items(), *([("urgent referral", report.urgent)] if report.urgent else [])]
    for name, found in rows:
        lines.append(f"{name:{width}}  {found.sensitivity!s:>21}  {found.specificity!s:>21}  {show(found.auc):>6}")
    lines += ["", "truth down, prediction across"]
    cell = max(7, *(len(name) + 2 for name in report.class_names))
    lines.append(" " * width + "".join(f"{name:>{cell}}" for name in report.class_names))
    for name, row in zip(report.class_names, report.confusion, strict=True):
        lines.append(f"{name:{width}}" + "".join(f"{count:>{cell},}" for count in row))
    lines += [
        "",
        f"accuracy           {report.accuracy}",
        f"balanced accuracy  {show(report.balanced_accuracy)}",
        f"macro AUC          {show(report.macro_auc)}",
    ]
    if report.weighted_error is not None:
        lines.append(f"weighted error     {show(report.weighted_error, 1)} %")
    return "\n".join(lines)


def _urgent(
    truth: NDArray[np.int64], probabilities: NDArray[np.float32], counts: NDArray[np.int64], class_names: Sequence[str]
) -> ClassReport | None:
    """CNV or DME against the rest: decided by the most probable class, ranked by p(CNV) + p(DME)."""
    if not set(URGENT) < set(class_names):
        return None
    which = [list(class_names).index(name) for name in URGENT]
    return ClassReport(
        sensitivity=Proportion(int(counts[np.ix_(which, which)].sum()), int(counts[which].sum())),
        specificity=_specificity(counts, which),
        auc=auc(np.isin(truth, which), probabilities[:, which].sum(axis=1, dtype=np.float64)),
    )


def _specificity(counts: NDArray[np.int64], which: Sequence[int]) -> Proportion:
    """Of the images of all other classes, how many were called another class."""
    rest = [i for i in range(len(counts)) if i not in which]
    return Proportion(int(counts[np.ix_(rest, rest)].sum()), int(counts[rest].sum()))


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _json(found: ClassReport) -> dict[str, Any]:
    return {
        "sensitivity": found.sensitivity.as_json(),
        "specificity": found.specificity.as_json(),
        "auc": found.auc,
    }
