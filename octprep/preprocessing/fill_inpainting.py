"""Fill inpainted by what lies next to it: the same level, the same speckle, no edge.

Narrow fill at the sides, where it can cross the retina, continues each row by mirroring it. What is left, above and
below the retina, is covered by texture synthesis: a tile of the scan's own speckle is repeated over the area, each
repeat rolled by another random offset so that no pattern shows. Where the pixels next to the fill are brighter than the
tile (haze in the vitreous), the tile t becomes

    mean(t) + (t - mean(t)) * std(adjacent) / std(t) + level(column) - mean(t),

with the level of the adjacent rows, smoothed along the columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float32, Gray, Mask
from octprep.preprocessing.fill_detection import RINGING, WHITE, Depths, FillDepths, deepest_within

RINGING_ROWS = 6  # above and below fill a JPEG block's ripples show against the dark
_TILE, _STEP = (24, 64), 4  # rows and columns of a tile of speckle, and the grid on which the darkest one is sought
_MIRRORED = 8  # fill at a side is mirrored over up to 1 in so many columns
_ADJACENT_ROWS = 12  # next to fill, that give its level
_SMOOTH = 65  # columns over which that level is smoothed
# Mean gray levels of the adjacent rows as multiples of the tile's: from the first on haze can
# be seen, above the second it is tissue.
_MIN_HAZE, _MAX_HAZE = 1.05, 3.0


def inpaint(gray: Gray, depths: FillDepths) -> Gray:
    """A copy of a scan, (rows, columns) uint8, with its fill inpainted, and the pixels around it that it has tinted."""
    mirrored, fill = inpaint_sides(gray, depths, depths.mask())
    return inpaint_rows(mirrored, fill, depths, 0, len(gray))


def inpaint_sides(gray: Gray, depths: FillDepths, mask: Mask) -> tuple[Gray, Mask]:
    """The first half of `inpaint`: a copy with narrow fill at the sides mirrored, and the mask of what is left.

    mask: `depths.mask()`. The mask that is returned is dilated by the pixels that the fill has tinted.
    """
    inpainted = gray.copy()
    fill = np.asarray(cv2.dilate(mask, np.ones((2 * RINGING_ROWS + 1, 2 * RINGING + 1), np.uint8)), np.uint8)
    _mirror_left(inpainted, fill, _widened(depths.left))
    _mirror_left(inpainted[:, ::-1], fill[:, ::-1], _widened(depths.right))
    return inpainted, fill


def inpaint_rows(gray: Gray, fill: Mask, depths: FillDepths, top: int, bottom: int) -> Gray:
    """The second half of `inpaint`: a copy with speckle over the fill in the rows top to bottom, half open.

    gray and fill: as `inpaint_sides` returns them. The other rows stay as they are.
    """
    inpainted, middle = gray.copy(), len(gray) // 2
    upper = (max(top, 0), min(bottom, middle), gray, depths.top)
    lower = (max(top, middle), min(bottom, len(gray)), gray[::-1], depths.bottom)
    for start, stop, from_border, side_depths in (upper, lower):
        filled = np.flatnonzero(fill[start:stop].max(axis=1))
        if filled.size:
            rows = slice(start + int(filled[0]), start + int(filled[-1]) + 1)
            tile = SpeckleTile.from_scan(gray, fill, from_top=from_border is gray)
            adjacent = AdjacentTissue.next_to(from_border, side_depths)
            if adjacent is not None:
                tile = adjacent.matched(tile)
            cv2.copyTo(tile.texture(rows, gray.shape), fill[rows], inpainted[rows])
    return inpainted


@dataclass(frozen=True)
class SpeckleTile:
    """A tile of a scan's own speckle, to be repeated, and how much brighter each column is."""

    pixels: Gray  # (tile rows, tile columns)
    brightening: Gray | None = None  # (columns of the scan,) gray levels to add; None: 0

    @classmethod
    def from_scan(cls, gray: Gray, fill: Mask | None, *, from_top: bool) -> SpeckleTile:
        """The darkest tile free of fill in the upper half (vitreous) or the lower third (deep choroid) of a scan.

        gray, fill: (rows, columns); no pixel is taken where fill is above 0. Black if there is fill everywhere.
        """
        rows = gray.shape[0]
        start, stop = (0, rows // 2) if from_top else (rows - rows // 3, rows)
        # Every 4th pixel is enough to estimate the level, and fill is nowhere thinner than RINGING + 1.
        level = gray[start:stop:_STEP, ::_STEP]
        if fill is not None:
            level = np.maximum(level, fill[start:stop:_STEP, ::_STEP])
        height, width = min(_TILE[0] // _STEP, level.shape[0]), min(_TILE[1] // _STEP, level.shape[1])
        means = cv2.boxFilter(level, cv2.CV_32F, (width, height), anchor=(0, 0), borderType=cv2.BORDER_REFLECT)
        means = means[: level.shape[0] - height + 1, : level.shape[1] - width + 1]
        row, column = divmod(int(np.argmin(means)), means.shape[1])
        y, x = start + row * _STEP, column * _STEP
        if fill is not None and fill[y : y + height * _STEP : _STEP, x : x + width * _STEP : _STEP].any():
            return cls(np.zeros(_TILE, np.uint8))
        pixels = gray[y : y + (height - 1) * _STEP + 1, x : x + (width - 1) * _STEP + 1]
        if int(pixels.max()) >= WHITE:  # the last pixels of fill that were too few to be detected
            return cls(np.minimum(pixels, np.uint8(np.quantile(pixels, 0.95))))
        return cls(pixels)

    def texture(self, rows: slice, shape: tuple[int, ...]) -> Gray:
        """The given rows of a scan of this shape, covered by the tile: (rows, columns) uint8.

        A row has the same texture whichever rows are asked for.
        """
        # More rows than needed, so that scans of about the same size share the cached indices.
        indices = _tile_indices(-(-max(rows.stop, shape[0]) // 512) * 512, shape[1], *self.pixels.shape)[rows]
        speckle = self.pixels.ravel().take(indices, mode="clip")
        return speckle if self.brightening is None else np.minimum(speckle, 255 - self.brightening) + self.brightening


@dataclass(frozen=True)
class AdjacentTissue:
    """The gray levels of what lies next to the fill above or below a scan: vitreous, haze in it, or tissue."""

    level: Float32  # (columns,) mean gray level of the rows next to the fill; NaN where there is no fill
    std: float  # of the gray levels of those rows in a column; the median over the columns

    @classmethod
    def next_to(cls, gray: Gray, depths: Depths) -> AdjacentTissue | None:
        """The rows that follow fill of these depths, (columns,), from row 0 downwards; None if there is no fill."""
        filled = np.flatnonzero(depths)[::_STEP]
        if not filled.size:
            return None
        level = np.full(depths.size, np.nan, np.float32)
        rows = np.minimum(depths[filled] + RINGING_ROWS + np.arange(_ADJACENT_ROWS)[:, None], len(gray) - 1)
        pixels = gray[rows, filled]
        level[filled] = pixels.mean(axis=0)
        return cls(level, float(np.median(pixels.std(axis=0))))

    def matched(self, tile: SpeckleTile) -> SpeckleTile:
        """The tile with the level and std of this tissue where it is haze; the tile itself where it is no brighter."""
        speckle, mean = tile.pixels, float(tile.pixels.mean())
        is_haze = self.level <= _MAX_HAZE * max(mean, 1.0)  # tissue is brighter still; False for NaN
        haze = self.level[is_haze]
        if not haze.size or float(haze.mean()) <= _MIN_HAZE * mean:
            return tile
        sums = cv2.blur(np.where(is_haze, self.level, 0).astype(np.float32)[None], (_SMOOTH, 1))[0]
        weights = cv2.blur(is_haze.astype(np.float32)[None], (_SMOOTH, 1))[0]
        level = np.where(weights > 1e-3, sums / np.maximum(weights, 1e-3), mean)
        scaled = mean + (speckle - np.float32(mean)) * (self.std / max(float(speckle.std()), 1.0))
        return SpeckleTile(
            np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8),
            np.asarray(np.clip(np.rint(level - mean), 0, 255), np.uint8),
        )


@lru_cache(maxsize=8)
def _tile_indices(rows: int, columns: int, height: int, width: int) -> NDArray[np.intp]:
    """For each pixel of a scan the index of the pixel of a flattened tile that it takes: (rows, columns)."""
    rng = np.random.default_rng([height, width])
    down, across = -(-rows // height), -(-columns // width)
    roll = rng.integers((height, width), size=(down, across, 2))
    y, x = np.arange(rows)[:, None], np.arange(columns)[None, :]
    offset = roll[y // height, x // width]
    return np.asarray((y + offset[..., 0]) % height * width + (x + offset[..., 1]) % width, np.intp)


def _widened(depths: Depths) -> Depths:
    """Fill at a side with the pixels that it has tinted, inwards and along the border."""
    wide = deepest_within(depths, RINGING)
    wide[wide > 0] += RINGING
    return wide


def _mirror_left(inpainted: Gray, fill: Mask, depths: Depths) -> None:
    """Continue each row over narrow fill at its left end, in place, from pixels that are not fill themselves.

    What is inpainted is cleared from the mask `fill`.
    """
    narrow = np.flatnonzero((depths > 0) & (depths <= inpainted.shape[1] // _MIRRORED))
    rows = narrow[fill[narrow, depths[narrow]] == 0]
    if not rows.size:
        return
    depth = depths[rows]
    row, of_row = np.repeat(rows, depth), np.repeat(depth, depth)
    column = np.arange(row.size) - np.repeat(np.cumsum(depth) - depth, depth)  # 0 to depth - 1 in each row
    mirrored = 2 * of_row - 1 - column  # never beyond a quarter of the scan
    can_mirror = fill[row, mirrored] == 0
    row, column, mirrored = row[can_mirror], column[can_mirror], mirrored[can_mirror]
    inpainted[row, column] = inpainted[row, mirrored]
    fill[row, column] = 0
