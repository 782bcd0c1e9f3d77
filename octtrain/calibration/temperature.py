"""Temperature scaling (Guo et al. 2017): all logits are divided by one number, fitted by the likelihood on val.

It leaves the most probable class as it is. Logits are not needed: those of a softmax are the logarithms of its
probabilities, but for a constant that another softmax does not see.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octtrain.calibration.reliability import Labels, Probabilities, nll

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
_MIN_PROBABILITY = 1e-30  # whose logarithm stands for all smaller ones


def scale(probabilities: Probabilities, temperature: float) -> NDArray[np.floating[Any]]:
    """The softmax of all logits divided by a temperature above 0; at 1 the probabilities as they are.

    probabilities: (n, classes) float32, 0..1, to the same. Above 1 they are less certain than before.
    """
    if temperature == 1:
        return probabilities
    logits = np.log(np.maximum(probabilities.astype(np.float64), _MIN_PROBABILITY)) / temperature
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), probabilities.dtype)


def fit_temperature(truth: Labels, probabilities: Probabilities, patient: Labels) -> float | None:
    """The temperature of the least NLL, MIN_TEMPERATURE..MAX_TEMPERATURE; None if no image is misclassified.

    Each patient counts the same: otherwise a few patients with a hundred scans each would decide.

    Where no image is misclassified, ever more certain probabilities would be better still, as far as numbers of 32 bits
    tell them apart, and no temperature is known; nor is it where the least NLL lies at one of the ends.

    truth: (n,) class index.  probabilities: (n, classes), 0..1.  patient: (n,) number from 0.
    """
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

    if (probabilities.argmax(axis=1) == truth).all():
        return None
    exact = probabilities.astype(np.float64)
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    found = minimize_scalar(
        lambda logarithm: nll(truth, scale(exact, math.exp(logarithm)), patient), bounds=(low, high), method="bounded",
        options={"xatol": 1e-5},
    )  # fmt: skip
    is_inside = low + 0.01 < found.x < high - 0.01
    return math.exp(found.x) if is_inside else None
