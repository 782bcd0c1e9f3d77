"""A few random faults; `make faults` makes many."""

import random

import pytest

from tests import faults
from tests.worlds.archive import archive, write_folder
from tests.worlds.builds import needs_proc

pytestmark = pytest.mark.slow


def test_random_damage_is_reported_refused_and_mended(tmp_path):
    source = write_folder(tmp_path / "source", archive(2, {"CNV": 2, "DME": 1, "DRUSEN": 1, "NORMAL": 2}))
    assert faults.damage_folders(tmp_path, source, 40, random.Random(1)).total() == 40


@needs_proc
def test_builds_killed_at_random_moments_are_resumed_to_the_same_bytes(large_source, tmp_path):
    assert faults.kill_builds(tmp_path, large_source, 5, random.Random(1)).total() == 5
