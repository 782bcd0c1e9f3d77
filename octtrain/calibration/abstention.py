"""When a model should not answer: the confidence below which it abstains, so that its answers keep a level of error.

A scan is answered if the probability of its most probable class is at least the threshold. The error is the mean, over
patients with at least one answered scan, of the share of their answered scans that are misclassified.

The threshold is chosen by fixed-sequence testing (Learn then Test: Angelopoulos et al., arXiv:2110.01052, 2021). The
thresholds of a fixed grid are tested from the strictest on; the first at which at least half of the patients get an
answer, and enough of them to show the level, begins the sequence, which depends on no label. While the upper bound of
the error is at most the level, the next threshold is tested; the last that passed is chosen. As testing stops at the
first failure, the probability that the true error is above the level is at most 1 - confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octtrain.calibration.patients import CONFIDENCE, mean_or_none, means_of_patients, patients_needed, upper_bound

CURVE_POINTS = 100  # of the risk-coverage curve, at most

# From 0.999994 down to 0.12 in equal steps of log(p / (1 - p)), then 0, which answers everything.
GRID: tuple[float, ...] = (*(round(1 / (1 + np.exp(-x)), 6) for x in np.arange(12, -2, -0.05).tolist()), 0.0)


@dataclass(frozen=True, kw_only=True)
class AnswerRates:
    """What a threshold does to some scans. Rates are 0..1, None where nothing is answered."""

    answered: tuple[int, int]  # scans answered, all
    wrong: int  # answered scans that are misclassified
    patients: int  # with at least one answered scan
    error: float | None  # mean over these patients of the share of their answered scans that is misclassified
    error_upper: float | None  # 95 % bound, one-sided

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return {
            "answered_scans": dict(zip(("answered", "all"), self.answered, strict=True)),
            "share_answered": self.answered[0] / self.answered[1] if self.answered[1] else None,
            "wrong_scans": self.wrong,
            "patients_with_an_answer": self.patients,
            "error": self.error,
            "error_upper_bound": self.error_upper,
        }


@dataclass(frozen=True)
class Choice:
    """A threshold, or the reason why there is none."""

    threshold: float | None  # 0..1; 0 answers everything
    reason: str | None = None


def choose_abstention(
    confidence_of: NDArray[np.floating[Any]],
    correct: NDArray[np.bool_],
    patient: NDArray[np.int64],
    level: float,
    confidence: float = CONFIDENCE,
) -> Choice:
    """The threshold that lets the model answer most, with an error of at most `level`.

    confidence_of: (n,) probability of the most probable class.  correct: (n,) whether it is right.  patient: (n,)
    number from 0.  level: of the error, above 0 and below 1.
    """
    all_patients, needed = len(np.unique(patient)), patients_needed(1 - level, confidence)
    if all_patients < needed:
        return Choice(
            None,
            f"an error of at most {level:g} can be shown with {needed:,} patients or more, and here are "
            f"{all_patients:,}",
        )
    chosen = None
    for threshold in GRID:
        rates = answer_rates(confidence_of, correct, patient, threshold, confidence)
        if chosen is None and rates.patients < max(needed, all_patients / 2):
            continue
        assert rates.error_upper is not None
        if rates.error_upper > level:
            if chosen is None:
                return Choice(
                    None,
                    f"answering only where the probability is at least {threshold:g}, for {rates.patients:,} of "
                    f"{all_patients:,} patients, the error is {rates.error:.3f} with an upper bound of "
                    f"{rates.error_upper:.3f}, above {level:g}",
                )
            break
        chosen = threshold
    return Choice(chosen)


def answer_rates(
    confidence_of: NDArray[np.floating[Any]],
    correct: NDArray[np.bool_],
    patient: NDArray[np.int64],
    threshold: float,
    confidence: float = CONFIDENCE,
) -> AnswerRates:
    """Share answered and error of a threshold. Arguments as `choose_abstention`."""
    answered = confidence_of >= threshold
    wrong = means_of_patients(~correct[answered], patient[answered])
    return AnswerRates(
        answered=(int(answered.sum()), len(answered)),
        wrong=int((answered & ~correct).sum()),
        patients=len(wrong),
        error=mean_or_none(wrong),
        error_upper=upper_bound(float(wrong.sum()), len(wrong), confidence) if len(wrong) else None,
    )


def risk_coverage(confidence_of: NDArray[np.floating[Any]], correct: NDArray[np.bool_]) -> list[dict[str, float]]:
    """Points of the risk-coverage curve over scans (Geifman and El-Yaniv 2017), from the strictest threshold on.

    threshold: the least confidence that is answered; coverage: the share of scans that is; risk: the share of the
    answered scans that is misclassified. Scans of equal confidence are answered together.
    """
    order = np.argsort(-confidence_of, kind="stable")
    values, wrong = confidence_of[order], np.cumsum(~correct[order])
    last_of_equals = np.flatnonzero(np.append(values[1:] != values[:-1], True)) if len(values) else np.array([], int)
    chosen = (
        last_of_equals[np.unique(np.linspace(0, len(last_of_equals) - 1, CURVE_POINTS).astype(int))]
        if len(values)
        else []
    )
    return [
        {
            "threshold": float(values[i]),
            "coverage": (int(i) + 1) / len(values),
            "risk": int(wrong[i]) / (int(i) + 1),
        }
        for i in chosen
    ]
