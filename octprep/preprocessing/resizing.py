"""Resizing: area averaging where an axis shrinks, so that nothing aliases; linear interpolation where it grows."""

from __future__ import annotations

from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.format.config import Preprocessing

_Scalar = TypeVar("_Scalar", np.uint8, np.float64)
_CHANNELS = 4  # of an image that OpenCV resizes, at most


def target_size(rows: int, columns: int, recipe: Preprocessing) -> tuple[int, int]:
    """(height, width) of a crop in the stored image: all of it, or to keep its shape (--resize pad) as much as fits."""
    if recipe.resize == "stretch":
        return recipe.height, recipe.width
    scale = min(recipe.height / rows, recipe.width / columns)
    return (
        min(max(round(rows * scale), 1), recipe.height),
        min(max(round(columns * scale), 1), recipe.width),
    )


def resize(pixels: NDArray[_Scalar], height: int, width: int) -> NDArray[_Scalar]:
    """(rows, columns) of uint8 or float to (height, width) of the same type; the array itself if it has that size."""
    rows, columns = pixels.shape
    resized: NDArray[Any] = pixels
    if height < rows or width < columns:
        # Shrink before anything is enlarged: OpenCV drops the area filter, and aliases, if one axis grows.
        resized = _shrink(pixels, min(height, rows), min(width, columns))
    if resized.shape != (height, width):
        resized = cv2.resize(resized, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, pixels.dtype)


def _shrink(pixels: NDArray[_Scalar], height: int, width: int) -> NDArray[Any]:
    """OpenCV's resize by area, (height, width), neither larger than the pixels are.

    Where it shrinks neither axis by a whole factor OpenCV adds up one row at a time, and each sum waits for the one
    before. Given a quarter of the rows of 4 channels it does the same sums for four rows at once, and then for four
    columns, so that the result is equal, and takes two thirds of the time.
    """
    rows, columns = pixels.shape
    whole_factor = rows % height == 0 or columns % width == 0
    if pixels.dtype != np.uint8 or whole_factor or width % _CHANNELS or rows < _CHANNELS**2:
        return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    quarter = -(-rows // _CHANNELS)
    parts = [pixels[start : start + quarter] for start in (0, quarter, 2 * quarter, rows - quarter)]
    four_rows = cv2.resize(cv2.merge(parts).astype(np.float32), (width, quarter), interpolation=cv2.INTER_AREA)
    *upper, last = cv2.split(four_rows)
    narrow = cv2.vconcat([*upper, last[3 * quarter - (rows - quarter) :]])
    four_columns = narrow.reshape(rows, width // _CHANNELS, _CHANNELS)
    small = cv2.resize(four_columns, (width // _CHANNELS, height), interpolation=cv2.INTER_AREA)
    return cv2.convertScaleAbs(small.reshape(height, width))
