"""Where the retina is: the rows from above the inner limiting membrane into the choroid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# The crop keeps this much around the retina, as a fraction of the source's rows: above the inner limiting membrane, and
# below the retinal pigment epithelium and the bright choroid.
MARGIN_ABOVE, MARGIN_BELOW = 0.04, 0.06
MIN_KEPT = 0.4  # fraction of the rows that a crop keeps at least, so that a flat thin retina is not blown up

_REDUCED_WIDTH = 128  # columns, at least and less than twice that, on which the retina is looked for


@dataclass(frozen=True)
class Retina:
    """The rows that hold the retina, half open, in pixels of the image that was searched."""

    top: int
    bottom: int
    confidence: float  # 0..1


def find_retina(cleaned: NDArray[np.uint8]) -> Retina:
    """The rows from above the inner limiting membrane into the choroid, margins included.

    The scan is reduced and smoothed; what is clearly brighter than the background and hangs together across the scan is
    taken for the retina. Vitreous haze above it is left out where it is separate.
    """
    rows = cleaned.shape[0]
    small: NDArray[Any] = cleaned
    factor = 1
    while small.shape[1] >= 2 * _REDUCED_WIDTH:  # halving again and again is a fifth of the time of doing it at once
        height, width = small.shape[0] // 2, small.shape[1] // 2
        small = cv2.resize(small[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        factor *= 2
    smooth = cv2.GaussianBlur(small, (0, 0), 1.2)
    peaks = smooth.max(axis=0)
    counts = np.cumsum(np.bincount(smooth.ravel(), minlength=256))
    background = float(np.searchsorted(counts, smooth.size // 4))  # the lower quartile
    brightness = float(np.median(peaks))
    contrast = brightness - background
    if contrast < 8:
        return Retina(0, rows, 0.0)
    level = background + 0.22 * contrast
    mask = smooth > level
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    if count < 2:
        return Retina(0, rows, 0.0)
    # Weight by light, so that a wide but faint haze does not win.
    light = np.bincount(labels[mask], weights=smooth[mask] - level, minlength=count)
    joined = (light > 0.1 * light.max())[labels]
    covered = joined.any(axis=0)
    bright = joined & (smooth > background + 0.6 * contrast)
    first = np.argmax(joined, axis=0)[covered]
    last = (joined.shape[0] - 1 - np.argmax(joined[::-1], axis=0))[covered]
    top = math.floor(float(first.min()) * factor - MARGIN_ABOVE * rows)
    bottom = math.ceil((float(np.sort(last)[round(0.98 * (last.size - 1))]) + 1) * factor + MARGIN_BELOW * rows)
    confidence = float(covered.mean()) * min(1.0, contrast / 30) * min(1.0, float(bright.any(axis=0).mean()) / 0.5)
    missing = round(MIN_KEPT * rows) - (bottom - top)
    if missing > 0:
        bottom += missing  # into the choroid
    top, bottom = max(top, 0), min(bottom, rows)
    return Retina(top, bottom, confidence)
