"""Which aggregation makes the best predictions for patients: chosen on val, by a paired bootstrap of patients.

Another one than the default is chosen only if its balanced accuracy over cases is clearly better: the 95 % interval of
the difference, in which both have the same resamples of the patients, lies above 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from octtrain.evaluation.estimates import Estimate, format_difference
from octtrain.evaluation.intervals import Interval
from octtrain.evaluation.metrics import resampled_metrics
from octtrain.evaluation.patients import sample_of_cases
from octtrain.evaluation.predictions import AGGREGATIONS, MEAN_LOG, SplitPredictions
from octtrain.evaluation.report import make_estimate


@dataclass(frozen=True)
class Candidate:
    """An aggregation, and how it does on the split that the choice is made on."""

    balanced_accuracy: Estimate  # over cases
    difference: float | None  # of the balanced accuracy, to that of the default; None where undefined
    interval: Interval | None  # of the difference, 95 %

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        interval = None if self.interval is None else list(self.interval)
        difference = {"value": self.difference, "interval": interval}
        return {"balanced_accuracy": self.balanced_accuracy.as_json(), "difference": difference}


def choose_aggregation(
    predictions: SplitPredictions, class_names: Sequence[str]
) -> tuple[str, Mapping[str, Candidate]]:
    """The aggregation to use, and all candidates by name. predictions: after the temperature."""
    measured = {}
    for name in AGGREGATIONS:
        sample = sample_of_cases(replace(predictions, aggregation=name), class_names)
        measured[name] = resampled_metrics(sample, class_names)["balanced_accuracy",]
    candidates = {}
    for name, metric in measured.items():
        difference = metric - measured[MEAN_LOG]
        value = None if difference.value != difference.value else difference.value  # NaN: it is undefined
        candidates[name] = Candidate(make_estimate(metric), value, difference.difference_interval())
    better = [name for name, found in candidates.items() if found.interval and found.interval[0] > 0]
    chosen = max(better, key=lambda name: candidates[name].difference or 0.0) if better else MEAN_LOG
    return chosen, candidates


def describe_aggregation(chosen: str, candidates: Mapping[str, Candidate]) -> Iterator[str]:
    """The choice as lines: what is used, and how the others differ from the default."""
    yield f"{chosen}; balanced accuracy of patients {candidates[chosen].balanced_accuracy}"
    for name, found in candidates.items():
        if name != MEAN_LOG:
            yield f"{name} instead of {MEAN_LOG}: {format_difference(found.difference, found.interval)}"
