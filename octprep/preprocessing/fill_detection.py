"""Detection of fill: the areas that rotating and shifting a scan left white or black along its four sides.

For each side the depth of fill at a position along it is the length of the run of fill-coloured pixels from the border
inwards. White depths are opened (in the morphological sense, over the contact length), which removes narrow spikes such
as a saturated retina that ends at the border. Above and below, white fill may lie behind black: a scan with white fill
was then turned or shifted once more, by a tool that leaves black. Black depths count only where a straight line fits
them (a Theil-Sen line over one lag), as shadows and the deep choroid are as dark but ragged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray, Mask

Depths = NDArray[np.int32]  # pixels of fill from the border inwards, one for each position along the border

# Fill left by rotation and shifting is at least this bright, or at most this dark, after JPEG.
WHITE, BLACK = 235, 8
# How far along the border fill must reach, in pixels: a saturated retina that ends at the border is narrower.
CONTACT_ACROSS, CONTACT_ALONG = 25, 41  # at the top or bottom, at a side
# Next to such fill, narrower fill counts too if it is at most so many pixels deeper: the last step of a wedge, or a
# corner. At the sides fill meets the retina, which may be white there.
STEP_ACROSS, STEP_ALONG = 12, 2
RINGING = 3  # pixels around fill that JPEG and interpolation have tinted
DARK_BAND, ALL_DARK = 6, 0.92  # gray level of a device's dark band at a side, and the fraction of a column that has it
STRAIGHT = 1.0  # pixels: the largest median distance of a black wedge's edge from a line
MAX_BAND = 0.4  # fraction of the width that bands at either side may take away
_SPAN = 48  # pixels of a run that are looked at together
_SAMPLES = 16  # pixels of a line through the scan; if all of them are fill, the whole line is taken for fill


@dataclass(frozen=True)
class FillDepths:
    """Fill along the four sides of a scan: how many pixels deep at each position along the border."""

    top: Depths  # (columns,)
    bottom: Depths  # (columns,)
    left: Depths  # (rows,)
    right: Depths  # (rows,)

    def mask(self) -> Mask:
        """(rows, columns) uint8, 255 where the scan is fill, 0 elsewhere."""
        is_fill = np.zeros((self.left.size, self.top.size), np.bool_)
        # 16 bits are compared fastest, and a JPEG has at most 65,535 rows and columns.
        for view, depths in ((is_fill, self.top), (is_fill[::-1], self.bottom)):
            deepest = min(int(depths.max(initial=0)), len(view))
            view[:deepest] |= np.arange(deepest, dtype=np.uint16)[:, None] < depths.astype(np.uint16)
        for view, depths in ((is_fill, self.left), (is_fill[:, ::-1], self.right)):
            sideways = np.where(depths <= MAX_BAND * self.top.size, depths, 0)  # longer rows are above or below
            deepest = int(sideways.max(initial=0))
            view[:, :deepest] |= np.arange(deepest, dtype=np.uint16) < sideways.astype(np.uint16)[:, None]
        return -is_fill.view(np.uint8)

    def kept_columns(self) -> tuple[int, int]:
        """The columns to keep, half open: bands over more than half of the rows are cut off rather than inpainted.

        The pixels that a band has tinted are cut off with it.
        """
        columns = self.top.size
        limit = int(MAX_BAND * columns)
        left, right = (_upper_median(depths) for depths in (self.left, self.right))
        if max(left, right) > limit:  # most rows are fill from one side to the other: the other rows show any band
            left, right = (_upper_median(depths[depths <= limit]) for depths in (self.left, self.right))
        left, right = (min(depth + RINGING, limit) if depth else 0 for depth in (left, right))
        return left, columns - right


def fill_reason(fraction: float) -> str:
    """Why a scan with so much fill, 0..1, is excluded."""
    return f"nothing but fill: {fraction:.0%} of it is white or black from the border on"


def _upper_median(depths: Depths) -> int:
    """The upper median, or 0 of nothing."""
    return int(np.partition(depths, depths.size // 2)[depths.size // 2]) if depths.size else 0


def find_fill(gray: Gray) -> FillDepths | None:
    """Detect the white or black fill that rotation and shifting left, and a device's dark bands at the sides.

    gray: (rows, columns) uint8. Returns None if there is no fill.
    """
    # Deeper at a side is a wedge above or below, which is found there; no need to follow it across the scan.
    reach = int(MAX_BAND * gray.shape[1]) + 1
    top, bottom = (_fill_depths(side, CONTACT_ACROSS, STEP_ACROSS, behind_black=True) for side in (gray, gray[::-1]))
    # At the sides the retina itself, which may be white, lies behind black fill.
    left, right = (
        np.maximum(_fill_depths(side.T[:reach], CONTACT_ALONG, STEP_ALONG, behind_black=False), _dark_band_width(side))
        for side in (gray, gray[:, ::-1])
    )
    return FillDepths(top, bottom, left, right) if any(map(np.count_nonzero, (top, bottom, left, right))) else None


def _fill_depths(gray: Gray, contact: int, step: int, *, behind_black: bool) -> Depths:
    """The depth of fill at each position along the border; gray: (inwards, along), returns (along,).

    With behind_black white fill that begins where black fill ends counts too.
    """
    edge = np.ascontiguousarray(gray[: 2 * RINGING + 1])
    depths = np.zeros(gray.shape[1], np.int32)
    may_be_white = edge[0] >= WHITE
    has_black = int(np.count_nonzero(edge[0] <= BLACK)) >= contact
    if has_black:
        is_deep = edge[: RINGING + 1].max(axis=0) <= BLACK
        if _is_broad(is_deep, contact):
            depths = _black_depths(gray, contact)
        if behind_black:  # behind black that is narrow, or so deep that white may follow
            may_be_white = is_deep | (edge.max(axis=0) >= WHITE)
    if _is_broad(may_be_white, contact):
        depths = np.maximum(depths, _white_depths(gray, contact, step, behind_black=behind_black and has_black))
    return depths


def _white_depths(gray: Gray, contact: int, step: int, *, behind_black: bool) -> Depths:
    """The depth of white fill at each position along the border; arguments as in `_fill_depths`."""
    depths = _white_behind_black(gray, contact) if behind_black else np.zeros(gray.shape[1], np.int32)
    if np.count_nonzero(gray[0] >= WHITE) >= contact:
        depths = np.maximum(depths, _run_lengths(gray, _is_white))
    if not depths.any():
        return depths
    broad = _without_narrow(depths, contact)
    near_broad = deepest_within(broad, contact) > 0
    return np.where(near_broad & (depths - broad <= step), depths, broad)


def _white_behind_black(gray: Gray, contact: int) -> Depths:
    """The depth of white fill that begins where black fill at the border ends, or 0; arrays as in `_fill_depths`."""
    depths = np.zeros(gray.shape[1], np.int32)
    is_near, is_deep = gray[2 * RINGING] >= WHITE, gray[: RINGING + 1].max(axis=0) <= BLACK
    if np.count_nonzero(is_near | is_deep) < contact:
        return depths
    is_white = (gray[2 * RINGING :: 8].max(axis=0) >= WHITE) & (gray[0] < WHITE)
    if np.count_nonzero(is_white) < contact:
        return depths
    along = np.flatnonzero(is_white & (is_deep | (gray[: 2 * RINGING + 1].max(axis=0) >= WHITE)))
    next_to_black = _run_ends(gray, along, _is_black) + np.arange(RINGING + 1)[:, None]
    # JPEG and interpolation have tinted what is between.
    along = along[_is_white(gray[np.minimum(next_to_black, len(gray) - 1), along]).any(axis=0)]
    lines = np.ascontiguousarray(gray[:, along].T)
    white = np.argmax(lines >= WHITE, axis=1)
    is_after = (lines < WHITE) & (np.arange(len(gray)) > white[:, None])
    depths[along] = np.where(is_after.any(axis=1), np.argmax(is_after, axis=1), len(gray))
    return depths


def _black_depths(gray: Gray, contact: int) -> Depths:
    """The depth of black fill with a straight edge at each position along the border; arrays as in `_fill_depths`."""
    none = np.zeros(gray.shape[1], np.int32)
    depths = _run_lengths(gray, _is_black)
    depths[depths == len(gray)] = 0  # fill of another side, or a band
    positions = np.flatnonzero(_without_narrow(depths, contact) > RINGING)
    if positions.size < contact:
        return none
    # A line by medians, which a few dark pixels at either end do not turn (Theil-Sen over pairs of one lag only).
    lag = positions.size // 2
    x, y = positions.astype(np.float64), depths[positions]
    slope = float(np.median((y[lag:] - y[:-lag]) / (x[lag:] - x[:-lag])))
    intercept = float(np.median(y - slope * x))
    if float(np.median(np.abs(y - slope * x - intercept))) > STRAIGHT:
        return none
    line = slope * np.arange(depths.size) + intercept
    return np.where(np.abs(depths - line) <= RINGING, depths, 0).astype(np.int32)


def _is_broad(is_fill: NDArray[np.bool_], contact: int) -> bool:
    """Whether fill reaches `contact` positions along the border somewhere, as `_without_narrow` counts them.

    is_fill: (along,). What is beyond the two ends counts as fill there.
    """
    beyond = b"\1" * (contact // 2)
    return b"\1" * contact in beyond + is_fill.tobytes() + beyond


def _is_white(gray: Gray) -> NDArray[np.bool_]:
    return gray >= WHITE


def _is_black(gray: Gray) -> NDArray[np.bool_]:
    return gray <= BLACK


def _run_lengths(gray: Gray, is_fill: Callable[[Gray], NDArray[np.bool_]]) -> Depths:
    """How many pixels from the border inwards are all fill; gray: (inwards, along), returns (along,).

    Where all of _SAMPLES evenly spaced pixels of a line are, as at a side that is seen through a wedge above or below,
    the whole line counts.
    """
    is_whole = is_fill(np.ascontiguousarray(gray[:: max(len(gray) // _SAMPLES, 1)])).all(axis=0)
    depths = np.where(is_whole, len(gray), 0).astype(np.int32)
    running = np.flatnonzero(is_fill(gray[0]) & ~is_whole)
    depths[running] = _run_ends(gray, running, is_fill)
    return depths


def _run_ends(gray: Gray, along: NDArray[np.intp], is_fill: Callable[[Gray], NDArray[np.bool_]]) -> Depths:
    """How many pixels from the border inwards are all fill, at some positions along it: (positions,)."""
    ends = np.full(along.size, len(gray), np.int32)
    running = np.arange(along.size)
    for start in range(0, len(gray), _SPAN):  # most runs end in the first
        if not running.size:
            break
        lines = is_fill(gray[start : start + _SPAN].T[along[running]])
        length = np.argmin(lines, axis=1)
        is_end = ~lines[np.arange(running.size), length]
        ends[running[is_end]] = start + length[is_end]
        running = running[~is_end]
    return ends


def _without_narrow(depths: Depths, contact: int) -> Depths:
    """Depths without what is narrower than `contact` positions: a gray-scale opening with a flat element."""
    opened = cv2.morphologyEx(depths[None].astype(np.float32), cv2.MORPH_OPEN, np.ones((1, contact), np.uint8))
    return np.asarray(opened[0], np.int32)


def deepest_within(depths: Depths, reach: int) -> Depths:
    """The largest depth within `reach` positions along the border: a gray-scale dilation."""
    deepest = cv2.dilate(depths[None].astype(np.float32), np.ones((1, 2 * reach + 1), np.uint8))
    return np.asarray(deepest[0], np.int32)


def _dark_band_width(gray: Gray) -> int:
    """How many columns from the left are black, or white with fill, from top to bottom."""
    limit = int(MAX_BAND * gray.shape[1])
    step, start = 1, 0  # most scans have none: look at the first column alone
    while start < limit:
        stripe = np.ascontiguousarray(gray[:, start : start + step].T)
        flat = ((stripe <= DARK_BAND) | (stripe >= WHITE)).sum(axis=1)
        lit = np.flatnonzero(flat < ALL_DARK * len(gray))
        if lit.size:
            return start + int(lit[0])
        start, step = start + step, 16
    return 0  # a black scan, not a band
