"""How far probabilities are from what they say: NLL, Brier score, calibration error, and a reliability plot's numbers.

probabilities: (n, classes), 0..1, each row with the sum 1.  truth: (n,) class index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octtrain.calibration.patients import means_of_patients, number_of_patient

BINS = 15  # of the expected calibration error (Guo et al. 2017), here with equal counts
_MIN_PROBABILITY = 1e-30  # whose logarithm stands for all smaller ones

Probabilities = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Images of similar confidence: one point of a reliability plot."""

    count: int  # images
    patients: int
    confidence: float  # mean probability of the predicted class, 0..1
    accuracy: float  # share that is right, 0..1


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How reliable probabilities are."""

    nll: float  # negative log-likelihood: mean of -log(probability of the true class), from 0
    nll_of_patients: float  # the mean over patients of the mean over their images
    brier: float  # mean over images of the sum over classes of squared errors (Brier 1950), 0..2
    ece: float  # mean distance of confidence and accuracy in bins of equal counts, 0..1
    bins: tuple[ReliabilityBin, ...]  # from the least confident to the most

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return asdict(self) | {"bins": [asdict(part) for part in self.bins]}

    def __str__(self) -> str:
        return (
            f"ECE {self.ece:.4f}, Brier {self.brier:.4f}, NLL {self.nll:.4f} (of patients {self.nll_of_patients:.4f})"
        )


def measure_reliability(truth: Labels, probabilities: Probabilities, patients: Sequence[str]) -> Reliability:
    """The reliability of predictions. patients: (n,) ids, n at least 1."""
    bins = reliability_bins(truth, probabilities, patients)
    return Reliability(
        nll=nll(truth, probabilities),
        nll_of_patients=nll(truth, probabilities, number_of_patient(patients)),
        brier=brier(truth, probabilities),
        ece=sum(part.count * abs(part.accuracy - part.confidence) for part in bins) / len(truth),
        bins=bins,
    )


def nll(truth: Labels, probabilities: Probabilities, patient: Labels | None = None) -> float:
    """Mean of -log(probability of the true class), the natural logarithm; over images, or with numbers of patients over
    patients of the mean over their images.
    """
    of_truth = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    losses = -np.log(np.maximum(of_truth, _MIN_PROBABILITY))
    return float(losses.mean() if patient is None else means_of_patients(losses, patient).mean())


def brier(truth: Labels, probabilities: Probabilities) -> float:
    """Mean over images of the sum over classes of (probability - whether it is the class)^2, 0..2."""
    return float(((probabilities.astype(np.float64) - np.eye(probabilities.shape[1])[truth]) ** 2).sum(axis=1).mean())


def reliability_bins(
    truth: Labels, probabilities: Probabilities, patients: Sequence[str], count: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Images sorted by confidence, in at most `count` bins whose sizes differ by one at most.

    Bins of equal width would leave most of them nearly empty, as most predictions are confident (Nixon et al. 2019).
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == truth
    order = np.argsort(confidence, kind="stable")
    return tuple(
        ReliabilityBin(
            count=len(part),
            patients=len({patients[i] for i in part.tolist()}),
            confidence=float(confidence[part].mean()),
            accuracy=float(correct[part].mean()),
        )
        for part in np.array_split(order, min(count, len(order)))
    )
