"""Confidence bounds of rates whose unit is the patient, because the scans of one patient are similar.

A patient is a patient group of images.csv. Each has a share in 0..1, such as the share of their scans that are
referred, and the rate is the mean of the shares, so every patient counts the same. The bound is that of Clopper and
Pearson (1934), with as many trials as there are patients and the sum of the shares as successes, which need not be a
whole number. That is the interval of Korn and Graubard (Survey Methodology 24:193, 1998) where further scans of a
patient add nothing to the first. It is exact where each patient has one scan. A share varies less than a yes or no of
the same mean, so otherwise it is conservative; `benchmarks/calibration.py` measures how much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95  # of every bound, one-sided


def number_of_patient(patients: Sequence[str]) -> NDArray[np.int64]:
    """(n,) numbers from 0 that are equal where the patient ids are."""
    return np.unique(np.array(patients, object).astype(str), return_inverse=True)[1].reshape(-1).astype(np.int64)


def means_of_patients(values: NDArray[Any], patient: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean for each patient with at least one scan, (patients,); of hits, the share of the scans that are hits.

    values: (n,) numbers, or whether a scan is a hit.  patient: (n,) number from 0.
    """
    scans = np.bincount(patient)
    return np.asarray((np.bincount(patient, weights=values) / np.maximum(scans, 1))[scans > 0])


def mean_or_none(shares: NDArray[np.float64]) -> float | None:
    """The mean of the patients' shares; None without patients."""
    return float(shares.mean()) if len(shares) else None


def lower_bound(total: float, patients: int, confidence: float = CONFIDENCE) -> float:
    """The one-sided lower confidence bound of a rate, 0..1. total: the sum of the patients' shares."""
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    if total <= 0 or not patients:
        return 0.0
    total = min(total, patients)
    return float(betaincinv(total, patients - total + 1, 1 - confidence))


def upper_bound(total: float, patients: int, confidence: float = CONFIDENCE) -> float:
    """The one-sided upper confidence bound of a rate, 0..1. total: the sum of the patients' shares."""
    return 1 - lower_bound(patients - total, patients, confidence)


def patients_needed(rate: float, confidence: float = CONFIDENCE) -> int:
    """The smallest number of patients whose lower bound, if all are hits, reaches a rate in 0..1; 59 for 0.95."""
    return math.ceil(math.log(1 - confidence) / math.log(rate) - 1e-9)
