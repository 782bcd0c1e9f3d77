"""DICOM and .vol files of B-scans, written for tests."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.worlds.archive import draw_scan

OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
PHOTOGRAPH = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
LITTLE, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
IMPLICIT = "1.2.840.10008.1.2"
JPEG_BASELINE, JPEG_2000, RLE = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
INVALID = np.float32(np.finfo(np.float32).max)  # where a .vol has no value


def drawn(key: str, frames: int = 3, height: int = 96, width: int = 128) -> np.ndarray:
    """Several B-scans, different for every key: (frames, height, width) uint8."""
    return np.stack([draw_scan(f"{key}-{index}", height, width) for index in range(frames)])


def dicom(
    pixels: np.ndarray,
    *,
    syntax: str = LITTLE,
    encoded: Sequence[bytes] | None = None,  # the frames, instead of the pixels without compression
    eyes: Sequence[str] = (),  # R or L of each frame
    orientations: Sequence[str] = (),  # of each frame
    spacing: Sequence[float] | None = None,  # mm of rows and columns, for all frames
    attributes: Mapping[str, Any] | None = None,  # in place of the usual ones; None leaves one out
) -> bytes:
    """An Ophthalmic Tomography Image. pixels: (frames, rows, columns) uint8 or uint16, or (..., 3) uint8."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, generate_uid

    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = UID(syntax)
    found.file_meta.MediaStorageSOPClassUID, found.file_meta.MediaStorageSOPInstanceUID = UID(OPT), generate_uid()
    values: dict[str, Any] = {
        "SOPClassUID": OPT,
        "SOPInstanceUID": generate_uid(),
        "Modality": "OPT",
        "PatientID": "P7",
        "NumberOfFrames": len(pixels),
        "Rows": pixels.shape[1],
        "Columns": pixels.shape[2],
        "SamplesPerPixel": 3 if pixels.ndim == 4 else 1,
        "PhotometricInterpretation": "RGB" if pixels.ndim == 4 else "MONOCHROME2",
        "BitsAllocated": pixels.itemsize * 8,
        "BitsStored": pixels.itemsize * 8,
        "HighBit": pixels.itemsize * 8 - 1,
        "PixelRepresentation": 0,
    }
    if pixels.ndim == 4:
        values["PlanarConfiguration"] = 0
    for name, value in {**values, **(attributes or {})}.items():
        if value is not None:
            setattr(found, name, value)
    if spacing:
        found.SharedFunctionalGroupsSequence = [_item(PixelMeasuresSequence=[_item(PixelSpacing=list(spacing))])]
    if eyes or orientations:
        found.PerFrameFunctionalGroupsSequence = []
        for index in range(len(pixels)):
            group = Dataset()
            if eyes:
                group.FrameAnatomySequence = [_item(FrameLaterality=eyes[index])]
            if orientations:
                location = _item(OphthalmicImageOrientation=orientations[index])
                group.OphthalmicFrameLocationSequence = [location]
            found.PerFrameFunctionalGroupsSequence.append(group)
    if encoded is not None:
        found.PixelData = encapsulate(list(encoded))
    elif syntax == RLE:
        found.PixelData = pixels.tobytes()
        found.file_meta.TransferSyntaxUID = UID(LITTLE)
        found.compress(RLE, generate_instance_uid=False)
    else:
        order = ">" if syntax == BIG else "<"
        found.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    if "PixelData" in found:
        found["PixelData"].VR = "OB" if encoded is not None or syntax == RLE or pixels.itemsize == 1 else "OW"
    stream = io.BytesIO()
    found.save_as(
        stream,
        enforce_file_format=True,
        **({} if found.file_meta.TransferSyntaxUID.is_compressed else _encoding(syntax)),
    )
    return stream.getvalue()


def _encoding(syntax: str) -> dict[str, bool]:
    return {"implicit_vr": syntax == IMPLICIT, "little_endian": syntax != BIG}


def _item(**attributes: Any) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return item


def vol(
    values: np.ndarray,
    *,
    eye: str = "OD",
    row_mm: float = 0.00387,
    pattern: int = 3,
    patient: str = "P7",
    layers: int = 3,
    fundus: tuple[int, int] = (48, 40),
) -> bytes:
    """A volume of the Spectralis of (B-scans, rows, columns) reflectance, as eyepy's reader has its format."""
    frames, rows, columns = values.shape
    header_bytes = 256 + 4 * layers * columns + 100
    head = struct.pack(
        "<12s3I 3d 2I 2d I d 4s Q i I 16s 16s I 24s d I 24s d 4I 34s 1790x",
        b"HSF-OCT-103", columns, frames, rows, 0.0116, 0.12, row_mm, fundus[1], fundus[0], 0.0116, 0.0116, 30, 0.5,
        eye.encode(), 131_000_000_000_000_000, pattern, header_bytes, b"2390", b"", 12, patient.encode(), 20_000.0, 3,
        b"", 43_000.0, 0, 0, 0, 0, b"",
    )  # fmt: skip
    assert len(head) == 2048
    picture = np.arange(fundus[0] * fundus[1]).astype(np.uint8).tobytes()
    heights = np.full((layers, columns), rows / 2, "<f4").tobytes()
    bscan = struct.pack(
        "<12sI 4d 2I f I 6f 168x", b"HSF-BS-103", header_bytes, 0, 0, 5, 0, layers, 256, 30.0, 0, *[0.0] * 6
    )
    return head + picture + b"".join(bscan + heights + bytes(100) + frame.astype("<f4").tobytes() for frame in values)


def reflectance(gray: np.ndarray) -> np.ndarray:
    """Gray levels as reflectance that is shown as these levels: float32 in 0..1."""
    return ((gray.astype(np.float64) / 255) ** 4).astype(np.float32)
