"""The part of a scan that is kept, at source resolution: fill inpainted, cropped to the retina, flattened."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray, Mask
from octprep.format.config import FIELDS_OF_VIEW, Preprocessing
from octprep.format.flags import WHITE_FRAME, Flags
from octprep.preprocessing.fill_detection import find_fill
from octprep.preprocessing.fill_inpainting import SpeckleTile, inpaint_rows, inpaint_sides
from octprep.preprocessing.geometry import Crop, source_rows
from octprep.preprocessing.page_layout import find_white_frame
from octprep.preprocessing.retina_detection import Retina, find_retina

MIN_CONFIDENCE = 0.5  # of the retina's detection; below it all rows are kept


@dataclass(frozen=True)
class CroppedScan:
    """The part of a scan that is kept."""

    pixels: Gray  # (rows, columns) of the crop
    crop: Crop  # in source pixels; rows as flattened
    rpe_curve: tuple[float, ...]  # that was flattened, for `curve_offset`; () if the scan was not flattened
    fill_fraction: float  # of the source that was fill, 0..1
    confidence: float  # that the crop holds the retina, 0..1
    note: str  # what of the recipe could not be done, or ""
    flags: Flags = ()  # of what was found around the scan


def clean_and_crop(gray: Gray, recipe: Preprocessing) -> CroppedScan:
    """Cut off a white frame, inpaint the fill, cut to the field of view and the retina, flatten, as the recipe says.

    gray: (rows, columns) uint8, which is not changed; the pixels that are returned are a new array. What lies inside a
    frame is treated as the whole scan: `fill_fraction` is of it, and a field of view is known by its width.
    """
    inside = find_white_frame(gray)
    if inside is None:
        return _clean_and_crop(gray, recipe)
    top, bottom, left, right = inside
    cropped = _clean_and_crop(gray[top:bottom, left:right], recipe)
    crop_top, crop_bottom, crop_left, crop_right = cropped.crop
    crop = (crop_top + top, crop_bottom + top, crop_left + left, crop_right + left)
    return dataclasses.replace(cropped, crop=crop, flags=(WHITE_FRAME,))


def _clean_and_crop(gray: Gray, recipe: Preprocessing) -> CroppedScan:
    """What `clean_and_crop` does inside a frame, or without one."""
    rows, columns = gray.shape
    left, right, fill_fraction = 0, columns, 0.0
    cleaned, fill = gray, None
    depths = find_fill(gray) if recipe.inpaint_fill else None
    if depths is not None:
        left, right = depths.kept_columns()
        mask = depths.mask()
        fill_fraction = cv2.countNonZero(mask) / gray.size
        cleaned, fill = inpaint_sides(gray, depths, mask)
    notes: list[str] = []
    if recipe.field_of_view:
        left, right = _cut_to_field(left, right, columns, recipe.field_of_view, notes)
    kept_fill = None if fill is None else fill[:, left:right]
    retina = _retina(cleaned[:, left:right], kept_fill, recipe, notes)
    top, bottom = (retina.top, retina.bottom) if recipe.crop == "retina" else (0, rows)
    from_rows = source_rows(retina.rpe_curve, top, bottom, right - left)
    if depths is not None and fill is not None:  # only the rows that are kept, to save time
        cleaned = inpaint_rows(cleaned, fill, depths, int(from_rows.min()), int(from_rows.max()) + 1)
    kept = cleaned[:, left:right]
    return CroppedScan(
        pixels=_flatten(kept, from_rows, kept_fill) if retina.rpe_curve else kept[top:bottom].copy(),
        crop=(top, bottom, left, right),
        rpe_curve=retina.rpe_curve,
        fill_fraction=fill_fraction,
        confidence=retina.confidence,
        note="; ".join(notes),
    )


def _retina(gray: Gray, fill: Mask | None, recipe: Preprocessing, notes: list[str]) -> Retina:
    """The retina of a cleaned scan, or all its rows where the recipe does not need it or it is not clear."""
    everything = Retina(0, len(gray), 1.0)
    if recipe.crop == "none" and not recipe.flatten:
        return everything
    retina = find_retina(gray, (recipe.margin_above, recipe.margin_below), fill, flatten=recipe.flatten)
    if retina.confidence < MIN_CONFIDENCE:
        retina = Retina(0, len(gray), retina.confidence)
        if recipe.crop == "retina":
            notes.append("no clear retina: all rows kept")
    if recipe.flatten and not retina.rpe_curve:
        notes.append("no clear line of the pigment epithelium: not flattened")
    return retina


def _cut_to_field(left: int, right: int, columns: int, field: float, notes: list[str]) -> tuple[int, int]:
    """The columns to keep for a field of view of so many degrees about the middle, as far as the scan has them."""
    degrees = FIELDS_OF_VIEW.get(columns)
    if degrees is None:
        notes.append(f"the field of view of {columns} columns is unknown: all columns kept")
        return left, right
    if degrees < field:
        notes.append(f"field of view of {degrees:g} degrees, narrower than the {field:g} of the recipe")
    margin = max(round(columns * (1 - field / degrees) / 2), 0)
    if left > margin or right < columns - margin:
        notes.append("a band at a side leaves less than the field of view of the recipe")
    return max(left, margin), min(right, columns - margin)


def _flatten(gray: Gray, from_rows: NDArray[np.intp], fill: Mask | None) -> Gray:
    """Each column of a scan moved up or down to the rows that `source_rows` names: a new array of their shape.

    Pixels from outside the scan are filled with speckle sampled from the scan where it is not fill.
    """
    rows, columns = gray.shape
    flattened = gray[np.clip(from_rows, 0, rows - 1), np.arange(columns)]
    for is_outside, from_top in ((from_rows < 0, True), (from_rows >= rows, False)):
        if is_outside.any():
            tile = SpeckleTile.from_scan(gray, fill, from_top=from_top)
            texture = tile.texture(slice(0, len(flattened)), flattened.shape)
            cv2.copyTo(texture, is_outside.view(np.uint8), flattened)
    return np.asarray(flattened, np.uint8)
