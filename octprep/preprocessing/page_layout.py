"""What surrounds or divides a scan that was saved as a plot or a screen shot: a white frame, or panels."""

from __future__ import annotations

import numpy as np

from octprep.arrays import Gray
from octprep.preprocessing.fill_detection import RINGING, WHITE
from octprep.preprocessing.geometry import Crop
from octprep.preprocessing.limits import MIN_SIDE

_WHOLE = 0.99  # fraction of a row or column that is white if the row or column is
_MIN_FRAME = 3  # pixels of a frame on each side
# Just inside a frame at most this fraction of a row or column is white. Fill that rotation left is a wedge: where it
# ends on one column, it still covers most of the row.
_MAX_WHITE_INSIDE = 0.5
_MIN_BAND = 4  # pixels of a band between two panels
_SAMPLES = 4  # pixels of half a row or column that are looked at first


def find_white_frame(gray: Gray) -> Crop | None:
    """The part of a scan, (rows, columns) uint8, inside a white frame on all four sides, or None without such a frame.

    The pixels next to the frame, which JPEG has tinted, are not in that part.
    """
    if gray[0, 0] < WHITE or min(gray[0, -1], gray[-1, 0], gray[-1, -1]) < WHITE:
        return None
    is_white = gray >= WHITE
    rows, columns = (np.flatnonzero(is_white.mean(axis=axis) < _WHOLE) for axis in (1, 0))
    if not rows.size or not columns.size:
        return None
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    if min(top, left, gray.shape[0] - bottom, gray.shape[1] - right) < _MIN_FRAME:
        return None
    top, bottom, left, right = top + RINGING, bottom - RINGING, left + RINGING, right - RINGING
    if min(bottom - top, right - left) < MIN_SIDE:
        return None
    inside = is_white[top:bottom, left:right]
    if max(edge.mean() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1])) > _MAX_WHITE_INSIDE:
        return None
    return top, bottom, left, right


def has_panels(gray: Gray) -> bool:
    """Whether white bands from side to side divide an image, (rows, columns) uint8, into parts of over MIN_SIDE."""
    return _is_divided(gray) or _is_divided(gray.T)


def _is_divided(gray: Gray) -> bool:
    """Whether white rows divide an image into parts of at least MIN_SIDE rows."""
    middle = gray.shape[1] // 2
    candidates = MIN_SIDE + np.flatnonzero(gray[MIN_SIDE:-MIN_SIDE, middle] >= WHITE)
    if not (candidates.size and (gray[candidates, :: max(middle // _SAMPLES, 1)] >= WHITE).all(axis=1).any()):
        return False
    scanned = np.flatnonzero((gray >= WHITE).mean(axis=1) < _WHOLE)  # the rows that are not white
    parts = np.split(scanned, np.flatnonzero(np.diff(scanned) > _MIN_BAND) + 1)
    return len([part for part in parts if part.size and part[-1] - part[0] >= MIN_SIDE]) > 1
