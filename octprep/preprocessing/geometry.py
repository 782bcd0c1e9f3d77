"""Where each stored pixel comes from in the source.

A stored pixel at (x, y), counted at pixel centres, shows the source at

    column = affine[0] * x + affine[1] * y + affine[2]
    row    = affine[3] * x + affine[4] * y + affine[5] + offset(x),

where offset is 0 unless the scan was flattened. Only scale and shift are used, so affine[1] and affine[3] are 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octprep.arrays import Float64
from octprep.format.config import Preprocessing
from octprep.preprocessing.resizing import resize, target_size
from octprep.preprocessing.retina_detection import curve_offset

Crop = tuple[int, int, int, int]  # top, bottom, left, right, half open


@dataclass(frozen=True)
class Geometry:
    """Which part of the source the stored pixels show, and where in it each of them lies."""

    affine: tuple[float, float, float, float, float, float]  # row-major 2x3: stored (column, row, 1) -> source
    crop: Crop  # in source pixels; rows as flattened
    rpe_curve: tuple[float, ...] = ()  # that was flattened, for `curve_offset`; () if the scan was not flattened

    @classmethod
    def of_crop(cls, crop: Crop, recipe: Preprocessing, rpe_curve: tuple[float, ...] = ()) -> Self:
        """The geometry of a crop that is resized as the recipe says."""
        top, bottom, left, right = crop
        stored_top, stored_bottom, stored_left, stored_right = placement(crop, recipe)
        x, y = (right - left) / (stored_right - stored_left), (bottom - top) / (stored_bottom - stored_top)
        # Pixel centres: stored s covers source s*x to (s+1)*x, so its centre is (s + 0.5) * x - 0.5.
        affine = (x, 0.0, (0.5 - stored_left) * x - 0.5 + left, 0.0, y, (0.5 - stored_top) * y - 0.5 + top)
        return cls(affine, crop, rpe_curve)

    def column_offsets(self, width: int) -> Float64:
        """The rows to add, in each stored column, to the source row that the affine gives: (width,).

        They are what was applied: flattening moves every column of the source by whole rows, and a stored column is the
        mean of those that the resize made it of. Zeros in the bars of --resize pad, and if the scan was not flattened.
        """
        offsets = np.zeros(width)
        if self.rpe_curve:
            first, applied = self._applied_offsets()
            offsets[first : first + applied.size] = applied
        return offsets

    def source_position(self, column: ArrayLike, row: ArrayLike) -> tuple[Float64, Float64]:
        """(column, row) in the source of stored pixels, which may be fractional; arrays of one shape, or numbers."""
        x, y = np.asarray(column, np.float64), np.asarray(row, np.float64)
        a, b, c, d, e, f = self.affine
        source_column, source_row = a * x + b * y + c, d * x + e * y + f
        if self.rpe_curve:
            first, applied = self._applied_offsets()
            source_row = source_row + np.interp(x, first + np.arange(applied.size), applied)
        return source_column, source_row

    def stored_position(self, column: ArrayLike, row: ArrayLike) -> tuple[Float64, Float64]:
        """(column, row) in the stored image of source positions: the inverse of `source_position`.

        column, row: arrays of one shape, or numbers. A position outside the crop is continued beyond the stored pixels.
        """
        a, _, c, _, e, f = self.affine
        x = (np.asarray(column, np.float64) - c) / a
        source_row = np.asarray(row, np.float64)
        if self.rpe_curve:
            first, applied = self._applied_offsets()
            source_row = source_row - np.interp(x, first + np.arange(applied.size), applied)
        return x, (source_row - f) / e

    def _applied_offsets(self) -> tuple[int, Float64]:
        """The first stored column that is not in a bar, and the offsets of it and those that follow."""
        _, _, left, right = self.crop
        scale = self.affine[0]
        width = round((right - left) / scale)
        first = round(0.5 - (self.affine[2] + 0.5 - left) / scale)
        return first, resize(whole_row_offsets(self.rpe_curve, right - left)[None], 1, width)[0]


def placement(crop: Crop, recipe: Preprocessing) -> Crop:
    """Where a crop lies in the stored image, in stored pixels: all of the image but for the bars of --resize pad."""
    top, bottom, left, right = crop
    height, width = target_size(bottom - top, right - left, recipe)
    stored_top, stored_left = (recipe.height - height) // 2, (recipe.width - width) // 2
    return stored_top, stored_top + height, stored_left, stored_left + width


def source_rows(rpe_curve: tuple[float, ...], top: int, bottom: int, columns: int) -> NDArray[np.intp]:
    """The rows of a scan that flattening brings to the rows top to bottom, to the nearest row.

    (bottom - top, columns), or (bottom - top, 1) if the curve is () and nothing is flattened.
    """
    rows = np.arange(top, bottom)[:, None]
    return rows + whole_row_offsets(rpe_curve, columns).astype(np.intp) if rpe_curve else rows


def whole_row_offsets(rpe_curve: tuple[float, ...], columns: int) -> Float64:
    """By how many rows flattening moves each column of a scan up, to the nearest row: (columns,)."""
    return np.rint(curve_offset(rpe_curve, np.arange(columns, dtype=np.float64), columns))
