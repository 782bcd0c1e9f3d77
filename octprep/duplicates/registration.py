"""Registration of two stored images, and the correlation of their fine detail: are they the same scan?

The second image is registered to the first by an affine warp that maximises the enhanced correlation coefficient (ECC;
Evangelidis and Psarakis, IEEE TPAMI 30:1858, 2008), coarsely, then finely. The fine detail of each is a difference of
Gaussians. Blocks of the first image's detail are searched for in a small neighbourhood in the second's by normalised
cross-correlation,

    NCC(t, w) = <t - mean t, w - mean w> / (||t - mean t|| ||w - mean w||),

with a parabola through the peak for a maximum between pixels. The median over the blocks is the result, so areas that
were inpainted in one of the images may differ. A quick look, with a registration at a small size and a difference to
local means as the detail, spares most images of different patients the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

import cv2
import numpy as np

from octprep.arrays import Float32, Gray

# `detail_correlation` from which two images count as the same scan. Near-duplicates of synthetic scans: at least 0.90,
# of real scans 0.92. The most similar scans of different patients: 0.38 and 0.30; neighbouring scans of one volume,
# which share everything but their speckle: 0.73 at most among synthetic, 0.33 among real ones. Other settings: of
# synthetic scans that are not cropped all near-duplicates but 0.25 % have 0.80, of flattened ones all but 5 %.
MIN_CORRELATION = 0.80

# Images of fewer pixels without letterbox, as at 96x96 and padded, hold less detail: near-duplicates have 0.92 there,
# and different patients up to 0.84. So what their correlation is below 1 counts by this factor.
_FEW_PIXELS, _FEW_PIXELS_FACTOR = 1 << 15, 1.6
MIN_PIXELS = 8192  # of an image without letterbox, below which detail does not tell patients apart: no pair is found
_MAX_SIDE = 256  # pixels of the shorter side to which larger images are reduced before they are compared
_DETAIL_SIGMAS = (0.5, 1.5)  # of the Gaussians whose difference is the fine detail, in pixels of such an image
# Coarse, then fine: the shorter side in pixels at which the images are registered; n, where every n-th block along both
# axes is searched for; and by how many pixels it may be off.
_STAGES = ((112, 2, 4), (224, 1, 2))
_HOPELESS = 0.45  # correlation after the coarse stage below which the fine one is skipped
# The quick look before: side, n and pixels as in a stage. Of 4,621 pairs of 23,216 synthetic scans that the descriptors
# left, all but 2 of different patients, 94 % are below _QUICKLY_HOPELESS (half below 0.20, the highest 0.50). Of 18,000
# near-duplicates of 102 real and 430 synthetic scans that reach MIN_CORRELATION none is: at 224x224 the lowest of those
# shifted, turned, zoomed, reduced or brighter has 0.46; with white wedges over up to 30 % of the rows in one of them
# 0.40; not cropped 0.33. Every third block (n = 3), three steps of ECC, or a side of 28 pixels would lose some.
_QUICK_LOOK = (56, 2, 4)
_QUICKLY_HOPELESS = 0.28  # correlation of the quick look below which there is no stage
_ECC_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 5, 1e-4)  # 30 steps are no better for near-duplicates
_WARP_FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_MIN_STD = 0.25  # gray levels of detail below which a block is flat


def detail_correlation(first: Gray, second: Gray) -> float:
    """How well the fine detail of two stored images agrees once they are registered, -1..1.

    first, second: (rows, columns) uint8, of one recipe. 1 for equal images, 0 where there is no detail, or less than
    MIN_PIXELS without letterbox; lower than the correlation for less than _FEW_PIXELS. Where it is hopeless, the
    correlation of the stage or the quick look that showed it, of some of the blocks. Raises MemoryError if OpenCV runs
    out of memory.
    """
    first, second = strip_letterbox(first), strip_letterbox(second)
    if first.shape == second.shape and np.array_equal(first, second):
        return 1.0 if _difference_of_gaussians(first).std() >= _MIN_STD else 0.0
    first = _reduced(first, _MAX_SIDE)
    rows, columns = first.shape
    if first.size < MIN_PIXELS:
        return 0.0
    second = np.asarray(cv2.resize(second, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
    if first.size >= _FEW_PIXELS and (correlation := _quick_correlation(first, second)) < _QUICKLY_HOPELESS:
        return correlation
    warp, correlation, detail = np.eye(2, 3, dtype=np.float32), 0.0, _difference_of_gaussians(first)
    for side, step, reach in _STAGES:
        warp = _ecc_warp(first, second, warp, side, smoothing=5)
        warped_detail = _difference_of_gaussians(_warped(second, warp))
        correlation = _median_correlation(detail, warped_detail, step, reach, _HOPELESS)
        if correlation < _HOPELESS:
            break
    return max(1 - (1 - correlation) * _FEW_PIXELS_FACTOR, -1.0) if first.size < _FEW_PIXELS else correlation


def is_comparable(pixels: Gray) -> bool:
    """Whether a stored image holds enough detail to tell patients apart: MIN_PIXELS or more, without letterbox."""
    return strip_letterbox(pixels).size >= MIN_PIXELS


def strip_letterbox(pixels: Gray) -> Gray:
    """A stored image without bars of black that are of equal width at opposite sides."""
    for _ in range(2):
        if not (pixels[0].any() or pixels[-1].any()):
            lit = np.flatnonzero(pixels.any(axis=1))
            if lit.size == 0:
                return pixels
            bar = min(int(lit[0]), len(pixels) - 1 - int(lit[-1]))
            pixels = pixels[bar : len(pixels) - bar]
        pixels = pixels.T
    return np.ascontiguousarray(pixels)


def _reduced(pixels: Gray, side: int) -> Gray:
    """An image with a shorter side of at most `side` pixels."""
    factor = max(min(pixels.shape) / side, 1.0)
    rows, columns = (round(length / factor) for length in pixels.shape)
    return np.asarray(cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def _quick_correlation(first: Gray, second: Gray) -> float:
    """The correlation of the difference to means of 5x5 pixels, registered at a small size; the images have one shape.

    The images are not smoothed for ECC: with OpenCV's 5 pixels at so small a size, it follows what fill they have.
    """
    side, step, reach = _QUICK_LOOK
    warp = _ecc_warp(first, second, np.eye(2, 3, dtype=np.float32), side, smoothing=1)
    first_detail, second_detail = (
        np.asarray(cv2.subtract(pixels, cv2.blur(pixels, (5, 5)), dtype=cv2.CV_32F), np.float32)
        for pixels in (first, _warped(second, warp))
    )
    return _median_correlation(first_detail, second_detail, step, reach, _QUICKLY_HOPELESS)


def _warped(pixels: Gray, warp: Float32) -> Gray:
    """An image, registered by the warp of `_ecc_warp` to another of the same shape."""
    size = pixels.shape[::-1]
    return np.asarray(cv2.warpAffine(pixels, warp, size, flags=_WARP_FLAGS, borderMode=cv2.BORDER_REFLECT), np.uint8)


def _ecc_warp(first: Gray, second: Gray, warp: Float32, side: int, smoothing: int) -> Float32:
    """The affine warp, (2, 3), from (column, row, 1) in the first image to the second, improved by ECC from `warp`.

    The images are compared at a shorter side of at most `side` pixels, smoothed by a Gaussian of `smoothing` pixels,
    odd; 1 is none. If ECC does not converge, `warp` is returned.
    """
    template, image = _reduced(first, side), _reduced(second, side)
    units = np.array([[1, 1, min(template.shape) / min(first.shape)]], np.float32)
    try:
        improved = cv2.findTransformECC(  # type: ignore[call-overload]  # its stubs want a mask
            template, image, warp * units, cv2.MOTION_AFFINE, _ECC_CRITERIA, None, smoothing
        )[1]
    except cv2.error as error:
        if getattr(error, "code", None) == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from None
        return warp
    return np.asarray(improved / units, np.float32)


def _difference_of_gaussians(pixels: Gray) -> Float32:
    """The fine detail of an image: gray levels about 0."""
    levels = pixels.astype(np.float32)
    sharp, smooth = (cv2.GaussianBlur(levels, (0, 0), sigma) for sigma in _DETAIL_SIGMAS)
    return np.asarray(sharp - smooth, np.float32)


def _median_correlation(first: Float32, second: Float32, step: int, reach: int, hopeless: float) -> float:
    """The median of `_block_correlations`, 0 if there are none; of the first ones, once it cannot reach `hopeless`."""
    side = 28 if min(first.shape) >= 100 else 16
    tops, lefts = (range(reach, length - side - reach + 1, step * side) for length in first.shape)
    places = list(product(tops, lefts))
    correlations: list[float] = []
    low = 0
    for correlation in _block_correlations(first, second, places, side, reach):
        correlations.append(correlation)
        low += correlation < hopeless
        if low > len(places) / 2:
            break
    return float(np.median(correlations)) if correlations else 0.0


def _block_correlations(
    first: Float32, second: Float32, places: Iterable[tuple[int, int]], side: int, reach: int
) -> Iterator[float]:
    """The best NCC of each block of the first detail within `reach` pixels in the second, where either has detail.

    places: the first row and column of each block. side: of a block, in pixels.
    """
    for top, left in places:
        block = first[top : top + side, left : left + side]
        window = second[top - reach : top + side + reach, left - reach : left + side + reach]
        has_detail = [cv2.meanStdDev(detail)[1][0, 0] >= _MIN_STD for detail in (block, window)]
        if all(has_detail):
            yield _subpixel_peak(np.asarray(cv2.matchTemplate(window, block, cv2.TM_CCOEFF_NORMED), np.float32))
        elif any(has_detail):
            yield 0.0


def _subpixel_peak(scores: Float32) -> float:
    """The height of the highest peak, between the pixels too: by a parabola along each axis; at most 1."""
    _, best, _, (x, y) = cv2.minMaxLoc(scores)
    height = float(best)
    for profile, peak in ((scores[y], x), (scores[:, x], y)):
        if 0 < peak < profile.size - 1:
            before, after = float(profile[peak - 1]), float(profile[peak + 1])
            curvature = 2 * best - before - after
            if curvature > 1e-6:
                height += (after - before) ** 2 / (8 * curvature)
    return min(height, 1.0)
