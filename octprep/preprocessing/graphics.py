"""What is drawn into a gray scan by a device or a viewer: an icon of the scan's direction, a scale bar."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray, Mask

# A line of an icon or a scale bar is upright, straight, narrow and bright, unlike any part of a retina: three sampled
# rows cross it and all rows between them, and it is brighter than what lies 3 pixels to either side.
_STEP, _BESIDE = 8, 3
_LINE_LEVEL, _LINE_CONTRAST = 160, 80  # gray levels
# Strokes of graphics: narrower than a window of pixels, and brighter than all that is as wide, by gray levels.
_THIN, _THIN_CONTRAST = 9, 40
GRAPHICS_REACH = 32  # pixels
_EDGE = np.ones((3, 3), np.uint8)  # the soft edge of a stroke, one pixel around it
_INPAINT_RADIUS = 3  # pixels


def without_graphics(gray: Gray) -> Gray | None:
    """A scan, (rows, columns) uint8, without the icon or scale bar in white that is drawn into it; None without one.

    An upright white line tells that there is one. What is inpainted are thin bright pixels: those connected to such a
    line, and all others no farther than GRAPHICS_REACH from the box around them, such as letters.
    """
    rows, columns = _upright_lines(gray)
    if not rows.size:
        return None
    thin = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, np.ones((_THIN, _THIN), np.uint8)) >= _THIN_CONTRAST
    _, labels = cv2.connectedComponents(thin.view(np.uint8))
    of_lines = np.flatnonzero(np.isin(labels, np.setdiff1d(labels[rows, columns], 0)))
    if not of_lines.size:
        return None
    y, x = np.unravel_index(of_lines, gray.shape)
    near = tuple(slice(max(int(at.min()) - GRAPHICS_REACH, 0), int(at.max()) + GRAPHICS_REACH + 1) for at in (y, x))
    drawn = np.zeros_like(gray)
    drawn[near] = thin[near]
    return inpaint_strokes(gray, drawn)


def inpaint_strokes(gray: Gray, strokes: Mask) -> Gray:
    """A copy of a scan with its strokes and their soft edges inpainted from the pixels around them.

    gray, strokes: (rows, columns) uint8; strokes are above 0.
    """
    return np.asarray(cv2.inpaint(gray, cv2.dilate(strokes, _EDGE), _INPAINT_RADIUS, cv2.INPAINT_TELEA), np.uint8)


def _upright_lines(gray: Gray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows and columns of pixels on upright white lines: (count,) each."""
    sampled = np.ascontiguousarray(gray[::_STEP])
    inner = sampled.shape[1] - 2 * _BESIDE
    left, middle, right = (sampled[:, start : start + inner] for start in (0, _BESIDE, 2 * _BESIDE))
    contrast = cv2.subtract(middle, cv2.max(left, right))  # 0 where a neighbour is brighter
    of_line = cv2.min(contrast, cv2.threshold(middle, _LINE_LEVEL - 1, 255, cv2.THRESH_BINARY)[1])
    crossed = cv2.min(cv2.min(of_line[2:], of_line[1:-1]), of_line[:-2])
    if crossed.max() < _LINE_CONTRAST:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    sample, column = np.nonzero(crossed >= _LINE_CONTRAST)
    rows, columns = (sample + 1) * _STEP, column + _BESIDE
    is_unbroken = (gray[rows + np.arange(-_STEP, _STEP + 1)[:, None], columns] >= _LINE_LEVEL).all(axis=0)
    return rows[is_unbroken], columns[is_unbroken]
