"""Fill is detected, and bright or dark tissue is not mistaken for it."""

import cv2
import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.preprocessing import fill_detection
from tests.worlds.layers import jpeg, layered


@pytest.mark.slow
def test_detected_fill_agrees_with_the_ground_truth(synthetic_scans):
    agreed = detected = true = 0
    for gray, truth in synthetic_scans:
        depths = preprocessing.find_fill(gray)
        mask = np.zeros(gray.shape, bool) if depths is None else depths.mask() > 0
        is_fill = truth.fill > 0
        agreed, detected, true = agreed + np.sum(mask & is_fill), detected + np.sum(mask), true + np.sum(is_fill)
    assert agreed / detected >= 0.98  # precision
    assert agreed / true >= 0.98  # recall


def test_no_fill_is_left_on_genuine_scans(sample_path):
    gray = preprocessing.decode(sample_path.read_bytes())
    depths = preprocessing.find_fill(gray)
    if depths is None:
        return
    left, right = depths.kept_columns()
    white = (preprocessing.inpaint(gray, depths)[:, left:right] >= 250).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(white, connectivity=8)
    at_edges = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    assert all(stats[i, cv2.CC_STAT_AREA] <= 0.001 * gray.size for i in at_edges if i)


@pytest.mark.parametrize("degrees", [-2, -1, 1, 2])
def test_white_fill_of_a_scan_that_was_turned_once_more_and_left_black_is_fill(degrees):
    gray, _, _ = layered(10, 5)
    cv2.fillPoly(gray, [np.array([(0, 0), (511, 0), (511, 30), (0, 50)])], [255.0])
    turn = cv2.getRotationMatrix2D((255.5, 247.5), degrees, 1)
    turned = preprocessing.decode(jpeg(cv2.warpAffine(gray, turn, (512, 496), borderValue=[0.0]), 80))
    depths = preprocessing.find_fill(turned)
    assert (preprocessing.inpaint(turned, depths)[:100] < 235).all()
    top, _, _, _ = preprocessing.preprocess(turned, Preprocessing()).geometry.crop
    assert top > 100


def test_a_saturated_retina_behind_a_strip_of_fill_is_not_fill():
    gray, _, lower = layered(0, 0)
    gray[int(lower[0]) - 20 : int(lower[0]), :80] = 255
    gray[:, :2] = 255
    mask = preprocessing.find_fill(gray).mask()
    assert mask[:, :2].all()
    assert not mask[:, 12:].any()


def test_ragged_darkness_is_not_fill():
    gray, _, _ = layered(0, 0)
    gray[np.arange(496)[:, None] > 400 + 20 * np.sin(np.arange(512) / 40)] = 0
    assert preprocessing.find_fill(gray) is None


@pytest.mark.parametrize("side", ["left", "right"])
def test_black_side_bands_are_cut_off(side):
    gray, _, _ = layered(10, 5)
    band = slice(0, 60) if side == "left" else slice(-60, None)
    gray[:, band] = 0
    _, _, left, right = preprocessing.preprocess(gray, Preprocessing()).geometry.crop
    assert (60 <= left <= 66 and right == 512) if side == "left" else (left == 0 and 446 <= right <= 452)


def test_run_lengths_count_pixels_from_the_border_inwards():
    gray = np.full((64, 5), 90, np.uint8)
    gray[0, 1] = gray[:7, 2] = gray[:, 3] = gray[1:, 4] = 255
    assert fill_detection._run_lengths(gray, fill_detection._is_white).tolist() == [0, 1, 7, 64, 0]
    gray[33, 3] = 90  # between the samples: the line still counts as fill all through
    assert fill_detection._run_lengths(gray, fill_detection._is_white)[3] == 64
    gray[32, 3] = 90
    assert fill_detection._run_lengths(gray, fill_detection._is_white)[3] == 32
