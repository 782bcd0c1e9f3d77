"""DCT descriptors, and the raw and the aligned distance between them."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octprep.duplicates import DESCRIPTOR_BYTES, dct_descriptor
from octprep.duplicates.descriptors import (
    MAX_ALIGNED_DISTANCE,
    _operators,
    aligned_distance,
    as_matrix,
    coefficients,
    raw_distance,
)
from tests.duplicates.images import random_image
from tests.worlds.layers import layered


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.tuples(st.integers(16, 300), st.integers(16, 300)), st.sampled_from([0, 20, 128, 255])
)
def test_equal_pixels_have_equal_descriptors(seed, shape, brightest):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, brightest + 1, shape, np.uint8)
    descriptor = dct_descriptor(pixels)
    assert len(descriptor) == DESCRIPTOR_BYTES
    assert dct_descriptor(np.asfortranarray(pixels.copy())) == descriptor


@pytest.mark.parametrize("value", [0, 7, 255])
def test_the_descriptor_of_a_constant_image_is_zero(value):
    assert dct_descriptor(np.full((100, 100), value, np.uint8)) == bytes(DESCRIPTOR_BYTES)


def test_brightness_and_contrast_have_no_influence():
    dark = random_image(3) // 2
    bright = np.asarray(dark * 2 + 3, np.uint8)
    raw, _ = distances_between(dark, bright)
    assert raw < 0.05


def distances_between(first, second):
    matrix = coefficients(as_matrix([dct_descriptor(first), dct_descriptor(second)]))
    return raw_distance(matrix[:1], matrix[1:])[0], aligned_distance(matrix[:1], matrix[1:])[0]


def test_a_shift_and_a_stretch_are_fitted():
    image = cv2.GaussianBlur(random_image(1, (240, 240)), (0, 0), 8)
    warped = cv2.warpAffine(image, np.float32([[1.02, 0, 2], [0, 0.99, -3]]), (240, 240), borderMode=cv2.BORDER_REFLECT)
    raw, aligned = distances_between(image, warped)
    assert aligned < 0.5 * raw
    assert aligned < MAX_ALIGNED_DISTANCE
    raw, aligned = distances_between(image, cv2.GaussianBlur(random_image(2, (240, 240)), (0, 0), 8))
    assert aligned > MAX_ALIGNED_DISTANCE


@pytest.mark.parametrize("degrees", [-2, 2])
def test_a_turned_retina_has_nearly_the_same_descriptor(degrees):
    gray, _, _ = layered(0, 40)
    turn = cv2.getRotationMatrix2D((255.5, 247.5), degrees, 1)
    turned = np.asarray(cv2.warpAffine(gray, turn, (512, 496), borderMode=cv2.BORDER_REFLECT), np.uint8)
    raw, aligned = distances_between(gray[100:350], turned[100:350])
    assert raw < 0.1  # 0.29 where the thumbnail is not levelled
    assert aligned < 0.5 * MAX_ALIGNED_DISTANCE


def test_the_aligned_distance_is_the_least_squares_residual_and_symmetric():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (2, 5, 16, 16)).astype(np.float32)
    shift, stretch, place = _operators()
    expected = []
    for a, b in zip(first, second, strict=True):
        mean = (a + b) / 2
        columns = [mean, shift.T @ mean, stretch.T @ mean, mean @ shift, mean @ stretch, shift.T @ mean @ place]
        matrix = np.stack([column.ravel() for column in columns], axis=1).astype(np.float64)
        difference = (b - a).ravel()
        residual = difference - matrix @ np.linalg.lstsq(matrix, difference, rcond=None)[0]
        expected.append(np.linalg.norm(residual) / np.linalg.norm(mean))
    assert aligned_distance(first, second) == pytest.approx(expected, rel=1e-3)
    assert aligned_distance(second, first) == pytest.approx(expected, rel=1e-3)


def test_the_raw_distance_is_the_norm_of_the_difference_by_that_of_the_mean():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (2, 5, 16, 16)).astype(np.float32)
    expected = np.linalg.norm((second - first).reshape(5, -1), axis=1) / np.linalg.norm(
        (first + second).reshape(5, -1) / 2, axis=1
    )
    assert raw_distance(first, second) == pytest.approx(expected, rel=1e-4)
