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
