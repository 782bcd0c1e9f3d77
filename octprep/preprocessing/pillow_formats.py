"""PNG, TIFF, BMP and WebP to pixels, by Pillow, with a plain reason for every file that cannot be trusted.

The class for a format is called directly instead of `PIL.Image.open`, which would warn of large images where the size
is checked here, and set up readers for some forty other formats. Pillow is imported for the first such image: most
sources hold none.
"""

from __future__ import annotations

import io
import sys
import threading
import warnings
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from octprep.format.errors import UnreadableImage
from octprep.preprocessing.bit_depth import used_bits
from octprep.preprocessing.limits import MAX_PIXELS, check_size
from octprep.preprocessing.orientation import read_orientation, turned

if TYPE_CHECKING:
    from PIL import Image, ImageFile

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
MAX_PIECES = 20_000  # strips or tiles of a TIFF; tiles of 64 x 64 pixels are 15,625 of the largest image
# TIFF 6.0: the sides of a tile, and what the smallest value of a pixel means.
_TILE_WIDTH, _TILE_LENGTH, _PHOTOMETRIC, _WHITE_IS_ZERO = 322, 323, 262, 0
_BLACK_IS_ZERO, _RGB = 1, 2
# How many bits each channel has, and whether the channels are stored one behind the other.
_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _PLANAR_CONFIGURATION, _SEPARATE = 258, 277, 284, 2
_SAMPLE_FORMAT, _SIGNED = 339, 2  # the type of the values
_SAMPLE_FORMATS = {
    1: "unsigned integers", _SIGNED: "signed integers", 3: "floating point", 5: "complex integers",
    6: "complex floating point",
}  # fmt: skip
_COLOUR = ("RGB", "RGBA")  # modes of Pillow
_MAX_TILE_SIDE = 1 << 16  # of a tile; a longer one makes libtiff report a lack of memory
# Parts of the errors by which Pillow and libtiff report that an allocation failed.
_NO_MEMORY = ("out of memory error", "decoder error -9")
_WEBP_BYTES = 16  # of memory for a pixel of a WebP: two canvases of 4 bytes, and the decoder's own
# Filters of warnings belong to the whole process, so that only one thread at a time may change them.
WARNING_FILTERS = threading.Lock()


def format_of(data: bytes) -> str | None:
    """The format of an image by its first bytes, or None if it is not one that `decode` reads."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return next((name for magic, name in _MAGIC if data.startswith(magic)), None)


def decode(data: bytes, image_format: str) -> NDArray[Any]:
    """The pixels of an image, upright.

    Gray, (rows, columns) uint8, uint16 or float32, or RGB, (rows, columns, 3) uint8 or uint16. image_format: as
    `format_of` gives it. Transparent pixels are black, as far as they are transparent. Raises UnreadableImage as
    `octprep.preprocessing.decode` does, and MemoryError.
    """
    _readers()  # imports Pillow: an error of that is not about the file
    try:
        # Pillow warns of odd metadata, which say nothing of the pixels.
        with WARNING_FILTERS, warnings.catch_warnings(action="ignore"):
            return _decode(data, image_format)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:  # the data are in memory, so whatever Pillow raises is about the file
        if any(words in str(error) for words in _NO_MEMORY):
            raise MemoryError(f"too little memory to decode a {image_format}: {error}") from None
        problem = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise UnreadableImage(f"{problem} {image_format}: {_one_line(error)}") from None


@cache
def _readers() -> Mapping[str, type[ImageFile.ImageFile]]:
    """Pillow's class for each format."""
    from PIL import BmpImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

    return {
        "PNG": PngImagePlugin.PngImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "WebP": WebPImagePlugin.WebPImageFile,
    }


def _decode(data: bytes, image_format: str) -> NDArray[Any]:
    from PIL import TiffImagePlugin

    if image_format == "WebP":
        _check_webp(data)
    try:
        image = _readers()[image_format](io.BytesIO(data))
    except SyntaxError as error:
        if image_format == "TIFF" and "unknown pixel mode" in str(error):
            raise _unread_pixels(_tiff_tags(data)) from None
        raise
    check_size(image.height, image.width)
    if getattr(image, "is_animated", False):
        raise UnreadableImage(f"several images: an animated or multi-page {image_format}; give each scan as a file")
    is_inverted = False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        width, length = (int(image.tag_v2.get(tag, 0)) for tag in (_TILE_WIDTH, _TILE_LENGTH))
        if width * length > MAX_PIXELS or max(width, length) > _MAX_TILE_SIDE:
            raise UnreadableImage("corrupt TIFF: tiles larger than any image that is read")
        if len(image.tile) > MAX_PIECES:
            raise UnreadableImage(f"too slow to decode: more than {MAX_PIECES:,} strips or tiles")
        if image.mode == "I" or _SIGNED in image.tag_v2.get(_SAMPLE_FORMAT, ()):
            raise _unread_pixels(image.tag_v2)
        is_planar = image.tag_v2.get(_PLANAR_CONFIGURATION) == _SEPARATE
        if is_planar and image.mode in _COLOUR and max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) > 8:
            raise UnreadableImage(
                "colour of 16 bits, one channel behind the other (PlanarConfiguration 2); save it pixel by pixel "
                "(PlanarConfiguration 1), or as gray"
            )
        is_inverted = image.mode.startswith("I;16") and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    rawmode = _rawmode(image)
    if image.mode in _COLOUR and rawmode[:-1].endswith(";16"):  # BGR;16 is 16 bits for all channels together
        pixels = _colour_of_16_bits(image, _readers()[image_format](io.BytesIO(data)), rawmode)
    else:
        image.load()
        pixels = _pixels(image)
    if is_inverted:
        pixels = np.invert(pixels)
    if image_format == "TIFF":  # Pillow has turned it
        return pixels
    return turned(pixels, read_orientation(image.info.get("exif", b"")))


