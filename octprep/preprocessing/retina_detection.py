"""Detection of the retina: the rows from the inner limiting membrane to Bruch's membrane, with margins around them.

Two methods on a reduced scan. The upper end is that of the bright component: the connected areas above

    level = background + 0.22 * contrast,

where background is the lower quartile of the smoothed gray levels and contrast the median over the columns of their
maximum, less the background. Areas with little light, such as separate haze in the vitreous, do not count.

The lower end is the retinal pigment epithelium (RPE). In each column its lower edge is the lowest row at which the mean
gray level falls, from one window of rows to the next, nearly as steeply as anywhere in that column. A polynomial p(x)
of the column's position x in -1..1 is fitted to these edge rows by iteratively reweighted least squares,

    minimise sum_i w_i (row_i - p(x_i))^2,   w_i = sqrt(fall_i) * max(0, 1 - (residual_i / c)^2)^2,

which is Tukey's biweight; the degree grows from 1 to 3 while c closes in from 60 rows to 15. So shadows, lesions and
vessels, whose edges lie elsewhere, do not pull the curve. Where a wide stretch of columns has its edge below the curve,
as at a fall towards the optic disc or under a detachment, the margin below is larger by the width of that stretch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float64, Gray, Mask

_REDUCED_WIDTH = 128  # columns, at least and less than twice that, to which a scan is reduced
_MAX_FACTOR = 4  # by which it is reduced
_MIN_CONTRAST, _FULL_CONTRAST = 8, 30  # gray levels: below the first there is no retina, from the second on it is clear
_LEVEL = 0.22  # of the contrast above the background is bright
_MIN_LIGHT = 0.05  # of the light of the brightest area, for an area to count
_WINDOW = 14  # rows of the source above and below the lower edge of the epithelium that are compared
_STEEP = 0.7  # of the steepest fall in a column is steep enough to be that edge
_REFITS = ((2, 60), (3, 30), (3, 15))  # degree of the polynomial and c, in rows of the source, after a line is fitted
_STRENGTH = (np.sqrt(np.arange(256, dtype=np.uint8)) + 1e-6).astype(np.float64)  # of each fall, in half precision
_INLIER_DISTANCE = 10  # rows of the source within which a column's edge agrees with the curve
_MIN_INLIERS = 0.6  # fraction of the columns that must agree; with fewer there is no curve to flatten
# The ends of a scan, an eighth each, can be too dim to be bright, and are where a curved eye reaches highest. The
# retina there is taken to be at least this part as thick as in the eighth beside them; the upper end rises for it by at
# most so much of the height.
_END_THICKNESS, _MAX_RAISE = 0.85, 0.25
# Fraction of the columns that may have their edge below the curve side by side. What the widest such stretch is wider
# by is added to the margin below: without it the retina of 2 of 24 genuine scans is cut by 8 rows. The crops of 102
# genuine scans grow by 0.4 % in the mean for it.
_MAX_STRETCH_BELOW = 0.06
_LOWEST_LIGHT, _LOWEST_EDGE = 0.98, 0.97  # quantiles over the columns that give the lower end without a curve
# A scan with layers changes at least so many times as much from row to row as from column to column. The least of 180
# genuine scans of OCT2017, Optovue, Cirrus and Bioptigen is 1.78, of 2,500 hard synthetic scans 1.43; photographs, of
# the fundus too, have 1.26 at most.
_MIN_LAYERING = 1.3


class ReducedScan(NamedTuple):
    """A scan made smaller."""

    pixels: Gray  # (rows, columns)
    factor: int  # by which both sides were divided: 1, 2 or 4


@dataclass(frozen=True)
class Retina:
    """The rows that hold the retina, half open, in pixels of the scan that was searched."""

    top: int
    bottom: int
    confidence: float  # 0..1
    rpe_curve: tuple[float, ...] = ()  # for `curve_offset`; where given, top and bottom are rows after flattening


def curve_offset(rpe_curve: tuple[float, ...], column: Float64, columns: int) -> Float64:
    """By how many rows flattening moves a column up: source row = flattened row + offset.

    rpe_curve: coefficients, highest power first, of a polynomial in the position across the scan, which is -1 at its
    left edge and 1 at its right. column: columns of the scan, counted at pixel centres, any shape. columns: the scan's
    width. Returns rows, in the shape of `column`.
    """
    x = (2 * column + 1) / columns - 1
    rows = np.zeros(x.shape)
    for coefficient in rpe_curve:  # Horner's rule, as np.polyval has it at twice the cost
        rows = rows * x + coefficient
    return rows


def find_retina(
    gray: Gray,
    margins: tuple[float, float],
    fill: Mask | None = None,
    *,
    flatten: bool = False,
    reduced: ReducedScan | None = None,
) -> Retina:
    """The rows from above the inner limiting membrane into the choroid.

    gray: (rows, columns) uint8. margins: rows to add above and below, as fractions of the retina's height. fill:
    (rows, columns), above 0 where the scan shows nothing. With flatten, `rpe_curve` is the curve of the epithelium less
    its mean, and the rows are those of the scan after flattening, which may lie outside it. reduced: what `reduce_scan`
    gives of this scan, where that is at hand. Without a retina all rows are returned, with confidence 0.
    """
    rows, columns = gray.shape
    not_found = Retina(0, rows, 0.0)
    small, factor = reduced or reduce_scan(gray)
    if fill is not None:
        small = _with_dark_fill(small, fill[::factor, ::factor])
    window = max(2, round(_WINDOW / factor))
    bright, contrast = _bright_component(small)
    if bright is None or small.shape[0] < 4 * window:
        return not_found
    covered = bright.any(axis=0)
    fit = _fit_rpe(small, window, factor, columns)
    column = (np.arange(small.shape[1], dtype=np.float64) + 0.5) * factor - 0.5
    rpe_row = curve_offset(fit.curve, column, columns)
    is_clear = fit.inlier_fraction >= _MIN_INLIERS
    rpe_curve: tuple[float, ...] = ()
    offset = np.zeros(column.shape)
    if flatten and is_clear:
        rpe_curve = (*fit.curve[:-1], fit.curve[-1] - float(rpe_row.mean()))
        offset = curve_offset(rpe_curve, column, columns)
    uppermost = _first_true(bright) * factor
    first = float((uppermost - offset)[covered].min())
    above, below = margins
    if is_clear:
        last = float((rpe_row - offset).max())
        first = min(first, max(_top_of_ends(rpe_row, uppermost, offset), first - _MAX_RAISE * (last - first)))
        below += max(fit.stretch_below - _MAX_STRETCH_BELOW, 0)
    else:  # a large lesion, or a choroid as bright as the epithelium
        lowest_light = (bright.shape[0] - _first_true(bright[::-1])) * factor
        last = min(_quantile(lowest_light[covered], _LOWEST_LIGHT), _quantile(fit.edge_rows, _LOWEST_EDGE))
    if last <= first:
        return not_found
    top = math.floor(first - above * (last - first))
    bottom = math.ceil(last + below * (last - first))
    if not rpe_curve:
        top, bottom = max(top, 0), min(bottom, rows)
    coverage = np.count_nonzero(covered) / covered.size
    confidence = coverage * min(1.0, contrast / _FULL_CONTRAST) * (0.5 + 0.5 * fit.inlier_fraction)
    return Retina(top, bottom, confidence, rpe_curve)


def _top_of_ends(rpe_row: Float64, uppermost: NDArray[np.intp], offset: Float64) -> float:
    """The row, after flattening, at which the two ends of a scan begin at the latest, from the retina beside them."""
    eighth = rpe_row.size // 8
    tops = []
    for ends, beside in (
        (slice(eighth), slice(eighth, 2 * eighth)),
        (slice(-eighth, None), slice(-2 * eighth, -eighth)),
    ):
        thickness = median((rpe_row - uppermost)[beside].tolist())
        tops.append(float((rpe_row - offset)[ends].min() - _END_THICKNESS * thickness))
    return min(tops)


def reduce_scan(gray: Gray) -> ReducedScan:
    """A scan, (rows, columns) uint8, made smaller, by halving: to do it at once takes five times as long."""
    small, factor = gray, 1
    while small.shape[1] >= 2 * _REDUCED_WIDTH and factor < _MAX_FACTOR:
        small, factor = _halved(small), 2 * factor
    return ReducedScan(small, factor)


def _halved(gray: Gray) -> Gray:
    height, width = gray.shape[0] // 2, gray.shape[1] // 2
    half = cv2.resize(gray[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(half, np.uint8)


def has_layers(reduced: ReducedScan) -> bool:
    """Whether a scan has the layers of a retina, which lie across it: its gray levels change most from row to row.

    Not so are en-face pictures, photographs, and scans on their side. The mean absolute differences are of the smoothed
    scan, as those of its noise are the same both ways.
    """
    smooth = cv2.blur(cv2.blur(_halved(reduced.pixels), (3, 3)), (3, 3))
    down = cv2.norm(smooth[2:], smooth[:-2], cv2.NORM_L1) / smooth[2:].size
    across = cv2.norm(smooth[:, 2:], smooth[:, :-2], cv2.NORM_L1) / smooth[:, 2:].size
    return bool(down >= _MIN_LAYERING * across)


def _with_dark_fill(small: Gray, fill: Mask) -> Gray:
    """A copy in which everything that fill has touched is as dark as the lower quartile of the rest."""
    touched = cv2.dilate(fill[: small.shape[0], : small.shape[1]], np.ones((3, 3), np.uint8)) > 0
    return np.where(touched, np.uint8(_lower_quartile(small[~touched])), small)


def _lower_quartile(gray: NDArray[np.uint8]) -> float:
    """The lowest gray level that at least a quarter of the pixels do not exceed; gray: any shape."""
    counts = cv2.calcHist([gray], [0], None, [256], [0, 256])
    return float(np.searchsorted(counts.ravel().cumsum(dtype=np.float64), gray.size / 4))


def _quantile(values: NDArray[np.number], fraction: float) -> float:
    """As np.quantile gives it, for a few values; that takes ten times as long and imports numpy.ma."""
    below, beyond = divmod((values.size - 1) * fraction, 1)
    ordered = np.sort(values)
    low, high = (float(ordered[min(int(below) + step, values.size - 1)]) for step in (0, 1))
    return low + (high - low) * beyond if beyond < 0.5 else high - (high - low) * (1 - beyond)


def _first_true(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The row of the first True in each column, 0 in one without: argmax along rows, which are searched faster."""
    return np.asarray(cv2.transpose(mask.view(np.uint8)).view(np.bool_).argmax(axis=1))


