"""The steps from a decoded B-scan to the stored pixels: clean, crop and flatten, denoise, resize."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from octprep.arrays import Gray
from octprep.format.config import PREPROCESSING_VERSION, Preprocessing
from octprep.format.errors import ManifestError
from octprep.format.flags import GRAPHICS, NO_LAYERS, SMALL, WHITE_FRAME, Flags, merged_flags
from octprep.format.measurements import ScanMeasurements
from octprep.preprocessing.crop import clean_and_crop
from octprep.preprocessing.denoising import denoise
from octprep.preprocessing.geometry import Geometry, placement
from octprep.preprocessing.graphics import without_graphics
from octprep.preprocessing.page_layout import find_white_frame
from octprep.preprocessing.resizing import resize
from octprep.preprocessing.retina_detection import has_layers, reduce_scan

SMALL_WIDTH = 300  # columns; the narrowest scans of the archive have 384


@dataclass(frozen=True)
class PreprocessedImage:
    """A B-scan as it is stored."""

    pixels: Gray  # (recipe.height, recipe.width)
    geometry: Geometry
    measurements: ScanMeasurements


def preprocess(
    gray: Gray, recipe: Preprocessing, flags: Flags = (), axial_um: float | None = None
) -> PreprocessedImage:
    """Preprocess one B-scan as the recipe says.

    gray: (rows, columns) uint8, at least MIN_SIDE a side; it is not changed. flags: that its decoding gave, to which
    those found here are added. axial_um: distance of two rows in micrometres, where the source states it; only --crop
    band uses it. Equal input gives equal pixels. Raises ManifestError if the recipe is of another version of the
    preprocessing, which would give other pixels, and SettingError if its denoiser is not installed.
    """
    if recipe.version != PREPROCESSING_VERSION:
        raise ManifestError(
            f"these scans were prepared by version {recipe.version} of the preprocessing, but the octprep installed "
            f"here has version {PREPROCESSING_VERSION}, which would give other pixels. Install the octprep that the "
            "manifest names under libraries, or rebuild the shards."
        )
    unmarked = without_graphics(gray)
    cropped = clean_and_crop(gray if unmarked is None else unmarked, recipe, axial_um)
    top, bottom, left, right = placement(cropped.crop, recipe)
    pixels = resize(denoise(cropped.pixels, recipe), bottom - top, right - left)
    mean, std, sharpness = measure_intensity(pixels)
    if pixels.shape != (recipe.height, recipe.width):
        bars = (top, recipe.height - bottom, left, recipe.width - right)
        pixels = np.asarray(cv2.copyMakeBorder(pixels, *bars, cv2.BORDER_CONSTANT, value=[0.0]), np.uint8)
    return PreprocessedImage(
        pixels,
        Geometry.of_crop(cropped.crop, recipe, cropped.rpe_curve),
        ScanMeasurements(
            fill_fraction=cropped.fill_fraction,
            crop=cropped.crop,
            crop_confidence=cropped.confidence,
            note=cropped.note,
            flags=merged_flags(
                flags,
                cropped.flags,
                (GRAPHICS,) if unmarked is not None else (),
                (SMALL,) if gray.shape[1] < SMALL_WIDTH else (),
            ),
            mean_intensity=mean,
            std_intensity=std,
            sharpness=sharpness,
        ),
    )


def find_flags(gray: Gray, flags: Flags = ()) -> Flags:
    """The flags that `preprocess` gives a scan, without preprocessing it. flags: that its decoding gave."""
    unmarked = without_graphics(gray)
    scan = gray if unmarked is None else unmarked
    inside = find_white_frame(scan)
    if inside is not None:
        top, bottom, left, right = inside
        scan = scan[top:bottom, left:right]
    return merged_flags(
        flags,
        (WHITE_FRAME,) if inside is not None else (),
        () if has_layers(reduce_scan(scan)) else (NO_LAYERS,),
        (GRAPHICS,) if unmarked is not None else (),
        (SMALL,) if gray.shape[1] < SMALL_WIDTH else (),
    )


def measure_intensity(pixels: Gray) -> tuple[float, float, float]:
    """Mean, standard deviation and sharpness of stored pixels, as ScanMeasurements explains them.

    pixels: (rows, columns) uint8 without bars. Sharpness is the root mean square of the central row-to-row difference
    of the smoothed pixels, divided by their standard deviation; 0 for fewer than three rows. Speckle is smoothed away
    first (mean of 5x5 pixels), so that noise does not pass for sharpness.
    """
    mean, std = mean_and_std(pixels)
    smooth = cv2.blur(pixels, (5, 5))
    above, below = smooth[:-2], smooth[2:]
    change = cv2.norm(below, above, cv2.NORM_L2) / math.sqrt(below.size) if below.size else 0.0
    return mean, std, float(change / max(std, 1e-6))


def mean_and_std(gray: Gray) -> tuple[float, float]:
    """Mean and standard deviation of gray levels, 0..255."""
    mean, std = (float(value[0, 0]) for value in cv2.meanStdDev(gray))
    return mean, std
