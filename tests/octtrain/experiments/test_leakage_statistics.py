"""The interval of the inflation, and the conclusion from it."""

import math

import numpy as np
import pytest

from octtrain.experiments.leakage.statistics import Repeat, Score, conclusion, inflation


def repeats(*pairs, test=20):
    return [Repeat(100 - test, test, 0.5, Score(a, a), Score(b, b)) for a, b in pairs]


def test_the_interval_is_the_corrected_t_of_nadeau_and_bengio():
    result = inflation(repeats((0.9, 0.7), (0.8, 0.7), (0.9, 0.6)), "balanced_accuracy")
    differences = np.array([0.2, 0.1, 0.3])
    half = 4.302653 * math.sqrt((1 / 3 + 20 / 80) * differences.var(ddof=1))
    assert (result.low, result.high) == pytest.approx((0.2 - half, 0.2 + half))
    assert inflation(repeats((0.9, 0.9), (0.8, 0.8)), "mcc").low == pytest.approx(0)


def test_the_conclusion_follows_the_interval():
    for pairs, words in (
        ([(0.9, 0.6), (0.9, 0.61), (0.9, 0.6)], "30 points of balanced accuracy better"),
        ([(0.6, 0.9), (0.6, 0.91), (0.6, 0.9)], "looks worse than on new patients"),
        ([(0.9, 0.9), (0.8, 0.9), (0.9, 0.8)], "No inflation is shown"),
        ([(1.0, 1.0), (1.0, 0.99), (0.99, 1.0)], "both are near perfect"),
    ):
        trainings = repeats(*pairs)
        assert words in conclusion(inflation(trainings, "balanced_accuracy"), trainings)
