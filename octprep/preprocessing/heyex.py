"""Volumes of the Heidelberg Spectralis (.vol, as HEYEX exports them), with NumPy alone.

A header of 2,048 bytes, the fundus image, then for each B-scan a header and its values, float32: linear reflectance in
0..1, or the largest float32 where there is none. The places of the fields are those that eyepy 0.21 reads
(https://github.com/MedVisBonn/eyepy, src/eyepy/io/he/vol_reader.py).
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octprep.format.config import believed_axial_um
from octprep.format.errors import UnreadableImage
from octprep.preprocessing.limits import check_volume
from octprep.preprocessing.volume_header import FrameFacts, VolumeHeader

MAGIC = b"HSF-OCT-"
HEADER_BYTES = 2048
# Version, columns, B-scans, rows; millimetres a column, between B-scans and a row; columns and rows of the fundus
# image; the eye, the pattern of the scan, the bytes of a B-scan's header and the patient's id.
_FIELDS = struct.Struct("<12s3I 3d 2I 28x 4s 8x i I 36x 24s")
_CIRCLE = 2  # the pattern of a circular scan
_INVALID = 3.4e38  # and above: no value
_MIN_BSCAN_HEADER = 256


class _Fields(NamedTuple):
    """The fields of the header that are used."""

    columns: int
    frames: int
    rows: int
    row_mm: float
    fundus_bytes: int
    eye: str
    pattern: int
    bscan_header: int  # bytes
    patient: str

    @property
    def stride(self) -> int:
        """Bytes from one B-scan to the next."""
        return self.bscan_header + 4 * self.rows * self.columns

    @property
    def total(self) -> int:
        """Bytes of the file, up to the end of its last B-scan."""
        return HEADER_BYTES + self.fundus_bytes + self.frames * self.stride


def read_header(file: BinaryIO) -> VolumeHeader:
    """What a volume says of its B-scans. Raises UnreadableImage if they cannot be used, and OSError."""
    file.seek(0)
    fields = _fields(file.read(HEADER_BYTES))
    size = file.seek(0, 2)
    return _header(fields, size)


class HeyexVolume:
    """A .vol file in memory."""

    def __init__(self, data: bytes) -> None:
        """Raises UnreadableImage as `read_header` does."""
        self._data, self._fields = data, _fields(data[:HEADER_BYTES])
        self.header = _header(self._fields, len(data))

    def frame_bytes(self, number: int) -> bytes:
        """The bytes of a B-scan's values, counted from 1, after its size."""
        fields = self._fields
        end = HEADER_BYTES + fields.fundus_bytes + number * fields.stride
        return f"{fields.rows}x{fields.columns}\n".encode() + self._data[end - 4 * fields.rows * fields.columns : end]

    def values(self, number: int) -> NDArray[Any]:
        """The reflectance of a B-scan: (rows, columns) float32, 0 where there is none."""
        fields = self._fields
        start = HEADER_BYTES + fields.fundus_bytes + (number - 1) * fields.stride + fields.bscan_header
        stored = np.frombuffer(self._data, "<f4", fields.rows * fields.columns, start).reshape(fields.rows, -1)
        is_valid = np.isfinite(stored) & (stored < _INVALID)
        if not is_valid.any():
            raise UnreadableImage("a B-scan without a single valid value")
        return np.where(is_valid, stored, np.float32(0))


def _fields(head: bytes) -> _Fields:
    if len(head) < HEADER_BYTES:
        raise UnreadableImage("truncated .vol: it ends within its header")
    _, columns, frames, rows, _, _, row_mm, *fundus, eye, pattern, bscan_header, patient = _FIELDS.unpack_from(head)
    texts = (text.partition(b"\0")[0].decode("latin-1").strip() for text in (eye, patient))
    return _Fields(
        columns, frames, rows, row_mm, fundus[0] * fundus[1], next(texts), pattern, bscan_header, next(texts)
    )


def _header(fields: _Fields, size: int) -> VolumeHeader:
    check_volume(fields.frames, fields.rows, fields.columns)
    if fields.bscan_header < _MIN_BSCAN_HEADER:
        raise UnreadableImage(f"corrupt .vol: headers of {fields.bscan_header} bytes")
    if size < fields.total:
        raise UnreadableImage(f"truncated .vol: {size:,} of {fields.total:,} bytes")
    if fields.pattern == _CIRCLE:
        raise UnreadableImage("circular scan: a B-scan along a circle, not along a line")
    facts = FrameFacts(
        eye=fields.eye if fields.eye in ("OD", "OS") else "",
        axial_um=believed_axial_um(fields.row_mm * 1000),
    )
    return VolumeHeader(fields.patient, (facts,) * fields.frames)
