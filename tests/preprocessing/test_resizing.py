"""Stored pixels are those of OpenCV's resize by area, whatever way they are computed."""

import cv2
import numpy as np
import pytest

from octprep.preprocessing.resizing import resize

SIZES = [(496, 768), (261, 512), (497, 1024), (230, 1536), (448, 512), (250, 448), (300, 300), (17, 18), (15, 40)]


@pytest.mark.parametrize("rows_and_columns", SIZES)
@pytest.mark.parametrize("target", [(224, 224), (200, 223), (96, 128), (12, 16)])
def test_shrinking_gives_the_pixels_of_one_resize_by_area(rows_and_columns, target):
    rows, columns = rows_and_columns
    height, width = (min(sides) for sides in zip(rows_and_columns, target, strict=True))
    gray = np.random.default_rng(rows).integers(0, 256, (rows + 9, columns + 9), np.uint8)
    for pixels in (np.ascontiguousarray(gray[9:, 9:]), gray[9:, 9:], np.full((rows, columns), 255, np.uint8)):
        expected = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        assert np.array_equal(resize(pixels, height, width), expected)
