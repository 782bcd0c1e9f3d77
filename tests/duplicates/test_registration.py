"""The correlation of fine detail, once two images are registered."""

import itertools

import cv2
import numpy as np
import pytest

from benchmarks.near_duplicates import turned
from octprep import preprocessing
from octprep.duplicates import MIN_CORRELATION, detail_correlation, is_comparable, registration
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


@pytest.mark.parametrize("std", [0, 20, 40, 60, 80, 100, 120])
@pytest.mark.parametrize("hopeless", [0.2, 0.45, 0.7])
def test_blocks_are_left_out_only_where_the_median_is_hopeless(std, hopeless):
    detail = np.random.default_rng(1).normal(0, 5, (200, 180)).astype(np.float32)
    detail[:70] = 0  # without detail in either
    other = detail.copy()
    noise = np.random.default_rng(2).normal(0, std / 5, (130, 180)) * np.linspace(0, 1, 180)  # more of it to the right
    other[70:] += noise.astype(np.float32)
    whole = registration._median_correlation(detail, other, 1, 2, -1.0)
    stopped = registration._median_correlation(detail, other, 1, 2, hopeless)
    assert stopped == whole if whole >= hopeless else stopped < hopeless


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["default", "crop-none", "flatten"])
def test_the_quick_look_neither_loses_near_duplicates_nor_changes_their_correlation(recipe, population, monkeypatch):
    images = population.stored(recipe)
    pairs = [(images[first], images[second]) for first, second in population.planted_pairs]
    if recipe == "default":
        rng = np.random.default_rng(3)
        pairs += [(first, preprocessing.decode(turned(first, rng))) for first, _ in pairs]
    quick = [detail_correlation(*pair) for pair in pairs]
    monkeypatch.setattr(registration, "_QUICKLY_HOPELESS", -1.0)
    whole = [detail_correlation(*pair) for pair in pairs]
    found = [correlation for correlation in whole if correlation >= MIN_CORRELATION]
    assert len(found) >= 0.75 * len(pairs)
    assert [correlation for correlation in quick if correlation >= MIN_CORRELATION] == found


def test_a_quick_look_is_enough_for_images_without_anything_in_common(monkeypatch):
    monkeypatch.setattr(registration, "_STAGES", ())  # of which nothing else could give a correlation
    correlation = detail_correlation(random_image(1, (224, 224)), random_image(2, (224, 224)))
    assert 0 < correlation < registration._QUICKLY_HOPELESS


@pytest.mark.slow
def test_neighbouring_scans_of_one_volume_stay_below_the_threshold(population):
    images = population.stored("default")[population.genuine]
    highest = max(detail_correlation(images[index], images[index + 1]) for index in range(0, 120, 2))
    assert highest < MIN_CORRELATION
