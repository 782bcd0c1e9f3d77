"""One B-scan from JPEG bytes to the stored pixels, and the way back to the source's coordinates.

`decode` reads bytes and `read_image` a file; `prepare` cleans the border, crops to the retina, straightens, denoises
and resizes. They need nothing but their arguments and give equal pixels for equal input. A change that gives other
pixels must raise `octprep.format.config.PREPROCESSING_VERSION`. Images are gray, (rows, columns) uint8 in 0..255, row 0 on the
vitreous side.
"""

from octprep.preprocessing.decoding import MAX_BYTES, decode, memory_errors, read_image
from octprep.preprocessing.denoising import denoise, libraries
from octprep.preprocessing.fill_detection import Border, find_border
from octprep.preprocessing.fill_inpainting import clean
from octprep.preprocessing.retina_detection import Retina, find_retina, shift
from octprep.preprocessing.steps import Prepared, clean_and_crop, measure, place, prepare, row_offsets

__all__ = [
    "MAX_BYTES",
    "Border",
    "Prepared",
    "Retina",
    "clean",
    "clean_and_crop",
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
    "row_offsets",
    "shift",
]
