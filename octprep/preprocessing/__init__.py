"""One B-scan from the bytes of an image file to the stored pixels, and the way back to the source's coordinates.

`decode_with_flags` reads bytes and `read_image` a file; `preprocess` inpaints fill, crops to the retina, flattens,
denoises and resizes. They depend on their arguments alone: equal input gives equal pixels. A change that gives other
pixels must raise `octprep.format.config.PREPROCESSING_VERSION`. Images are gray, (rows, columns) uint8 in 0..255, row 0
on the vitreous side.
"""

from octprep.preprocessing.crop import CroppedScan, clean_and_crop
from octprep.preprocessing.decoding import decode, decode_with_flags, memory_errors, read_image
from octprep.preprocessing.denoising import denoise, library_versions
from octprep.preprocessing.fill_detection import FillDepths, find_fill
from octprep.preprocessing.fill_inpainting import inpaint
from octprep.preprocessing.geometry import Geometry, placement
from octprep.preprocessing.limits import MAX_BYTES
from octprep.preprocessing.retina_detection import Retina, curve_offset, find_retina
from octprep.preprocessing.steps import PreprocessedImage, find_flags, mean_and_std, measure_intensity, preprocess
from octprep.preprocessing.volumes import read_frame, read_volume_header

__all__ = [
    "MAX_BYTES",
    "CroppedScan",
    "FillDepths",
    "Geometry",
    "PreprocessedImage",
    "Retina",
    "clean_and_crop",
    "curve_offset",
    "decode",
    "decode_with_flags",
    "denoise",
    "find_fill",
    "find_flags",
    "find_retina",
    "inpaint",
    "library_versions",
    "mean_and_std",
    "measure_intensity",
    "memory_errors",
    "placement",
    "preprocess",
    "read_frame",
    "read_image",
    "read_volume_header",
]
