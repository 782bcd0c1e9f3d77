"""The flags of a scan: what is unusual about an image that is used as a B-scan. Only the standard library is imported.

A flag is a short code in the column `flags` of images.csv. A scan that cannot be used is excluded instead.
"""

from __future__ import annotations

from collections.abc import Mapping

Flags = tuple[str, ...]  # codes of MEANINGS, sorted

COLOUR = "colour"
DEPTH_16 = "16-bit"
DRAWN = "drawn"
FLOAT = "float"
GRAPHICS = "graphics"
NO_LAYERS = "no-layers"
REFLECTANCE = "reflectance"
SMALL = "small"
WHITE_FRAME = "white-frame"

MEANINGS: Mapping[str, str] = {
    DEPTH_16: "16 bits a pixel, mapped to 8",
    COLOUR: "colour over more than 5 % of the pixels, of which the luminance was taken",
    DRAWN: "contours, arrows or text in colour over at most 5 % of the pixels, which were inpainted",
    FLOAT: "floating-point pixels, mapped to 8 bits",
    GRAPHICS: "an icon or a scale bar in white, which was inpainted",
    NO_LAYERS: "no layers from side to side: an en-face picture, a photograph, or a scan on its side",
    REFLECTANCE: "linear reflectance, of which the fourth root was taken",
    SMALL: "under 300 columns: a part of a B-scan, or one that was reduced before",
    WHITE_FRAME: "a white frame on all four sides, which was cut off",
}


def merged_flags(*flags: Flags) -> Flags:
    """The codes of several steps, each once, sorted."""
    return tuple(sorted(set().union(*flags)))
