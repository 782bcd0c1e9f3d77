"""Pixels of 16 bits or in floating point to 8 bits, by the image's own values alone, so that equal files give equal
pixels.

Whole numbers v of b bits become v >> (b - 8). Floating-point values are scaled linearly. Either is taken for linear
reflectance, as volumes of the Heidelberg Spectralis hold it, if most of its pixels are nearly black; its fourth root is
taken then, as the device does for display.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray
from octprep.format.errors import UnreadableImage
from octprep.format.flags import DEPTH_16, FLOAT, REFLECTANCE, Flags

# Devices of 12 bits store their values in 16 bits; the largest value of an image tells which range it uses.
BITS = (8, 12, 16)
# Of floating-point values outside 0..255: the percentiles of the image that become black and white.
BLACK_PERCENTILE, WHITE_PERCENTILE = 0.1, 99.9
# Linear reflectance has half of its positive values below this fraction of white. For display-ready gray that would be
# below 2.6 of 255 gray levels.
LINEAR = 0.01


def to_8_bits(values: NDArray[Any], bits: int = 0) -> tuple[Gray, Flags]:
    """Gray values, (rows, columns) uint8 in 0..255, and what was mapped.

    values: (rows, columns) uint8, which stay as they are, uint16, or float. bits: of the uint16 values, where the file
    states them, so that all images of one file are mapped alike; 0: by the largest value. Raises UnreadableImage if
    floating-point values are not finite or all the same.
    """
    if values.dtype == np.uint8:
        return np.asarray(values, np.uint8), ()
    if values.dtype == np.uint16:
        bits = bits or used_bits(values)
        black, white = 0.0, float((1 << bits) - 1)
        mapped, flag = (values >> max(bits - 8, 0)).astype(np.uint8), DEPTH_16
    else:
        black, white = _float_range(values)
        mapped, flag = _scaled(values, black, white), FLOAT
    if black == 0 and _is_linear(values, white):
        return fourth_root(values, white), (flag, REFLECTANCE)
    return mapped, (flag,)


def colour_to_8_bits(rgb: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """A colour image of 16 bits a channel, (rows, columns, 3), in 8 bits, by the largest value of all channels."""
    return (rgb >> (used_bits(rgb) - 8)).astype(np.uint8)


def used_bits(values: NDArray[Any]) -> int:
    """The bits that the largest of some uint16 values needs: the least of BITS."""
    largest = int(values.max())
    return next(bits for bits in BITS if largest < 1 << bits)


def fourth_root(values: NDArray[Any], white: float) -> Gray:
    """Linear reflectance as the Spectralis shows it: 255 * (v / white) ** 0.25, rounded; (rows, columns) uint8.

    What lies outside 0..white is cut off.
    """
    return _scaled(np.sqrt(np.sqrt(np.clip(values / np.float32(white), 0, 1))), 0, 1)


def _float_range(values: NDArray[Any]) -> tuple[float, float]:
    """The values that become black and white: 0 and 1, or 0 and 255, where all lie between, else percentiles."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnreadableImage("floating-point pixels that are not finite numbers")
    if low == high:
        raise UnreadableImage("floating-point pixels that all have the same value")
    if low >= 0:
        for white in (1.0, 255.0):
            if high <= white:
                return 0.0, white
    black, white = (float(value) for value in np.percentile(values, (BLACK_PERCENTILE, WHITE_PERCENTILE)))
    if low >= 0 and _is_linear(values, white):
        return 0.0, white
    return (black, white) if black < white else (low, high)


def _is_linear(values: NDArray[Any], white: float) -> bool:
    """Whether values of at least 0 are linear reflectance."""
    positive = values[values > 0]
    return bool(positive.size) and float(np.median(positive)) < LINEAR * white


def _scaled(values: NDArray[Any], black: float, white: float) -> Gray:
    """Values from black to white as 0 to 255, rounded; what lies outside is cut off."""
    scaled = (values.astype(np.float64) - black) * (255 / (white - black))
    return np.asarray(np.rint(np.clip(scaled, 0, 255)), np.uint8)
