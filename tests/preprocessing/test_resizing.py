"""Resizing: the pixels of OpenCV's area averaging, bit for bit."""

import cv2
import numpy as np
import pytest

from octprep.preprocessing.resizing import resize

SIZES = [
    ((496, 768), (224, 224)),
    ((497, 769), (224, 225)),  # odd along both axes
    ((221, 768), (221, 224)),  # one axis alone
    ((496, 512), (224, 512)),
    ((448, 768), (224, 224)),  # a whole factor along one axis, where OpenCV may have other arithmetic
    ((496, 1536), (224, 512)),
    ((448, 672), (224, 224)),  # along both
    ((448, 1344), (224, 224)),
    ((30, 1536), (30, 7)),
    ((700, 21), (16, 20)),
    ((17, 16), (16, 1)),
]


@pytest.mark.parametrize(("size", "target"), SIZES, ids=str)
def test_a_smaller_image_is_the_area_average_of_opencv(size, target):
    rng = np.random.default_rng(0)
    for high in (1, 2, 255):
        gray = rng.integers(0, high, size, np.uint8, endpoint=True)
        assert np.array_equal(resize(gray, *target), cv2.resize(gray, target[::-1], interpolation=cv2.INTER_AREA))


def test_an_axis_that_grows_is_interpolated_after_the_other_was_averaged():
    gray = np.random.default_rng(0).integers(0, 256, (180, 769), np.uint8)
    averaged = cv2.resize(gray, (224, 180), interpolation=cv2.INTER_AREA)
    assert np.array_equal(resize(gray, 224, 224), cv2.resize(averaged, (224, 224), interpolation=cv2.INTER_LINEAR))
