"""Fill painted over: the scan goes on beyond its border as it was, with its own speckle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray, Mask
from octprep.preprocessing.fill_detection import RINGING, WHITE, Border, dilated

RINGING_ROWS = 6  # above and below fill a JPEG block's ripples show against the dark
_TILE, _STEP = (24, 64), 4  # rows and columns of speckle that is laid out, and how finely it is looked for
# Rows that tell how bright it is beside fill, columns over which that is smoothed, and how many times as bright as the
# darkest speckle it must be for the difference to be seen, and may be to be haze and no tissue.
_BESIDE, _SMOOTH, _SEEN, _HAZE = 12, 65, 1.05, 3.0


def clean(gray: Gray, border: Border, mask: Mask) -> Gray:
    """A copy with the fill painted over by what lies beside it: same level, same noise, no edge.

    Above, speckle of the vitreous is laid out; below, speckle of the deep choroid; at the sides, where fill can cross
    the retina, each row is mirrored. mask is `border.mask()`; the pixels around it that it has tinted are painted too.
    """
    painted, fill = mirror_sides(gray, border, mask)
    paint_rows(painted, fill, border, 0, len(gray))
    return painted


def mirror_sides(gray: Gray, border: Border, mask: Mask) -> tuple[Gray, Mask]:
    """The first half of `clean`: a copy with narrow fill at the sides painted, and the mask of what is left."""
    painted = gray.copy()
    fill = np.asarray(cv2.dilate(mask, np.ones((2 * RINGING_ROWS + 1, 2 * RINGING + 1), np.uint8)), np.uint8)
    _mirror(painted, fill, _widened(border.left))
    _mirror(painted[:, ::-1], fill[:, ::-1], _widened(border.right))
    return painted, fill


def paint_rows(painted: Gray, fill: Mask, border: Border, top: int, bottom: int) -> None:
    """The second half of `clean`, in place and in the rows top to bottom only: what is not needed costs nothing."""
    half = len(painted) // 2
    upper = (max(top, 0), min(bottom, half), painted, border.top)
    lower = (max(top, half), min(bottom, len(painted)), painted[::-1], border.bottom)
    ready = []
    for start, stop, inwards, depth in (upper, lower):
        filled = np.flatnonzero(fill[start:stop].any(axis=1))
        if filled.size:
            first, last = start + int(filled[0]), start + int(filled[-1]) + 1
            speckle = Speckle.of(painted, fill, from_top=inwards is painted, beside=_beside(inwards, depth))
            ready.append((slice(first, last), speckle.rows(first, last, painted.shape)))
    for part, pixels in ready:  # only now, so that no speckle is taken from what was painted
        cv2.copyTo(pixels, fill[part], painted[part])


@dataclass(frozen=True)
class Speckle:
    """A tile of a scan's own speckle, and by how much it must be brightened, (columns,), or None."""

    tile: Gray
    brighter: Gray | None = None

    @classmethod
    def of(cls, gray: Gray, fill: Mask | None, *, from_top: bool, beside: Beside | None = None) -> Speckle:
        """The vitreous' speckle (from_top) or the deep choroid's; fill: where there is none, (rows, columns), or None.

        beside: what the place borders on where it is laid out. Haze is followed, tissue is not.
        """
        tile = _quiet_tile(gray, fill, from_top=from_top)
        if beside is not None and beside.is_brighter_than(tile):
            return cls(*beside.matched(tile))
        return cls(tile)

    def rows(self, first: int, last: int, shape: tuple[int, ...]) -> Gray:
        """Rows first to last of a scan of this shape, full of speckle that is the same for every choice of rows."""
        # More rows than needed, so that scans of about the same size share them; the first rows are always the same.
        places = _scatter(-(-max(last, shape[0]) // 512) * 512, shape[1], *self.tile.shape)[first:last]
        speckle = self.tile.ravel().take(places, mode="clip")
        return speckle if self.brighter is None else np.minimum(speckle, 255 - self.brighter) + self.brighter


@dataclass(frozen=True)
class Beside:
    """What the fill at one side borders on: vitreous, haze in it, or tissue."""

    level: NDArray[np.float32]  # (columns,) mean gray level of the rows that follow the fill; NaN where not known
    deviation: float  # of the gray levels in a column, the median over the columns

    def is_brighter_than(self, tile: Gray) -> bool:
        """Whether it is seen to be brighter than a tile of speckle."""
        haze = self.level[self._haze(tile)]
        return bool(haze.size) and float(haze.mean()) > _SEEN * float(tile.mean())

    def matched(self, tile: Gray) -> tuple[Gray, Gray]:
        """The tile with the deviation of what is beside it, and how much brighter each column must be, (columns,)."""
        haze, mean = self._haze(tile), float(tile.mean())
        sums = cv2.blur(np.where(haze, self.level, 0).astype(np.float32)[None], (_SMOOTH, 1))[0]
        weights = cv2.blur(haze.astype(np.float32)[None], (_SMOOTH, 1))[0]
        level = np.where(weights > 1e-3, sums / np.maximum(weights, 1e-3), mean)
        scaled = mean + (tile - np.float32(mean)) * (self.deviation / max(float(tile.std()), 1.0))
        return (
            np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8),
            np.asarray(np.clip(np.rint(level - mean), 0, 255), np.uint8),
        )

    def _haze(self, tile: Gray) -> NDArray[np.bool_]:
        """Where it is no tissue, which is brighter still; False where nothing is known."""
        return self.level <= _HAZE * max(float(tile.mean()), 1.0)


def _beside(gray: Gray, depth: NDArray[np.int32]) -> Beside | None:
    """What follows the fill from above; None if there is none."""
    filled = np.flatnonzero(depth)[::_STEP]
    if not filled.size:
        return None
    level = np.full(depth.size, np.nan, np.float32)
    rows = np.minimum(depth[filled] + RINGING_ROWS + np.arange(_BESIDE)[:, None], len(gray) - 1)
    pixels = gray[rows, filled]
    level[filled] = pixels.mean(axis=0)
    return Beside(level, float(np.median(pixels.std(axis=0))))


def _widened(depth: NDArray[np.int32]) -> NDArray[np.int32]:
    """Fill at a side with the pixels that it has tinted, inwards and along the border."""
    wide = dilated(depth, RINGING)
    wide[wide > 0] += RINGING
    return wide


@lru_cache(maxsize=8)
def _scatter(rows: int, columns: int, height: int, width: int) -> NDArray[np.intp]:
    """For each pixel of a scan the place in a tile of speckle that it takes: (rows, columns) indices.

    The scan is laid out with the tile, each time rolled to another place, so that no pattern repeats.
    """
    rng = np.random.default_rng([height, width])
    down, across = -(-rows // height), -(-columns // width)
    roll = rng.integers((height, width), size=(down, across, 2))
    y, x = np.arange(rows)[:, None], np.arange(columns)[None, :]
    shift = roll[y // height, x // width]
    return np.asarray((y + shift[..., 0]) % height * width + (x + shift[..., 1]) % width, np.intp)


def _quiet_tile(gray: Gray, mask: Mask | None, *, from_top: bool) -> Gray:
    """The darkest window free of fill in the upper half or the lower third: speckle without retina."""
    rows = gray.shape[0]
    start, stop = (0, rows // 2) if from_top else (rows - rows // 3, rows)
    # Every 4th pixel tells enough of the level, and fill is nowhere thinner than RINGING + 1.
    level = gray[start:stop:_STEP, ::_STEP]
    if mask is not None:
        level = np.maximum(level, mask[start:stop:_STEP, ::_STEP])
    height, width = min(_TILE[0] // _STEP, level.shape[0]), min(_TILE[1] // _STEP, level.shape[1])
    means = cv2.boxFilter(level, cv2.CV_32F, (width, height), anchor=(0, 0), borderType=cv2.BORDER_REFLECT)
    means = means[: level.shape[0] - height + 1, : level.shape[1] - width + 1]
    row, column = divmod(int(np.argmin(means)), means.shape[1])
    y, x = start + row * _STEP, column * _STEP
    if mask is not None and mask[y : y + height * _STEP : _STEP, x : x + width * _STEP : _STEP].any():
        return np.zeros(_TILE, np.uint8)  # fill everywhere
    tile = gray[y : y + (height - 1) * _STEP + 1, x : x + (width - 1) * _STEP + 1]
    if int(tile.max()) >= WHITE:  # the last pixels of fill that were too few to be found as such
        tile = np.minimum(tile, np.uint8(np.quantile(tile, 0.95)))
    return tile


def _mirror(painted: Gray, fill: Mask, depth: NDArray[np.int32]) -> None:
    """Continue each row over narrow fill at its left end, where the pixels to do it with are no fill themselves.

    What is painted is fill no more.
    """
    reach = painted.shape[1] // 8
    narrow = np.flatnonzero((depth > 0) & (depth <= reach))
    if not narrow.size:
        return
    rows = narrow[fill[narrow, depth[narrow]] == 0][:, None]
    if not rows.size:
        return
    column = np.arange(depth[rows].max())[None, :]
    inwards = np.maximum(2 * depth[rows] - 1 - column, 0)  # never beyond a quarter of the scan
    seen = (column < depth[rows]) & (fill[rows, inwards] == 0)
    strip, mask = painted[:, : column.size], fill[:, : column.size]
    strip[rows, column] = np.where(seen, painted[rows, inwards], strip[rows, column])
    mask[rows, column] = np.where(seen, 0, mask[rows, column])
