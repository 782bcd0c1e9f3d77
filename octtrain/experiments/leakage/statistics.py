"""The inflation over all repeats with its interval (`octtrain.evaluation.trainings`), and the result in words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from octtrain.evaluation.trainings import interval_over_trainings

INTERVAL = (
    "95 % interval: Student's t over the repeats, widened for the training images that they share (Nadeau and Bengio "
    "2003). It covers other splits and trainings of these images, not other patients."
)
NEAR_PERFECT = 0.98  # balanced accuracy above which there is little room for inflation


@dataclass(frozen=True)
class Score:
    """Metrics on the held-out images of one training."""

    balanced_accuracy: float  # 0..1
    mcc: float  # -1..1


@dataclass(frozen=True)
class Repeat:
    """One pair of trainings."""

    train: int  # images
    test: int  # images
    shared: float  # fraction of the images held out one by one whose patient is in training, 0..1
    by_image: Score
    by_patient: Score


@dataclass(frozen=True)
class Inflation:
    """One metric over all repeats."""

    by_image: float  # mean
    by_patient: float  # mean
    difference: float  # mean by image minus mean by patient
    low: float  # 95 % interval of the difference
    high: float

    @property
    def is_above_zero(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0


def inflation(repeats: Sequence[Repeat], metric: str) -> Inflation:
    """Means of one metric of `Score`, and their difference with its interval."""
    by_image = [getattr(repeat.by_image, metric) for repeat in repeats]
    by_patient = [getattr(repeat.by_patient, metric) for repeat in repeats]
    differences = [image - patient for image, patient in zip(by_image, by_patient, strict=True)]
    ratio = statistics.fmean(repeat.test / repeat.train for repeat in repeats)
    return Inflation(
        statistics.fmean(by_image), statistics.fmean(by_patient), *interval_over_trainings(differences, ratio)
    )


def format_table(balanced_accuracy: Inflation, mcc: Inflation) -> str:
    """Both metrics as lines of text, with a note on the interval."""
    lines = [f"{'':17}  {'by image':>8}  {'by patient':>10}  {'inflation':>9}  95 % interval"]
    for name, result in (("balanced accuracy", balanced_accuracy), ("MCC", mcc)):
        lines.append(
            f"{name:17}  {result.by_image:8.3f}  {result.by_patient:10.3f}  {result.difference:+9.3f}  "
            f"{result.low:+.3f} to {result.high:+.3f}"
        )
    return "\n".join([*lines, "", INTERVAL])


def conclusion(balanced_accuracy: Inflation, repeats: Sequence[Repeat]) -> str:
    """What the result means, in a sentence or two."""
    interval = f"({balanced_accuracy.low:+.3f} to {balanced_accuracy.high:+.3f})"
    shared = statistics.fmean(repeat.shared for repeat in repeats)
    if balanced_accuracy.is_above_zero:
        return (
            f"Split by image, {shared:.0%} of the test images have their patient in training, and the model looks "
            f"{100 * balanced_accuracy.difference:.0f} points of balanced accuracy better {interval} than it is on new "
            "patients."
        )
    if balanced_accuracy.high < 0:
        return f"Split by image, the model looks worse than on new patients {interval}, which no leak explains."
    is_near_perfect = min(balanced_accuracy.by_image, balanced_accuracy.by_patient) > NEAR_PERFECT
    reason = " (both are near perfect, so there is little room for any)" if is_near_perfect else ""
    return (
        f"No inflation is shown: the interval {interval} includes 0{reason}. "
        "More --repeats narrow it; an inflation that is not shown may still exist."
    )
