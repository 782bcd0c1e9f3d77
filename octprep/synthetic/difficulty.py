"""How hard synthetic scans are to classify: how severe the disease is, how clear the scan, how much classes overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

Rng = np.random.Generator
Range = tuple[float, float]  # lowest and highest of a uniform distribution


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """Ranges from which each patient is drawn."""

    severity: Range  # 0: lesions that are just visible; 1: end stage
    degradation: Range  # 0: a sharp scan averaged from many frames; 1: blurred, noisy and dim
    overlap: (
        Range  # 0: a healthy eye without blemish; 1: with the small unevenness of all layers that resembles disease
    )


DIFFICULTIES: Final = {
    "easy": Difficulty(severity=(0.8, 1.0), degradation=(0.0, 0.3), overlap=(0.0, 0.15)),
    "default": Difficulty(severity=(0.66, 1.0), degradation=(0.0, 0.42), overlap=(0.0, 0.3)),
    "hard": Difficulty(severity=(0.12, 1.0), degradation=(0.0, 1.0), overlap=(0.0, 0.8)),
}


def between(low: float, high: float, share: float) -> float:
    """The number at a share 0..1 of the way from one positive number to another, in equal ratios."""
    return float(low * (high / low) ** share)
