"""Calibration error, Brier score and likelihood, and the temperature that the last is least at."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from benchmarks.calibration import planted_temperature
from octtrain.calibration.reliability import measure_reliability
from octtrain.calibration.temperature import fit_temperature, scale


def probabilities(n, seed=0):
    values = np.random.default_rng(seed).dirichlet([0.5] * 4, n)
    return values.astype(np.float32)


def labels_of(given):
    """Classes that are as probable as it says."""
    return (given.cumsum(axis=1) < np.random.default_rng(1).random((len(given), 1))).sum(axis=1).clip(max=3)


def test_brier_score_and_likelihood_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    given, truth = probabilities(200), np.random.default_rng(1).integers(4, size=200)
    measured = measure_reliability(truth, given, [str(i) for i in range(200)])
    exact = given.astype(float) / given.sum(axis=1, keepdims=True, dtype=float)
    assert measured.nll == pytest.approx(metrics.log_loss(truth, exact, labels=range(4)), abs=1e-4)
    assert measured.nll_of_patients == pytest.approx(measured.nll)  # each has one image
    assert measured.brier == pytest.approx(((given - np.eye(4)[truth]) ** 2).sum(axis=1).mean(), abs=1e-6)


def test_the_calibration_error_of_a_case_computed_by_hand():
    given = np.array([[0.6, 0.4]] * 10 + [[0.1, 0.9]] * 20, np.float32)
    truth = np.array([0] * 7 + [1] * 3 + [1] * 15 + [0] * 5)
    measured = measure_reliability(truth, given, ["p"] * 30)
    # 15 bins of two images: of confidence 0.6 with accuracies 1, 1, 1, 0.5, 0; of 0.9 with 1 (7), 0.5, 0, 0
    assert [part.count for part in measured.bins] == [2] * 15
    distances = [*[0.4] * 3, 0.1, 0.6, *[0.1] * 7, 0.4, *[0.9] * 2]
    assert measured.ece == pytest.approx(np.mean(distances), abs=1e-6)
    assert all(part.patients == 1 for part in measured.bins)


def test_probabilities_that_say_what_is_so_have_a_small_calibration_error():
    given = probabilities(100_000)
    truth = labels_of(given)
    assert measure_reliability(truth, given, ["p"] * len(given)).ece < 0.01
    assert measure_reliability(truth, scale(given, 0.5), ["p"] * len(given)).ece > 0.05


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_planted_temperature_is_found_within_two_percent(temperature):
    found = planted_temperature(np.random.default_rng(0), 100_000, temperature)
    assert found == pytest.approx(temperature, rel=0.02)


def test_a_temperature_changes_certainty_and_not_the_prediction():
    given = probabilities(500)
    cooled, heated = scale(given, 0.5), scale(given, 2)
    assert (cooled.argmax(axis=1) == given.argmax(axis=1)).all()
    assert (heated.max(axis=1) <= given.max(axis=1) + 1e-6).all()
    np.testing.assert_allclose(scale(heated, 0.5), given, atol=1e-5)
    assert scale(given, 1) is given
    assert cooled.dtype == np.float32
    extreme = scale(np.array([[1, 0, 0, 0]], np.float32), 20)
    assert np.isfinite(extreme).all()


def test_no_temperature_is_found_where_nothing_is_misclassified():
    given = probabilities(100)
    certain = np.tile(np.array([[0.98, 0.01, 0.005, 0.005]], np.float32), (100, 1))  # its likelihood soon is exactly 1
    for right in (given, certain):
        assert fit_temperature(right.argmax(axis=1), right, np.arange(100)) is None


def test_further_copies_of_one_patients_scans_do_not_change_the_temperature():
    given = probabilities(300)
    truth = labels_of(given)
    once = fit_temperature(truth, given, np.arange(300))
    rows = np.append(np.arange(300), np.zeros(1000, int))
    assert fit_temperature(truth[rows], given[rows], rows) == pytest.approx(once, rel=1e-3)
