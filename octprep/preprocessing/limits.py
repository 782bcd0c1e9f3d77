"""How large an image may be. It is checked by the headers, before anything is decoded."""

from __future__ import annotations

from octprep.format.errors import UnreadableImage

MAX_BYTES = 64_000_000  # of a file that is read; a B-scan has some 100 kB
MAX_PIXELS = 64_000_000  # more is a decompression bomb, or not a B-scan
MIN_SIDE = 64  # pixels; a B-scan has hundreds
MAX_VOLUME_BYTES = (
    1_000_000_000  # of a file that holds many B-scans; 97 of the Spectralis in floating point take 200 MB
)
MAX_FRAMES = 10_000  # B-scans of a file; devices take some hundred
MAX_VOXELS = 4_000_000_000  # pixels of all its B-scans


def check_size(rows: int, columns: int) -> None:
    """Raise UnreadableImage for an image that is too small for a B-scan, or too large to decode."""
    if min(rows, columns) < MIN_SIDE:
        raise UnreadableImage(f"too small: {columns}x{rows} pixels, at least {MIN_SIDE} a side are needed")
    if rows * columns > MAX_PIXELS:
        raise UnreadableImage(f"too large: {columns}x{rows} pixels, more than {MAX_PIXELS // 10**6} megapixels")


def check_volume(frames: int, rows: int, columns: int) -> None:
    """Raise UnreadableImage for a file that states no B-scan, B-scans of a wrong size, or too many of them."""
    check_size(rows, columns)
    if frames < 1:
        raise UnreadableImage("it states that it holds no frame")
    if frames > MAX_FRAMES or frames * rows * columns > MAX_VOXELS:
        raise UnreadableImage(f"too large: {frames:,} frames of {columns}x{rows} pixels")
