"""JPEG bytes to gray values, with a plain reason for every file that cannot be trusted.

libjpeg-turbo decodes, by simplejpeg, and in strict mode: whatever it would only warn of (a bad Huffman code, data that
end early) is an error, so a damaged scan never becomes pixels. Size and cost are limited by the headers before anything
is decoded.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from octprep.arrays import Gray
from octprep.format.errors import UnreadableImage
from octprep.format.files import NotReadable, read_bytes, retry

MAX_BYTES = 64_000_000  # of a file that is read; a B-scan has some 100 kB
MAX_PIXELS = 64_000_000  # more is a decompression bomb, or not a B-scan
MIN_SIDE = 64  # pixels; a B-scan has hundreds
# A progressive JPEG holds the image in several scans, usually 6 to 12, and decoding goes over all pixels in each. A few
# bytes make one, so a small file could keep a processor busy for minutes.
MAX_PASSES = 100
MAX_DECODED_PIXELS = 10 * MAX_PIXELS  # of all its scans together
MAX_SEGMENTS = 10_000  # of a file

_MAGIC = (
    (b"\x89PNG", "a PNG"),
    (b"GIF8", "a GIF"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"BM", "a BMP"),
    (b"\x00\x05\x16\x07", "AppleDouble metadata of macOS"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)
# ITU-T T.81, table B.1: the markers that start a frame are SOF0-15 but for DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
# Any marker that a length follows, or the end of the image: not TEM, RST0-7 and SOI, which stand alone.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
# Parts of the errors by which OpenCV and libjpeg report that an allocation failed.
_NO_MEMORY = ("nsufficient memory", "emory allocation failure", "bad_alloc", "can not be created", "Failed to allocate")


def read_image(path: Path) -> Gray:
    """The gray values of a JPEG file, as `decode` gives them.

    Raises UnreadableImage with the reason if the path is not a regular file (a pipe is never waited for), holds more
    than MAX_BYTES, or cannot be decoded by `decode`. Raises OSError or MemoryError if the machine could not read it,
    after several attempts; that says nothing about the image.
    """
    try:
        data, _ = retry(lambda: read_bytes(path, MAX_BYTES))
    except NotReadable as error:
        raise UnreadableImage(str(error)) from None
    return retry(lambda: decode(data))


def decode(data: bytes) -> Gray:
    """The gray values of a JPEG, (rows, columns) uint8 in 0..255: the luma of a colour image, EXIF rotation ignored.

    Raises UnreadableImage with the reason if the data are not a JPEG, over MAX_BYTES, under MIN_SIDE a side or over
    MAX_PIXELS, a progressive JPEG of too many scans, or cut short or corrupt. Raises MemoryError if the machine has too
    little memory.
    """
    if len(data) > MAX_BYTES:
        raise UnreadableImage(f"too large: {len(data):,} bytes, more than {MAX_BYTES // 10**6} MB")
    rows, columns = frame_size(data)
    if min(rows, columns) < MIN_SIDE:
        raise UnreadableImage(f"too small: {columns}x{rows} pixels, at least {MIN_SIDE} a side are needed")
    if rows * columns > MAX_PIXELS:
        raise UnreadableImage(f"too large: {columns}x{rows} pixels, more than {MAX_PIXELS // 10**6} megapixels")
    max_passes = min(MAX_PASSES, MAX_DECODED_PIXELS // (rows * columns))
    if _has_more_passes(data, max_passes):
        raise UnreadableImage(f"too slow to decode: over {max_passes} progressive scans of {columns}x{rows} pixels")
    gray = _decode_strictly(data)
    if gray.shape != (rows, columns):
        raise UnreadableImage(f"corrupt JPEG: header says {columns}x{rows}, data give {gray.shape[1]}x{gray.shape[0]}")
    return gray


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raise MemoryError where OpenCV has too little memory, which it reports as an error of its own."""
    try:
        yield
    except cv2.error as error:
        if getattr(error, "code", None) == cv2.Error.StsNoMem or any(words in str(error) for words in _NO_MEMORY):
            raise MemoryError(str(error)) from None
        raise


def frame_size(data: bytes) -> tuple[int, int]:
    """(rows, columns) that a JPEG's frame header promises, without decoding.

    Raises UnreadableImage if data do not start as a JPEG or hold no frame header.
    """
    if not data:
        raise UnreadableImage("empty file")
    if data[:3] != b"\xff\xd8\xff":
        raise UnreadableImage(f"not a JPEG but {_content_name(data)}")
    for marker, length_at in _segments(data):
        if length_at + 7 > len(data):
            break
        if marker in _FRAMES:
            size = data[length_at + 3 : length_at + 7]
            return int.from_bytes(size[:2]), int.from_bytes(size[2:])
        if marker in (_END_OF_IMAGE, _START_OF_SCAN):
            raise UnreadableImage("corrupt JPEG: no frame header before its data")
    raise UnreadableImage("truncated JPEG: ends before its frame header")


def _decode_strictly(data: bytes) -> Gray:
    """The gray values of a JPEG in which libjpeg finds nothing to warn of but padding between its header's segments.

    Raises UnreadableImage otherwise, and MemoryError.
    """
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "GRAY", strict=True)[:, :, 0], np.uint8)
    except ValueError as error:
        problem = str(error)
    if any(words in problem for words in _NO_MEMORY):
        raise MemoryError(f"too little memory to decode a JPEG: {problem}")
    if "extraneous bytes before marker" in problem:
        # Some writers pad between segments. Within the image data the same words mean that pixels are missing.
        unpadded = _without_padding(data)
        if unpadded != data:
            return _decode_strictly(unpadded)
    if "Premature end of JPEG file" in problem:
        raise UnreadableImage("truncated JPEG")
    raise UnreadableImage(f"corrupt JPEG: {problem.removeprefix('Corrupt JPEG data: ')}")


def _without_padding(data: bytes) -> bytes:
    """A JPEG without the bytes between the segments of its header, up to the first scan."""
    segments = [data[:2]]
    for marker, length_at in _segments(data):
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            segments.append(data[length_at - 2 :])
            break
        segments.append(data[length_at - 2 : length_at + _length(data, length_at)])
    return b"".join(segments)


def _has_more_passes(data: bytes, limit: int) -> bool:
    """Whether a JPEG has more than `limit` scans before the end of its image."""
    if data.count(bytes([0xFF, _START_OF_SCAN])) <= limit:
        return False
    passes = 0
    for marker, _ in _segments(data):
        passes += marker == _START_OF_SCAN
        if marker == _END_OF_IMAGE or passes > limit:
            break
    return passes > limit


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


def _content_name(data: bytes) -> str:
    """The kind of file that data look like which are not a JPEG."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "a WebP"
    if data[128:132] == b"DICM":
        return "a DICOM file"
    if data[:512].lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "an HTML page"
    if not data[:4096].strip(b"\0"):
        return "zero bytes"
    return "something unknown"
