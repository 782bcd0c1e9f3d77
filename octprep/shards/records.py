"""The pixels that a record holds."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from octprep.arrays import Gray
from octprep.format.config import Preprocessing

_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">II BB")  # width, height, bits of a channel, kind of colour; 8 bytes after the signature
_GRAY = (8, 0)


def unpacked(image: bytes, recipe: Preprocessing, encoding: str) -> Gray | None:
    """The stored pixels, (height, width) uint8, or None if the bytes are no such image.

    encoding: raw or png. What a PNG says of its size is looked at before it is decoded.
    """
    if encoding == "raw":
        if len(image) != recipe.height * recipe.width:
            return None
        return np.frombuffer(image, np.uint8).reshape(recipe.height, recipe.width)
    if image[:8] != _PNG or len(image) < 26 or _HEADER.unpack(image[16:26]) != (recipe.width, recipe.height, *_GRAY):
        return None
    try:
        found = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    good = found is not None and found.shape == (recipe.height, recipe.width) and found.dtype == np.uint8
    return np.asarray(found, np.uint8) if good else None
