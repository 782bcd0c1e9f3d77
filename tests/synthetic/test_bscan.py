"""One synthetic B-scan: its disease, and its ground truth compared with its pixels."""

import dataclasses
import itertools

import cv2
import numpy as np
import pytest

from octprep.synthetic import CLASSES, DIFFICULTIES, draw_disease, draw_scan, next_visit
from octprep.synthetic.lesions import Extent, Haemorrhage
from tests.worlds.phantoms import draw_patient

POSITIONS = (0.0, 0.3, 0.5, 1.0)
# Neither speckle nor noise, so that pixels differ only where tissue does.
QUIET = {"looks": 1e6, "noise": 1e-3, "cut": 0.0}
PLAIN = {"vessels": (), "opacities": (), "hyaloid": None, "ghost": 0.0}


def with_view(appearance, **changes):
    return dataclasses.replace(appearance, view=dataclasses.replace(appearance.view, **changes))


def healthy_eye(appearance):
    return draw_disease("NORMAL", appearance, np.random.default_rng(0))


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("label", CLASSES)
def test_the_ground_truth_lies_where_the_pixels_change(label, difficulty):
    for number in range(8):
        appearance, disease, rng = draw_patient(label, number, difficulty, disc=9.0, beyond=0.0)
        scan = draw_scan(appearance, disease, 0.4, rng)
        rows, columns = scan.pixels.shape
        assert (rows, columns) == (appearance.view.rows, appearance.view.width) == scan.fill.shape == scan.lesion.shape
        assert scan.ilm.shape == scan.rpe.shape == scan.bruch.shape == (columns,)
        assert (scan.ilm >= 10).all() and (scan.ilm < scan.rpe).all()
        assert (scan.rpe <= scan.bruch + 1e-3).all() and (scan.bruch < rows).all()
        column = np.arange(columns)
        smooth = cv2.blur(scan.pixels, (9, 1))
        above = smooth[(scan.ilm - 6).astype(int), column].mean()
        nerve = smooth[(scan.ilm + 3).astype(int), column].mean()
        assert above < 0.9 * nerve
        if label in ("NORMAL", "DRUSEN"):  # elsewhere the epithelium may be lost
            epithelium = smooth[(scan.rpe - 3).astype(int), column].mean()
            nuclear = smooth[(scan.rpe - 30).astype(int), column].mean()
            assert epithelium > 1.2 * nuclear


@pytest.mark.parametrize("label", ["CNV", "DME", "DRUSEN"])
def test_every_scan_of_a_sick_eye_shows_its_disease(label):
    for number, position in itertools.product(range(12), POSITIONS):
        appearance, disease, _ = draw_patient(label, number, **QUIET)
        sick, healthy = (
            draw_scan(appearance, each, position, np.random.default_rng(0))
            for each in (disease, healthy_eye(appearance))
        )
        difference = cv2.GaussianBlur(sick.pixels.astype(np.float32) - healthy.pixels, (0, 0), 1.5)
        retina = np.arange(len(sick.pixels))[:, None] < np.maximum(sick.bruch, healthy.bruch)
        assert np.abs(difference * retina).max() > 15
        lift, swelling = sick.bruch - sick.rpe, healthy.ilm - sick.ilm
        if label == "DME":
            assert lift.max() == pytest.approx(0, abs=1e-3)
            assert sick.lesion.any() or swelling.max() > 4
        if label == "DRUSEN":
            assert swelling.max() < 40


def test_a_healthy_eye_has_no_lesion():
    for number in range(8):
        appearance, disease, rng = draw_patient("NORMAL", number, "hard")
        scan = draw_scan(appearance, disease, 0.5, rng)
        assert not scan.lesion.any()
        np.testing.assert_allclose(scan.rpe, scan.bruch, atol=1e-3)


@pytest.mark.parametrize("label", ["CNV", "DME", "DRUSEN"])
def test_the_lesion_lies_in_the_retina_and_holds_most_of_what_the_disease_changes(label):
    held = []
    for number in range(10):
        appearance, disease, _ = draw_patient(label, number, "easy", **QUIET, **PLAIN)
        sick, healthy = (
            draw_scan(appearance, each, 0.4, np.random.default_rng(0)) for each in (disease, healthy_eye(appearance))
        )
        rows, columns = np.nonzero(sick.lesion)
        assert (rows >= sick.ilm[columns] - 3).all() and (rows <= sick.bruch[columns] + 3).all()
        assert sick.lesion.mean() < 0.35
        change = np.abs(sick.ilm - healthy.ilm) + (sick.bruch - sick.rpe)
        has_lesion = sick.lesion.any(axis=0)
        if change.sum() > 200:
            held.append(change[has_lesion].sum() / change.sum())
    assert len(held) > 3
    assert np.mean(held) > 0.6


