"""JPEG bytes to gray values, with a plain reason for every file that cannot be trusted."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.schema import UnreadableImage

MAX_PIXELS = 64_000_000  # more is a decompression bomb or no B-scan
MIN_SIDE = 64  # pixels; a B-scan has hundreds

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
# Markers without a length of their own (TEM, RST0-7, SOI), and those that start a frame (SOF0-15 but DHT, JPG, DAC):
# ITU-T T.81, table B.1.
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END, _SCAN = 0xD9, 0xDA


def decode(data: bytes) -> NDArray[np.uint8]:
    """The gray values of a JPEG, (rows, columns) uint8 in 0..255, as they lie in the file: EXIF rotation is ignored.

    Raises UnreadableImage with the reason if data are no JPEG, promise under 64 pixels a side or over 64 megapixels,
    or are cut short or corrupt. libjpeg reports the last only by a line on standard error, so that file descriptor is
    watched meanwhile; one decode at a time in a process.
    """
    rows, columns = frame_size(data)
    if min(rows, columns) < MIN_SIDE:
        raise UnreadableImage(f"too small: {columns}x{rows} pixels, at least {MIN_SIDE} a side are needed")
    if rows * columns > MAX_PIXELS:
        raise UnreadableImage(f"too large: {columns}x{rows} pixels, more than {MAX_PIXELS // 10**6} megapixels")
    with _STDERR.watched() as said:
        try:
            flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
            gray: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            gray = None
    complaint = _complaint(said)
    if gray is None:
        cut = data.rstrip(b"\0")[-2:] != b"\xff\xd9"
        raise UnreadableImage("truncated JPEG" if cut else f"corrupt JPEG{complaint}")
    if complaint:
        raise UnreadableImage(f"corrupt JPEG{complaint}")
    if gray.shape != (rows, columns):
        raise UnreadableImage(f"corrupt JPEG: header says {columns}x{rows}, data give {gray.shape[1]}x{gray.shape[0]}")
    pixels: NDArray[np.uint8] = gray
    return pixels


def frame_size(data: bytes) -> tuple[int, int]:
    """(rows, columns) that a JPEG's frame header promises, without decoding.

    Raises UnreadableImage if data do not start as a JPEG or hold no frame header.
    """
    if not data:
        raise UnreadableImage("empty file")
    if data[:3] != b"\xff\xd8\xff":
        raise UnreadableImage(f"not a JPEG but {_name(data)}")
    at = 2
    while True:
        at = data.find(b"\xff", at)  # libjpeg skips what stands between segments, so do we
        while 0 <= at < len(data) and data[at] == 0xFF:
            at += 1
        if at < 0 or at + 8 > len(data):
            raise UnreadableImage("truncated JPEG: ends before its frame header")
        marker = data[at]
        if marker in _FRAMES:
            return int.from_bytes(data[at + 4 : at + 6]), int.from_bytes(data[at + 6 : at + 8])
        if marker in (_END, _SCAN):
            raise UnreadableImage("corrupt JPEG: no frame header before its data")
        at += 1
        if marker and marker not in _BARE:
            at += max(int.from_bytes(data[at : at + 2]), 2)


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
            except OSError:  # closed, as in a daemon: then it is closed again afterwards
                aside = -1
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
