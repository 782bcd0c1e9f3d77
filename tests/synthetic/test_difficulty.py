"""Easy and hard scans: the easy ones stay what they are, and every sick hard one shows its lesion."""

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from octprep import cli
from octprep.format.errors import SettingError
from octprep.synthetic import CLASSES, DIFFICULTIES, MIN_PATIENTS, draw, draw_appearance, draw_disease, draw_scan, scans
from tests.worlds.phantoms import digests, draw_patient

HARD = DIFFICULTIES["hard"]
# Of the scan of draw_patient(label, 5) half way through the volume: mean gray level, and mean row of the epithelium.
EASY_SCANS = {"CNV": (36.61, 216.52), "DME": (55.43, 229.72), "DRUSEN": (43.34, 229.54), "NORMAL": (54.79, 275.98)}


def draw_hard(label: str, number: int):
    rng = np.random.default_rng([78, number, CLASSES.index(label)])
    appearance = draw_appearance(rng, HARD)
    return appearance, draw_disease(label, appearance, rng, HARD)


@pytest.mark.parametrize("label", CLASSES)
def test_easy_scans_stay_what_they_are(label):
    appearance, disease, rng = draw_patient(label, 5)
    scan = draw_scan(appearance, disease, 0.5, rng)
    assert (scan.pixels.mean(), scan.rpe.mean()) == pytest.approx(EASY_SCANS[label], abs=0.02)


def test_easy_is_the_default_and_hard_scans_differ_and_are_always_the_same():
    default, easy, hard, again = (
        dict(itertools.islice(scans(MIN_PATIENTS, 7, **options), 6))
        for options in ({}, {"difficulty": "easy"}, {"difficulty": "hard"}, {"difficulty": "hard"})
    )
    assert default.keys() == easy.keys() == hard.keys() == again.keys()
    for path in default:
        np.testing.assert_array_equal(default[path].pixels, easy[path].pixels)
        np.testing.assert_array_equal(hard[path].pixels, again[path].pixels)
        assert not np.array_equal(hard[path].pixels, easy[path].pixels)


@pytest.mark.slow
def test_hard_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    for workers in (1, 2):
        draw(tmp_path / str(workers), patients=MIN_PATIENTS, faults=False, difficulty="hard", workers=workers)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_another_difficulty_is_an_error_before_anything_is_drawn(tmp_path):
    with pytest.raises(SettingError, match="difficulty must be one of easy, hard; got 'medium'"):
        draw(tmp_path / "out", difficulty="medium")
    assert not list(tmp_path.iterdir())


def contrast(label: str, number: int, position: float) -> float:
    """How much the scan's largest lesion changes the pixels in its place, as a fraction of the retina's contrast.

    The same scan without lesions has the same speckle. Speckle and its noise stay in both.
    """
    appearance, disease = draw_hard(label, number)
    seed = [number, int(100 * position)]
    scan = draw_scan(appearance, disease, position, np.random.default_rng(seed))
    healthy = draw_scan(
        appearance,
        replace(disease, label="NORMAL", cysts=(), pockets=(), shadow=0.0),
        position,
        np.random.default_rng(seed),
    )
    lesions = disease.cysts if label == "DME" else disease.lesions
    centre, width, _ = max((lesion.at(position) for lesion in lesions), key=lambda at: at[1] * at[2])
    column = (np.arange(appearance.width) + 0.5) / appearance.width
    column = appearance.left + appearance.field * (column[::-1] if appearance.mirrored else column)
    row = np.arange(len(scan.pixels))[:, None]
    retina = (row > np.minimum(scan.ilm, healthy.ilm)) & (row < scan.bruch)
    place = retina & (abs(column - centre) < 1.5 * width)
    smooth, before = (cv2.GaussianBlur(each.pixels.astype(np.float32), (0, 0), 2) for each in (scan, healthy))
    level = np.percentile(before[retina], [5, 95])
    return float(np.percentile(abs(smooth - before)[place], 95) / (level[1] - level[0]))


@pytest.mark.parametrize("label", ["CNV", "DME", "DRUSEN"])
def test_every_sick_hard_scan_shows_its_lesion(label):
    found = [contrast(label, number, position) for number in range(12) for position in (0.02, 0.5, 0.98)]
    assert min(found) > 0.25


@pytest.mark.parametrize("label", CLASSES)
def test_the_layers_of_hard_scans_stay_in_the_frame_and_lie_where_the_pixels_change(label):
    for number in range(30):
        appearance, disease = draw_hard(label, number)
        scan = draw_scan(appearance, disease, 0.5, np.random.default_rng(number))
        assert scan.ilm.min() > 11 and scan.bruch.max() < len(scan.pixels)
        assert (scan.ilm < scan.rpe).all() and (scan.rpe <= scan.bruch + 1e-3).all()
        column = np.arange(appearance.width)
        smooth = cv2.blur(scan.pixels, (15, 1))
        assert (
            smooth[(scan.ilm - 6).astype(int), column].mean() < 0.85 * smooth[(scan.ilm + 4).astype(int), column].mean()
        )
        assert smooth[(scan.rpe - 4).astype(int), column].mean() > smooth[(scan.rpe - 24).astype(int), column].mean()


def test_the_command_line_knows_the_same_difficulties_and_refuses_others(tmp_path):
    refused = CliRunner().invoke(cli.app, ["synthesize", str(tmp_path / "out"), "--difficulty", "medium"])
    assert refused.exit_code == 2
    assert all(f"'{name}'" in refused.output for name in ("medium", *DIFFICULTIES))
    assert not list(tmp_path.iterdir())
