"""JPEG bytes to gray values, with a plain reason for every file that cannot be trusted."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.format import files
from octprep.format.errors import UnreadableImage

MAX_BYTES = 64_000_000  # of a file that is read; a B-scan has some 100 kB
MAX_PIXELS = 64_000_000  # more is a decompression bomb or no B-scan
MIN_SIDE = 64  # pixels; a B-scan has hundreds
# A progressive JPEG holds the image in several scans, usually 6 to 12, and decoding goes over all pixels in each. A few
# bytes make one, so a small file could keep a processor busy for minutes.
MAX_PASSES = 100
_MOST_WORK = 10 * MAX_PIXELS  # pixels times scans
_MOST_SEGMENTS = 10_000  # of a file's structure that is looked through

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
# ITU-T T.81, table B.1: markers that start a frame (SOF0-15 but DHT, JPG, DAC), and those without a length of their own
# (TEM, RST0-7, SOI), which the expression leaves out.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END, _SCAN = 0xD9, 0xDA
# What OpenCV says, in its errors and on standard error, where an allocation fails.
_NO_MEMORY = ("nsufficient memory", "bad_alloc", "can not be created", "Failed to allocate")
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)  # with a length after it, or the end


def read_image(path: Path) -> NDArray[np.uint8]:
    """The gray values of a JPEG file, as `decode` gives them; every limit is asked before the file is read or decoded.

    Raises UnreadableImage with the reason if it is no good image: no regular file (a pipe is never waited for), over
    MAX_BYTES, or what `decode` refuses. Raises OSError or MemoryError if the machine could not read it, after some
    tries; that says nothing about the image.
    """
    try:
        data, _ = files.patiently(lambda: files.read_bytes(path, MAX_BYTES))
    except files.NotReadable as error:
        raise UnreadableImage(str(error)) from None
    return files.patiently(lambda: decode(data))


def decode(data: bytes) -> NDArray[np.uint8]:
    """The gray values of a JPEG, (rows, columns) uint8 in 0..255, as they lie in the file: EXIF rotation is ignored.

    Raises UnreadableImage with the reason if data are no JPEG, over MAX_BYTES, promise under 64 pixels a side or over
    64 megapixels, are a progressive JPEG of too many scans, or are cut short or corrupt; MemoryError if the machine has
    too little memory, OSError if it has no file descriptor left. libjpeg reports damage only by a line on standard
    error, so that file descriptor is watched meanwhile; one decode at a time in a process.
    """
    if len(data) > MAX_BYTES:
        raise UnreadableImage(f"too large: {len(data):,} bytes, more than {MAX_BYTES // 10**6} MB")
    rows, columns = frame_size(data)
    if min(rows, columns) < MIN_SIDE:
        raise UnreadableImage(f"too small: {columns}x{rows} pixels, at least {MIN_SIDE} a side are needed")
    if rows * columns > MAX_PIXELS:
        raise UnreadableImage(f"too large: {columns}x{rows} pixels, more than {MAX_PIXELS // 10**6} megapixels")
    most = min(MAX_PASSES, _MOST_WORK // (rows * columns))
    if _passes(data, most) > most:
        raise UnreadableImage(f"too slow to decode: over {most} progressive scans of {columns}x{rows} pixels")
    gray, complaint = _decoded(data)
    if gray is None:
        # libjpeg does not say whether the data or the memory failed it: see whether what it takes at most can be had.
        np.empty(9 * rows * columns + 2**24, np.uint8)
        gray, complaint = _decoded(data)
    if gray is None:
        cut = data.rstrip(b"\0")[-2:] != b"\xff\xd9"
        raise UnreadableImage("truncated JPEG" if cut else f"corrupt JPEG{complaint}")
    if complaint:
        raise UnreadableImage(f"corrupt JPEG{complaint}")
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
        raise UnreadableImage(f"not a JPEG but {_name(data)}")
    for marker, at in _segments(data):
        if at + 7 > len(data):
            break
        if marker in _FRAMES:
            return int.from_bytes(data[at + 3 : at + 5]), int.from_bytes(data[at + 5 : at + 7])
        if marker in (_END, _SCAN):
            raise UnreadableImage("corrupt JPEG: no frame header before its data")
    raise UnreadableImage("truncated JPEG: ends before its frame header")


def _passes(data: bytes, most: int) -> int:
    """How many scans of progressive data there are up to the end of the image, as far as one more than `most`."""
    if data.count(bytes([0xFF, _SCAN])) <= most:
        return most  # of which some may be bytes of something else
    found = 0
    for marker, _ in _segments(data):
        found += marker == _SCAN
        if marker == _END or found > most:
            break
    return found


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Each marker that has a length, or is the end, and where its length stands. Entropy-coded data are passed over.

    libjpeg skips what stands between segments, so does this. Raises UnreadableImage if there are too many.
    """
    at = 2
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None:
            return
        at = found.end()
        yield found[1][0], at
        at += max(int.from_bytes(data[at : at + 2]), 2)
    raise UnreadableImage(f"corrupt JPEG: more than {_MOST_SEGMENTS:,} segments")


