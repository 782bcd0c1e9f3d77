"""What the comparison of trainings on synthetic scans computes: settings, the paired difference and the table."""

import numpy as np
import pytest

from benchmarks.models import Verdicts, as_json
from benchmarks.synthetic_training import DEFAULTS, difference, table, variant

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


def test_a_variant_is_a_name_and_what_differs_from_the_defaults():
    assert variant("5000") == ("5000", {**DEFAULTS, "patients": 5000})
    name, settings = variant("few whole:patients=200,crop=none,mixup=0.2")
    assert (name, settings) == ("few whole", {**DEFAULTS, "patients": 200, "crop": "none", "mixup": 0.2})
    with pytest.raises(ValueError, match="'crop' of 'a:crop' is not KEY=VALUE"):
        variant("a:crop")


def test_the_table_has_a_row_for_each_variant_that_was_judged():
    half = {"val": 0.5, "folder": as_json(judged(np.arange(20) < 10), 20)}
    whole = {"val": 0.9, "folder": as_json(judged(np.ones(20)), 20)}
    lines = table({"1000": [half, whole], "5000": [whole], "none": [{"val": 0.5}]}, "folder").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 1000", "| 5000"]
    assert "| 70.0 | 75.0 (" in lines[2] and "50.0 100.0" in lines[2]
    assert "+25.0 (" in lines[3]
