"""The areas that rotating and shifting left white or black at a scan's border."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray, Mask

# Fill left by rotation and shifting is this bright, or this dark, after JPEG.
WHITE, BLACK = 235, 8
# How far along the border fill must reach, in pixels: a saturated retina that ends at the border is narrower.
CONTACT_ACROSS, CONTACT_ALONG = 25, 41  # at the top or bottom, at a side
# What stands out of such fill over less than that is fill too if it is no deeper, in pixels: the last step of a wedge,
# or a corner. At the sides fill meets the retina, which may be white there.
STEP_ACROSS, STEP_ALONG = 12, 2
RINGING = 3  # pixels around fill that JPEG and interpolation have tinted
DARK_BAND, ALL_DARK = 6, 0.92  # gray level of a device's dark band at a side, and the fraction of a column that has it
STRAIGHT = 1.0  # pixels by which half the edge of a black wedge may depart from a line; shadows are more ragged
_SAMPLES = 16  # pixels of a line through the scan that tell whether all of it is fill
MAX_TRIM = 0.4  # fraction of the width that bands at either side may take away


@dataclass(frozen=True)
class Border:
    """Fill along the four sides of a scan: how many pixels deep at each place."""

    top: NDArray[np.int32]  # (columns,)
    bottom: NDArray[np.int32]  # (columns,)
    left: NDArray[np.int32]  # (rows,)
    right: NDArray[np.int32]  # (rows,)

    def mask(self) -> Mask:
        """(rows, columns), 255 where the scan is fill."""
        mask = np.zeros((self.left.size, self.top.size), np.uint8)
        for view, depths in ((mask, self.top), (mask[::-1], self.bottom)):
            deepest = min(int(depths.max(initial=0)), len(view))
            inwards = np.arange(deepest, dtype=np.uint16)[:, None]  # a JPEG has at most 65,535 rows
            np.putmask(view[:deepest], inwards < depths.astype(np.uint16), 255)
        for view, depths in ((mask, self.left), (mask[:, ::-1], self.right)):
            sideways = np.where(depths <= MAX_TRIM * self.top.size, depths, 0)  # longer rows are above or below
            deepest = int(sideways.max(initial=0))
            view[:, :deepest][np.arange(deepest) < sideways[:, None]] = 255
        return mask

    def trim(self) -> tuple[int, int]:
        """The columns to keep: bands that take more than half the rows are cut off rather than painted.

        With them go the pixels that they have tinted.
        """
        columns = self.top.size
        most = int(MAX_TRIM * columns)
        left, right = (_median(depth) for depth in (self.left, self.right))
        if max(left, right) > most:  # most rows are fill from one side to the other: the others tell where a band is
            left, right = (_median(depth[depth <= most]) for depth in (self.left, self.right))
        left, right = (min(depth + RINGING, most) if depth else 0 for depth in (left, right))
        return left, columns - right


def _median(depth: NDArray[np.int32]) -> int:
    """The upper median; 0 of nothing."""
    return int(np.partition(depth, depth.size // 2)[depth.size // 2]) if depth.size else 0


def find_border(gray: Gray) -> Border | None:
    """Where rotating or shifting the scan left white or black fill, or the device a dark band at a side.

    None if nowhere. Fill is what is white, or black, without a break from the border inwards, over some length of it: a
    bright retina that ends at the border, or a saturated one behind a strip of fill, is a narrow spike in that depth.
    Darkness is fill only where its edge is straight, as shadows and the deep choroid are as dark.
    """
    # Deeper at a side is a wedge above or below, which is found there; no need to follow it across the scan.
    reach = int(MAX_TRIM * gray.shape[1]) + 1
    sides = (gray, gray[::-1], gray.T[:reach], gray.T[: -reach - 1 : -1])
    across, along = (CONTACT_ACROSS, STEP_ACROSS), (CONTACT_ALONG, STEP_ALONG)
    depths = [
        np.maximum(_white_depth(side, contact, step), _black_depth(side, contact))
        for side, (contact, step) in zip(sides, (across, across, along, along), strict=True)
    ]
    for side, depth in ((gray, depths[2]), (gray[:, ::-1], depths[3])):
        np.maximum(depth, _dark_band(side), out=depth)
    return Border(*depths) if any(depth.any() for depth in depths) else None


def _white_depth(gray: Gray, contact: int, step: int) -> NDArray[np.int32]:
    """How many pixels inwards from the border are white fill, at each place along it.

    gray: (inwards, along). Returns (along,).
    """
    if np.count_nonzero(gray[0] >= WHITE) < contact:
        return np.zeros(gray.shape[1], np.int32)
    depth = _run(gray, WHITE, 255)
    broad = _opened(depth, contact)
    near = dilated(broad, contact) > 0
    return np.where(near & (depth - broad <= step), depth, broad)


def _black_depth(gray: Gray, contact: int) -> NDArray[np.int32]:
    """How many pixels inwards from the border are black fill with a straight edge, at each place along it.

    gray: (inwards, along). Returns (along,).
    """
    none = np.zeros(gray.shape[1], np.int32)
    if np.count_nonzero(gray[0] <= BLACK) < contact:
        return none
    begun = gray[: RINGING + 1].max(axis=0) <= BLACK
    if np.count_nonzero(begun) < contact or not _opened(begun.astype(np.int32), contact).any():
        return none
    depth = _run(gray, 0, BLACK)
    depth[depth == len(gray)] = 0  # fill of another side, or a band
    places = np.flatnonzero(_opened(depth, contact) > RINGING)
    if places.size < contact:
        return none
    # A line through the medians, which what is dark by chance at either end does not turn (Theil-Sen, one lag only).
    lag = places.size // 2
    at, deep = places.astype(np.float64), depth[places]
    slope = float(np.median((deep[lag:] - deep[:-lag]) / (at[lag:] - at[:-lag])))
    level = float(np.median(deep - slope * at))
    if float(np.median(np.abs(deep - slope * at - level))) > STRAIGHT:
        return none
    line = slope * np.arange(depth.size) + level
    fits = np.abs(depth - line) <= RINGING
    return np.where(fits, depth, 0).astype(np.int32)


def _run(gray: Gray, low: int, high: int) -> NDArray[np.int32]:
    """How many pixels from the border inwards are all between low and high; gray: (inwards, along)."""
    depth = np.zeros(gray.shape[1], np.int32)
    # Where samples all the way in are fill, everything is taken to be: a side seen through a wedge above or below.
    samples = gray[:: max(len(gray) // _SAMPLES, 1)]
    through = ((samples >= low) & (samples <= high)).all(axis=0)
    depth[through] = len(gray)
    places = np.flatnonzero((gray[0] >= low) & (gray[0] <= high) & ~through)
    start, step = 0, 8  # most fill is shallow
    while places.size and start < len(gray):
        stretch = np.ascontiguousarray(gray[start : start + step].T)[places]
        ended = (stretch < low) | (stretch > high)
        run = np.argmax(ended, axis=1)
        on = ~ended[np.arange(run.size), run]  # fill in all of the stretch
        run[on] = ended.shape[1]
        depth[places] += run.astype(np.int32)
        places, start, step = places[on], start + step, min(4 * step, 64)
    return depth


def _opened(depth: NDArray[np.int32], contact: int) -> NDArray[np.int32]:
    """Without what is narrower than contact."""
    opened = cv2.morphologyEx(depth[None].astype(np.float32), cv2.MORPH_OPEN, np.ones((1, contact), np.uint8))
    return np.asarray(opened[0], np.int32)


def dilated(depth: NDArray[np.int32], reach: int) -> NDArray[np.int32]:
    """The deepest within reach along the border."""
    deepest = cv2.dilate(depth[None].astype(np.float32), np.ones((1, 2 * reach + 1), np.uint8))
    return np.asarray(deepest[0], np.int32)


def _dark_band(gray: Gray) -> int:
    """How many columns from the left are black, or white with fill, from top to bottom."""
    most = int(MAX_TRIM * gray.shape[1])
    step, start = 1, 0  # most scans have none: look at the first column alone
    while start < most:
        stripe = np.ascontiguousarray(gray[:, start : start + step].T)
        flat = np.count_nonzero((stripe <= DARK_BAND) | (stripe >= WHITE), axis=1)
        lit = np.flatnonzero(flat < ALL_DARK * len(gray))
        if lit.size:
            return start + int(lit[0])
        start, step = start + step, 16
    return 0  # a black scan, not a band
