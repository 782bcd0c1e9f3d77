"""What the comparison of crops computes: the paired difference and the table."""

import numpy as np
import pytest

from benchmarks.crops import difference, table
from benchmarks.models import Verdicts, as_json

PATIENTS, CLASSES = [f"{i:02}" for i in range(20)], ["CNV", "DME"] * 10


def judged(correct):
    return Verdicts(PATIENTS, CLASSES, np.asarray(correct, float))


def test_the_difference_is_of_balanced_accuracies_and_its_interval_is_paired():
    worse = np.arange(20) % 3 == 0
    better = worse | (np.arange(20) < 10)
    mean, low, high = difference(judged(better), judged(worse))
    assert mean == pytest.approx(np.mean([(better * 1.0 - worse)[start::2].mean() for start in (0, 1)]))
    assert 0 < low < mean < high
    assert difference(judged(worse), judged(worse)) == (0, 0, 0)


def test_verdicts_on_other_scans_are_not_compared():
    other = Verdicts(PATIENTS[::-1], CLASSES, np.ones(20))
    with pytest.raises(ValueError, match="not judged on the same scans"):
        difference(judged(np.ones(20)), other)


def test_the_table_has_a_row_for_each_crop_that_was_judged():
    half = {"folder": as_json(judged(np.arange(20) < 10), 20)}
    whole = {"folder": as_json(judged(np.ones(20)), 20)}
    lines = table({"retina": [half, whole], "band": [whole], "none": [{"val": 0.5}]}, "folder").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| retina", "| band"]
    assert "75.0 (" in lines[2] and "50.0 100.0" in lines[2]
    assert "+25.0 (" in lines[3]
