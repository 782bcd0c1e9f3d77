"""One B-scan as the recipe wants it: cleaned, cropped, straightened, denoised, resized; and the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray
from octprep.format.config import FIELDS_OF_VIEW, PREPROCESSING_VERSION, Preprocessing
from octprep.format.errors import ManifestError
from octprep.preprocessing.denoising import denoise
from octprep.preprocessing.fill_detection import find_border
from octprep.preprocessing.fill_inpainting import Speckle, mirror_sides, paint_rows
from octprep.preprocessing.retina_detection import Retina, find_retina, shift

MIN_CONFIDENCE = 0.5  # of the retina crop; below it the whole scan is kept


@dataclass(frozen=True)
class Prepared:
    """A B-scan as it is stored, and what was found on the way."""

    pixels: Gray  # (recipe.height, recipe.width)
    affine: tuple[
        float, float, float, float, float, float
    ]  # row-major 2x3: stored (column, row, 1) -> source (column, row)
    bend: tuple[float, ...]  # of the flattened retina: see `shift`; () if it was not flattened
    border: float  # fraction of the source that was fill left by rotation and shifting, 0..1
    crop: tuple[int, int, int, int]  # top, bottom, left, right in source pixels, half open; rows as flattened
    confidence: float  # that the crop holds the retina, 0..1
    note: str  # what of the recipe could not be done, or ""
    mean: float  # gray level of the stored pixels, 0..255; here and below the bars of --resize pad do not count
    deviation: float  # of their gray levels
    sharpness: float  # of their layers: row-to-row change of the smoothed pixels, beside the deviation


def prepare(gray: Gray, recipe: Preprocessing) -> Prepared:
    """Do to one B-scan what the recipe says: clean the border, crop, straighten, denoise, resize.

    gray: (rows, columns) uint8, at least MIN_SIDE a side; it is not changed. Raises ManifestError if the recipe is of
    another revision of this module, which would give other pixels.
    """
    if recipe.version != PREPROCESSING_VERSION:
        raise ManifestError(
            f"these scans were prepared by revision {recipe.version} of the imaging, but this version of octprep has "
            f"revision {PREPROCESSING_VERSION} and would give other pixels. Use the version that the manifest names under "
            "libraries, or rebuild the shards."
        )
    cut = clean_and_crop(gray, recipe)
    (above, below, beside, aside), affine = place(cut.crop, recipe)
    pixels = _resized(denoise(cut.pixels, recipe), below - above, aside - beside)
    mean, deviation, sharpness = measure(pixels)
    if pixels.shape != (recipe.height, recipe.width):
        bars = (above, recipe.height - below, beside, recipe.width - aside)
        pixels = np.asarray(cv2.copyMakeBorder(pixels, *bars, cv2.BORDER_CONSTANT, value=[0.0]), np.uint8)
    return Prepared(
        pixels=pixels,
        affine=affine,
        bend=cut.bend,
        border=cut.border,
        crop=cut.crop,
        confidence=cut.confidence,
        note=cut.note,
        mean=mean,
        deviation=deviation,
        sharpness=sharpness,
    )


def place(
    crop: tuple[int, int, int, int], recipe: Preprocessing
) -> tuple[tuple[int, int, int, int], tuple[float, float, float, float, float, float]]:
    """Where a crop comes to lie in the stored image, and the way back: `affine` of Prepared.

    crop: as in Prepared. The place is top, bottom, left, right in stored pixels, half open: all of the image but for
    the bars of --resize pad.
    """
    top, bottom, left, right = crop
    height, width = _room(bottom - top, right - left, recipe)
    above, beside = (recipe.height - height) // 2, (recipe.width - width) // 2
    x, y = (right - left) / width, (bottom - top) / height
    # Pixel centres: stored s covers source s*x to (s+1)*x, so its centre is (s + 0.5) * x - 0.5.
    affine = (x, 0.0, (0.5 - beside) * x - 0.5 + left, 0.0, y, (0.5 - above) * y - 0.5 + top)
    return (above, above + height, beside, beside + width), affine


@dataclass(frozen=True)
class Cut:
    """The part of a scan that is kept, clean and perhaps straightened, at source resolution; fields as in Prepared."""

    pixels: Gray
    crop: tuple[int, int, int, int]
    bend: tuple[float, ...]
    border: float
    confidence: float
    note: str


def clean_and_crop(gray: Gray, recipe: Preprocessing) -> Cut:
    """Everything that `prepare` does before it denoises and resizes."""
    border = find_border(gray) if recipe.inpaint_fill else None
    left, right, filled = 0, gray.shape[1], 0
    if border is not None:
        left, right = border.trim()
        mask = border.mask()
        filled = cv2.countNonZero(mask)
        gray, fill = mirror_sides(gray, border, mask)
    notes: list[str] = []
    if recipe.field_of_view:
        left, right = _cut_to_field(left, right, gray.shape[1], recipe.field_of_view, notes)
    kept = gray[:, left:right]
    kept_fill = None if border is None else fill[:, left:right]
    retina = Retina(0, len(gray), 1.0)
    if recipe.crop == "retina" or recipe.flatten:
        margins = recipe.margin_above, recipe.margin_below
        retina = find_retina(kept, *margins, kept_fill, flatten=recipe.flatten)
        if retina.confidence < MIN_CONFIDENCE:
            retina = Retina(0, len(gray), retina.confidence)
            if recipe.crop == "retina":
                notes.append("no clear retina: all rows kept")
        if recipe.flatten and not retina.bend:
            notes.append("no clear line of the pigment epithelium: not flattened")
    top, bottom = (retina.top, retina.bottom) if recipe.crop == "retina" else (0, len(gray))
    before = _rows_before(retina.bend, top, bottom, right - left)
    if border is not None:
        paint_rows(gray, fill, border, int(before.min()), int(before.max()) + 1)  # nobody sees the rest
    return Cut(
        pixels=_straightened(kept, before, kept_fill) if retina.bend else kept[top:bottom],
        crop=(top, bottom, left, right),
        bend=retina.bend,
        border=filled / gray.size,
        confidence=retina.confidence,
        note="; ".join(notes),
    )


def row_offsets(
    affine: tuple[float, ...], bend: tuple[float, ...], crop: tuple[int, int, int, int], width: int
) -> NDArray[np.float64]:
    """What to add, in each column of a stored image, to the source row that the affine gives: (width,), in rows.

    It is what was applied: every column of the source was moved by whole rows, and a stored column has the mean of
    those that the resize made it of. Zeros in the bars of --resize pad, and if the scan was not flattened. affine, bend
    and crop are those of Prepared.
    """
    applied = np.zeros(width)
    if bend:
        _, _, left, right = crop
        shown = round((right - left) / affine[0])
        beside = round(0.5 - (affine[2] + 0.5 - left) / affine[0])
        applied[beside : beside + shown] = _scaled(_whole_rows(bend, right - left)[None], 1, shown)[0]
    return applied


def _cut_to_field(left: int, right: int, columns: int, field: float, notes: list[str]) -> tuple[int, int]:
    """The columns to keep for a field of so many degrees about the middle, as far as the scan has them."""
    degrees = FIELDS_OF_VIEW.get(columns)
    if degrees is None:
        notes.append(f"field of a scan {columns} wide is not known: all columns kept")
        return left, right
    if degrees < field:
        notes.append(f"field of {degrees:g} degrees where {field:g} were asked")
    aside = max(round(columns * (1 - field / degrees) / 2), 0)
    if left > aside or right < columns - aside:
        notes.append("a band at a side leaves less than the field asked")
    return max(left, aside), min(right, columns - aside)


def _rows_before(bend: tuple[float, ...], top: int, bottom: int, columns: int) -> NDArray[np.intp]:
    """The rows of the scan that come to lie in the rows top to bottom of the straightened one, to the nearest row.

    (bottom - top, columns), or (bottom - top, 1) where nothing is straightened.
    """
    rows = np.arange(top, bottom)[:, None]
    if not bend:
        return rows
    return rows + _whole_rows(bend, columns).astype(np.intp)


def _whole_rows(bend: tuple[float, ...], columns: int) -> NDArray[np.float64]:
    """By how many rows each column of a scan is moved up: (columns,)."""
    return np.rint(shift(bend, np.arange(columns, dtype=np.float64), columns))


def _straightened(gray: Gray, before: NDArray[np.intp], fill: Gray | None) -> Gray:
    """Each column of a scan moved up or down as `_rows_before` says; beyond the scan its own speckle goes on.

    None of that is taken from fill.
    """
    rows, columns = gray.shape
    part = gray[np.clip(before, 0, rows - 1), np.arange(columns)]
    for outside, from_top in ((before < 0, True), (before >= rows, False)):
        if outside.any():
            speckle = Speckle.of(gray, fill, from_top=from_top)
            cv2.copyTo(speckle.rows(0, len(part), part.shape), outside.view(np.uint8), part)
    return np.asarray(part, np.uint8)


def measure(pixels: Gray) -> tuple[float, float, float]:
    """Mean, deviation and sharpness of stored pixels, as Prepared explains them; a sharpness of 0 for two rows or one.

    Speckle is smoothed away first, so that noise does not pass for sharpness.
    """
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(pixels))
    smooth = cv2.GaussianBlur(pixels, (0, 0), 1.5)
    above, below = smooth[:-2], smooth[2:]
    change = cv2.norm(below, above, cv2.NORM_L2) / math.sqrt(below.size) if below.size else 0.0
    return mean, deviation, float(change / max(deviation, 1e-6))


def _room(rows: int, columns: int, recipe: Preprocessing) -> tuple[int, int]:
    """Height and width that a part of the scan takes in the stored image: all of it, or what keeps its shape."""
    if recipe.resize == "stretch":
        return recipe.height, recipe.width
    scale = min(recipe.height / rows, recipe.width / columns)
    return (
        min(max(round(rows * scale), 1), recipe.height),
        min(max(round(columns * scale), 1), recipe.width),
    )


def _resized(part: Gray, height: int, width: int) -> Gray:
    return np.asarray(_scaled(part, height, width), np.uint8)


def _scaled(part: Any, height: int, width: int) -> Any:
    rows, columns = part.shape
    pixels = part
    if height < rows or width < columns:
        # Shrink before anything is enlarged: OpenCV drops the area filter, and aliases, if one axis grows.
        pixels = cv2.resize(part, (min(width, columns), min(height, rows)), interpolation=cv2.INTER_AREA)
    if pixels.shape != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return pixels
