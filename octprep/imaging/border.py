"""The areas that rotating and shifting left white or black at a scan's border: found, and painted over with speckle."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.uint8]
Mask = NDArray[np.uint8]  # 255 where it holds, 0 elsewhere

# Fill left by rotation and shifting is this bright, or a dark band at the side this dark, after JPEG.
WHITE, BLACK = 235, 4
# How far along the border white fill must reach, in pixels: a saturated retina that ends at the border is narrower.
CONTACT_ACROSS, CONTACT_ALONG = 25, 41  # at the top or bottom, at a side
RINGING = 3  # pixels around fill that JPEG and interpolation have tinted
ALL_DARK = 0.97  # fraction of a column of a dark band
_TILE, _STEP = (24, 64), 4  # rows and columns of speckle that is laid out, and how finely it is looked for
MAX_TRIM = 0.4  # fraction of the width that bands at either side may take away


@dataclass(frozen=True)
class Border:
    """Fill along the four sides of a scan: how many pixels deep at each place, tinted pixels included."""

    top: NDArray[np.int32]  # (columns,)
    bottom: NDArray[np.int32]  # (columns,)
    left: NDArray[np.int32]  # (rows,)
    right: NDArray[np.int32]  # (rows,)

    def mask(self) -> Mask:
        """(rows, columns), 255 where the scan is fill."""
        mask = np.zeros((self.left.size, self.top.size), np.uint8)
        for view, depths in ((mask, self.top), (mask[::-1], self.bottom)):
            deepest = min(int(depths.max(initial=0)), len(view))
            view[:deepest][np.arange(deepest)[:, None] < depths] = 255
        for view, depths in ((mask, self.left), (mask[:, ::-1], self.right)):
            sideways = np.where(depths <= MAX_TRIM * self.top.size, depths, 0)  # longer rows are above or below
            deepest = int(sideways.max(initial=0))
            view[:, :deepest][np.arange(deepest) < sideways[:, None]] = 255
        return mask

    def trim(self) -> tuple[int, int]:
        """The columns to keep: bands that take more than half the rows are cut off rather than painted."""
        columns = self.top.size
        most = int(MAX_TRIM * columns)
        return min(int(np.median(self.left)), most), columns - min(int(np.median(self.right)), most)


def find_border(gray: Gray) -> Border | None:
    """Where rotating or shifting the scan left white fill, or the device a dark band at a side; None if nowhere.

    White fill is what is white without a break from the border inwards, over some length of the border: a bright
    retina that ends at the border, or a saturated one behind a strip of fill, is a narrow spike in that depth.
    """
    top, bottom = _depth(gray, CONTACT_ACROSS), _depth(gray[::-1], CONTACT_ACROSS)
    # Deeper at a side is a wedge above or below, which is found there; no need to follow it across the scan.
    reach = int(MAX_TRIM * gray.shape[1]) + 1
    left, right = _depth(gray.T[:reach], CONTACT_ALONG), _depth(gray.T[: -reach - 1 : -1], CONTACT_ALONG)
    for side, depth in ((gray, left), (gray[:, ::-1], right)):
        np.maximum(depth, _dark_band(side), out=depth)
    if not (top.any() or bottom.any() or left.any() or right.any()):
        return None
    return Border(*(_tinted(depth) for depth in (top, bottom, left, right)))


def _depth(gray: Gray, contact: int) -> NDArray[np.int32]:
    """How many pixels inwards from the border are white, at each place along it; spikes narrower than contact are 0.

    gray: (inwards, along). Returns (along,).
    """
    depth = np.zeros(gray.shape[1], np.int32)
    places = np.flatnonzero(gray[0] >= WHITE)
    if places.size < contact:
        return depth
    step = 32
    for start in range(0, gray.shape[0], step):
        ended = np.ascontiguousarray(gray[start : start + step].T)[places] < WHITE
        run = np.argmax(ended, axis=1)
        through = ~ended[np.arange(run.size), run]  # white to the end of the stretch
        run[through] = ended.shape[1]
        depth[places] += run.astype(np.int32)
        places = places[through]
        if not places.size:
            break
    opened = cv2.morphologyEx(depth[None].astype(np.float32), cv2.MORPH_OPEN, np.ones((1, contact), np.uint8))
    return np.asarray(opened[0], np.int32)


def _dark_band(gray: Gray) -> int:
    """How many columns from the left are black, or white with fill, from top to bottom."""
    most = int(MAX_TRIM * gray.shape[1])
    step = 16
    for start in range(0, most, step):
        stripe = gray[:, start : start + step]
        flat = np.count_nonzero((stripe <= BLACK) | (stripe >= WHITE), axis=0)
        lit = np.flatnonzero(flat < ALL_DARK * len(gray))
        if lit.size:
            return start + int(lit[0])
    return 0  # a black scan, not a band


def _tinted(depth: NDArray[np.int32]) -> NDArray[np.int32]:
    """Widen fill by the pixels that it has tinted, inwards and along the border."""
    if not depth.any():
        return depth
    kernel = np.ones((1, 2 * RINGING + 1), np.uint8)
    wide = np.asarray(cv2.dilate(depth[None].astype(np.float32), kernel)[0], np.int32)
    wide[wide > 0] += RINGING
    return wide


def clean(gray: Gray, border: Border, mask: Mask) -> Gray:
    """A copy with the fill painted over by what lies beside it: same level, same noise, no edge.

    Above, speckle of the vitreous is laid out; below, speckle of the deep choroid; at the sides, where fill can cross
    the retina, each row is mirrored. mask is `border.mask()`.
    """
    rows, columns = gray.shape
    painted = gray.copy()
    half = rows // 2
    for part, hidden, from_top in ((painted[:half], mask[:half], True), (painted[half:], mask[half:], False)):
        if hidden.any():
            tile = _quiet_tile(gray, mask, from_top=from_top)
            below, beside = max(0, part.shape[0] - tile.shape[0]), max(0, columns - tile.shape[1])
            speckle = cv2.copyMakeBorder(tile, 0, below, 0, beside, cv2.BORDER_REFLECT)
            cv2.copyTo(speckle[: part.shape[0], :columns], hidden, part)
    _mirror(gray, mask, border.left, painted)
    _mirror(gray[:, ::-1], mask[:, ::-1], border.right, painted[:, ::-1])
    return painted


def _quiet_tile(gray: Gray, mask: Mask, *, from_top: bool) -> Gray:
    """The darkest window free of fill in the upper half or the lower third: speckle without retina."""
    rows = gray.shape[0]
    start, stop = (0, rows // 2) if from_top else (rows - rows // 3, rows)
    # Every 4th pixel tells enough of the level, and fill is nowhere thinner than RINGING + 1.
    level = gray[start:stop:_STEP, ::_STEP].astype(np.float32)
    level[mask[start:stop:_STEP, ::_STEP] > 0] = 1000
    height, width = min(_TILE[0] // _STEP, level.shape[0]), min(_TILE[1] // _STEP, level.shape[1])
    means = cv2.blur(level, (width, height), anchor=(0, 0), borderType=cv2.BORDER_REFLECT)
    means = means[: level.shape[0] - height + 1, : level.shape[1] - width + 1]
    row, column = divmod(int(np.argmin(means)), means.shape[1])
    if float(level[row : row + height, column : column + width].max()) > 255:
        return np.zeros(_TILE, np.uint8)  # fill everywhere
    y, x = start + row * _STEP, column * _STEP
    return gray[y : y + (height - 1) * _STEP + 1, x : x + (width - 1) * _STEP + 1]


def _mirror(gray: Gray, mask: Mask, depth: NDArray[np.int32], painted: Gray) -> None:
    """Continue each row over narrow fill at its left end, where the pixels to do it with are no fill themselves."""
    reach = gray.shape[1] // 16
    narrow = np.flatnonzero((depth > 0) & (depth <= reach))
    if not narrow.size:
        return
    depths = depth[narrow]
    narrow, depths = narrow[mask[narrow, depths] == 0], depths[mask[narrow, depths] == 0]
    for column in range(int(depths.max(initial=0))):
        inside = depths > column
        at, deep = narrow[inside], depths[inside]
        origin = 2 * deep - 1 - column
        free = mask[at, origin] == 0
        painted[at[free], column] = gray[at[free], origin[free]]
