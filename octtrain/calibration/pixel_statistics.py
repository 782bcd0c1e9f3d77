"""Numbers that describe the stored pixels of a B-scan: gray levels, and where and how they change.

A retina is dark above and layered, so light rises and falls along the rows in other ways downwards than upwards, and
otherwise than along the columns. That tells scans from other images, whatever a network has learnt to look at.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)  # of the gray levels
BANDS = 6  # of rows, in which changes are averaged
SCALES = 4  # the image, and it made half as large up to three times
MIN_SIDE = 8  # pixels; images are not made smaller than this

DIFFERENCE = (
    1,
    -4,
    6,
    -4,
    1,
)  # of five neighbouring pixels: 0 for what is a cubic polynomial, so light that changes slowly
_UNIT_NOISE = 70**0.5  # the standard deviation of this difference of independent numbers of standard deviation 1
_DARKEST = 2.0  # gray levels that are added to means, so that black has no relative noise

Gray = NDArray[np.float32]


def pixel_statistics(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, numbers) of (n, rows, columns) uint8 in 0..255; how many depends on the size of the images alone.

    The quantiles; for each scale the mean rise and fall from row to row and the mean change from column to column, by
    bands, the root mean squares of both, and the skewness of the first. All changes but the skewness as logarithms.
    """
    scaled = images.astype(np.float32)
    columns = [np.quantile(scaled.reshape(len(scaled), -1), QUANTILES, axis=1).T]
    for scale in range(SCALES):
        if scale:
            if min(scaled.shape[1:]) < 2 * MIN_SIDE:
                break
            scaled = _halved(scaled)
        down, across = np.diff(scaled, axis=1), np.diff(scaled, axis=2)
        for change in (np.maximum(down, 0), np.maximum(-down, 0), np.abs(across)):
            columns.append(np.log1p(_bands(change)))
        rms_down, rms_across = (np.sqrt((change**2).mean(axis=(1, 2))) for change in (down, across))
        skewness = np.cbrt((down**3).mean(axis=(1, 2))) / (rms_down + 0.1)
        columns.append(np.stack([np.log1p(rms_down), np.log1p(rms_across), skewness], axis=1))
    return np.concatenate(columns, axis=1).astype(np.float64)


def relative_noise(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n,) how much neighbouring pixels differ for no reason, as a share of how bright they are, from 0.

    The layers of a retina run along the rows, so what a fourth difference along them leaves is mostly speckle and noise
    of the device. It is divided by the mean of its pixels, as speckle is proportional to the light (for one look its
    standard deviation is the mean), and the median is taken over the brighter half of the image, where the retina is.

    images: (n, rows, columns) uint8 in 0..255, of at least five columns.
    """
    scaled = images.astype(np.float32)
    width = scaled.shape[2] - len(DIFFERENCE) + 1
    windows = [scaled[:, :, i : i + width].reshape(len(scaled), -1) for i in range(len(DIFFERENCE))]
    change = np.abs(sum(weight * window for weight, window in zip(DIFFERENCE, windows, strict=True)))
    mean = sum(windows) / len(windows)
    is_bright = mean >= np.median(mean, axis=1, keepdims=True)
    relative = change / _UNIT_NOISE / (mean + _DARKEST)
    return np.array([np.median(row[bright]) for row, bright in zip(relative, is_bright, strict=True)], np.float64)


def _halved(images: Gray) -> Gray:
    """Means of 2x2 pixels; an odd last row or column is cut off."""
    even = images[:, : images.shape[1] // 2 * 2, : images.shape[2] // 2 * 2]
    return np.asarray(
        (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 4, np.float32
    )


def _bands(images: Gray) -> Gray:
    """(n, BANDS) means of bands of rows."""
    edges = np.linspace(0, images.shape[1], BANDS + 1).astype(int)
    return np.stack([images[:, start:stop].mean(axis=(1, 2)) for start, stop in pairwise(edges)], axis=1)
