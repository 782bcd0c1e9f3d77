"""What the preparation of one B-scan measured on it. Only the standard library is imported."""

from __future__ import annotations

from dataclasses import dataclass

from octprep.format.flags import Flags


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanMeasurements:
    """Measurements of one B-scan and of its stored pixels; each is a column of images.csv or several.

    The bars of black that keep a scan's shape do not count in the last three.
    """

    fill_fraction: float  # of the source that was fill left by rotation and shifting, 0..1
    crop: tuple[int, int, int, int]  # top, bottom, left, right in source pixels, half open; rows as flattened
    crop_confidence: float  # that the crop holds the retina, 0..1
    note: str  # what of the recipe could not be done, or ""
    flags: Flags = ()  # what is unusual about the scan: codes of `octprep.format.flags`, sorted
    mean_intensity: float  # gray level of the stored pixels, 0..255
    std_intensity: float  # standard deviation of their gray levels
    sharpness: float  # of their layers: row-to-row change of the smoothed pixels, divided by std_intensity
