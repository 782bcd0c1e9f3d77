"""Files that hold many B-scans, DICOM and .vol: which they are by content, what they state, and one B-scan of them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray
from octprep.format.config import Colour
from octprep.format.errors import UnreadableImage
from octprep.format.files import NotReadable, open_regular, read_bytes, retry
from octprep.format.flags import FLOAT, REFLECTANCE, Flags
from octprep.preprocessing import dicom, heyex
from octprep.preprocessing.bit_depth import fourth_root
from octprep.preprocessing.decoding import check_content, decode_jpeg, gray_of
from octprep.preprocessing.dicom import DicomVolume
from octprep.preprocessing.heyex import HeyexVolume
from octprep.preprocessing.limits import MAX_VOLUME_BYTES
from octprep.preprocessing.volume_header import VolumeHeader

HEAD_BYTES = 132  # of a file, that tell whether it is one of these
Volume = DicomVolume | HeyexVolume


def is_volume(head: bytes) -> bool:
    """Whether a file is a DICOM or a .vol, by its first HEAD_BYTES bytes."""
    return _is_dicom(head) or head.startswith(heyex.MAGIC)


def read_header(file: BinaryIO) -> VolumeHeader | None:
    """What a file says of its B-scans, or None if it is neither a DICOM nor a .vol; no pixels are read.

    Raises UnreadableImage with the reason if its B-scans cannot be used, and OSError.
    """
    head = file.read(HEAD_BYTES)
    if not is_volume(head):
        return None
    file.seek(0)
    return dicom.read_header(file) if _is_dicom(head) else heyex.read_header(file)


def load_volume(data: bytes) -> Volume:
    """A file in memory. Raises UnreadableImage as `read_header` does, or if it is neither a DICOM nor a .vol."""
    if not is_volume(data[:HEAD_BYTES]):
        raise UnreadableImage("neither a DICOM nor a .vol, so it has no frames")
    return DicomVolume(data) if _is_dicom(data[:HEAD_BYTES]) else HeyexVolume(data)


def frame_sha256(volume: Volume, number: int) -> str:
    """SHA-256, in hex, of a B-scan as the file stores it, counted from 1. Raises UnreadableImage."""
    _check_number(volume, number)
    return hashlib.sha256(volume.frame_bytes(number)).hexdigest()


def decode_frame(volume: Volume, number: int, colour: Colour = "refuse") -> tuple[Gray, Flags]:
    """The gray values of a B-scan, counted from 1, (rows, columns) uint8, and its flags.

    As `octprep.preprocessing.decode_with_flags` gives those of a file. Reflectance of a .vol becomes 255 * v ** 0.25,
    as the Spectralis shows it. Raises UnreadableImage with the reason, and MemoryError.
    """
    _check_number(volume, number)
    if exclusion := volume.header.frames[number - 1].exclusion:
        raise UnreadableImage(exclusion)
    gray: Gray
    flags: Flags
    if isinstance(volume, HeyexVolume):
        gray, flags = fourth_root(volume.values(number), 1.0), (FLOAT, REFLECTANCE)
    elif (jpeg := volume.jpeg(number)) is not None:
        gray, flags = decode_jpeg(jpeg, colour)
        _check_shape(gray, volume)
        gray = np.invert(gray) if volume.is_inverted else gray
    else:
        pixels = volume.pixels(number)
        _check_shape(pixels, volume)
        if volume.is_inverted:
            pixels = pixels.dtype.type((1 << volume.bits) - 1) - pixels
        gray, flags = gray_of(pixels, colour, volume.bits)
    check_content(gray)
    return gray, flags


def read_volume_header(path: Path) -> VolumeHeader | None:
    """What a file on this machine says of its B-scans, as `read_header` gives it.

    None for a path that is not a regular file, too. Raises UnreadableImage and OSError.
    """
    try:
        with open_regular(path) as file:
            return read_header(file)
    except NotReadable:
        return None


def read_frame(path: Path, number: int, colour: Colour = "refuse") -> tuple[Gray, Flags, float]:
    """The gray values and flags of a B-scan of a file, as `decode_frame` gives them, and the distance of its rows.

    That is in micrometres, and 0 where the file does not state it. Raises as `octprep.preprocessing.read_image` does.
    """
    status = path.stat()
    volume = _loaded(path, status.st_size, status.st_mtime_ns)
    gray, flags = retry(lambda: decode_frame(volume, number, colour))
    return gray, flags, volume.header.frames[number - 1].axial_um


@lru_cache(maxsize=1)  # the next frame is mostly of the same file
def _loaded(path: Path, size: int, modified_ns: int) -> Volume:
    """A file that has this size and time of change."""
    try:
        data, _ = retry(lambda: read_bytes(path, MAX_VOLUME_BYTES))
    except NotReadable as error:
        raise UnreadableImage(str(error)) from None
    return load_volume(data)


def _check_shape(pixels: NDArray[Any], volume: DicomVolume) -> None:
    if pixels.shape[:2] != volume.shape:
        raise UnreadableImage("corrupt DICOM: its frames are not of the size that it states")


def _check_number(volume: Volume, number: int) -> None:
    count = len(volume.header.frames)
    if not 1 <= number <= count:
        raise UnreadableImage(f"it has no frame {number}, but {count:,}")


def _is_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM"
