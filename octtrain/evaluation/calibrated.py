"""A frozen calibration applied to the predictions of a split: before, after, and what its thresholds do there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.format.images_csv import ImageRow
from octprep.wording import listed
from octtrain.calibration.abstention import AnswerRates, answer_rates, risk_coverage
from octtrain.calibration.frozen import Calibration, Marks
from octtrain.calibration.operating_points import ReferralRates, referral_rates
from octtrain.calibration.patients import number_of_patient
from octtrain.calibration.reliability import Reliability, measure_reliability
from octtrain.evaluation.estimates import format_value
from octtrain.evaluation.predictions import SplitPredictions
from octtrain.evaluation.target import EvaluationTarget


@dataclass(frozen=True)
class Proportion:
    """A number of images or patients out of a total."""

    count: int
    total: int

    def as_json(self) -> dict[str, Any]:
        """For json.dumps: the value, None if the total is 0, and both counts."""
        return {"value": self.count / self.total if self.total else None, "count": self.count, "total": self.total}

    def __str__(self) -> str:
        return f"{format_value(self.count / self.total if self.total else None)} ({self.count:,}/{self.total:,})"


@dataclass(frozen=True, kw_only=True)
class CalibratedResults:
    """What a frozen calibration does on a split."""

    calibration: Calibration
    before: Reliability  # of the model's own probabilities
    after: Reliability  # of those after the temperature
    referral: ReferralRates | None  # None without a threshold
    answers: AnswerRates | None  # None without a threshold
    curve: Sequence[Mapping[str, float]]  # risk and coverage
    unfamiliar: Proportion  # images
    unfamiliar_patients: Proportion  # with at least one such image
    by_signal: Mapping[str, int]  # signal -> images

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        frozen = self.calibration.frozen
        return {
            "sha256": self.calibration.sha256,
            "chosen_on": frozen.split,
            "temperature": frozen.temperature,
            "before": self.before.as_json(),
            "after": self.after.as_json(),
            "referral": self.referral
            and {"threshold": frozen.referral_threshold, "target": frozen.sensitivity, **self.referral.as_json()},
            "abstention": self.answers
            and {"threshold": frozen.abstention_threshold, "level": frozen.error, **self.answers.as_json()},
            "risk_coverage": list(self.curve),
            "unfamiliar": {
                "images": self.unfamiliar.as_json(),
                "patients": self.unfamiliar_patients.as_json(),
                "images_by_signal": dict(self.by_signal),
                "limits": frozen.limits.as_json(),
            },
        }

    def lines(self) -> Iterator[str]:
        """The same as lines of text."""
        frozen = self.calibration.frozen
        yield f"calibration {self.calibration.sha256[:12]}, chosen on {frozen.split} and applied here"
        yield f"before             {self.before}"
        yield f"temperature {frozen.temperature:<6.3g} {self.after}"
        if self.referral:
            yield f"referral           {describe_referral(self.referral, frozen.referral_threshold)}"
        if self.answers:
            yield f"abstention         {describe_answers(self.answers, frozen.abstention_threshold)}"
        signals = listed([f"{name} {count:,}" for name, count in self.by_signal.items()])
        yield f"unfamiliar         {self.unfamiliar} of the images (by {signals})"


def apply_calibration(
    calibration: Calibration, predictions: SplitPredictions, target: EvaluationTarget
) -> tuple[SplitPredictions, CalibratedResults | None]:
    """The predictions after the temperature, and what the frozen thresholds do to them.

    predictions: with distances, of the model's own probabilities and the dataset's classes. If the target maps classes,
    the second is None: the thresholds, and the aggregation, were chosen for the classes of the model.
    """
    assert predictions.distances is not None
    raw, groups = predictions.probabilities, predictions.groups
    calibrated = replace(predictions, probabilities=calibration.probabilities(raw))
    if target.class_map:
        return calibrated, None
    calibrated = replace(calibrated, aggregation=calibration.frozen.aggregation)
    marks = calibration.marks(
        calibrated.probabilities, predictions.distances, crop_confidences(predictions.paths, target.rows)
    )
    return calibrated, _results(
        calibration, measure_reliability(predictions.truth, raw, groups), calibrated, groups, marks
    )


def calibration_caveats(calibration: Calibration, target: EvaluationTarget) -> list[str]:
    """A sentence if a calibration is applied to the scans that it was chosen on."""
    frozen = calibration.frozen
    if (target.manifest.digest, target.split) != (frozen.dataset, frozen.split):
        return []
    return [f"the calibration was chosen on {frozen.split}, so its results here are a little too good"]


def crop_confidences(paths: Sequence[str], rows: Sequence[ImageRow]) -> NDArray[np.float64]:
    """(n,) 0..1: that the crop of each image holds the retina, as images.csv says."""
    of_path = {row.path: row.measurements.crop_confidence for row in rows}
    return np.array([of_path[path] for path in paths])


def describe_referral(rates: ReferralRates, threshold: float | None) -> str:
    """A referral threshold and what it does, as a phrase."""
    return (
        f"at {threshold:g}: sensitivity {format_value(rates.sensitivity)} "
        f"(at least {format_value(rates.sensitivity_lower)}), "
        f"specificity {format_value(rates.specificity)}, patients with a referred scan {rates.urgent_patients[0]:,}/"
        f"{rates.urgent_patients[1]:,}"
    )


def describe_answers(rates: AnswerRates, threshold: float | None) -> str:
    """An abstention threshold and what it does, as a phrase."""
    return (
        f"below {threshold:g}: {Proportion(*rates.answered)} of the images are answered, "
        f"error {format_value(rates.error)} (at most {format_value(rates.error_upper)})"
    )


def _results(
    calibration: Calibration, before: Reliability, calibrated: SplitPredictions, groups: Sequence[str], marks: Marks
) -> CalibratedResults:
    frozen = calibration.frozen
    truth, probabilities = calibrated.truth, calibrated.probabilities
    patient = number_of_patient(groups)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    referral = answers = None
    if frozen.referral_threshold is not None:
        urgent = np.isin(truth, [frozen.class_names.index(name) for name in frozen.urgent])
        referral = referral_rates(calibration.referral_score(probabilities), urgent, patient, frozen.referral_threshold)
    if frozen.abstention_threshold is not None:
        answers = answer_rates(confidence, correct, patient, frozen.abstention_threshold)
    unfamiliar = marks.is_unfamiliar
    return CalibratedResults(
        calibration=calibration,
        before=before,
        after=measure_reliability(truth, probabilities, groups),
        referral=referral,
        answers=answers,
        curve=risk_coverage(confidence, correct),
        unfamiliar=Proportion(int(unfamiliar.sum()), len(unfamiliar)),
        unfamiliar_patients=Proportion(len(np.unique(patient[unfamiliar])), len(np.unique(patient))),
        by_signal={name: int(flags.sum()) for name, flags in marks.unfamiliar.items()},
    )
