"""Preprocessing as a whole: it is deterministic, and its measurements react to blur and bars as they should."""

import dataclasses

import cv2
import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import DENOISERS, Preprocessing
from octprep.format.errors import ManifestError
from tests.worlds.archive import draw_scan
from tests.worlds.layers import layered


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_preprocessing_is_deterministic_and_leaves_its_input_alone(denoiser):
    gray, _, _ = layered(20, 10)
    gray[:30] = 255
    before = gray.copy()
    first = preprocessing.preprocess(gray, Preprocessing(denoise=denoiser))
    assert np.array_equal(preprocessing.preprocess(gray, Preprocessing(denoise=denoiser)).pixels, first.pixels)
    assert np.array_equal(gray, before)
    assert first.pixels.dtype == np.uint8


def test_stored_pixels_never_share_memory_with_the_source():
    gray = draw_scan("x", 128, 128)
    recipe = Preprocessing(height=128, width=128, denoise="none", crop="none", inpaint_fill=False)
    pixels = preprocessing.preprocess(gray, recipe).pixels
    assert np.array_equal(pixels, gray)
    assert not np.shares_memory(pixels, gray)


@pytest.mark.slow
def test_a_blurred_scan_is_less_sharp_whatever_its_noise(synthetic_scans):
    clear = [gray for gray, truth in synthetic_scans if not truth.fill.any()][::3]
    rng = np.random.default_rng(0)
    blurred = []
    for gray in clear:
        soft = cv2.GaussianBlur(gray, (0, 0), 5) * rng.gamma(16, 1 / 16, gray.shape)
        blurred.append(np.clip(soft, 0, 255).astype(np.uint8))
    of_clear, of_blurred = (
        [preprocessing.preprocess(gray, Preprocessing()).measurements.sharpness for gray in grays]
        for grays in (clear, blurred)
    )
    assert (np.array(of_blurred) < 0.95 * np.array(of_clear)).all()
    assert np.mean(np.array(of_blurred) < np.percentile(of_clear, 10)) > 0.95


def test_bars_do_not_count_in_the_measurements():
    gray, _, _ = layered(0, 0)
    recipe = Preprocessing(resize="pad")
    image = preprocessing.preprocess(gray, recipe)
    top, bottom, left, right = preprocessing.placement(image.geometry.crop, recipe)
    assert top > 0
    inner = image.pixels[top:bottom, left:right]
    assert image.measurements.mean_intensity == pytest.approx(inner.mean())
    assert image.measurements.std_intensity == pytest.approx(inner.std())


def test_a_recipe_of_another_version_is_an_error():
    recipe = Preprocessing(denoise="none", crop="none", inpaint_fill=False)
    with pytest.raises(ManifestError, match="version 99 of the preprocessing"):
        preprocessing.preprocess(draw_scan("x", 100, 100), dataclasses.replace(recipe, version=99))
