"""DICOM files of B-scans (Ophthalmic Tomography Image), by pydicom, which the extra `dicom` installs.

Attributes are named as in the DICOM standard, PS3.3 (A.52 and C.8.17). JPEG frames are decoded as JPEG files are;
pydicom decodes all others, by Pillow where they are JPEG 2000.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from octprep.format.config import believed_axial_um
from octprep.format.errors import UnreadableImage
from octprep.preprocessing.limits import check_volume
from octprep.preprocessing.pillow_formats import WARNING_FILTERS
from octprep.preprocessing.volume_header import FrameFacts, VolumeHeader

_TOMOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.4"  # Ophthalmic Tomography Image Storage
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"  # transfer syntax: 8 bits, lossy
_OPHTHALMIC = "1.2.840.10008.5.1.4.1.1.77.1.5."  # of photographs, en-face images and measurements too
_EYES = {"R": "OD", "L": "OS"}
_GRAY, _COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
# Of Ophthalmic Image Orientation (0022,0039): LINEAR is a B-scan along a line.
_ORIENTATIONS = {
    "NONLINEAR": "circular scan: a B-scan along a circle or another curve, not along a line",
    "TRANSVERSE": "en-face image: a slice at one depth, not a B-scan",
}
_HEADER = (
    "SOPClassUID", "Modality", "PatientID", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel",
    "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "ImageLaterality", "Laterality", "PixelSpacing", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_PIXELS = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")


def read_header(file: BinaryIO) -> VolumeHeader:
    """What a DICOM file says of its frames; its pixels are not read.

    Raises UnreadableImage with the reason if it holds no B-scans that can be decoded, OSError and MemoryError.
    """
    with _reading("DICOM"):
        return _header(_dataset(file, _HEADER, stop_before_pixels=True))


class DicomVolume:
    """A DICOM file in memory."""

    def __init__(self, data: bytes) -> None:
        """Raises UnreadableImage as `read_header` does, or if the file ends early."""
        with _reading("DICOM"):
            self._dataset = _dataset(io.BytesIO(data), (*_HEADER, *_PIXELS))
            self.header = _header(self._dataset)
            if "PixelData" not in self._dataset:
                raise UnreadableImage("truncated DICOM: it ends before its pixels")
            self.bits = int(self._dataset.BitsStored)
            self.shape = (int(self._dataset.Rows), int(self._dataset.Columns))  # of each frame

    def frame_bytes(self, number: int) -> bytes:
        """The bytes of a frame, counted from 1, as they are stored, after what decides how they are shown."""
        found = self._dataset
        with _reading("DICOM"):
            shown = (
                found.PhotometricInterpretation,
                found.BitsStored,
                found.Rows,
                found.Columns,
                found.file_meta.TransferSyntaxUID,
            )
            return f"{shown}\n".encode() + self._stored(number)

    def jpeg(self, number: int) -> bytes | None:
        """The JPEG that holds a frame in gray; None if it is stored otherwise."""
        if self._dataset.file_meta.TransferSyntaxUID != _JPEG_BASELINE or self._dataset.SamplesPerPixel != 1:
            return None
        with _reading("DICOM"):
            return self._stored(number)

    def pixels(self, number: int) -> NDArray[Any]:
        """The values of a frame: gray, (rows, columns) uint8 or uint16, or (rows, columns, 3) uint8 RGB."""
        from pydicom.pixels.utils import pixel_array

        with _reading("DICOM"):
            values = pixel_array(self._dataset, index=number - 1)
        if values.ndim == 3:
            return np.ascontiguousarray(values, np.uint8)
        return np.asarray(values & values.dtype.type((1 << self.bits) - 1))

    @property
    def is_inverted(self) -> bool:
        """Whether the smallest value is white."""
        return bool(self._dataset.PhotometricInterpretation == "MONOCHROME1")

    def _stored(self, number: int) -> bytes:
        from pydicom.encaps import get_frame
        from pydicom.pixels.utils import get_expected_length

        found, frames = self._dataset, len(self.header.frames)
        if found.file_meta.TransferSyntaxUID.is_compressed:
            table = (found.get("ExtendedOffsetTable"), found.get("ExtendedOffsetTableLengths"))
            offsets = table if all(table) else None
            return bytes(get_frame(found.PixelData, number - 1, extended_offsets=offsets, number_of_frames=frames))
        length = get_expected_length(found) // frames
        stored = found.PixelData[(number - 1) * length : number * length]
        if len(stored) < length:
            raise UnreadableImage("truncated DICOM: it ends within its pixels")
        return bytes(stored)


def _dataset(file: BinaryIO, tags: tuple[str, ...], **options: Any) -> Any:
    """The attributes of a file. Raises UnreadableImage without pydicom."""
    try:
        import pydicom
    except ImportError:
        raise UnreadableImage("a DICOM file, which needs pydicom (pip install 'octprep[dicom]')") from None
    return pydicom.dcmread(file, specific_tags=list(tags), **options)


def _header(found: Any) -> VolumeHeader:
    _check_kind(found)
    frames, rows, columns = (int(found.get(name) or 0) for name in ("NumberOfFrames", "Rows", "Columns"))
    frames = frames if "NumberOfFrames" in found else 1
    if not rows or not columns:
        raise UnreadableImage("a DICOM file without pixels")
    check_volume(frames, rows, columns)
    _check_pixels(found)
    return VolumeHeader(
        patient=str(found.get("PatientID") or "").strip(),
        frames=tuple(_facts(found, index) for index in range(frames)),
    )


def _check_kind(found: Any) -> None:
    """Raise UnreadableImage for a DICOM that states that it is no B-scan, or states nothing."""
    from pydicom.uid import UID

    kind, modality = UID(found.get("SOPClassUID") or ""), found.get("Modality")
    # Files that were converted for research are often a Secondary Capture with the modality of tomography.
    if kind != _TOMOGRAPHY and (modality != "OPT" or kind.startswith(_OPHTHALMIC)):
        raise UnreadableImage(f"a DICOM of another kind: {kind.name or 'none'}, modality {modality or 'not stated'}")


def _check_pixels(found: Any) -> None:
    """Raise UnreadableImage for pixels without gray values, or compressed in a way that is not read here."""
    from pydicom.pixels.decoders.base import get_decoder

    samples, photometric = found.get("SamplesPerPixel", 1), found.get("PhotometricInterpretation")
    if (samples, photometric) not in {*((1, name) for name in _GRAY), *((3, name) for name in _COLOUR)}:
        raise UnreadableImage(f"pixels without a gray level: {photometric}; give an image in gray or RGB")
    allocated, stored = found.get("BitsAllocated"), found.get("BitsStored")
    is_known = allocated in ((8, 16) if samples == 1 else (8,)) and 8 <= (stored or 0) <= allocated
    is_signed = found.get("PixelRepresentation", 0) != 0
    if not is_known or found.get("HighBit", stored - 1) != stored - 1 or is_signed:
        kind = f"{stored} of {allocated} bits{', signed' if is_signed else ''}"
        raise UnreadableImage(f"pixels of a kind that is not read: {kind}; export its B-scans as PNG")
    found.SamplesPerPixel = samples
    found.PixelRepresentation = 0
    syntax = found.file_meta.TransferSyntaxUID
    try:
        is_decoded = get_decoder(syntax).is_available
    except NotImplementedError:
        is_decoded = False
    if not is_decoded:
        raise UnreadableImage(
            f"compressed in a way that is not read here: {syntax.name}; pylibjpeg with its plugins or pyjpegls may "
            "decode it (pip install)"
        )


def _facts(found: Any, index: int) -> FrameFacts:
    """What the file states of a frame, counted from 0: its own functional groups, then those of all frames."""
    of_frames, of_all = (found.get(f"{name}FunctionalGroupsSequence") or () for name in ("PerFrame", "Shared"))
    groups = [*of_frames[index : index + 1], *of_all[:1]]

    def stated(macro: str, name: str) -> Any:
        for group in groups:
            items = group.get(macro) or ()
            if items and (value := items[0].get(name)):
                return value
        return None

    eye = stated("FrameAnatomySequence", "FrameLaterality")
    eye = eye or found.get("ImageLaterality") or found.get("Laterality") or ""
    spacing = stated("PixelMeasuresSequence", "PixelSpacing") or found.get("PixelSpacing")
    orientation = stated("OphthalmicFrameLocationSequence", "OphthalmicImageOrientation") or ""
    return FrameFacts(
        eye=_EYES.get(str(eye), ""),
        axial_um=believed_axial_um(float(spacing[0]) * 1000) if spacing else 0.0,
        exclusion=_ORIENTATIONS.get(str(orientation), ""),
    )


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Raise UnreadableImage for whatever is wrong with the file; OSError only if the machine could not read it."""
    from PIL import Image

    try:
        with WARNING_FILTERS, warnings.catch_warnings(action="ignore"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        text = " ".join(str(error).split())[:200] or type(error).__name__
        problem = "truncated" if isinstance(error, EOFError) or "less than expected" in text else "corrupt"
        raise UnreadableImage(f"{problem} {what}: {text}") from None
