"""Resizing: area averaging where an axis shrinks, so that nothing aliases; linear interpolation where it grows."""

from __future__ import annotations

from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

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
        resized = cv2.resize(pixels, (min(width, columns), min(height, rows)), interpolation=cv2.INTER_AREA)
    if resized.shape != (height, width):
        resized = cv2.resize(resized, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, pixels.dtype)
