"""The metrics of one split with their 95 % intervals: as values, JSON and text.

A metric that is undefined, such as the sensitivity for a class without images, is None and shown as "-".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.wording import number
from octtrain.evaluation.estimates import Estimate, Proportion
from octtrain.evaluation.intervals import Interval, Resampled, exact_bound
from octtrain.evaluation.metrics import (
    MIN_PATIENTS,
    Key,
    Sample,
    confusion,
    correlations,
    one_against_rest,
    resampled_metrics,
    sample_of_images,
)
from octtrain.evaluation.patients import sample_of_cases
from octtrain.evaluation.predictions import SplitPredictions

NOTE = (
    "in brackets: 95 % intervals for other patients of this kind, from a bootstrap of patients; exact: a bound on "
    "patients, where none differs"
)
MAX_ERROR = 400.0  # percent: the weighted error if every image costs most


@dataclass(frozen=True, kw_only=True)
class ClassReport:
    """One class, or several, against the rest. All are 0..1."""

    sensitivity: Proportion
    specificity: Proportion
    precision: Proportion  # positive predictive value, with the classes as frequent as they are in the data
    f1: Estimate
    auc: Estimate  # area under the ROC curve
    pr_auc: Estimate  # average precision: the area under the steps of the precision-recall curve

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return {field.name: getattr(self, field.name).as_json() for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class PrevalenceReport:
    """Predictive values where the classes have given shares, with the sensitivities of the data. All are 0..1."""

    prevalence: Mapping[str, float]  # class -> its share
    accuracy: Estimate
    precision: Mapping[str, Estimate]  # class -> positive predictive value
    npv: Mapping[str, Estimate]  # class -> negative predictive value

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return {
            "prevalence": dict(self.prevalence),
            "accuracy": self.accuracy.as_json(),
            "per_class": {
                name: {"precision": self.precision[name].as_json(), "npv": self.npv[name].as_json()}
                for name in self.prevalence
            },
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """All metrics of one split, each with its interval."""

    class_names: tuple[str, ...]
    unit: str  # what is counted: image or case
    patients: int
    confusion: NDArray[np.int64]  # (classes, classes): truth down, prediction across
    accuracy: Proportion
    balanced_accuracy: Estimate  # 0..1, mean sensitivity over the classes that occur
    macro_f1: Estimate  # 0..1, mean over the classes that occur or are predicted
    macro_auc: Estimate  # 0..1, mean over the classes that have one
    mcc: Estimate  # -1..1
    weighted_error: Estimate | None  # percent, 0..400; None where the classes are others than the cost matrix's
    per_class: Mapping[str, ClassReport]
    urgent: ClassReport | None  # CNV or DME against the rest; None where the classes are others
    at_prevalence: PrevalenceReport | None
    per_patient: Report | None = None  # the same of the cases; None in the report of the cases itself
    aggregation: str | None = None  # in the report of the cases: how a case's images make one prediction

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return {
            f"{self.unit}s": self.accuracy.total,
            "patients": self.patients,
            **({"aggregation": self.aggregation} if self.aggregation else {}),
            "accuracy": self.accuracy.as_json(),
            "balanced_accuracy": self.balanced_accuracy.as_json(),
            "macro_f1": self.macro_f1.as_json(),
            "macro_auc": self.macro_auc.as_json(),
            "mcc": self.mcc.as_json(),
            "weighted_error_percent": self.weighted_error.as_json() if self.weighted_error else None,
            "urgent_referral": self.urgent.as_json() if self.urgent else None,
            "per_class": {name: report.as_json() for name, report in self.per_class.items()},
            **({"at_prevalence": self.at_prevalence.as_json()} if self.at_prevalence else {}),
            "confusion": {
                "truth down, prediction across": list(self.class_names),
                "counts": self.confusion.tolist(),
            },
            **({"per_patient": self.per_patient.as_json()} if self.per_patient else {}),
        }


def compute_metrics(
    truth: NDArray[np.int64],
    probabilities: NDArray[np.floating[Any]],
    class_names: Sequence[str],
    patients: Sequence[str] | None = None,
    prevalence: Mapping[str, float] | None = None,
) -> Report:
    """All metrics of predictions for images; arguments as of `sample_of_images` and `resampled_metrics`."""
    return make_report(sample_of_images(truth, probabilities, class_names, patients), class_names, prevalence)


def report_of(
    predictions: SplitPredictions, class_names: Sequence[str], prevalence: Mapping[str, float] | None = None
) -> Report:
    """All metrics of the images of a split, and of its cases as `per_patient`."""
    of_images = compute_metrics(
        predictions.truth, predictions.probabilities, class_names, predictions.groups, prevalence
    )
    of_cases = make_report(sample_of_cases(predictions, class_names), class_names, prevalence)
    of_cases = dataclasses.replace(of_cases, aggregation=predictions.aggregation)
    return dataclasses.replace(of_images, per_patient=of_cases)


def make_report(sample: Sample, class_names: Sequence[str], prevalence: Mapping[str, float] | None = None) -> Report:
    """All metrics of a sample. prevalence: as of `resampled_metrics`."""
    resampled = resampled_metrics(sample, class_names, prevalence)
    counts = confusion(sample.truth, sample.predicted, len(class_names))
    exact = exact_intervals(resampled, counts)

    def estimate(*key: str) -> Estimate:
        return make_estimate(resampled[key], exact.get(key), *limits_of(key))

    def proportion(*key: str, count: int, total: int) -> Proportion:
        found = estimate(*key)
        return Proportion(
            value=found.value, interval=found.interval, is_exact=found.is_exact, count=int(count), total=int(total)
        )

    def against_rest(*key: str, cells: NDArray[np.int64]) -> ClassReport:
        tn, fp, fn, tp = cells
        return ClassReport(
            sensitivity=proportion(*key, "sensitivity", count=tp, total=tp + fn),
            specificity=proportion(*key, "specificity", count=tn, total=tn + fp),
            precision=proportion(*key, "precision", count=tp, total=tp + fp),
            f1=estimate(*key, "f1"),
            auc=estimate(*key, "auc"),
            pr_auc=estimate(*key, "pr_auc"),
        )

    at_prevalence = None
    if prevalence is not None:
        at_prevalence = PrevalenceReport(
            prevalence=dict(prevalence),
            accuracy=estimate("at_prevalence", "accuracy"),
            precision={name: estimate("at_prevalence", "per_class", name, "precision") for name in class_names},
            npv={name: estimate("at_prevalence", "per_class", name, "npv") for name in class_names},
        )
    has_costs = ("weighted_error_percent",) in resampled
    return Report(
        class_names=tuple(class_names),
        unit=sample.unit,
        patients=resampled["accuracy",].patients,
        confusion=counts,
        accuracy=proportion("accuracy", count=np.trace(counts), total=counts.sum()),
        balanced_accuracy=estimate("balanced_accuracy"),
        macro_f1=estimate("macro_f1"),
        macro_auc=estimate("macro_auc"),
        mcc=estimate("mcc"),
        weighted_error=estimate("weighted_error_percent") if has_costs else None,
        per_class={
            name: against_rest("per_class", name, cells=one_against_rest(counts, i))
            for i, name in enumerate(class_names)
        },
        urgent=against_rest("urgent_referral", cells=sample.urgent.cells) if sample.urgent else None,
        at_prevalence=at_prevalence,
    )


def limits_of(key: Key) -> Interval:
    """The lowest and the highest value of a metric."""
    return {"mcc": (-1.0, 1.0), "weighted_error_percent": (0.0, MAX_ERROR)}.get(key[0], (0.0, 1.0))


def make_estimate(
    resampled: Resampled, exact: Interval | None = None, lowest: float = 0.0, highest: float = 1.0
) -> Estimate:
    """A metric between two limits with its interval, which is `exact` where that is given."""
    if np.isnan(resampled.value):
        return Estimate(None)
    if exact:
        return Estimate(resampled.value, exact, is_exact=True)
    return Estimate(resampled.value, resampled.interval(lowest, highest))


def exact_intervals(resampled: Mapping[Key, Resampled], counts: NDArray[np.int64]) -> dict[Key, Interval]:
    """The bounds of metrics at 0 % or 100 %, by `exact_bound`.

    A rate: that of its patients. AUC: as many independent pairs of patients as the smaller side has. The mean of
    several classes: the mean of their bounds. Weighted error and MCC, where all images are right: as many patients
    wrong as the bound allows, in the way that costs most.

    counts: (classes, classes), truth down, prediction across.
    """
    found: dict[Key, Interval] = {}
    for key, metric in resampled.items():
        is_rate = key == ("accuracy",) or key[0] in ("per_class", "urgent_referral")
        if not is_rate or not metric.patients or key[-1] == "pr_auc":
            continue
        bound = exact_bound(metric.patients)
        if metric.value == 1:
            found[key] = bound, 1.0
        elif metric.value == 0 and key[-1] != "f1":
            found[key] = 0.0, 1 - bound
    for name, part in (("balanced_accuracy", "sensitivity"), ("macro_f1", "f1"), ("macro_auc", "auc")):
        of_classes = [key for key in resampled if key[0] == "per_class" and key[-1] == part]
        defined = [key for key in of_classes if not np.isnan(resampled[key].value)]
        if resampled[name,].value == 1 and all(key in found for key in defined):
            found[name,] = float(np.mean([found[key][0] for key in defined])), 1.0
    if ("accuracy",) in found and resampled["accuracy",].value == 1:
        bound = found["accuracy",][0]
        found["weighted_error_percent",] = 0.0, MAX_ERROR * (1 - bound)
        if resampled["mcc",].value == 1:
            found["mcc",] = _least_correlation(counts, 1 - bound), 1.0
    return found


def _least_correlation(counts: NDArray[np.int64], wrong: float) -> float:
    """The lowest MCC if a share of all images, which are right, were wrong, all in one cell."""
    classes = len(counts)
    changed = []
    for truth, predicted in np.argwhere(~np.eye(classes, dtype=bool)):
        cells = counts.astype(np.float64)
        moved = min(wrong * cells.sum(), cells[truth, truth])
        cells[truth, truth] -= moved
        cells[truth, predicted] += moved
        changed.append(cells)
    return float(np.nanmin(correlations(np.stack(changed))))


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
    elif len(present) > 1:
        chance, interval = 1 / len(present), report.balanced_accuracy.interval
        if interval is None or interval[0] <= chance:
            lines.append(
                f"balanced accuracy {report.balanced_accuracy} of {number(report.patients, 'patient')} does not differ "
                f"from guessing, {chance:.3f}"
            )
    return lines


def format_report(report: Report) -> str:
    """A report as tables and lines of text: of the images, then of the patients, and what the intervals are."""
    parts = [format_tables(report)]
    if report.per_patient:
        cases = report.per_patient
        parts += [
            f"PER PATIENT: {number(cases.accuracy.total, 'case')} of {number(cases.patients, 'patient')}; a case is a "
            f"patient's images of one class ({cases.aggregation}); referral is by a patient's worst image",
            format_tables(cases),
        ]
    return "\n\n".join([*parts, NOTE])


def format_tables(report: Report) -> str:
    """One report, without that of the cases, as tables and lines of text."""
    rows = [*report.per_class.items(), *([("urgent referral", report.urgent)] if report.urgent else [])]
    width = max(len("balanced accuracy"), *map(len, report.class_names))
    lines = []
    for names in (("sensitivity", "specificity"), ("precision", "AUC"), ("F1", "PR-AUC")):
        columns = [[name, *(str(getattr(part, name.lower().replace("-", "_"))) for _, part in rows)] for name in names]
        for label, *cells in zip(["", *(label for label, _ in rows)], *columns, strict=True):
            aligned = [f"{cell:{max(map(len, column))}}" for cell, column in zip(cells, columns, strict=True)]
            lines.append("  ".join([f"{label:{width}}", *aligned]).rstrip())
        lines.append("")
    lines.append("truth down, prediction across")
    cell = max(7, *(len(name) + 2 for name in report.class_names))
    lines.append(" " * width + "".join(f"{name:>{cell}}" for name in report.class_names))
    for name, row in zip(report.class_names, report.confusion, strict=True):
        lines.append(f"{name:{width}}" + "".join(f"{count:>{cell},}" for count in row))
    overall = {
        "accuracy": str(report.accuracy),
        "balanced accuracy": str(report.balanced_accuracy),
        "macro F1": str(report.macro_f1),
        "macro AUC": str(report.macro_auc),
        "MCC": str(report.mcc),
    }
    if report.weighted_error:
        overall["weighted error"] = report.weighted_error.text(1) + " %"
    lines += ["", *(f"{name:{width}}  {text}" for name, text in overall.items())]
    if report.at_prevalence:
        lines += ["", format_prevalence(report.at_prevalence)]
    return "\n".join(lines)


def format_prevalence(report: PrevalenceReport) -> str:
    """What the predictive values would be, as a table."""
    width = max(len("accuracy"), *map(len, report.prevalence))
    lines = [f"{'':{width}}  {'share':>6}  {'precision':21}  NPV"]
    for name, share in report.prevalence.items():
        lines.append(f"{name:{width}}  {share:>6.1%}  {report.precision[name]!s:21}  {report.npv[name]}")
    return "\n".join([*lines, f"{'accuracy':{width}}  {'':6}  {report.accuracy}"])