@pytest.mark.parametrize("label", CLASSES)
def test_a_scan_of_more_columns_shows_the_same_anatomy(label):
    appearance, disease, _ = draw_patient(label, 1, width=512, field=5.8)
    narrow = draw_scan(appearance, disease, 0.3, np.random.default_rng(0))
    wide = draw_scan(with_view(appearance, width=1536), disease, 0.3, np.random.default_rng(0))
    for line in ("ilm", "rpe", "bruch"):
        difference = getattr(wide, line)[1::3] - getattr(narrow, line)
        assert np.abs(difference[3:-3]).max() < 0.01


def test_a_wider_field_shows_the_same_lesion_narrower():
    appearance, disease, _ = draw_patient("CNV", 3, "easy", width=768, field=5.0, centre=0.0)
    narrow, wide = (
        draw_scan(with_view(appearance, field=field), disease, 0.5, np.random.default_rng(0)) for field in (5.0, 7.5)
    )
    assert 0 < wide.lesion.any(axis=0).sum() < narrow.lesion.any(axis=0).sum() * 1.05


def test_another_visit_shows_the_same_layers_through_another_device():
    appearance, disease, rng = draw_patient("DRUSEN", 4, "easy")
    first = draw_scan(appearance, disease, 0.5, np.random.default_rng(0))
    for _ in range(6):
        later = next_visit(appearance, rng)
        assert later.view.field >= appearance.view.field and later.view.centre == appearance.view.centre
        assert later.thickness == appearance.thickness and later.view != appearance.view
        second = draw_scan(later, disease, 0.5, np.random.default_rng(0))
        lifted = [
            (scan.bruch - scan.rpe).max() * row
            for scan, row in ((first, appearance.view.row_um), (second, later.view.row_um))
        ]
        assert lifted[1] == pytest.approx(lifted[0], rel=0.1)


def choroid_below_the_retina(appearance, position: float) -> np.ndarray:
    """The choroid in rows 10 to 40 under Bruch's membrane, smoothed and without its mean decay."""
    scan = draw_scan(appearance, healthy_eye(appearance), position, np.random.default_rng(0))
    rows = (scan.bruch[None] + np.arange(10, 40)[:, None]).astype(int)
    flat = cv2.GaussianBlur(scan.pixels[rows, np.arange(appearance.view.width)].astype(np.float32), (0, 0), 3)
    return (flat - flat.mean(axis=1, keepdims=True)).ravel()


def test_choroidal_vessels_continue_between_neighbouring_scans_and_differ_between_patients():
    near, far = [], []
    for number in range(8):
        still = {"width": 512, "mirrored": False, "tilt": 0.0, "curvature": 0.0, "lumina": 0.5, "choroid": 250.0}
        appearance, _, _ = draw_patient("NORMAL", number, **still, **QUIET, **PLAIN)
        choroid = choroid_below_the_retina(appearance, 0.5)
        near.append(np.corrcoef(choroid, choroid_below_the_retina(appearance, 0.55))[0, 1])
        other = dataclasses.replace(appearance, texture_seed=number)
        far.append(np.corrcoef(choroid, choroid_below_the_retina(other, 0.5))[0, 1])
    assert min(near) > 0.6
    assert np.mean(near) > np.mean(far) + 0.3


def test_the_retina_stays_in_the_frame_for_every_height_and_tilt():
    for label, row, tilt in itertools.product(CLASSES, (60, 250, 480), (-40, 0, 40)):
        appearance, disease, rng = draw_patient(label, 2, row=row, tilt=tilt, beyond=0.0)
        scan = draw_scan(appearance, disease, 0.5, rng)
        assert scan.ilm.min() > 11
        assert scan.bruch.max() < 496


@pytest.mark.parametrize("label", CLASSES)
def test_a_retina_that_reaches_beyond_the_upper_edge_is_mirrored_there(label):
    for tilt in (-40, 40):
        still = {"disc": 9.0, "tilt": tilt, "roll_off": 0.0, "black": 0.0, "jump": (0.0, 0.0), "double": (0.0, 0, 0)}
        appearance, disease, _ = draw_patient(label, 2, beyond=40.0, **still, **QUIET, **PLAIN)
        scan, whole = (
            draw_scan(with_view(appearance, beyond=beyond), disease, 0.5, np.random.default_rng(0))
            for beyond in (40.0, 0.0)
        )
        beyond = scan.ilm == 0
        assert 0 < beyond.mean() <= 0.55
        assert scan.bruch.min() > 29
        moved = round(float(np.median(whole.bruch - scan.bruch)))
        folded = beyond & (whole.ilm < moved - 6)  # where the mirrored retina covers at least six rows
        same = whole.pixels[moved : moved + 4, folded].astype(float)
        assert 1.03 < (scan.pixels[:4, folded] / np.maximum(same, 1)).mean() < 1.6
        assert scan.pixels[100:300][:, ~beyond].mean() == pytest.approx(
            whole.pixels[100 + moved : 300 + moved][:, ~beyond].mean(), abs=2
        )


