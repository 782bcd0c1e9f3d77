"""Compare runs on the same patients: differences of all metrics with 95 % intervals.

Both runs are evaluated on the same resamples of patients, so what is hard for both does not widen the interval of their
difference. It covers other patients, with these models as they are. Of cross-validations there is a second interval, of
the differences between trainings that predicted the same fold with the same seed: it covers other trainings.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from octprep.format.errors import ManifestError, SettingError, SourceError
from octprep.format.manifest import Manifest
from octprep.format.paths import path_to_text
from octprep.wording import listed, number
from octtrain import json_output
from octtrain.evaluation.estimates import EXACT, Estimate, format_difference, format_interval
from octtrain.evaluation.intervals import DESCRIPTION, Interval, Resampled, exact_bound
from octtrain.evaluation.metrics import Key, confusion, resampled_metrics, sample_of_images
from octtrain.evaluation.patients import sample_of_cases
from octtrain.evaluation.predictions import AGGREGATIONS, MEAN_LOG, SplitPredictions, read_predictions
from octtrain.evaluation.report import exact_intervals, limits_of, make_estimate
from octtrain.evaluation.trainings import CROSSVAL_PREDICTIONS, CROSSVAL_RESULT, interval_over_trainings

MAX_BYTES = 100_000_000  # of a file of predictions
NAMES: Mapping[str, str] = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "macro_auc": "macro AUC",
    "mcc": "MCC",
    "weighted_error_percent": "weighted error, %",
    "urgent_referral": "urgent referral",
    "f1": "F1",
    "auc": "AUC",
    "pr_auc": "PR-AUC",
}
HIDDEN = ("precision", "f1", "pr_auc")  # in the JSON, but not printed


@dataclass(frozen=True)
class Evaluated:
    """The predictions of a run, or of a cross-validation, and what its JSON says of them."""

    name: str
    class_names: tuple[str, ...]
    predictions: SplitPredictions
    images_sha256: str | None  # of the names and contents of the images; None if unknown
    leak_warning: str | None
    trainings: Mapping[str, float | None]  # of a cross-validation: training -> balanced accuracy; else empty
    ratio: float  # of a cross-validation: images predicted to images trained on, mean over its trainings; else NaN


@dataclass(frozen=True)
class Difference:
    """One metric of two runs, and the second minus the first."""

    key: Key
    first: Estimate
    second: Estimate
    value: float | None
    interval: Interval | None  # 95 %
    is_exact: bool = False  # an exact bound instead of the bootstrap

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        interval = None if self.interval is None else list(self.interval)
        return {
            "metric": list(self.key),
            "first": self.first.as_json(),
            "second": self.second.as_json(),
            "difference": {"value": self.value, "interval": interval, **({"method": EXACT} if self.is_exact else {})},
        }


@dataclass(frozen=True)
class Comparison:
    """A run against the first."""

    first: str
    second: str
    images: tuple[Difference, ...]
    per_patient: tuple[Difference, ...]
    trainings: tuple[float, Interval, int] | None  # of cross-validations: difference, its interval, pairs of trainings

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        trainings = None
        if self.trainings:
            value, interval, pairs = self.trainings
            trainings = {"value": value, "interval": list(interval), "pairs": pairs}
        return {
            "first": self.first,
            "second": self.second,
            "images": [difference.as_json() for difference in self.images],
            "per_patient": [difference.as_json() for difference in self.per_patient],
            "balanced_accuracy_over_trainings": trainings,
        }


def compare(
    runs: Sequence[Path | str],
    split: str = "test",
    *,
    json_file: Path | None = None,
    log: Callable[[str], None] = print,
) -> list[Comparison]:
    """Compare runs that were evaluated on the same images, each with the first, and print the differences.

    runs: folders of runs, of cross-validations or of results (`evaluate --out`), or files predictions-SPLIT.csv.
    split: of the results to compare, as in their files' names.  json_file: a copy of the numbers; Path("-") is standard
    output.  log: takes lines of text.

    Raises SettingError for fewer than two runs, and for runs with other classes or evaluated on other images, which are
    named; SourceError if one has no results; ManifestError if a file is damaged; OutputError as `evaluate`.
    """
    if len(runs) < 2:
        raise SettingError(f"a comparison needs two runs at least; got {len(runs)}")
    if json_file:
        json_output.check(json_file)
    first, *others = [read_evaluated(Path(run), split) for run in runs]
    aligned = [align(first, other) for other in others]
    comparisons = [compare_two(first, other) for other in aligned]
    groups = len({*first.predictions.groups})
    if json_file:
        content = {
            "split": split,
            "images": len(first.predictions.paths),
            "patients": groups,
            "intervals": DESCRIPTION,
            "leak_warnings": {each.name: each.leak_warning for each in (first, *others)},
            "comparisons": [comparison.as_json() for comparison in comparisons],
        }
        json_output.write(json_file, content)
    log(f"on the same {number(len(first.predictions.paths), 'image')} of {number(groups, 'patient')}")
    for each in (first, *others):
        if each.leak_warning:
            log(f"{each.name}: {each.leak_warning}")
    for comparison in comparisons:
        log("")
        log(format_comparison(comparison))
    log("")
    log(
        "in brackets: 95 % intervals for other patients, from a bootstrap of the patients that is the same for both; a "
        "difference whose interval includes 0 may be chance"
    )
    if len(comparisons) > 1:
        log(f"{len(comparisons)} runs are compared with the first, without a correction for that")
    return comparisons


def read_evaluated(path: Path, split: str) -> Evaluated:
    """What a folder, or a CSV of predictions, holds. Errors as of `compare`."""
    name = path_to_text(path.as_posix())
    if path.is_file():
        csv_path, json_path = (
            path,
            path.with_name(path.name.replace("predictions-", "evaluate-", 1)).with_suffix(".json"),
        )
    elif (path / CROSSVAL_PREDICTIONS).is_file():
        csv_path, json_path = path / CROSSVAL_PREDICTIONS, path / CROSSVAL_RESULT
    else:
        csv_path, json_path = path / f"predictions-{split}.csv", path / f"evaluate-{split}.json"
    if not csv_path.is_file():
        raise SourceError(
            f"{name} has no {csv_path.name}; make it with `octtrain evaluate {name}`, or name other results by --split."
        )
    try:
        if csv_path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        class_names, predictions = read_predictions(csv_path.read_bytes())
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{csv_path} is not what `octtrain evaluate` wrote ({error}). Evaluate the run again."
        ) from None
    try:
        raw = json.loads(json_path.read_bytes()) if json_path.is_file() and json_path != csv_path else {}
        trainings = {str(key): value for key, value in raw.get("balanced_accuracy_by_run", {}).items()}
        aggregation = raw.get("per_patient", {}).get("aggregation", MEAN_LOG)
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"its aggregation {aggregation!r} is none of {listed(AGGREGATIONS)}")
        predictions = dataclasses.replace(predictions, aggregation=aggregation)
        ratio = _ratio(path, [*trainings]) if trainings else math.nan
        return Evaluated(
            name, class_names, predictions, raw.get("images_sha256"), raw.get("leak_warning"), trainings, ratio
        )
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(f"{json_path} is not what octtrain wrote ({error}). Evaluate the run again.") from None


def _ratio(folder: Path, trainings: Sequence[str]) -> float:
    """Images predicted to images trained on, mean over the trainings of a cross-validation; NaN if it is unknown."""
    ratios = []
    for training in trainings:
        if not (folder / training / "config.json").is_file():
            return math.nan
        settings = json.loads((folder / training / "config.json").read_bytes())["config"]
        manifest = Manifest.load(folder / training)
        left_out = {f"fold{settings['fold']}", f"fold{settings['test_fold']}"}
        trained = sum(
            manifest.records(name) for name in manifest.splits if name.startswith("fold") and name not in left_out
        )
        ratios.append(manifest.records(f"fold{settings['test_fold']}") / trained)
    return float(np.mean(ratios))


def align(first: Evaluated, other: Evaluated) -> Evaluated:
    """The other run with its images and classes in the order of the first, and the first's patients.

    Raises SettingError, with both runs and an image, if they were not evaluated on the same.
    """
    if {*first.class_names} != {*other.class_names}:
        raise SettingError(
            f"{first.name} has the classes {listed(first.class_names)}, but {other.name} has "
            f"{listed(other.class_names)}; compare runs of the same classes"
        )
    place = {path: i for i, path in enumerate(other.predictions.paths)}
    if different := sorted({*first.predictions.paths} ^ {*place}):
        raise SettingError(
            f"{first.name} and {other.name} were not evaluated on the same images: {number(len(different), 'image')}, "
            f"such as {different[0]}, are in one of them only. Evaluate both on the same split of the same dataset"
        )
    columns = [other.class_names.index(name) for name in first.class_names]
    chosen = other.predictions.chosen(place[path] for path in first.predictions.paths)
    truth = np.array([columns.index(label) for label in chosen.truth.tolist()], np.int64)
    if not np.array_equal(truth, first.predictions.truth):
        path = first.predictions.paths[int(np.flatnonzero(truth != first.predictions.truth)[0])]
        raise SettingError(f"{first.name} and {other.name} differ in the class of {path}; evaluate both on one dataset")
    if first.images_sha256 and other.images_sha256 and first.images_sha256 != other.images_sha256:
        raise SettingError(
            f"{first.name} and {other.name} were evaluated on images of the same names, but of other contents; "
            "evaluate both on the same dataset"
        )
    predictions = dataclasses.replace(
        chosen,
        patients=first.predictions.patients,
        groups=first.predictions.groups,
        truth=truth,
        probabilities=chosen.probabilities[:, columns],
    )
    return Evaluated(
        other.name,
        first.class_names,
        predictions,
        other.images_sha256,
        other.leak_warning,
        other.trainings,
        other.ratio,
    )


def compare_two(first: Evaluated, second: Evaluated) -> Comparison:
    """The differences of a run and the first, which `align` brought to the same order."""
    names = first.class_names
    parts = []
    for is_of_images in (True, False):
        samples = [
            sample_of_images(each.truth, each.probabilities, names, each.groups)
            if is_of_images
            else sample_of_cases(each, names)
            for each in (first.predictions, second.predictions)
        ]
        measured = [resampled_metrics(sample, names) for sample in samples]
        exact = [
            exact_intervals(found, confusion(sample.truth, sample.predicted, len(names)))
            for sample, found in zip(samples, measured, strict=True)
        ]
        is_same = np.array_equal(first.predictions.probabilities, second.predictions.probabilities)
        estimates = [
            {key: make_estimate(metric, bounds.get(key), *limits_of(key)) for key, metric in found.items()}
            for found, bounds in zip(measured, exact, strict=True)
        ]
        parts.append(
            tuple(
                _difference(key, estimates[0][key], estimates[1][key], measured[1][key] - measured[0][key], is_same)
                for key in sorted(measured[0], key=lambda key: (len(key), "per_class" in key))
            )
        )
    return Comparison(first.name, second.name, parts[0], parts[1], _over_trainings(first, second))


def _difference(key: Key, first: Estimate, second: Estimate, difference: Resampled, is_same: bool) -> Difference:
    if first.value is None or second.value is None:
        return Difference(key, first, second, None, None)
    if is_same:
        return Difference(key, first, second, 0.0, (0.0, 0.0))
    interval = difference.difference_interval()
    if interval is None and first.is_exact and second.is_exact and difference.value == 0:
        width = exact_bound(difference.patients)  # no patient differs: so few may
        lowest, highest = limits_of(key)
        margin = (highest - lowest) * (1 - width)
        return Difference(key, first, second, 0.0, (-margin, margin), is_exact=True)
    return Difference(key, first, second, difference.value, interval)


def _over_trainings(first: Evaluated, second: Evaluated) -> tuple[float, Interval, int] | None:
    """The difference in balanced accuracy over trainings of the same fold and seed; None without two such pairs."""
    differences = [
        other - value
        for name, value in first.trainings.items()
        if value is not None and (other := second.trainings.get(name)) is not None
    ]
    ratio = max(first.ratio, second.ratio)
    if len(differences) < 2 or math.isnan(ratio):
        return None
    mean, low, high = interval_over_trainings(differences, ratio)
    return mean, (low, high), len(differences)


def format_comparison(comparison: Comparison) -> str:
    """Both runs and their differences as tables."""
    lines = [f"{comparison.second} minus {comparison.first}"]
    for title, differences in (("images", comparison.images), ("PER PATIENT", comparison.per_patient)):
        shown = [difference for difference in differences if difference.key[-1] not in HIDDEN]
        rows = [("", "first", "second", "difference")]
        for each in shown:
            digits = 1 if each.key == ("weighted_error_percent",) else 3
            difference = format_difference(each.value, each.interval, digits)
            rows.append((_name(each.key), each.first.text(digits), each.second.text(digits), difference))
        rows[0] = (title, *rows[0][1:])
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines += ["", *("  ".join([*(f"{c:{w}}" for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows)]
    if comparison.trainings:
        value, interval, pairs = comparison.trainings
        lines += [
            "",
            f"balanced accuracy over {pairs} pairs of trainings of the same fold and seed: {value:+.3f} "
            f"({format_interval(interval, signed=True)}, for other trainings; Nadeau and Bengio 2003)",
        ]
    return "\n".join(lines)


def _name(key: Key) -> str:
    """A metric in words, such as `CNV sensitivity`."""
    return " ".join(NAMES.get(part, part) for part in key if part != "per_class")
