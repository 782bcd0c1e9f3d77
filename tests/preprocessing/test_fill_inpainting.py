"""Inpainted fill has the brightness and the noise of the tissue next to it."""

import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.preprocessing import fill_inpainting
from tests.worlds.layers import VITREOUS, layered


@pytest.mark.parametrize("lean", [-0.08, 0.0, 0.1])
@pytest.mark.parametrize("flip", [False, True])
def test_a_black_wedge_is_inpainted_with_the_speckle_next_to_it(lean, flip):
    gray, _, _ = layered(0, 0)
    wedge = np.arange(496)[:, None] < 45 + lean * (np.arange(512) - 256)
    wedge = wedge[::-1] if flip else wedge
    gray[wedge] = 0
    depths = preprocessing.find_fill(gray)
    assert np.mean((depths.mask() > 0) ^ wedge) < 0.002
    inpainted = preprocessing.inpaint(gray, depths)
    assert abs(inpainted[wedge].mean() - VITREOUS) < 4
    assert abs(inpainted[wedge].std() - gray[~wedge & (gray < 50)].std()) < 3


@pytest.mark.parametrize("fill", [0, 255])
def test_haze_next_to_fill_continues_over_it(fill):
    gray, _, _ = layered(0, 0)
    rng = np.random.default_rng(1)
    gray[:120] = np.clip(36 * rng.gamma(20, 1 / 20, (120, 512)), 0, 255)  # brighter and less noisy than the rest
    wedge = np.arange(496)[:, None] < 50 + 0.06 * np.arange(512)
    filled = gray.copy()
    filled[wedge] = fill
    inpainted = preprocessing.inpaint(filled, preprocessing.find_fill(filled))
    assert abs(inpainted[wedge].mean() - 36) < 2
    assert 0.7 < inpainted[wedge].std() / gray[:120].std() < 1.4
    edge = (50 + 0.06 * np.arange(512)).astype(int)
    above, below = (
        np.mean([inpainted[edge + distance, np.arange(512)] for distance in distances])
        for distances in ((-4, -3, -2), (8, 9, 10))
    )
    assert abs(above - below) < 2


def test_only_the_given_rows_are_inpainted_and_to_the_same_values():
    gray, _, _ = layered(0, 0)
    gray[np.arange(496)[:, None] < 45 + 0.1 * np.arange(512)] = 255
    gray[470:] = 255
    depths = preprocessing.find_fill(gray)
    before = gray.copy()
    mirrored, fill = fill_inpainting.inpaint_sides(gray, depths, depths.mask())
    inpainted = fill_inpainting.inpaint_rows(mirrored, fill, depths, 20, 480)
    whole = preprocessing.inpaint(gray, depths)
    assert np.array_equal(inpainted[20:480], whole[20:480])
    assert np.array_equal(inpainted[:20], mirrored[:20]) and np.array_equal(inpainted[480:], mirrored[480:])
    assert np.array_equal(gray, before)


@pytest.mark.slow
def test_the_stored_image_is_cropped_from_the_inpainted_scan(synthetic_scans):
    recipe = Preprocessing(denoise="none")
    with_fill = 0
    for gray, _ in synthetic_scans:
        depths = preprocessing.find_fill(gray)
        if depths is None:
            continue
        cropped = preprocessing.clean_and_crop(gray, recipe)
        top, bottom, left, right = cropped.crop
        assert np.array_equal(cropped.pixels, preprocessing.inpaint(gray, depths)[top:bottom, left:right])
        with_fill += bool(depths.mask()[top:bottom, left:right].any())
    assert with_fill > 20
