"""Where the retina is: the rows from the inner limiting membrane to Bruch's membrane, and a margin around them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float64, Gray

_REDUCED_WIDTH = 128  # columns, at least and less than twice that, on which the retina is looked for
_EDGE = 14  # rows above and below the lower edge of the pigment epithelium that are compared, of the source
_SHARP = 0.7  # of the sharpest edge in a column is sharp enough
# Degree of the polynomial that follows that edge across the scan, and rows of the source beyond which an edge no longer
# counts, as the fit closes in.
_FITS = ((1, 60), (2, 30), (3, 15), (3, 8))
_NEAR = 10  # rows of the source within which an edge agrees with the fit
_MOST = 0.97  # of the columns have their edge no deeper than the retina can end
_AGREED = 0.6  # of the columns must agree, else the retina ends where the light does, and nothing can be straightened


@dataclass(frozen=True)
class Retina:
    """The rows that hold the retina, half open, in pixels of the image that was searched."""

    top: int
    bottom: int
    confidence: float  # 0..1
    bend: tuple[float, ...] = ()  # how it was straightened, for `shift`; then top and bottom are rows after that


def shift(bend: tuple[float, ...], at: Float64, columns: int) -> Float64:
    """By how many rows straightening moved each place up: row before = row after + shift.

    bend: coefficients, highest power first, of a polynomial in the place across the scan, which is -1 at its left edge
    and 1 at its right. at: columns of the scan, counted at pixel centres. columns: how many it has. Returns rows, in
    the shape of `at`.
    """
    place = (2 * at + 1) / columns - 1
    rows = np.zeros_like(place)
    for coefficient in bend:  # Horner's rule, as np.polyval has it at twice the cost
        rows = rows * place + coefficient
    return rows


def find_retina(gray: Gray, above: float, below: float, fill: Gray | None = None, *, flatten: bool = False) -> Retina:
    """The rows from above the inner limiting membrane into the choroid.

    gray: (rows, columns) uint8. above, below: margins, as fractions of the retina's height. fill: as gray, above 0
    where nothing of the scan is to be seen. With flatten, the rows are those of the scan when it is straightened along
    the lower edge of the pigment epithelium, and `bend` says how.

    The scan is reduced and smoothed. What is clearly brighter than the background and hangs together across the scan
    tells where the retina begins; vitreous haze above it is left out where it is separate. Where it ends is the line
    that most columns agree on for the step from the bright pigment epithelium down to the choroid.
    """
    rows, columns = gray.shape
    nowhere = Retina(0, rows, 0.0)
    small, factor = _reduced(gray)
    if fill is not None:
        small = _without_fill(small, fill[::factor, ::factor])
    smooth = np.asarray(cv2.blur(cv2.blur(small, (3, 3)), (3, 3)), np.uint8)
    background = _lower_quartile(smooth)
    peaks = smooth.max(axis=0)
    contrast = float(np.partition(peaks, peaks.size // 2)[peaks.size // 2]) - background
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
    joined = (light > 0.05 * light.max()).take(labels)
    covered = joined.any(axis=0)
    line, agreeing, found = _lower_edge(small, reach, factor, columns)
    bend: tuple[float, ...] = ()
    at = (np.arange(small.shape[1], dtype=np.float64) + 0.5) * factor - 0.5
    edge = shift(line, at, columns)
    moved = np.zeros_like(at)
    if flatten and agreeing >= _AGREED:
        bend = (*line[:-1], line[-1] - float(edge.mean()))
        moved = shift(bend, at, columns)
    first = float((np.argmax(joined, axis=0) * factor - moved)[covered].min())
    if agreeing >= _AGREED:
        last = float((edge - moved).max())
    else:  # a large lesion, or a choroid as bright as the epithelium
        lowest = (joined.shape[0] - np.argmax(joined[::-1], axis=0)) * factor
        last = min(float(np.quantile(lowest[covered], 0.98)), float(np.quantile(found, _MOST)))
    if last <= first:
        return nowhere
    top = math.floor(first - above * (last - first))
    bottom = math.ceil(last + below * (last - first))
    if not bend:
        top, bottom = max(top, 0), min(bottom, rows)
    confidence = (np.count_nonzero(covered) / covered.size) * min(1.0, contrast / 30) * (0.5 + 0.5 * agreeing)
    return Retina(top, bottom, confidence, bend)


def _reduced(gray: Gray) -> tuple[Gray, int]:
    """The scan made smaller, and by which factor."""
    small, factor = gray, 1
    while (
        small.shape[1] >= 2 * _REDUCED_WIDTH and factor < 4
    ):  # halving again and again is a fifth of the time of doing it at once
        height, width = small.shape[0] // 2, small.shape[1] // 2
        halved = cv2.resize(small[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        small, factor = np.asarray(halved, np.uint8), 2 * factor
    return small, factor


def _without_fill(small: Gray, fill: Gray) -> Gray:
    """A copy as dark, in all that fill has touched, as the darkest quarter of the rest."""
    touched = cv2.dilate(fill[: small.shape[0], : small.shape[1]], np.ones((3, 3), np.uint8)) > 0
    return np.where(touched, np.uint8(_lower_quartile(small, (~touched).view(np.uint8))), small)


def _lower_quartile(gray: Gray, where: Gray | None = None) -> float:
    """The gray level that a quarter of the pixels are below; where: only those above 0 there."""
    counts = np.cumsum(cv2.calcHist([gray], [0], where, [256], [0, 256]))
    return float(np.searchsorted(counts, counts[-1] / 4))


def _lower_edge(small: Gray, reach: int, factor: int, columns: int) -> tuple[tuple[float, ...], float, Float64]:
    """The line of the lower edge of the pigment epithelium, the fraction of columns that agree, and each one's edge.

    In each column it is the lowest place where the light falls from one stretch of `reach` rows to the next nearly as
    much as it does anywhere: the nerve fibres' edge can be as sharp, but lies higher. A polynomial through these,
    weighted by the root of the fall and robust (Tukey's biweight, closing in while the degree grows), leaves out
    shadows, lesions and vessels. The line is returned as coefficients for `shift`, for rows of the source.
    """
    means = np.asarray(cv2.blur(small, (5, reach), anchor=(2, 0), borderType=cv2.BORDER_REPLICATE))[:, 1::2]
    # Rows y.. less rows y + reach.., 0 where they rise; a row for each column.
    fall = np.ascontiguousarray(cv2.subtract(means[: -2 * reach], means[reach:-reach]).T)
    most = fall.max(axis=1)
    sharp = fall[:, ::-1] >= (_SHARP * most).astype(np.uint8)[:, None]
    lowest = fall.shape[1] - 1 - np.argmax(sharp, axis=1)
    near = np.maximum(lowest[:, None] - np.arange(reach + 1), 0)  # from there up to where it falls most
    row = lowest - np.argmax(np.take_along_axis(fall, near, axis=1), axis=1)
    edge = (row + reach) * float(factor)
    strength = np.sqrt(fall[np.arange(row.size), row]) + 1e-6
    u = _places(edge.size, 2 * factor / columns)
    weights, line, off = strength, np.zeros(1), np.zeros_like(edge)
    for degree, scale in _FITS:
        powers = u[:, -1 - degree :]
        weighted = powers.T * weights
        line = np.linalg.solve(weighted @ powers, weighted @ edge)
        off = np.abs(edge - powers @ line)
        weights = strength * (np.maximum(1 - (off / scale) ** 2, 0) ** 2 + 1e-6)
    return tuple(line.tolist()), _agreement(off < _NEAR), edge


def _agreement(agrees: NDArray[np.bool_]) -> float:
    """The fraction of columns that agree; less where a third of the scan has hardly any: there the line only swings."""
    third = -(-agrees.size // 3)
    least = min(np.count_nonzero(agrees[start : start + third]) for start in range(0, agrees.size, third))
    return float(min(np.count_nonzero(agrees) / agrees.size, 2 * least / third))


@lru_cache(maxsize=32)
def _places(places: int, width: float) -> Float64:
    """The powers of places across the scan, highest first, (places, 4); width: of one, as a fraction of the scan."""
    return np.asarray(np.vander((2 * np.arange(places) + 1) * width - 1, 4), np.float64)