def _tiff_tags(data: bytes) -> Mapping[int, Any]:
    """The tags of the first image of a TIFF."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    stream = io.BytesIO(data)
    tags = ImageFileDirectory_v2(stream.read(16 if b"+" in data[2:4] else 8))
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def _unread_pixels(tags: Mapping[int, Any]) -> UnreadableImage:
    """The reason for a TIFF whose type of pixels is not read, which it names. tags: of the TIFF."""
    bits, sample_format = (int(tags.get(tag, (1,))[0]) for tag in (_BITS_PER_SAMPLE, _SAMPLE_FORMAT))
    kind = f"{bits}-bit {_SAMPLE_FORMATS.get(sample_format, f'values of sample format {sample_format}')}"
    channels, photometric = int(tags.get(_SAMPLES_PER_PIXEL, 1)), int(tags.get(_PHOTOMETRIC, _WHITE_IS_ZERO))
    if channels > 1:
        kind = f"{channels} channels of {kind}"
    if photometric not in (_BLACK_IS_ZERO, _RGB):
        kind += f" of photometric interpretation {photometric}"
    return UnreadableImage(
        f"pixels without a gray level: {kind}; save them as gray or RGB of 8 or 16 bits unsigned, or as gray in float32"
    )


def _check_webp(data: bytes) -> None:
    """Check the size and the memory that a WebP needs: its reader takes the memory, and does not say if there is none.

    RFC 9649: the first chunk states the size. Raises UnreadableImage or MemoryError.
    """
    chunk, start = data[12:16], data[20:30]
    if chunk == b"VP8X":
        columns, rows = (1 + int.from_bytes(start[at : at + 3], "little") for at in (4, 7))
    elif chunk == b"VP8L":
        bits = int.from_bytes(start[1:5], "little")
        columns, rows = 1 + bits % 2**14, 1 + (bits >> 14) % 2**14
    else:
        columns, rows = (int.from_bytes(start[at : at + 2], "little") % 2**14 for at in (6, 8))
    check_size(rows, columns)
    np.empty(_WEBP_BYTES * rows * columns, np.uint8)


def _pixels(image: Image.Image) -> NDArray[Any]:
    """The pixels of a loaded image, as `decode` gives them. Raises UnreadableImage for modes without gray values."""
    mode = image.mode
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if mode == "F":
        return np.asarray(image, np.float32)
    if mode == "1":
        return np.asarray(image.convert("L"), np.uint8)
    if mode in ("LA", "RGBA"):
        return _opaque(image)
    if mode in ("P", "PA", "La", "RGBa"):
        return _opaque(image.convert("LA" if mode == "La" else "RGBA"))
    if mode in ("L", "RGB", "RGBX", "YCbCr"):
        return np.asarray(image if mode in ("L", "RGB") else image.convert("RGB"), np.uint8)
    raise UnreadableImage(f"pixels without a gray level: mode {mode}; give an image in gray or RGB")


def _rawmode(image: ImageFile.ImageFile) -> str:
    """Pillow's name of the layout of the bytes from which an image is loaded, such as RGB;16B for big endian."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _colour_of_16_bits(image: ImageFile.ImageFile, same: ImageFile.ImageFile, rawmode: str) -> NDArray[np.uint16]:
    """An image of 16 bits a channel over black: RGB, (rows, columns, 3).

    Pillow keeps the upper 8 bits of each value in colour. Read in the other byte order, they are the lower 8: so both
    image and same, which are one image opened twice and not loaded, are loaded. rawmode: of both.
    """
    if rawmode == "LA;16B":  # gray and alpha: 4 bytes, as RGBA has
        pixels = np.ascontiguousarray(_loaded(image, "RGBA")).view(">u2")
        pixels = pixels[..., [0, 0, 0, 1]].astype(np.uint16)
    else:
        # Values that were multiplied by alpha (RGBa) are over black already; Pillow would divide them.
        layout, order = rawmode.replace("RGBa", "RGBA")[:-1], rawmode[-1]
        is_little = order == "L" or (order == "N" and sys.byteorder == "little")
        upper = _loaded(image, f"{layout}{order}").astype(np.uint16)
        pixels = (upper << 8) | _loaded(same, f"{layout}{'B' if is_little else 'L'}")
    values = pixels[..., :3]
    if image.mode == "RGBA" and not rawmode.startswith("RGBa"):
        alpha = pixels[..., 3:] >> (used_bits(pixels) - 8)
        if int(alpha.min()) < 255:
            shift = used_bits(values) - 8
            values = (((values >> shift) * alpha + 127) // 255) << shift
    return np.ascontiguousarray(values)


def _loaded(image: ImageFile.ImageFile, rawmode: str) -> NDArray[np.uint8]:
    """The channels of an image, (rows, columns, channels), loaded as its bytes are laid out in rawmode."""
    image.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile
    ]
    image.load()
    return np.asarray(image, np.uint8)


def _opaque(image: Image.Image) -> NDArray[np.uint8]:
    """An image in LA or RGBA over black: (rows, columns) or (rows, columns, 3)."""
    pixels = np.asarray(image, np.uint8)
    values, alpha = pixels[..., :-1], pixels[..., -1:]
    if int(alpha.min()) < 255:
        values = ((values.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(values[..., 0] if values.shape[-1] == 1 else values)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
