"""Pictures without the layers of a retina are flagged, and B-scans are not unless they lie on their side."""

import cv2
import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.format.flags import NO_LAYERS
from tests.worlds.archive import SAMPLE_2


def has_flag(gray, recipe=None):
    """Whether a scan is flagged by `preprocess`, with which `find_flags` agrees."""
    flags = preprocessing.preprocess(gray, recipe or Preprocessing()).measurements.flags
    assert preprocessing.find_flags(gray) == flags
    return NO_LAYERS in flags


def clouds(rng, shape):
    soft = cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), 12)
    return 120 + 50 * soft / soft.std() + rng.normal(0, 5, shape)


def fundus(rng, shape):
    """A bright disc on black, with vessels in all directions from the optic disc."""
    picture = np.zeros(shape, np.float32)
    middle, radius = np.array(shape[::-1]) // 2, min(shape) // 2 - 4
    optic_disc = middle - (radius // 2, 0)
    cv2.circle(picture, middle.tolist(), radius, 110, -1)
    cv2.circle(picture, optic_disc.tolist(), radius // 8, 200, -1)
    for angle in rng.uniform(0, 2 * np.pi, 16):
        end = optic_disc + 0.6 * radius * np.array([np.cos(angle), np.sin(angle)])
        cv2.line(picture, optic_disc.tolist(), end.astype(int).tolist(), 50, 4)
    return cv2.GaussianBlur(picture, (0, 0), 2) + rng.normal(0, 4, shape)


@pytest.mark.parametrize("shape", [(496, 512), (496, 768), (512, 512), (1024, 1024)])
@pytest.mark.parametrize("draw", [clouds, fundus])
def test_en_face_pictures_and_photographs_are_flagged(draw, shape):
    for seed in range(5):
        picture = np.clip(draw(np.random.default_rng(seed), shape), 0, 255).astype(np.uint8)
        assert has_flag(picture), seed
        assert has_flag(picture, Preprocessing(crop="none", inpaint_fill=False)), seed


def test_synthetic_scans_are_flagged_only_on_their_side(synthetic_scans):
    for gray, _ in synthetic_scans:
        assert not has_flag(gray)
    upright = [gray for gray, truth in synthetic_scans if not truth.fill.any()]
    assert all(has_flag(np.rot90(gray).copy()) for gray in upright)


def test_genuine_scans_are_flagged_only_on_their_side(sample_path):
    gray, _ = preprocessing.read_image(sample_path)
    assert not has_flag(gray)
    assert has_flag(np.rot90(gray).copy())


@pytest.mark.skipif(not SAMPLE_2.is_dir(), reason="the second sample of real scans is missing")
def test_genuine_scans_of_the_second_sample_are_flagged_only_on_their_side():
    for path in sorted(SAMPLE_2.rglob("*.jpeg")):
        gray, _ = preprocessing.read_image(path)
        assert not has_flag(gray), path
        assert has_flag(np.rot90(gray).copy()), path
