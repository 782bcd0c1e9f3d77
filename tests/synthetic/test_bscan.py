"""One synthetic B-scan: its disease, and its ground truth compared with its pixels."""

import dataclasses
import itertools

import cv2
import numpy as np
import pytest

from octprep.synthetic import CLASSES, draw_disease, draw_scan
from tests.worlds.phantoms import draw_patient

POSITIONS = np.linspace(0, 1, 7)


@pytest.mark.parametrize("label", CLASSES)
def test_the_ground_truth_lies_where_the_pixels_change(label):
    for number in range(6):
        appearance, disease, rng = draw_patient(label, number)
        scan = draw_scan(appearance, disease, 0.4, rng)
        rows, columns = scan.pixels.shape
        assert (rows, columns) == (496, appearance.width) == scan.fill.shape
        assert scan.ilm.shape == scan.rpe.shape == scan.bruch.shape == (columns,)
        assert (scan.ilm >= 10).all() and (scan.ilm < scan.rpe).all()
        assert (scan.rpe <= scan.bruch + 1e-3).all() and (scan.bruch < rows).all()
        column = np.arange(columns)
        above = scan.pixels[(scan.ilm - 5).astype(int), column].mean()
        nerve = scan.pixels[(scan.ilm + 3).astype(int), column].mean()
        epithelium = scan.pixels[(scan.rpe - 4).astype(int), column].mean()
        assert above < 0.75 * nerve
        assert nerve < 1.2 * epithelium


@pytest.mark.parametrize("label", CLASSES)
def test_every_scan_of_a_volume_shows_its_disease_and_no_other(label):
    for number, position in itertools.product(range(6), POSITIONS):
        appearance, disease, rng = draw_patient(label, number, width=512)
        scan = draw_scan(appearance, disease, position, rng)
        healthy = draw_scan(appearance, draw_disease("NORMAL", appearance, rng), position, rng)
        lift = (scan.bruch - scan.rpe).max()
        swelling = ((scan.bruch - scan.ilm) - (healthy.bruch - healthy.ilm)).max()
        if label == "CNV":
            assert lift + swelling > 20
        if label == "DRUSEN":
            assert 6 < lift < 30
        if label == "DME":
            assert lift == pytest.approx(0, abs=1e-3)
            assert swelling > 18
        if label == "NORMAL":
            assert lift == pytest.approx(0, abs=1e-3) == swelling


@pytest.mark.parametrize("label", CLASSES)
def test_the_lesion_lies_in_the_retina_and_holds_most_of_what_the_disease_changes(label):
    for number in range(6):
        appearance, disease, rng = draw_patient(label, number, width=512)
        # without speckle, at the same exposure, and without the light that a lesion takes from what lies below it
        quiet = {"speckle": 0.0, "noise": 0.0, "choroid_gain": 0.0, "vessels": (), "opacities": ()}
        quiet = dataclasses.replace(appearance, **quiet)
        scan = draw_scan(quiet, disease, 0.4, rng)
        if label == "NORMAL":
            assert not scan.lesion.any()
            continue
        rows, columns = np.nonzero(scan.lesion)
        assert (rows >= scan.ilm[columns] - 2).all() and (rows <= scan.bruch[columns] + 2).all()
        assert 0.005 < scan.lesion.mean() < 0.2
        healthy = draw_scan(quiet, draw_disease("NORMAL", appearance, rng), 0.4, rng)
        thickness = (scan.bruch - scan.ilm, healthy.bruch - healthy.ilm)
        lift = scan.bruch - scan.rpe - (healthy.bruch - healthy.rpe)
        change = np.abs(thickness[0] - thickness[1]) + np.abs(lift)
        has_lesion = scan.lesion.any(axis=0)
        assert change[has_lesion].sum() > 0.6 * change.sum()


@pytest.mark.parametrize("label", CLASSES)
def test_a_wider_scan_shows_the_same_anatomy(label):
    appearance, disease, rng = draw_patient(label, 1, width=512)
    narrow = draw_scan(appearance, disease, 0.3, rng)
    wide = draw_scan(dataclasses.replace(appearance, width=1536), disease, 0.3, rng)
    for line in ("ilm", "rpe", "bruch"):
        difference = getattr(wide, line)[1::3] - getattr(narrow, line)
        assert np.abs(difference[3:-3]).max() < 0.01


def choroid_below_the_retina(appearance, position: float) -> np.ndarray:
    """The choroid in rows 10 to 40 under Bruch's membrane, smoothed and without its mean decay."""
    scan = draw_scan(
        appearance, draw_disease("NORMAL", appearance, np.random.default_rng(0)), position, np.random.default_rng(0)
    )
    rows = (scan.bruch[None] + np.arange(10, 40)[:, None]).astype(int)
    flat = cv2.GaussianBlur(scan.pixels[rows, np.arange(appearance.width)].astype(np.float32), (0, 0), 4)
    return (flat - flat.mean(axis=1, keepdims=True)).ravel()


def test_choroidal_vessels_continue_between_neighbouring_scans_and_differ_between_patients():
    near, far = [], []
    for number in range(8):
        changes = {
            "width": 512,
            "vessels": (),
            "speckle": 0.1,
            "noise": 4.0,
            "mirrored": False,
            "tilt": 0.0,
            "bow": 0.0,
        }
        appearance, _, _ = draw_patient("NORMAL", number, **changes)
        choroid = choroid_below_the_retina(appearance, 0.5)
        near.append(np.corrcoef(choroid, choroid_below_the_retina(appearance, 0.55))[0, 1])
        far.append(
            np.corrcoef(choroid, choroid_below_the_retina(dataclasses.replace(appearance, texture_seed=number), 0.5))[
                0, 1
            ]
        )
    assert min(near) > 0.6
    assert np.mean(near) > np.mean(far) + 0.3


def test_the_retina_stays_in_the_frame_for_every_height_and_tilt():
    for label, row, tilt in itertools.product(CLASSES, (60, 250, 480), (-120, 0, 120)):
        appearance, disease, rng = draw_patient(label, 2, bruch_row=row, tilt=tilt)
        scan = draw_scan(appearance, disease, 0.5, rng)
        assert scan.ilm.min() > 11
        assert scan.bruch.max() < 496
