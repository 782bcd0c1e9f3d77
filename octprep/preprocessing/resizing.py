"""Resizing: area averaging where an axis shrinks, so that nothing aliases; linear interpolation where it grows."""

from __future__ import annotations

from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float32, Gray
from octprep.format.config import Preprocessing

_Scalar = TypeVar("_Scalar", np.uint8, np.float64)


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
        size = min(height, rows), min(width, columns)
        resized = _shrunk(resized, *size) if resized.dtype == np.uint8 else _area_average(resized, *size)
    if resized.shape != (height, width):
        resized = cv2.resize(resized, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, pixels.dtype)


def _shrunk(gray: Gray, height: int, width: int) -> Gray:
    """`_area_average` of (rows, columns) uint8 to (height, width), neither larger, in two thirds of its time.

    OpenCV adds up the pixels of a row one after the other, each waiting for the sum before, but those of a column side
    by side with the other columns. So the rows are averaged as columns of the transposed scan: the same products in the
    same order, in float32, and thus the same pixels.
    """
    rows, columns = gray.shape
    if columns % width == 0 or (rows % height == 0 and rows != height):
        return np.asarray(_area_average(gray, height, width))  # OpenCV has other arithmetic for a whole factor
    even = cv2.copyMakeBorder(gray, 0, rows % 2, 0, 0, cv2.BORDER_REPLICATE)  # see `_averaged_rows`
    averaged = cv2.transpose(_averaged_rows(cv2.transpose(even).astype(np.float32), width))[:rows]
    if height < rows:
        averaged = _averaged_rows(np.asarray(averaged, np.float32), height)
    return np.asarray(cv2.convertScaleAbs(averaged), np.uint8)


def _averaged_rows(values: Float32, height: int) -> Float32:
    """(rows, columns) to (height, columns): two columns as the channels of one, if their number is even, are faster."""
    rows, columns = values.shape
    channels = 2 - columns % 2
    averaged = _area_average(values.reshape(rows, columns // channels, channels), height, columns // channels)
    return np.asarray(averaged, np.float32).reshape(height, columns)


def _area_average(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """The mean of the part of the pixels, (rows, columns) or with channels, that each of (height, width) covers."""
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
