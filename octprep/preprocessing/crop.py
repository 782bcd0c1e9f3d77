"""The part of a scan that is kept, at source resolution: fill inpainted, cropped in its rows, flattened."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray, Mask
from octprep.format.config import AXIAL_UM, FIELDS_OF_VIEW, Preprocessing
from octprep.format.flags import NO_LAYERS, WHITE_FRAME, Flags
from octprep.preprocessing.fill_detection import find_fill
from octprep.preprocessing.fill_inpainting import SpeckleTile, inpaint_rows, inpaint_sides
from octprep.preprocessing.geometry import Crop, source_rows
from octprep.preprocessing.page_layout import find_white_frame
from octprep.preprocessing.retina_detection import ReducedScan, Retina, find_retina, has_layers, reduce_scan

MIN_CONFIDENCE = 0.5  # of the retina's detection; below it the crop does not depend on it
_MAX_BELOW = 1 / 6  # of a band: what it holds at most below the crop to the retina


@dataclass(frozen=True)
class CroppedScan:
    """The part of a scan that is kept."""

    pixels: Gray  # (rows, columns) of the crop
    crop: Crop  # in source pixels; rows as flattened
    rpe_curve: tuple[float, ...]  # that was flattened, for `curve_offset`; () if the scan was not flattened
    fill_fraction: float  # of the source that was fill, 0..1
    confidence: float  # that the crop holds the retina, 0..1
    note: str  # what of the recipe could not be done, or ""
    flags: Flags = ()  # of what was found in and around the scan


def clean_and_crop(gray: Gray, recipe: Preprocessing, axial_um: float | None = None) -> CroppedScan:
    """Cut off a white frame, inpaint the fill, cut to the field of view, crop the rows, flatten, as the recipe says.

    gray: (rows, columns) uint8, which is not changed; the pixels that are returned are a new array. axial_um: distance
    of two rows in micrometres, where it is known; a band is then as deep as the recipe's rows are in the archive. What
    lies inside a frame is treated as the whole scan: `fill_fraction` is of it, and a field of view is known by its
    width.
    """
    inside = find_white_frame(gray)
    if inside is None:
        return _clean_and_crop(gray, recipe, axial_um)
    top, bottom, left, right = inside
    cropped = _clean_and_crop(gray[top:bottom, left:right], recipe, axial_um)
    crop_top, crop_bottom, crop_left, crop_right = cropped.crop
    crop = (crop_top + top, crop_bottom + top, crop_left + left, crop_right + left)
    return dataclasses.replace(cropped, crop=crop, flags=(*cropped.flags, WHITE_FRAME))


def _clean_and_crop(gray: Gray, recipe: Preprocessing, axial_um: float | None) -> CroppedScan:
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
    reduced = reduce_scan(gray)
    is_whole = fill is None and right - left == columns
    retina = _retina(cleaned[:, left:right], kept_fill, recipe, notes, reduced if is_whole else None)
    top, bottom = (retina.top, retina.bottom) if recipe.crop == "retina" else (0, rows)
    if recipe.crop == "band":
        height = recipe.band_rows if axial_um is None else max(round(recipe.band_rows * AXIAL_UM / axial_um), 1)
        top = _band_top(retina, height, rows, recipe, notes)
        bottom = top + height
    from_rows = source_rows(retina.rpe_curve, top, bottom, right - left)
    if depths is not None and fill is not None:  # only the rows that are kept, to save time
        cleaned = inpaint_rows(cleaned, fill, depths, int(from_rows.min()), int(from_rows.max()) + 1)
    kept = cleaned[:, left:right]
    is_slice = not retina.rpe_curve and top >= 0 and bottom <= rows
    return CroppedScan(
        pixels=kept[top:bottom].copy() if is_slice else _moved(kept, from_rows, kept_fill),
        crop=(top, bottom, left, right),
        rpe_curve=retina.rpe_curve,
        fill_fraction=fill_fraction,
        confidence=retina.confidence,
        note="; ".join(notes),
        flags=() if has_layers(reduced) else (NO_LAYERS,),
    )


def _retina(
    gray: Gray, fill: Mask | None, recipe: Preprocessing, notes: list[str], reduced: ReducedScan | None
) -> Retina:
    """The retina of a cleaned scan, or all its rows where the recipe does not need it or it is not clear."""
    everything = Retina(0, len(gray), 1.0)
    if recipe.crop == "none" and not recipe.flatten:
        return everything
    margins = recipe.margin_above, recipe.margin_below
    retina = find_retina(gray, margins, fill, flatten=recipe.flatten, reduced=reduced)
    if retina.confidence < MIN_CONFIDENCE:
        retina = Retina(0, len(gray), retina.confidence)
        if recipe.crop != "none":
            notes.append(f"no clear retina: {'all' if recipe.crop == 'retina' else 'the middle'} rows kept")
    if recipe.flatten and not retina.rpe_curve:
        notes.append("no clear line of the pigment epithelium: not flattened")
    return retina


def _band_top(retina: Retina, height: int, rows: int, recipe: Preprocessing, notes: list[str]) -> int:
    """The first row of a band of `height` rows that holds the retina; it may lie outside the scan.

    The outer retina is near the same row of every band: below the crop to the retina a band holds half of what it is
    taller, at most _MAX_BELOW of itself, so that a swollen retina reaches further up and not further down. It lies
    inside the scan if that does not cut the retina, and a scan of fewer rows than the band lies inside the band. A
    crop to the retina that is taller than the band is cut by as much at both ends, but below at most by its margin.
    Where no retina is clear the middle of the scan is kept. rows: of the scan.
    """
    if retina.confidence < MIN_CONFIDENCE:
        return (rows - height) // 2
    excess = retina.bottom - retina.top - height
    if excess > 0:
        margin = (height + excess) * recipe.margin_below / (1 + recipe.margin_above + recipe.margin_below)
        below = min(excess // 2, int(margin))
        notes.append(
            f"the crop to the retina is taller than the band: cut by {excess - below} rows above and {below} below"
        )
        return retina.top + excess - below
    top = retina.bottom + min(-excess // 2, int(height * _MAX_BELOW)) - height
    inside = min(max(top, min(0, rows - height)), max(0, rows - height))
    return min(max(inside, retina.bottom - height), retina.top)


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


def _moved(gray: Gray, from_rows: NDArray[np.intp], fill: Mask | None) -> Gray:
    """Each column of a scan moved up or down to the rows that `source_rows` names: (from_rows' rows, columns), new.

    Pixels from outside the scan are filled with speckle sampled from the scan where it is not fill.
    """
    rows, columns = gray.shape
    moved = gray[np.clip(from_rows, 0, rows - 1), np.arange(columns)]
    for is_outside, from_top in ((from_rows < 0, True), (from_rows >= rows, False)):
        if is_outside.any():
            tile = SpeckleTile.from_scan(gray, fill, from_top=from_top)
            texture = tile.texture(slice(0, len(moved)), moved.shape)
            mask = np.ascontiguousarray(np.broadcast_to(is_outside, moved.shape))
            cv2.copyTo(texture, mask.view(np.uint8), moved)
    return np.asarray(moved, np.uint8)
