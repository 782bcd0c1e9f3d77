"""Image bytes to gray values, with a plain reason for every file that cannot be used.

What a file is follows from its content, never from its name. `octprep.preprocessing.jpeg` decodes JPEGs, and
`octprep.preprocessing.pillow_formats` the other formats. Whatever the format, equal pixels give equal gray values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray
from octprep.format.config import IMAGE_FORMATS, Colour
from octprep.format.errors import UnreadableImage
from octprep.format.files import NotReadable, read_bytes, retry
from octprep.format.flags import DEPTH_16, Flags, merged_flags
from octprep.preprocessing import jpeg, pillow_formats
from octprep.preprocessing.bit_depth import colour_to_8_bits, to_8_bits
from octprep.preprocessing.colour import to_gray
from octprep.preprocessing.fill_detection import WHITE, fill_reason
from octprep.preprocessing.limits import MAX_BYTES, MAX_PIXELS, check_size
from octprep.preprocessing.orientation import turned
from octprep.preprocessing.page_layout import has_panels

# A progressive JPEG holds the image in several scans, usually 6 to 12, and decoding goes over all pixels in each. A few
# bytes make one, so a small file could keep a processor busy for minutes.
MAX_PASSES = 100
MAX_DECODED_PIXELS = 10 * MAX_PIXELS  # of all its scans together

_MAGIC = (
    (b"GIF8", "a GIF; export it as PNG"),
    (b"\x00\x05\x16\x07", "AppleDouble metadata of macOS"),
    (b"P5", "a PGM; export it as PNG"),
    (b"P6", "a PPM; export it as PNG"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000; export it as PNG"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000; export it as PNG"),
    (b"HSF-OCT-", "a Heidelberg volume under the name of a picture; give it the ending .vol"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)
# Parts of the errors by which OpenCV reports that an allocation failed.
_NO_MEMORY = ("nsufficient memory", "emory allocation failure", "bad_alloc", "can not be created", "Failed to allocate")


def read_image(path: Path, colour: Colour = "refuse") -> tuple[Gray, Flags]:
    """The gray values and the flags of an image file, as `decode_with_flags` gives them.

    Raises UnreadableImage with the reason if the path is not a regular file (a pipe is never waited for), holds more
    than MAX_BYTES, or cannot be decoded. Raises OSError or MemoryError if the machine could not read it, after several
    attempts; that says nothing about the image.
    """
    try:
        data, _ = retry(lambda: read_bytes(path, MAX_BYTES))
    except NotReadable as error:
        raise UnreadableImage(str(error)) from None
    return retry(lambda: decode_with_flags(data, colour))


def decode(data: bytes, colour: Colour = "refuse") -> Gray:
    """The gray values of an image, as `decode_with_flags` gives them."""
    return decode_with_flags(data, colour)[0]


def decode_with_flags(data: bytes, colour: Colour = "refuse") -> tuple[Gray, Flags]:
    """The gray values of an image, (rows, columns) uint8 in 0..255, turned upright by its EXIF data, and its flags.

    colour: what is done with an image in colour, as `octprep.preprocessing.colour.to_gray` does it. Flags: codes
    of `octprep.format.flags`, sorted.

    Raises UnreadableImage with the reason if the data are none of IMAGE_FORMATS, hold several images or panels, or
    pixels of one gray level, are over MAX_BYTES, under MIN_SIDE a side or over MAX_PIXELS, a progressive JPEG of too
    many scans, cut short or corrupt, in a kind of pixel that has no gray values, or in colour that is refused. Raises
    MemoryError if the machine has too little memory.
    """
    if len(data) > MAX_BYTES:
        raise UnreadableImage(f"too large: {len(data):,} bytes, more than {MAX_BYTES // 10**6} MB")
    image_format = pillow_formats.format_of(data)
    if data.startswith(jpeg.MAGIC):
        gray, flags = decode_jpeg(data, colour)
    elif image_format:
        gray, flags = gray_of(pillow_formats.decode(data, image_format), colour)
    else:
        raise UnreadableImage(f"not a {IMAGE_FORMATS} but {_content_name(data)}" if data else "empty file")
    check_content(gray)
    return gray, flags


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raise MemoryError where OpenCV has too little memory, which it reports as an error of its own."""
    try:
        yield
    except cv2.error as error:
        if getattr(error, "code", None) == cv2.Error.StsNoMem or any(words in str(error) for words in _NO_MEMORY):
            raise MemoryError(str(error)) from None
        raise


def check_content(gray: Gray) -> None:
    """Raise UnreadableImage for an image, (rows, columns), of one gray level, or with panels divided by white bands."""
    rows, columns = gray.shape
    level = gray[0, 0]
    if gray[rows // 2, columns // 2] == level == gray[-1, -1] and (gray == level).all():
        raise UnreadableImage(
            fill_reason(1) if level >= WHITE else f"nothing to see: all its pixels have the gray level {level}"
        )
    if has_panels(gray):
        raise UnreadableImage("several panels: a white band divides it; give each B-scan as an image of its own")


def gray_of(pixels: NDArray[Any], colour: Colour, bits: int = 0) -> tuple[Gray, Flags]:
    """The gray values and flags of pixels as `octprep.preprocessing.pillow_formats.decode` gives them.

    bits: of a gray value, where the file states them. Colour of 16 bits is gray if its channels are equal.
    """
    if pixels.ndim == 2:
        return to_8_bits(pixels, bits)
    depth: Flags = ()
    if pixels.dtype == np.uint16:
        if (pixels[..., 1:] == pixels[..., :1]).all():
            return to_8_bits(pixels[..., 0])
        pixels, depth = colour_to_8_bits(pixels), (DEPTH_16,)
    gray, flags = to_gray(pixels, np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8), colour)
    return gray, merged_flags(depth, flags)


def decode_jpeg(data: bytes, colour: Colour) -> tuple[Gray, Flags]:
    """The gray values and flags of a JPEG. Its gray values are its luma, as it is stored."""
    header = jpeg.read_header(data)
    rows, columns = header.rows, header.columns
    check_size(rows, columns)
    if header.components not in (1, 3):
        raise UnreadableImage(
            f"pixels without a gray level: {header.components} channels{' (CMYK)' if header.components == 4 else ''}; "
            "give an image in gray or RGB"
        )
    max_passes = min(MAX_PASSES, MAX_DECODED_PIXELS // (rows * columns))
    is_one_pass = header.is_sequential and header.components == 1
    if not is_one_pass and jpeg.has_more_passes(data, max_passes):
        raise UnreadableImage(f"too slow to decode: over {max_passes} progressive scans of {columns}x{rows} pixels")
    gray = jpeg.decode_strictly(data, "GRAY")
    if gray.shape != (rows, columns):
        raise UnreadableImage(f"corrupt JPEG: header says {columns}x{rows}, data give {gray.shape[1]}x{gray.shape[0]}")
    flags: Flags = ()
    if header.components > 1:
        gray, flags = to_gray(jpeg.decode_strictly(data, "RGB"), gray, colour)
    return turned(gray, header.orientation), flags


def _content_name(data: bytes) -> str:
    """The kind of file that data look like which are no image."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[4:12] in (b"ftypavif", b"ftypavis", b"ftypheic", b"ftypmif1"):
        return "an AVIF or HEIF; export it as PNG"
    if data[128:132] == b"DICM":
        return "a DICOM file under the name of a picture; give it the ending .dcm"
    if data[:512].lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "an HTML page"
    if not data[:4096].strip(b"\0"):
        return "zero bytes"
    return "something unknown"