def _decoded(data: bytes) -> tuple[NDArray[np.uint8] | None, str]:
    """The gray values, or None, and what libjpeg has to complain of. Raises MemoryError."""
    with _STDERR.watched() as said:
        try:
            with memory_errors():
                flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
                gray: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            gray = None
    if gray is None and any(words in line for line in said for words in _NO_MEMORY):
        raise MemoryError("too little memory to decode a JPEG")
    return gray, _complaint(said)


def _name(data: bytes) -> str:
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


def _complaint(said: list[str]) -> str:
    """': ' and libjpeg's first word on corruption among captured lines; the rest goes to the real stderr."""
    found = ""
    for line in said:
        # Bytes before a marker are skipped without harm, as some writers pad there; but where they stand before the end
        # of the image (0xd9), its pixels ran out early: damage that the decoder's tables happened to accept.
        harmless = "extraneous bytes before marker" in line and not line.rstrip().endswith("0xd9")
        if not harmless and line.startswith(("Corrupt JPEG data", "Premature end")):
            found = found or ": " + line.removeprefix("Corrupt JPEG data: ").strip()
        elif not harmless:
            with contextlib.suppress(OSError):
                os.write(2, (line + "\n").encode())
    return found


class _Stderr:
    """File descriptor 2, put aside while a decoder runs."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sink = -1

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[str]]:
        """The list that is yielded holds, afterwards, the lines written to file descriptor 2 meanwhile."""
        said: list[str] = []
        with self.lock:
            if self.sink < 0:
                self.sink = _new_sink()
            try:
                aside = os.dup(2)
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                aside = -1  # closed, as in a daemon: then it is closed again afterwards
            os.dup2(self.sink, 2)
            try:
                yield said
            finally:
                if aside < 0:
                    os.close(2)
                else:
                    os.dup2(aside, 2)
                    os.close(aside)
                if size := os.lseek(self.sink, 0, os.SEEK_CUR):
                    os.lseek(self.sink, 0, os.SEEK_SET)
                    said += os.read(self.sink, size).decode(errors="replace").splitlines()
                    os.lseek(self.sink, 0, os.SEEK_SET)
                    os.ftruncate(self.sink, 0)

    def forked(self) -> None:
        """A child gets a sink of its own: it would share its parent's file position."""
        self.sink = -1
        self.lock.release()


def _new_sink() -> int:
    if hasattr(os, "memfd_create"):
        sink = os.memfd_create("jpeg-messages")
    else:
        with tempfile.TemporaryFile() as file:
            sink = os.dup(file.fileno())
    if sink > 2:
        return sink
    # A standard stream was closed and its number is given out again: stay off it, or the sink would be standard error.
    try:
        return _new_sink()
    finally:
        os.close(sink)


_STDERR = _Stderr()
if hasattr(os, "register_at_fork"):
    # A child forked while another thread decodes would keep the sink as its standard error.
    os.register_at_fork(
        before=_STDERR.lock.acquire, after_in_parent=_STDERR.lock.release, after_in_child=_STDERR.forked
    )
