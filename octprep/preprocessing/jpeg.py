"""JPEG headers and pixels, with a plain reason for every file that cannot be trusted.

libjpeg-turbo decodes, by simplejpeg, and in strict mode: whatever it would only warn of (a bad Huffman code, data that
end early) is an error, so a damaged scan never becomes pixels. Size and cost are known from the headers before anything
is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from octprep.format.errors import UnreadableImage
from octprep.preprocessing.orientation import UPRIGHT, read_orientation

MAGIC = b"\xff\xd8\xff"
MAX_SEGMENTS = 10_000  # of a file

# ITU-T T.81, table B.1: the markers that start a frame are SOF0-15 but for DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)  # baseline and extended sequential, with Huffman codes
_END_OF_IMAGE, _START_OF_SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_EXIF = b"Exif\0\0"
# Any marker that a length follows, or the end of the image: not TEM, RST0-7 and SOI, which stand alone.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
# Parts of the errors by which libjpeg reports that an allocation failed.
_NO_MEMORY = ("nsufficient memory", "emory allocation failure")


class Header(NamedTuple):
    """What the header of a JPEG promises."""

    rows: int
    columns: int
    components: int  # 1 gray, 3 colour, 4 CMYK
    orientation: int  # of the EXIF data, 1 to 8
    is_sequential: bool  # coded in one pass over the image, if it has one component: libjpeg refuses another scan


def read_header(data: bytes) -> Header:
    """The header of a JPEG, up to its first frame.

    Raises UnreadableImage if there is no frame header.
    """
    orientation = UPRIGHT
    for marker, length_at in _segments(data):
        if length_at + 7 > len(data):
            break
        if marker in _FRAMES:
            size = data[length_at + 3 : length_at + 7]
            components = data[length_at + 7] if length_at + 7 < len(data) else 0
            is_sequential = marker in _SEQUENTIAL
            return Header(int.from_bytes(size[:2]), int.from_bytes(size[2:]), components, orientation, is_sequential)
        if marker in (_END_OF_IMAGE, _START_OF_SCAN):
            raise UnreadableImage("corrupt JPEG: no frame header before its data")
        if marker == _APP1 and data.startswith(_EXIF, length_at + 2) and orientation == UPRIGHT:
            orientation = read_orientation(data[length_at + 2 : length_at + _length(data, length_at)])
    raise UnreadableImage("truncated JPEG: ends before its frame header")


def decode_strictly(data: bytes, colorspace: Literal["GRAY", "RGB"]) -> NDArray[np.uint8]:
    """The pixels of a JPEG in which libjpeg finds nothing to warn of but padding between its header's segments.

    (rows, columns) luma, or (rows, columns, 3) RGB; uint8 in 0..255, as they are stored, not turned. Raises
    UnreadableImage otherwise, and MemoryError.
    """
    try:
        pixels: NDArray[Any] = simplejpeg.decode_jpeg(data, colorspace, strict=True)
        return np.asarray(pixels[:, :, 0] if colorspace == "GRAY" else pixels, np.uint8)
    except ValueError as error:
        problem = str(error)
    if any(words in problem for words in _NO_MEMORY):
        raise MemoryError(f"too little memory to decode a JPEG: {problem}")
    if "extraneous bytes before marker" in problem:
        # Some writers pad between segments. Within the image data the same words mean that pixels are missing.
        unpadded = _without_padding(data)
        if unpadded != data:
            return decode_strictly(unpadded, colorspace)
    if "Premature end of JPEG file" in problem:
        raise UnreadableImage("truncated JPEG")
    raise UnreadableImage(f"corrupt JPEG: {problem.removeprefix('Corrupt JPEG data: ')}")


def has_more_passes(data: bytes, limit: int) -> bool:
    """Whether a JPEG has more than `limit` scans before the end of its image."""
    if data.count(bytes([0xFF, _START_OF_SCAN])) <= limit:
        return False
    passes = 0
    for marker, _ in _segments(data):
        passes += marker == _START_OF_SCAN
        if marker == _END_OF_IMAGE or passes > limit:
            break
    return passes > limit


def _without_padding(data: bytes) -> bytes:
    """A JPEG without the bytes between the segments of its header, up to the first scan."""
    segments = [data[:2]]
    for marker, length_at in _segments(data):
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            segments.append(data[length_at - 2 :])
            break
        segments.append(data[length_at - 2 : length_at + _length(data, length_at)])
    return b"".join(segments)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Each marker that has a length, or is the end of the image, and the index of its length field.

    Entropy-coded data and padding between segments are passed over, as libjpeg does. Raises UnreadableImage if there
    are more than MAX_SEGMENTS.
    """
    position = 2
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, position)
        if match is None:
            return
        yield match[1][0], match.end()
        position = match.end() + _length(data, match.end())
    raise UnreadableImage(f"corrupt JPEG: more than {MAX_SEGMENTS:,} segments")


def _length(data: bytes, index: int) -> int:
    """The length field of a segment, which counts itself, so at least 2."""
    return max(int.from_bytes(data[index : index + 2]), 2)
