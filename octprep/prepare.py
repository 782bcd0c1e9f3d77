"""Prepare one B-scan: read its file, preprocess and measure it, the same for builds and inspections."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from octprep import preprocessing
from octprep.arrays import Gray
from octprep.format.config import Preprocessing
from octprep.format.measurements import ScanMeasurements
from octprep.preprocessing import Geometry
from octprep.preprocessing.fill_detection import fill_reason
from octprep.source.files import Exclusion, Scan, ScanFile
from octprep.source.reading import read_scan
from octprep.storage.remote import Source

MAX_FILL_FRACTION = 0.9  # a scan with more fill than that is excluded


@dataclass(frozen=True)
class PreparedScan:
    """One B-scan, read and preprocessed."""

    scan: Scan  # with the digest of its stored pixels
    pixels: Gray  # (recipe.height, recipe.width), as they are stored
    geometry: Geometry
    measurements: ScanMeasurements  # rounded, as images.csv has them
    source: Gray  # (scan.height, scan.width), as it was decoded


def prepare_scan(src: Source, scan_file: ScanFile, recipe: Preprocessing) -> PreparedScan | Exclusion:
    """Read, decode, preprocess and measure one B-scan, or say why it is excluded.

    src: the source, a folder or a URL. scan_file: a file of its listing. Raises as `read_scan` does,
    StoppedError if the file is gone or not the one that was listed, OSError or MemoryError if the machine could not
    read it; and ManifestError or SettingError as `preprocessing.preprocess` does.
    """
    result = read_scan(src, scan_file, recipe.colour)
    if isinstance(result, Exclusion):
        return result
    scan, gray, flags = result
    image = preprocessing.preprocess(gray, recipe, flags, scan_file.axial_um or None)
    fill_fraction = image.measurements.fill_fraction
    if fill_fraction > MAX_FILL_FRACTION:
        return Exclusion(scan_file.path, fill_reason(fill_fraction))
    return PreparedScan(
        scan=scan.with_pixels(hashlib.sha256(image.pixels.tobytes()).digest()),
        pixels=image.pixels,
        geometry=image.geometry,
        measurements=_rounded(image.measurements),
        source=gray,
    )


def _rounded(measurements: ScanMeasurements) -> ScanMeasurements:
    """To the digits that images.csv has."""
    return ScanMeasurements(
        crop=measurements.crop,
        note=measurements.note,
        flags=measurements.flags,
        fill_fraction=round(measurements.fill_fraction, 6),
        crop_confidence=round(measurements.crop_confidence, 4),
        mean_intensity=round(measurements.mean_intensity, 2),
        std_intensity=round(measurements.std_intensity, 2),
        sharpness=round(measurements.sharpness, 4),
    )
