"""The fine detail of two stored images, laid on each other: what decides whether two scans are one."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from octprep.arrays import Float32, Gray

# `correlation` from which two scans are one. Copies of phantoms: at least 0.86, of real scans 0.94. The most alike of
# different patients: 0.29 and 0.31; neighbouring scans of one volume, which share everything but their speckle: 0.73 at
# most among phantoms, 0.33 among real scans. Other recipes: of phantoms not cropped all copies but 0.25 % have 0.80, of
# straightened ones all but 5 %. At 96x96 pixels, and padded, copies have 0.90, but neighbours up to 0.96 and different
# patients 0.77 and 0.80; there it is NEAR that keeps patients apart, as the nearest of the real scans are 0.56 apart.
THRESHOLD = 0.80

# Fine detail: what is left between Gaussian blurs of these deviations, in pixels of an image of up to 256 a side.
_FINE = (0.5, 1.5)
_LARGEST = 256  # pixels of the shorter side to which larger images are reduced before they are compared
SMALLEST = 8192  # pixels, without bars, below which detail does not tell patients apart: no pair is found
# The pixels are laid on each other coarsely, then finely: on how many of the shorter side, which of the squares are
# looked for along both axes, and by how many pixels they may be off.
_REGISTERED = ((112, 2, 4), (224, 1, 2))
_HOPELESS = 0.45  # correlation after the first of these below which the second is left out
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 5, 1e-4)  # 30 steps are no better for copies
_LAID = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_FLAT = 0.25  # gray levels of detail, its deviation, below which a block has none


def correlation(one: Gray, other: Gray) -> float:
    """How well the fine detail of two stored images agrees where they lie on each other, -1..1.

    one, other: (rows, columns) uint8, of one recipe. The second is shifted, stretched and turned a little to lie on the
    first. Then squares of the first are looked for nearby in the second; the median of their normalised
    correlations counts, so that what was painted over fill may differ. 0 where there is no detail.
    """
    one, other = without_bars(one), without_bars(other)
    if one.shape == other.shape and np.array_equal(one, other):
        return 1.0 if _detail(one).std() >= _FLAT else 0.0
    one = _reduced(one, _LARGEST)
    rows, columns = one.shape
    if one.size < SMALLEST:
        return 0.0
    other = np.asarray(cv2.resize(other, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
    there, agreed, sharp = np.eye(2, 3, dtype=np.float32), 0.0, _detail(one)
    for side, step, reach in _REGISTERED:
        there = _registered(one, other, there, side)
        laid = cv2.warpAffine(other, there, (columns, rows), flags=_LAID, borderMode=cv2.BORDER_REFLECT)
        squares = list(_squares(sharp, _detail(np.asarray(laid, np.uint8)), step, reach))
        agreed = float(np.median(squares)) if squares else 0.0
        if agreed < _HOPELESS:
            break
    return agreed


def comparable(pixels: Gray) -> bool:
    """Whether a stored image holds enough detail to tell patients apart: at least SMALLEST pixels, without bars."""
    return without_bars(pixels).size >= SMALLEST


def without_bars(pixels: Gray) -> Gray:
    """A stored image less bars of black that are as wide at opposite sides."""
    for _ in range(2):
        lit = np.flatnonzero(pixels.any(axis=1))
        if lit.size == 0:
            return pixels
        bar = min(int(lit[0]), len(pixels) - 1 - int(lit[-1]))
        pixels = pixels[bar : len(pixels) - bar].T
    return np.ascontiguousarray(pixels)


def _reduced(pixels: Gray, side: int) -> Gray:
    """With a shorter side of at most so many pixels."""
    factor = max(min(pixels.shape) / side, 1.0)
    rows, columns = (round(length / factor) for length in pixels.shape)
    return np.asarray(cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def _registered(one: Gray, other: Gray, there: Float32, side: int) -> Float32:
    """Where the second image has each pixel (column, row, 1) of the first: (2, 3), affine, better than before.

    The images are compared at a shorter side of at most so many pixels.
    """
    template, image = _reduced(one, side), _reduced(other, side)
    units = np.array([[1, 1, min(template.shape) / min(one.shape)]], np.float32)
    try:
        found = cv2.findTransformECC(template, image, there * units, cv2.MOTION_AFFINE, _CRITERIA)[1]
    except cv2.error as error:
        if getattr(error, "code", None) == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from None
        return there  # nothing in common that it could follow
    return np.asarray(found / units, np.float32)


def _detail(pixels: Gray) -> Float32:
    """What is fine in an image: gray levels about 0."""
    wide = pixels.astype(np.float32)
    sharp, smooth = (cv2.GaussianBlur(wide, (0, 0), deviation) for deviation in _FINE)
    return np.asarray(sharp - smooth, np.float32)


def _squares(one: Float32, other: Float32, step: int, reach: int) -> Iterator[float]:
    """The best correlation of each square of the first within reach in the second, where either has any detail.

    With a step of 2, every second square along both axes is left out.
    """
    rows, columns = one.shape
    side = 28 if min(rows, columns) >= 100 else 16
    for top in range(reach, rows - side - reach + 1, step * side):
        for left in range(reach, columns - side - reach + 1, step * side):
            square = one[top : top + side, left : left + side]
            around = other[top - reach : top + side + reach, left - reach : left + side + reach]
            textured = [cv2.meanStdDev(part)[1][0, 0] >= _FLAT for part in (square, around)]
            if all(textured):
                yield _peak(np.asarray(cv2.matchTemplate(around, square, cv2.TM_CCOEFF_NORMED), np.float32))
            elif any(textured):
                yield 0.0


def _peak(scores: Float32) -> float:
    """The height of the highest peak, between the pixels too: by a parabola along each axis."""
    _, best, _, (x, y) = cv2.minMaxLoc(scores)
    height = float(best)
    for line, at in ((scores[y], x), (scores[:, x], y)):
        if 0 < at < line.size - 1:
            before, after = float(line[at - 1]), float(line[at + 1])
            bend = 2 * best - before - after
            if bend > 1e-6:
                height += (after - before) ** 2 / (8 * bend)
    return min(height, 1.0)
