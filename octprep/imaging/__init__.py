"""One B-scan from JPEG bytes to the stored pixels, and the way back to the source's coordinates.

`decode` reads bytes and `read_image` a file; `prepare` cleans the border, crops to the retina, straightens, denoises
and resizes. They need nothing but their arguments and give equal pixels for equal input. A change that gives other
pixels must raise `octprep.schema.IMAGING_REVISION`. Images are gray, (rows, columns) uint8 in 0..255, row 0 on the
vitreous side.
"""

from octprep.imaging.border import Border, find_border
from octprep.imaging.denoising import denoise, libraries
from octprep.imaging.jpeg import MAX_BYTES, decode, memory_errors, read_image
from octprep.imaging.painting import clean
from octprep.imaging.preparation import Prepared, clean_and_crop, column_shift, measure, place, prepare
from octprep.imaging.retina import Retina, find_retina, shift

__all__ = [
    "MAX_BYTES",
    "Border",
    "Prepared",
    "Retina",
    "clean",
    "clean_and_crop",
    "column_shift",
    "decode",
    "denoise",
    "find_border",
    "find_retina",
    "libraries",
    "measure",
    "memory_errors",
    "place",
    "prepare",
    "read_image",
    "shift",
]
