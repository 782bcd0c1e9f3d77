"""One B-scan as the recipe wants it: cleaned, cropped, denoised, resized, with the affine back to the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.imaging.border import clean, find_border
from octprep.imaging.retina import find_retina
from octprep.schema import IMAGING_REVISION, ManifestError, Recipe

MIN_CONFIDENCE = 0.5  # of the retina crop; below it the whole scan is kept

_INTENSITY = ((np.arange(256) / 255) ** 4).astype(np.float32)  # of each gray level

Gray = NDArray[np.uint8]


@dataclass(frozen=True)
class Prepared:
    """A B-scan as it is stored, and what was found on the way."""

    pixels: Gray  # (recipe.height, recipe.width)
    affine: tuple[
        float, float, float, float, float, float
    ]  # row-major 2x3: stored (column, row, 1) -> source (column, row)
    border: float  # fraction of the source that was fill left by rotation and shifting, 0..1
    crop: tuple[int, int, int, int]  # top, bottom, left, right in source pixels, half open
    confidence: float  # that the crop holds the retina, 0..1
    note: str  # why the whole scan was kept, or ""


def prepare(gray: Gray, recipe: Recipe) -> Prepared:
    """Do to one B-scan what the recipe says: clean the border, crop, denoise, resize.

    gray: (rows, columns) uint8, at least MIN_SIDE a side; it is not changed. Raises ManifestError if the recipe is of
    another revision of this module, which would give other pixels.
    """
    if recipe.revision != IMAGING_REVISION:
        raise ManifestError(
            f"these scans were prepared by revision {recipe.revision} of the imaging, but this version of octprep has "
            f"revision {IMAGING_REVISION} and would give other pixels. Use the version that the manifest names under "
            "libraries, or rebuild the shards."
        )
    rows, columns = gray.shape
    border = find_border(gray) if recipe.clean else None
    left, right, fill, cleaned = 0, columns, 0, gray
    if border is not None:
        left, right = border.trim()
        mask = border.mask()
        fill = cv2.countNonZero(mask)
        cleaned = clean(gray, border, mask)
    top, bottom, confidence, note = 0, rows, 1.0, ""
    if recipe.crop == "retina":
        found = find_retina(cleaned[:, left:right], recipe.margin_above, recipe.margin_below)
        confidence = found.confidence
        if confidence < MIN_CONFIDENCE:
            note = "no clear retina: all rows kept"
        else:
            top, bottom = found.top, found.bottom
    part = denoise(cleaned[top:bottom, left:right], recipe)
    pixels, (x_scale, x_shift), (y_scale, y_shift) = _fit(part, recipe)
    return Prepared(
        pixels=pixels,
        affine=(x_scale, 0.0, x_shift + left, 0.0, y_scale, y_shift + top),
        border=fill / gray.size,
        crop=(top, bottom, left, right),
        confidence=confidence,
        note=note,
    )


def denoise(gray: Gray, recipe: Recipe) -> Gray:
    """The recipe's filter at source resolution; strengths are explained at octprep.schema.DENOISERS."""
    assert recipe.strength is not None
    match recipe.denoise:
        case "median":
            return cv2.medianBlur(gray, int(recipe.strength)).astype(np.uint8, copy=False)
        case "bilateral":
            return cv2.bilateralFilter(gray, 5, recipe.strength, 5).astype(np.uint8, copy=False)
        case "lee":
            return _lee(gray, int(recipe.strength))
        case "nlm":
            filtered = cv2.fastNlMeansDenoising(gray, h=recipe.strength, templateWindowSize=7, searchWindowSize=21)
            return filtered.astype(np.uint8, copy=False)
        case _:
            return gray


def _lee(gray: Gray, window: int) -> Gray:
    """Lee's filter for multiplicative noise (IEEE Trans. PAMI 2:165, 1980), on intensities.

    Devices show the fourth root of the intensity, so that is undone first. Where the light varies no more than speckle
    does, the local mean replaces the pixel; the more it varies, the more of the pixel is kept. How much speckle varies
    is taken from the scan: the median of the local variation.
    """
    light = cv2.LUT(gray, _INTENSITY)
    mean = cv2.boxFilter(light, -1, (window, window))
    variance = np.maximum(cv2.sqrBoxFilter(light, cv2.CV_32F, (window, window)) - mean * mean, 0)
    variation = variance / np.maximum(mean * mean, 1e-12)
    kept = np.clip(1 - float(np.median(variation[::4, ::4])) / np.maximum(variation, 1e-12), 0, 1)
    filtered = np.maximum(mean + kept * (light - mean), 0)
    return np.asarray(cv2.convertScaleAbs(np.sqrt(np.sqrt(filtered)), alpha=255.0), np.uint8)


def _fit(part: Gray, recipe: Recipe) -> tuple[Gray, tuple[float, float], tuple[float, float]]:
    """The stored pixels, and per axis (scale, shift) from stored to source coordinates within the part."""
    rows, columns = part.shape
    if recipe.fit == "stretch":
        height, width, above, beside = recipe.height, recipe.width, 0, 0
    else:
        scale = min(recipe.height / rows, recipe.width / columns)
        height = min(max(round(rows * scale), 1), recipe.height)
        width = min(max(round(columns * scale), 1), recipe.width)
        above, beside = (recipe.height - height) // 2, (recipe.width - width) // 2
    pixels: Any = part
    if height < rows or width < columns:
        # Shrink before anything is enlarged: OpenCV drops the area filter, and aliases, if one axis grows.
        pixels = cv2.resize(part, (min(width, columns), min(height, rows)), interpolation=cv2.INTER_AREA)
    if pixels.shape != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    if (height, width) != (recipe.height, recipe.width):
        pixels = cv2.copyMakeBorder(
            pixels,
            above,
            recipe.height - height - above,
            beside,
            recipe.width - width - beside,
            cv2.BORDER_CONSTANT,
            value=[0.0],
        )
    x, y = columns / width, rows / height
    # Pixel centres: stored s covers source s*x to (s+1)*x, so its centre is (s + 0.5) * x - 0.5.
    return (
        pixels.astype(np.uint8, copy=False),
        (x, (0.5 - beside) * x - 0.5),
        (y, (0.5 - above) * y - 0.5),
    )
