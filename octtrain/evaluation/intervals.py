"""95 % intervals of any metric by a bootstrap of patients, and exact bounds where a bootstrap says nothing.

Images of one patient resemble each other, so what varies by chance is which patients are in the data: whole patients
are resampled with replacement, each with all its images (Field and Welsh, J. R. Stat. Soc. B 69:369, 2007). A resample
is a row of counts, how often it holds each patient, drawn from a multinomial distribution; metrics of many rows are
computed at once.

The interval is made on the logit scale, in which it cannot leave the range of the metric, from the standard deviation
of the resamples and Student's t; the degrees of freedom follow from how unequally the patients contribute. Percentiles
of the resamples, bias-corrected or not, hold the truth too rarely where patients are few or a rate is near 100 %:
benchmarks/coverage.py, docs/evaluation.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
SEED = 0
TAIL = 0.025  # outside each end of an interval: 95 % between
MAX_GROUPS = 500  # groups of patients that are left out in turn
MAX_CELLS = 400_000  # resamples times images that are computed at once: arrays that fit a cache
MIN_DEFINED = 0.5  # of the resamples: a metric that is undefined in more has no interval

DESCRIPTION = {
    "level": 0.95,
    "method": "bootstrap of patients: logit scale, standard deviation of the resamples, Student's t",
    "resamples": RESAMPLES,
    "seed": SEED,
}  # of all intervals in a JSON that do not name another method

Key = TypeVar("Key")
Weights = NDArray[np.float32]  # (resamples, patients): how often each resample holds each patient
Values = NDArray[np.float64]  # (resamples,), NaN where undefined
Interval = tuple[float, float]


@dataclass(frozen=True)
class Resampled:
    """A metric of the data, of resamples of its patients, and without some patients; NaN where undefined."""

    value: float
    resamples: Values  # (RESAMPLES,)
    left_out: Values  # (groups,), each without one group of patients, or one patient
    patients: int  # that the metric is of; of the smaller side where it compares two

    def __sub__(self, other: Resampled) -> Resampled:
        """The difference of two metrics of the same patients, resample by resample."""
        return Resampled(
            self.value - other.value,
            self.resamples - other.resamples,
            self.left_out - other.left_out,
            min(self.patients, other.patients),
        )

    def interval(self, lowest: float = 0.0, highest: float = 1.0) -> Interval | None:
        """The 95 % interval of a metric that is between two limits.

        None if it is undefined, is at a limit, does not vary, or is of fewer than two patients.
        """
        error = self.standard_error
        if error is None or not lowest < self.value < highest:
            return None
        share = (self.value - lowest) / (highest - lowest)
        middle = math.log(share / (1 - share))
        margin = self._quantile() * error / (highest - lowest) / (share * (1 - share))
        low, high = (lowest + (highest - lowest) * _expit(middle + sign * margin) for sign in (-1, 1))
        return low, high

    def difference_interval(self) -> Interval | None:
        """The 95 % interval of a difference, which has no limits; None where the metric's would be."""
        error = self.standard_error
        if error is None:
            return None
        margin = self._quantile() * error
        return self.value - margin, self.value + margin

    @property
    def standard_error(self) -> float | None:
        """The standard deviation of the resamples; None where the interval would be None."""
        defined = self.resamples[~np.isnan(self.resamples)]
        if math.isnan(self.value) or self.patients < 2 or len(defined) < MIN_DEFINED * len(self.resamples):
            return None
        error = float(defined.std(ddof=1))
        return error if error > 1e-12 else None

    def _quantile(self) -> float:
        """Student's t. Few patients that contribute much make the error itself uncertain (Satterthwaite 1946).

        With influence d of each patient and kurtosis k of d, the variance of n patients has about as much error as
        that of a normal distribution with 2 n / (k - 1) degrees of freedom.
        """
        from scipy import stats  # type: ignore[import-untyped]  # takes long to import

        influence = self.left_out[~np.isnan(self.left_out)]
        influence = influence - influence.sum() / max(len(influence), 1)
        second, fourth = float((influence**2).sum()), float((influence**4).sum())
        # 2 n / (k - 1), where k = n * fourth / second**2
        excess = fourth / second**2 - 1 / len(influence) if second > 0 else 0.0
        freedom = min(2 / max(excess, 1e-9), self.patients - 1)
        return float(stats.t.ppf(1 - TAIL, max(freedom, 1)))


Measure = Callable[[Weights], Mapping[Key, Values]]  # metrics of some resamples


def resample(
    measure: Measure[Key], patients: int, rows: int, contributing: Mapping[Key, int], seed: int = SEED
) -> dict[Key, Resampled]:
    """The metrics of the data, of RESAMPLES resamples of its patients, and with some of them left out.

    The same seed and number of patients give the same resamples, so two measures of the same patients can be
    subtracted.  rows: images that the measure goes through, by which its memory is limited.  contributing: the number
    of patients that each metric is of.
    """
    chunk = max(1, MAX_CELLS // max(rows, patients, 1))
    groups = min(patients, MAX_GROUPS)
    member = np.arange(patients) % groups
    rng = np.random.default_rng(seed)

    def drawn(start: int, stop: int) -> Weights:
        counts: NDArray[np.int64] = rng.multinomial(patients, np.full(patients, 1 / patients), size=stop - start)
        return counts.astype(np.float32)

    def without(start: int, stop: int) -> Weights:
        kept: Weights = (member != np.arange(start, stop)[:, None]).astype(np.float32)
        return kept

    def all_of(weights: Callable[[int, int], Weights], count: int) -> dict[Key, Values]:
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [measure(weights(start, min(start + chunk, count))) for start in range(0, count, chunk)]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    points = all_of(lambda start, stop: np.ones((1, patients), np.float32), 1)
    resamples, left_out = all_of(drawn, RESAMPLES), all_of(without, groups)
    return {key: Resampled(float(points[key][0]), resamples[key], left_out[key], contributing[key]) for key in points}


def exact_bound(patients: int) -> float:
    """The smallest share of a population that still gives `patients` of such patients with probability 0.025.

    It is the lower end of the interval of Clopper and Pearson, Biometrika 26:404 (1934), for all of n.
    """
    return float(TAIL ** (1 / patients))


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
