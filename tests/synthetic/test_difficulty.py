"""Easy, default and hard scans."""

import itertools

import numpy as np
import pytest
from typer.testing import CliRunner

from octprep import cli
from octprep.format.errors import SettingError
from octprep.synthetic import DIFFICULTIES, MIN_PATIENTS, draw, draw_scan, scans
from tests.worlds.phantoms import digests, draw_patient


def test_default_is_the_default_and_each_difficulty_is_always_the_same():
    none, *named = (
        dict(itertools.islice(scans(MIN_PATIENTS, 7, **options), 6))
        for options in ({}, *({"difficulty": name} for name in ("default", "easy", "hard", "hard")))
    )
    default, easy, hard, again = named
    assert none.keys() == default.keys() == easy.keys() == hard.keys() == again.keys()
    for path in none:
        np.testing.assert_array_equal(none[path].pixels, default[path].pixels)
        np.testing.assert_array_equal(hard[path].pixels, again[path].pixels)
        assert not np.array_equal(hard[path].pixels, easy[path].pixels)
        assert not np.array_equal(default[path].pixels, easy[path].pixels)


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    for workers in (1, 2):
        draw(tmp_path / str(workers), patients=MIN_PATIENTS, faults=False, difficulty="hard", workers=workers)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_another_difficulty_is_an_error_before_anything_is_drawn(tmp_path):
    with pytest.raises(SettingError, match="difficulty must be one of easy, default, hard; got 'medium'"):
        draw(tmp_path / "out", difficulty="medium")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", ["CNV", "DME", "DRUSEN"])
def test_lesions_of_easy_scans_are_larger_than_those_of_hard_ones(label):
    def size(difficulty: str) -> float:
        patients = (draw_patient(label, number, difficulty) for number in range(24))
        found = [draw_scan(appearance, disease, 0.5, rng).lesion.mean() for appearance, disease, rng in patients]
        return float(np.mean(found))

    assert size("easy") > size("default") > size("hard")


def test_hard_scans_are_noisier_and_healthy_ones_more_uneven():
    easy, hard = ([draw_patient("NORMAL", number, name)[0] for number in range(40)] for name in ("easy", "hard"))
    looks, unevenness = (
        ([eye.view.looks for eye in eyes] for eyes in (easy, hard)),
        ([eye.unevenness[0] for eye in eyes] for eyes in (easy, hard)),
    )
    clear, unclear = map(np.median, looks)
    smooth, rough = map(np.mean, unevenness)
    assert clear > 1.5 * unclear
    assert rough > smooth


def test_the_command_line_knows_the_same_difficulties_and_refuses_others(tmp_path):
    refused = CliRunner().invoke(cli.app, ["synthesize", str(tmp_path / "out"), "--difficulty", "medium"])
    assert refused.exit_code == 2
    assert all(f"'{name}'" in refused.output for name in ("medium", *DIFFICULTIES))
    assert not list(tmp_path.iterdir())
