"""The orientation that EXIF data give an image, and pixels turned by it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

UPRIGHT = 1  # the first of the eight orientations: row 0 is the top of the image, column 0 its left side
_TAG, _SHORT = 0x0112, 3  # of the orientation, and of its type (EXIF 2.3, section 4.6)
_BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
_ENTRY = 12  # bytes of an entry of the directory


def read_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, that EXIF data state, with or without `Exif` and two zero bytes before them.

    UPRIGHT where they state none or are damaged: only the description of the image is.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = _BYTE_ORDERS.get(exif[:4])
    if order is None:
        return UPRIGHT
    directory = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[directory : directory + 2], order)
    for start in range(directory + 2, min(directory + 2 + count * _ENTRY, len(exif)), _ENTRY):
        entry = exif[start : start + _ENTRY]
        if (int.from_bytes(entry[:2], order), int.from_bytes(entry[2:4], order)) == (_TAG, _SHORT):
            value = int.from_bytes(entry[8:10], order)
            return value if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels, (rows, columns) or (rows, columns, channels), as they are to be shown.

    orientation: 1 as they are, 2 mirrored left to right, 3 turned by half, 4 mirrored top to bottom, 5 transposed,
    6 turned clockwise, 7 transposed along the other diagonal, 8 turned counterclockwise.
    """
    if orientation == UPRIGHT:
        return pixels
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
