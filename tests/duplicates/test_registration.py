"""The correlation of fine detail, once two images are registered."""

import itertools

import cv2
import numpy as np
import pytest

from octprep.duplicates import MIN_CORRELATION, detail_correlation, is_comparable
from octprep.duplicates.registration import strip_letterbox
from tests.duplicates.images import pairs_of, random_image


@pytest.mark.parametrize("side", [16, 64, 4096])
def test_the_smallest_and_the_largest_images_can_be_compared(side):
    first, second = (cv2.resize(random_image(seed), (side, side)) for seed in (1, 2))
    assert detail_correlation(first, second) < MIN_CORRELATION
    assert pairs_of([first, second], ["a", "b"]) == []


@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_images_do_not_correlate(value):
    constant = np.full((100, 100), value, np.uint8)
    assert detail_correlation(constant, constant) == 0


def test_a_letterbox_has_no_influence():
    dark = random_image(3) // 2
    bright = np.asarray(dark * 2 + 3, np.uint8)
    padded = cv2.copyMakeBorder(dark, 17, 18, 0, 0, cv2.BORDER_CONSTANT, value=[0.0])
    assert strip_letterbox(padded).shape == (dark.shape[0] + 1, dark.shape[1])
    assert detail_correlation(padded, bright) > 0.95
    assert [(pair.first, pair.second) for pair in pairs_of([padded, dark, random_image(4)], ["a", "b", "c"])] == [
        (0, 1)
    ]


def test_images_without_enough_pixels_are_not_comparable():
    assert is_comparable(random_image(1, (100, 100)))
    assert not is_comparable(random_image(1, (80, 100)))
    assert not is_comparable(cv2.copyMakeBorder(random_image(1, (80, 100)), 20, 20, 0, 0, cv2.BORDER_CONSTANT, value=0))


def test_correlation_ignores_brightness_and_falls_with_noise():
    image = random_image(5, (224, 224))
    rng = np.random.default_rng(0)
    noisy = [np.clip(image * 0.95 + rng.normal(0, std, image.shape), 0, 255).astype(np.uint8) for std in (0, 8, 25, 70)]
    correlations = [detail_correlation(image, other) for other in noisy]
    assert correlations[0] > 0.98
    assert all(higher > lower for higher, lower in itertools.pairwise(correlations))
    assert correlations[-1] < MIN_CORRELATION


@pytest.mark.slow
def test_neighbouring_scans_of_one_volume_stay_below_the_threshold(population):
    images = population.stored("default")[population.genuine]
    highest = max(detail_correlation(images[index], images[index + 1]) for index in range(0, 120, 2))
    assert highest < MIN_CORRELATION
