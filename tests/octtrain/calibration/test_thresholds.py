"""The thresholds of referral and of abstention: what they are on scans in hand, and what they keep on new patients."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from benchmarks.calibration import (
    abstention_promise,
    draw_population,
    draw_uninformed,
    draw_world,
    referral_promise,
    tally,
)
from octtrain.calibration.abstention import GRID, answer_rates, choose_abstention, risk_coverage
from octtrain.calibration.operating_points import choose_threshold, referral_rates

WORLDS = 200  # of which at least 92 % keep a promise of 95 %, but for about one set of worlds in 25


@pytest.fixture(scope="module")
def population():
    """Patients with 1 to 150 scans, which are alike."""
    return draw_population(np.random.default_rng(0), 3000, shared=0.9, many_scans=True)


@pytest.fixture(scope="module")
def worlds(population):
    rng = np.random.default_rng(1)
    return [draw_world(population, rng, 200) for _ in range(WORLDS)]


def test_the_frozen_sensitivity_holds_on_new_patients_and_not_if_scans_count_as_patients(population, worlds):
    promise = referral_promise(0.95)
    assert tally(promise, population, worlds).kept >= 0.92
    assert tally(promise, population, worlds).found > 0.9
    assert tally(promise, population, worlds, by_scan=True).kept < 0.8


def test_the_frozen_sensitivity_holds_where_each_patient_has_one_scan():
    rng = np.random.default_rng(0)
    population = draw_population(rng, 3000, shared=0, many_scans=False)
    result = tally(referral_promise(0.9), population, [draw_world(population, rng, 200) for _ in range(WORLDS)])
    assert result.kept >= 0.92
    assert result.found == 1


@pytest.mark.slow
def test_the_error_among_the_answers_keeps_its_level_and_not_if_scans_count_as_patients(population, worlds):
    promise, some = abstention_promise(0.1), worlds[:60]
    kept, found = tally(promise, population, some)
    assert kept >= 0.9
    assert found > 0.5
    assert tally(promise, population, some, by_scan=True).kept < 0.8


@pytest.mark.slow
def test_a_model_whose_confidence_says_nothing_and_errs_too_often_gets_no_threshold():
    rng = np.random.default_rng(0)
    population = draw_uninformed(rng, 3000, 0.06)
    result = tally(abstention_promise(0.05), population, [draw_world(population, rng, 150) for _ in range(100)])
    assert result.found <= 0.08


def test_the_threshold_is_the_largest_that_assures_the_sensitivity():
    rng = np.random.default_rng(0)
    score, urgent, patient = rng.random(400), np.arange(400) < 200, np.arange(400) // 2
    threshold = choose_threshold(score, urgent, patient, 0.9)
    chosen = referral_rates(score, urgent, patient, threshold)
    assert chosen.sensitivity_lower >= 0.9
    assert referral_rates(score, urgent, patient, threshold + 2e-6).sensitivity_lower < 0.9
    assert chosen.urgent_scans[1] == chosen.other_scans[1] == 200
    assert chosen.specificity == pytest.approx(np.mean(score[200:] < threshold))


def test_a_patient_with_many_scans_counts_as_one():
    score = np.append(np.full(99, 0.5), np.full(1000, 0.1))
    patient = np.append(np.arange(99), np.full(1000, 99))
    assert choose_threshold(score, np.ones(1099, bool), patient, 0.95) == 0.5  # 99 of 100 patients assure 0.953
    assert choose_threshold(score, np.ones(1099, bool), patient, 0.96) == 0.1
    correct = patient < 99
    assert answer_rates(score, correct, patient, 0).error == 0.01
    assert choose_abstention(score, correct, patient, 0.05).threshold == 0


def test_too_few_patients_assure_nothing_however_many_scans_they_have():
    score, urgent = np.ones(5800), np.ones(5800, bool)
    assert choose_threshold(score, urgent, np.arange(5800) % 58, 0.95) is None
    assert choose_threshold(score, urgent, np.arange(5800) % 59, 0.95) == 1
    assert choose_threshold(score, ~urgent, np.arange(5800) % 59, 0.95) is None
    reason = choose_abstention(score, urgent, np.arange(5800) % 58, 0.05).reason
    assert reason == "an error of at most 0.05 can be shown with 59 patients or more, and here are 58"
    assert choose_abstention(score, urgent, np.arange(5800) % 59, 0.05).threshold == 0


def test_a_model_that_is_wrong_where_it_is_unsure_abstains_there():
    confidence = np.linspace(0.3, 1, 1000)
    choice = choose_abstention(confidence, confidence > 0.5, np.arange(1000), 0.05)
    rates = answer_rates(confidence, confidence > 0.5, np.arange(1000), choice.threshold)
    assert 0.4 < choice.threshold <= 0.5
    assert rates.error <= rates.error_upper <= 0.05
    next_one = GRID[GRID.index(choice.threshold) + 1]
    assert answer_rates(confidence, confidence > 0.5, np.arange(1000), next_one).error_upper > 0.05


def test_the_reason_for_no_threshold_names_the_error():
    correct = np.arange(200) % 5 > 0
    choice = choose_abstention(np.full(200, 0.9), correct, np.arange(200), 0.05)
    assert choice.threshold is None
    assert "the error is 0.200 with an upper bound of 0.2" in choice.reason


def test_the_risk_coverage_curve_of_a_case_computed_by_hand():
    confidence = np.array([0.9, 0.8, 0.8, 0.4])
    points = risk_coverage(confidence, np.array([True, False, True, False]))
    assert points == [
        {"threshold": 0.9, "coverage": 0.25, "risk": 0},
        {"threshold": 0.8, "coverage": 0.75, "risk": 1 / 3},
        {"threshold": 0.4, "coverage": 1, "risk": 0.5},
    ]
    many = np.random.default_rng(0).random(5000)
    assert len(risk_coverage(many, many > 0.5)) <= 100
