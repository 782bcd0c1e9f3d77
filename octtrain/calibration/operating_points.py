"""The threshold of urgent referral that is chosen on val, so that its sensitivity is assured for new patients.

A scan is referred if its score, the sum of the probabilities of the urgent classes, is at least the threshold. The
sensitivity is the mean over patients with urgent scans of the share of these scans that is referred, so each patient
counts the same. It can only fall as the threshold rises. Of such a rate, the largest threshold whose lower bound is at
least the target has it for new patients with the bound's confidence (Bates et al., JACM 68(6):43, 2021, theorem 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octtrain.calibration.patients import CONFIDENCE, lower_bound, mean_or_none, means_of_patients

_DECIMALS = 6  # of a threshold, which is rounded down, so that no rounding of a probability crosses it


@dataclass(frozen=True, kw_only=True)
class ReferralRates:
    """What a threshold does to some scans. Rates are 0..1, means over patients; None without such patients."""

    sensitivity: float | None
    sensitivity_lower: float | None  # 95 % bound, one-sided
    specificity: float | None
    specificity_lower: float | None
    urgent_scans: tuple[int, int]  # referred, all
    other_scans: tuple[int, int]  # not referred, all
    urgent_patients: tuple[int, int]  # with at least one of their urgent scans referred, all

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return {
            "sensitivity": self.sensitivity,
            "sensitivity_lower_bound": self.sensitivity_lower,
            "specificity": self.specificity,
            "specificity_lower_bound": self.specificity_lower,
            "urgent_scans": dict(zip(("referred", "all"), self.urgent_scans, strict=True)),
            "other_scans": dict(zip(("not_referred", "all"), self.other_scans, strict=True)),
            "urgent_patients": dict(zip(("referred_by_a_scan", "all"), self.urgent_patients, strict=True)),
        }


def choose_threshold(
    score: NDArray[np.floating[Any]],
    urgent: NDArray[np.bool_],
    patient: NDArray[np.int64],
    sensitivity: float,
    confidence: float = CONFIDENCE,
) -> float | None:
    """The largest threshold, 0..1, whose sensitivity has a lower bound of at least `sensitivity`.

    None if there are too few patients with urgent scans for any (`patients_needed`).

    score: (n,) 0..1.  urgent: (n,) whether the scan is of an urgent class.  patient: (n,) number from 0.
    """
    score, patient = score[urgent].astype(np.float64), patient[urgent]
    if not len(score):
        return None
    scans = np.bincount(patient)
    patients = int((scans > 0).sum())
    order = np.argsort(-score, kind="stable")
    totals = np.cumsum(1 / scans[patient[order]])  # sum of the shares if all scans up to this one are referred
    last_of_equals = np.append(score[order][1:] != score[order][:-1], True)
    low, high = 0, int(last_of_equals.sum())
    candidates, totals = score[order][last_of_equals], totals[last_of_equals]
    while low < high:  # the bound rises with the sum
        middle = (low + high) // 2
        if lower_bound(float(totals[middle]), patients, confidence) >= sensitivity:
            high = middle
        else:
            low = middle + 1
    return math.floor(candidates[low] * 10**_DECIMALS) / 10**_DECIMALS if low < len(candidates) else None


def referral_rates(
    score: NDArray[np.floating[Any]], urgent: NDArray[np.bool_], patient: NDArray[np.int64], threshold: float
) -> ReferralRates:
    """Sensitivity and specificity of a threshold. Arguments as `choose_threshold`."""
    referred = score >= threshold
    found, kept = (
        means_of_patients(referred[urgent], patient[urgent]),
        means_of_patients(~referred[~urgent], patient[~urgent]),
    )
    return ReferralRates(
        sensitivity=mean_or_none(found),
        sensitivity_lower=_lower(found),
        specificity=mean_or_none(kept),
        specificity_lower=_lower(kept),
        urgent_scans=(int((referred & urgent).sum()), int(urgent.sum())),
        other_scans=(int((~referred & ~urgent).sum()), int((~urgent).sum())),
        urgent_patients=(int((found > 0).sum()), len(found)),
    )


def _lower(values: NDArray[np.float64]) -> float | None:
    return lower_bound(float(values.sum()), len(values)) if len(values) else None