def test_motion_of_the_eye_leaves_a_step_or_a_second_edge():
    still = {"jump": (0.0, 0.0), "double": (0.0, 0, 0), "row": 250.0, "beyond": 0.0}
    appearance, disease, _ = draw_patient("NORMAL", 1, **still, **QUIET, **PLAIN)
    quiet, stepped, doubled = (
        draw_scan(with_view(appearance, **change), disease, 0.5, np.random.default_rng(0))
        for change in ({}, {"jump": (appearance.view.centre, 5.0)}, {"double": (0.4, -6, 0)})
    )
    fall = stepped.bruch - quiet.bruch
    assert np.abs(fall[:200] - fall[0]).max() < 1e-3 and np.abs(fall[-200:] - fall[-1]).max() < 1e-3
    assert abs(fall[-1] - fall[0]) == pytest.approx(5)
    np.testing.assert_array_equal(doubled.ilm, quiet.ilm)
    above, column = (quiet.ilm - 4).astype(int), np.arange(quiet.ilm.size)
    assert doubled.pixels[above, column].mean() > 1.5 * quiet.pixels[above, column].mean()


def test_a_taller_scan_has_more_choroid_below():
    appearance, disease, _ = draw_patient("CNV", 1, width=512, rows=496, **QUIET)
    usual, tall = (
        draw_scan(with_view(appearance, rows=rows), disease, 0.5, np.random.default_rng(0)) for rows in (496, 512)
    )
    assert tall.pixels.shape == tall.fill.shape == tall.lesion.shape == (512, 512)
    assert np.abs(tall.pixels[:496].astype(int) - usual.pixels).max() <= 2
    np.testing.assert_array_equal(tall.bruch, usual.bruch)
    np.testing.assert_array_equal(tall.lesion[:496], usual.lesion)


def test_blood_lifts_the_retina_and_shades_the_choroid():
    appearance, disease, _ = draw_patient("NORMAL", 1, row=200.0, centre=0.0, beyond=0.0, **QUIET, **PLAIN)
    blood = Haemorrhage(extent=Extent(centre=0.0, width=0.8, power=4.0), height=120.0, content=0.5, shade=0.8)
    clear, bled = (
        draw_scan(appearance, each, 0.5, np.random.default_rng(0))
        for each in (disease, dataclasses.replace(disease, lesions=(blood,)))
    )
    middle = slice(clear.ilm.size // 2 - 20, clear.ilm.size // 2 + 20)
    below = slice(int(clear.bruch[middle].max()) + 5, int(clear.bruch[middle].max()) + 25)
    assert (clear.ilm - bled.ilm)[middle].min() > 8
    assert bled.lesion[:, middle].any(axis=0).all()
    assert bled.pixels[below, middle].mean() < 0.75 * clear.pixels[below, middle].mean()


def test_speckle_has_the_contrast_of_averaged_frames():
    """The fourth root of a gamma variable of shape k has, for large k, a relative deviation of 1 / (4 sqrt(k))."""
    for looks in (4, 16, 64):
        appearance, disease, rng = draw_patient(
            "NORMAL", 0, width=1536, looks=looks, noise=1e-3, black=0.0, gain=1.0, roll_off=0.0
        )
        noisy = draw_scan(appearance, disease, 0.5, rng).pixels.astype(np.float64)
        quiet = draw_scan(with_view(appearance, **QUIET), disease, 0.5, rng).pixels.astype(np.float64)
        bright = (quiet > 90) & (quiet < 180)
        relative = (noisy[bright] / quiet[bright]).std()
        assert relative == pytest.approx(0.25 / np.sqrt(looks), rel=0.12)


def test_noise_that_the_device_takes_away_leaves_black_holes():
    holes = []
    for cut in (0.0, 0.6, 1.0):
        appearance, disease, rng = draw_patient(
            "NORMAL", 0, looks=4, noise=0.15, cut=cut, black=0.0, haze=0.0, hyaloid=None
        )
        scan = draw_scan(appearance, disease, 0.5, rng)
        holes.append(float((scan.pixels[: int(scan.ilm.min()) - 8] == 0).mean()))
    assert holes[0] < 0.01 < holes[1] < holes[2] < 0.75
