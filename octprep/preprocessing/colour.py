"""Colour images to gray: only where the channels nearly agree is a pixel's luminance the gray level of a B-scan.

A pixel is coloured if its channels differ by more than COLOURED gray levels, which the chroma of a JPEG of a gray image
does not reach. Many coloured pixels are a false-colour picture, which no luminance turns back into reflectance, or
layers drawn all over the retina. Few are something drawn into a gray scan: they are inpainted from the pixels around
them, so that a network does not read the annotation. A smooth trace of it remains where the retina is rich in texture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray
from octprep.format.config import Colour
from octprep.format.errors import UnreadableImage
from octprep.format.flags import COLOUR, DRAWN, Flags
from octprep.preprocessing.graphics import inpaint_strokes

# Gray levels between the largest and the smallest channel. Of the genuine scans that were looked at, those without
# colour reach 35, around white lines that JPEG has tinted.
COLOURED = 40
MAX_DRAWN = 0.05  # fraction of an image's pixels that are coloured; more is not inpainted


def to_gray(rgb: NDArray[np.uint8], luma: Gray, colour: Colour) -> tuple[Gray, Flags]:
    """The gray values of a colour image, (rows, columns) uint8, and its flags.

    rgb: (rows, columns, 3); luma: (rows, columns), its luminance. colour: `refuse` an image of many coloured pixels, or
    take its `luminance`. Raises UnreadableImage for one that is refused.
    """
    red, green, blue = cv2.split(rgb)
    spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    coloured = cv2.threshold(spread, COLOURED, 255, cv2.THRESH_BINARY)[1]
    fraction = cv2.countNonZero(coloured) / luma.size
    if fraction == 0:
        return luma, ()
    if fraction <= MAX_DRAWN:
        return inpaint_strokes(luma, np.asarray(coloured, np.uint8)), (DRAWN,)
    if colour == "refuse":
        raise UnreadableImage(
            f"in colour: {fraction:.0%} of its pixels are coloured; give a gray export without drawings, or take "
            "the luminance by `octprep build --colour luminance`"
        )
    return luma, (COLOUR,)
