"""Where the retina is: the rows from the inner limiting membrane to Bruch's membrane, and a margin around them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_REDUCED_WIDTH = 128  # columns, at least and less than twice that, on which the retina is looked for
_EDGE = 14  # rows above and below the lower edge of the pigment epithelium that are compared, of the source
_DEGREE = 3  # of the polynomial that follows that edge across the scan
_SCALES = (40, 15, 8)  # rows of the source beyond which an edge no longer counts, as the fit closes in
_NEAR = 10  # rows of the source within which an edge agrees with the fit
_AGREED = 0.55  # fraction of the columns that must agree, else the retina ends where the light does


@dataclass(frozen=True)
class Retina:
    """The rows that hold the retina, half open, in pixels of the image that was searched."""

    top: int
    bottom: int
    confidence: float  # 0..1


def find_retina(cleaned: NDArray[np.uint8], above: float, below: float) -> Retina:
    """The rows from above the inner limiting membrane into the choroid.

    above, below: margins, as fractions of the retina's height.

    The scan is reduced and smoothed. What is clearly brighter than the background and hangs together across the scan
    tells where the retina begins; vitreous haze above it is left out where it is separate. Where it ends is the line
    that most columns agree on for the step from the bright pigment epithelium down to the choroid.
    """
    rows = cleaned.shape[0]
    nowhere = Retina(0, rows, 0.0)
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
    reach = max(2, round(_EDGE / factor))
    if contrast < 8 or small.shape[0] < 4 * reach:
        return nowhere
    level = background + 0.22 * contrast
    mask = smooth > level
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    if count < 2:
        return nowhere
    # Weight by light, so that a wide but faint haze does not win.
    light = np.bincount(labels[mask], weights=smooth[mask] - level, minlength=count)
    joined = (light > 0.05 * light.max())[labels]
    covered = joined.any(axis=0)
    first = float(np.argmax(joined, axis=0)[covered].min()) * factor
    edge, agreeing = _lower_edge(small, reach, factor)
    last = float(edge.max()) * factor
    if agreeing < _AGREED:  # a large lesion, or a choroid as bright as the epithelium
        lowest = joined.shape[0] - np.argmax(joined[::-1], axis=0)[covered]
        last = max(last, float(np.quantile(lowest, 0.98)) * factor)
    if last <= first:
        return nowhere
    top = math.floor(first - above * (last - first))
    bottom = math.ceil(last + below * (last - first))
    confidence = float(covered.mean()) * min(1.0, contrast / 30) * (0.5 + 0.5 * agreeing)
    return Retina(max(top, 0), min(bottom, rows), confidence)


def _lower_edge(small: NDArray[Any], reach: int, factor: int) -> tuple[NDArray[np.float64], float]:
    """The row of the lower edge of the pigment epithelium in each column, and the fraction of columns that agree.

    In each column it is where the light falls most from one stretch of `reach` rows to the next. A polynomial through
    these, weighted by the fall and robust (Tukey's biweight, closing in), leaves out shadows, lesions and vessels.
    """
    narrow = cv2.resize(small, (small.shape[1] // 2, small.shape[0]), interpolation=cv2.INTER_AREA)
    means = cv2.blur(narrow, (3, reach), anchor=(1, 0), borderType=cv2.BORDER_REPLICATE)
    fall = cv2.subtract(means[: -2 * reach], means[reach:-reach])  # rows y.. less rows y + reach.., 0 where they rise
    edge = np.argmax(fall, axis=0).astype(np.float64) + reach
    strength = fall.max(axis=0).astype(np.float64) + 1e-6
    powers = _powers(edge.size)
    weights = strength
    line, off = edge, np.zeros_like(edge)
    for scale in _SCALES:
        weighted = powers * weights[:, None]
        line = powers @ np.linalg.solve(weighted.T @ powers, weighted.T @ edge)
        off = np.abs(edge - line) * factor
        weights = strength * (np.maximum(1 - (off / scale) ** 2, 0) ** 2 + 1e-6)
    return line, float(np.mean(off < _NEAR))


@lru_cache(maxsize=32)
def _powers(columns: int) -> NDArray[np.float64]:
    """The polynomial's powers at each column, (columns, _DEGREE + 1)."""
    return np.asarray(np.vander(np.linspace(-1, 1, columns), _DEGREE + 1), np.float64)
