"""How much a logit falls when a patch of the image is made gray: an occlusion map (Zeiler & Fergus 2014).

It looks at nothing but the model's output, so it works for every model and is an independent check of the evidence.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from octprep.format.errors import SettingError
from octtrain.inference import run_batch

BATCH = 32  # images
Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Where the gray patch is put, in stored pixels."""

    rows: tuple[int, ...]  # first rows
    columns: tuple[int, ...]  # first columns
    side: int

    @classmethod
    def over(cls, height: int, width: int, side: int | None = None, stride: int | None = None) -> Patches:
        """Patches over an image of so many pixels, which reach its last row and column.

        side: of the patch; by default a seventh of the shorter side of the image.  stride: from one patch to the next;
        by default half of the patch. Raises SettingError if the patch is as large as the image, or if there are gaps
        between patches.
        """
        side = max(round(min(height, width) / 7), 1) if side is None else side
        stride = max(side // 2, 1) if stride is None else stride
        if not 1 <= side < min(height, width):
            raise SettingError(f"--patch must be 1 to {min(height, width) - 1} stored pixels; got {side}")
        if not 1 <= stride <= side:
            raise SettingError(f"--stride must be 1 to {side} stored pixels, the side of the patch; got {stride}")
        rows, columns = ((*range(0, length - side, stride), length - side) for length in (height, width))
        return cls(rows=rows, columns=columns, side=side)

    def mean_within(self, pixels: NDArray[np.floating]) -> Float64:
        """The means of an image, (height, width), within each patch: (patches down, patches across)."""
        return np.array(
            [
                [pixels[row : row + self.side, column : column + self.side].mean() for column in self.columns]
                for row in self.rows
            ]
        )

    def spread(self, values: Float64, height: int, width: int) -> Float64:
        """The mean of the values of all patches over each pixel: (height, width). values: one for each patch."""
        total, count = np.zeros((height, width)), np.zeros((height, width))
        for (i, row), (j, column) in itertools.product(enumerate(self.rows), enumerate(self.columns)):
            region = slice(row, row + self.side), slice(column, column + self.side)
            total[region] += values[i, j]
            count[region] += 1
        return total / count


def occlusion(logits: keras.Model, pixels: NDArray[np.uint8], label: int, patches: Patches) -> Float64:
    """By how much the logit of a class falls under each patch: (patches down, patches across).

    logits: (n, height, width, 1) uint8 in 0..255 to (n, classes).  pixels: (height, width). The patch has the mean
    gray level of the image.
    """
    gray = np.uint8(round(float(pixels.mean())))
    places = list(itertools.product(patches.rows, patches.columns))
    batch_size = min(BATCH, len(places) + 1)
    fallen: list[float] = []
    whole = float(run_batch(logits, pixels[None, ..., None], batch_size)[0][0, label])
    for start in range(0, len(places), batch_size):
        batch = np.repeat(pixels[None, ..., None], len(places[start : start + batch_size]), axis=0)
        for image, (row, column) in zip(batch, places[start : start + batch_size], strict=True):
            image[row : row + patches.side, column : column + patches.side] = gray
        fallen += (whole - run_batch(logits, batch, batch_size)[0][:, label].astype(np.float64)).tolist()
    return np.array(fallen).reshape(len(patches.rows), len(patches.columns))


def rank_correlation(one: Float64, other: Float64) -> float | None:
    """Spearman's rank correlation of two arrays of one shape, -1..1; None if one of them is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(stats.spearmanr(one.ravel(), other.ravel()).statistic)