def _bright_component(small: Gray) -> tuple[NDArray[np.bool_] | None, float]:
    """Where the retina is, (rows, columns), and its contrast in gray levels; None where nothing is bright."""
    smooth = np.asarray(cv2.blur(cv2.blur(small, (3, 3)), (3, 3)), np.uint8)
    background = _lower_quartile(smooth)
    peaks = smooth.max(axis=0)
    contrast = float(np.partition(peaks, peaks.size // 2)[peaks.size // 2]) - background
    if contrast < _MIN_CONTRAST:
        return None, contrast
    level = background + _LEVEL * contrast
    is_bright = smooth > level
    count, labels = cv2.connectedComponents(is_bright.view(np.uint8), connectivity=8)
    if count < 2:
        return None, contrast
    if count == 2:  # the background and one area
        return is_bright, contrast
    # Weighted by light, so that a wide but faint haze does not win.
    light = np.bincount(labels[is_bright], weights=smooth[is_bright] - level, minlength=count)
    return (light > _MIN_LIGHT * light.max()).take(labels), contrast


class _RpeFit(NamedTuple):
    """The curve of the lower edge of the pigment epithelium."""

    curve: tuple[float, ...]  # for `curve_offset`, giving rows of the source
    inlier_fraction: float  # of the columns, 0..1
    stretch_below: float  # the widest stretch of columns whose edge is below the curve, as a fraction of all, 0..1
    edge_rows: Float64  # (columns of `_edges`,) where each column has that edge, rows of the source


def _fit_rpe(small: Gray, window: int, factor: int, columns: int) -> _RpeFit:
    """The robust fit that this module explains, to a scan reduced by `factor` from `columns` columns."""
    edge_rows, fall = _edges(small, window, factor)
    powers = _vandermonde(edge_rows.size, 2 * factor / columns)
    strength = _STRENGTH[fall]
    curve, residual = _weighted_fit(powers[:, -2:], edge_rows, strength)
    for degree, c in _REFITS:
        weights = strength * (np.maximum(1 - (residual / c) ** 2, 0) ** 2 + 1e-6)
        curve, residual = _weighted_fit(powers[:, -1 - degree :], edge_rows, weights)
    return _RpeFit(
        tuple(curve.tolist()),
        _inlier_fraction(np.abs(residual) < _INLIER_DISTANCE),
        _longest_run(residual >= _INLIER_DISTANCE) / residual.size,
        edge_rows,
    )


def _weighted_fit(basis: Float64, values: Float64, weights: Float64) -> tuple[Float64, Float64]:
    """The coefficients of the columns of a basis, by weighted least squares, and what they leave of the values."""
    weighted = basis.T * weights
    coefficients = np.asarray(np.linalg.solve(weighted @ basis, weighted @ values), np.float64)
    return coefficients, values - basis @ coefficients


def _edges(small: Gray, window: int, factor: int) -> tuple[Float64, Gray]:
    """The row, in the source, of the lowest steep fall in every second column, and that fall in gray levels.

    The nerve fibre layer's edge can be as steep as the epithelium's, but lies higher.
    """
    means = cv2.blur(small, (5, window), anchor=(2, 0), borderType=cv2.BORDER_REPLICATE)
    # The mean of the window that begins at a row less that of the next one, 0 where it rises.
    change = np.asarray(cv2.subtract(means[: -2 * window], means[window:-window]))
    steep = (_STEEP * change.max(axis=0)[1::2]).astype(np.uint8)
    falls = np.asarray(cv2.rotate(change, cv2.ROTATE_90_CLOCKWISE))[1::2]  # a line for a column, the lowest row first
    last, line = falls.shape[1] - 1, np.arange(len(falls))
    lowest = np.argmax(falls >= steep[:, None], axis=1)
    nearby = np.minimum(lowest[:, None] + np.arange(window + 1), last)  # from there up to where it falls most
    steepest = lowest + np.argmax(falls[line[:, None], nearby], axis=1)
    return (last - steepest + window) * float(factor), falls[line, steepest]


def _inlier_fraction(is_inlier: NDArray[np.bool_]) -> float:
    """The fraction of columns that agree with the curve, or twice that of the third of the scan that agrees least.

    Where a third has hardly any inliers the curve is not held there.
    """
    third = -(-is_inlier.size // 3)
    fewest = min(np.count_nonzero(is_inlier[start : start + third]) for start in range(0, is_inlier.size, third))
    return float(min(np.count_nonzero(is_inlier) / is_inlier.size, 2 * fewest / third))


def _longest_run(is_member: NDArray[np.bool_]) -> int:
    """How many True in a row there are at most."""
    return max(map(len, is_member.tobytes().split(b"\0")))


@lru_cache(maxsize=32)
def _vandermonde(count: int, spacing: float) -> Float64:
    """The powers 3 to 0 of `count` positions across the scan, spacing apart in -1..1: (count, 4)."""
    return np.asarray(np.vander((2 * np.arange(count) + 1) * spacing - 1, 4), np.float64)
