"""How the images of a patient make one prediction, and when another way than the default is chosen."""

import dataclasses

import numpy as np
import pytest

from octtrain.evaluation.aggregation import choose_aggregation
from octtrain.evaluation.patients import cases_of
from octtrain.evaluation.predictions import AGGREGATIONS, LARGEST, MEAN, MEAN_LOG, SplitPredictions

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


def predictions_of(probabilities, truth, ids):
    paths = [f"{i}.jpeg" for i in range(len(ids))]
    return SplitPredictions(paths, [*ids], [*ids], np.array(truth), np.array(probabilities, np.float32))


def test_each_aggregation_of_a_case_counted_by_hand():
    two = predictions_of([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]], [0, 0, 0], "aaa")
    expected = {
        MEAN: [1.1 / 3, 1.9 / 3],
        LARGEST: [0.5, 0.5],
        MEAN_LOG: np.array([0.009, 0.081]) ** (1 / 3) / sum(np.array([0.009, 0.081]) ** (1 / 3)),
    }
    for name in AGGREGATIONS:
        cases = cases_of(dataclasses.replace(two, aggregation=name), ("A", "B"))
        np.testing.assert_allclose(cases.probabilities, [expected[name]], rtol=1e-5)


def world(patients, shown, clear=0):
    """Patients of ten scans of which `shown` show the disease; the others look normal, with some noise.

    clear: so many of the patients show it in all scans.
    """
    rng = np.random.default_rng(0)
    rows, truth, ids = [], [], []
    for i in range(patients):
        label = i % 4
        for k in range(10):
            shows = k < (10 if i < clear else shown)
            sees = label if shows or label == 3 else 3
            scores = rng.normal(0, 0.3, 4) + (4.0 if shows else 1.0) * np.eye(4)[sees]
            rows.append(np.exp(scores) / np.exp(scores).sum())
            truth.append(label)
            ids.append(f"{i:04}")
    return predictions_of(rows, truth, ids)


def test_a_clearly_better_aggregation_is_chosen():
    chosen, candidates = choose_aggregation(world(80, shown=2), CLASSES)
    assert chosen == LARGEST
    assert candidates[LARGEST].interval[0] > 0
    better = candidates[LARGEST].balanced_accuracy.value - candidates[MEAN_LOG].balanced_accuracy.value
    assert candidates[LARGEST].difference == pytest.approx(better)
    assert candidates[MEAN_LOG].difference == 0


def test_without_a_clear_difference_the_default_stays():
    chosen, candidates = choose_aggregation(world(80, shown=10), CLASSES)
    assert chosen == MEAN_LOG
    assert all(candidate.balanced_accuracy.value == 1 for candidate in candidates.values())
    chosen, candidates = choose_aggregation(world(79, shown=2, clear=78), CLASSES)
    assert chosen == MEAN_LOG
    assert candidates[LARGEST].difference > 0  # by one patient
    few = world(80, shown=2).chosen(range(10))  # a single patient
    assert choose_aggregation(few, CLASSES)[0] == MEAN_LOG
