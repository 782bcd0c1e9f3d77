"""Intervals: of patients, not images; exact at the limits; no interval where nothing can be said."""

import json

import numpy as np
import pytest

from benchmarks.coverage import World, coverage, draw, metrics_of
from octtrain import json_output
from octtrain.evaluation.estimates import Estimate, Proportion, format_difference
from octtrain.evaluation.intervals import RESAMPLES, Resampled, exact_bound, resample
from octtrain.evaluation.metrics import Binary
from octtrain.evaluation.predictions import SplitPredictions
from octtrain.evaluation.report import compute_metrics, format_report, report_of

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


def repeated_metrics(scans, times):
    """The report of scans that are each there several times, of the same patient."""
    truth, patients = (np.repeat(values, times) for values in (scans.truth, scans.patients))
    probabilities = np.repeat(scans.probabilities[0], times, axis=0)
    return compute_metrics(truth, probabilities, ("AMD", "NORMAL"), [str(i) for i in patients])


def test_more_images_of_the_same_patients_do_not_narrow_an_interval():
    scans = draw(World(30, 0.5, 2.6), 30, np.random.default_rng(0))
    once, five_times = repeated_metrics(scans, 1), repeated_metrics(scans, 5)
    for name in ("balanced_accuracy", "accuracy", "macro_auc", "mcc", "macro_f1"):
        assert getattr(five_times, name).interval == pytest.approx(getattr(once, name).interval)
    assert five_times.accuracy.total == 5 * once.accuracy.total


def test_every_metric_has_an_interval_around_its_value():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    scores = rng.random((300, 4)) + np.eye(4)[truth] * 0.4
    prevalence = dict(zip(CLASSES, (0.1, 0.1, 0.2, 0.6), strict=True))
    report = compute_metrics(truth, scores / 2, CLASSES, [str(i // 4) for i in range(300)], prevalence)
    found = list(estimates(report.as_json()))
    assert len(found) == 6 + 6 * 5 + 1 + 2 * 4
    for estimate in found:
        low, high = estimate["interval"]
        assert low < estimate["value"] < high
        assert "method" not in estimate


def estimates(content):
    if isinstance(content, dict):
        if "interval" in content:
            yield content
        else:
            for part in content.values():
                yield from estimates(part)


def test_the_bootstrap_is_that_of_a_loop_over_resampled_patients():
    """Values of weighted counts and ranks are those of the images of the drawn patients, written out."""
    scans = draw(World(25, 0.5, 1.5), 25, np.random.default_rng(3))
    score = np.round(scans.probabilities[0][:, 0], 1)  # with many ties
    truth, predicted = scans.truth == 0, score > 0.5
    measure = Binary(truth, predicted, score, scans.patients)
    drawn = np.random.default_rng(5).integers(0, 25, (20, 25))
    weights = np.stack([np.bincount(row, minlength=25) for row in drawn]).astype(np.float32)
    found = measure(weights)
    for i, row in enumerate(drawn):
        members = np.concatenate([np.flatnonzero(scans.patients == patient) for patient in row])
        alone = Binary(truth[members], predicted[members], score[members], np.arange(len(members)))
        expected = alone(np.ones((1, len(members)), np.float32))
        for name in Binary.METRICS:
            assert found[name][i] == pytest.approx(expected[name][0], abs=1e-7)


def test_where_all_are_right_or_wrong_the_bound_is_clopper_and_pearsons_on_patients():
    from scipy import stats

    truth = np.repeat([0, 1], [30, 60])
    patients = [str(i // 3) for i in range(90)]  # 10 and 20 patients
    right = compute_metrics(truth, np.eye(2)[truth], ("A", "B"), patients)
    sensitivity = right.per_class["A"].sensitivity
    expected = stats.binomtest(10, 10).proportion_ci(0.95, "exact").low
    assert (sensitivity.is_exact, sensitivity.interval) == (True, (pytest.approx(expected), 1))
    assert right.accuracy.interval == (pytest.approx(exact_bound(30)), 1)
    assert right.per_class["A"].auc.interval == (pytest.approx(exact_bound(10)), 1)  # ten independent pairs
    mean = (exact_bound(10) + exact_bound(20)) / 2
    assert right.balanced_accuracy.interval == right.macro_f1.interval == (pytest.approx(mean), 1)
    assert 0 < right.mcc.interval[0] < 1 == right.mcc.interval[1]
    assert str(sensitivity) == "1.000 (0.692-1.000 exact) 30/30"
    assert sensitivity.as_json()["method"] == "exact bound on patients"
    wrong = compute_metrics(truth, np.eye(2)[1 - truth], ("A", "B"), patients)
    assert wrong.per_class["A"].sensitivity.interval == (0, pytest.approx(1 - exact_bound(10)))
    assert wrong.per_class["A"].auc.interval == (0, pytest.approx(1 - exact_bound(10)))


def test_one_patient_gives_no_interval():
    truth = np.array([0, 0, 1, 1, 1, 1])
    report = compute_metrics(truth, np.eye(2)[[0, 1, 1, 1, 0, 1]], ("A", "B"), [*"aabcde"])
    assert report.per_class["A"].sensitivity.value == 0.5
    assert report.per_class["A"].sensitivity.interval is None
    assert report.per_class["B"].sensitivity.interval is not None
    assert str(report.per_class["A"].sensitivity) == "0.500 (-) 1/2"


def test_the_same_patients_have_the_same_resamples_whatever_fits_the_memory(monkeypatch):
    def measure(weights):
        return {"sum": (weights @ np.arange(7)).astype(np.float64)}

    whole = resample(measure, 7, 1, {"sum": 7})["sum"]
    monkeypatch.setattr("octtrain.evaluation.intervals.MAX_CELLS", 700)
    parts = resample(measure, 7, 1, {"sum": 7})["sum"]
    np.testing.assert_array_equal(whole.resamples, parts.resamples)
    assert len(whole.resamples) == RESAMPLES
    assert whole.value == 21
    assert sorted(whole.left_out) == [21 - i for i in (6, 5, 4, 3, 2, 1, 0)]
    difference = whole - parts
    assert (difference.value, difference.difference_interval()) == (0, None)  # it does not vary


def test_no_data_is_too_small_for_a_report(monkeypatch):
    """Every metric of a few images of a few patients is a number in its interval, or None; warnings are errors."""
    monkeypatch.setattr("octtrain.evaluation.intervals.RESAMPLES", 50)
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = int(rng.integers(1, 9))
        groups = [str(i) for i in rng.integers(0, rng.integers(1, 5), n)]
        probabilities = np.round(rng.dirichlet([0.3] * 4, n), int(rng.integers(0, 3))).astype(np.float32)
        predictions = SplitPredictions(
            [str(i) for i in range(n)], groups, groups, rng.integers(0, rng.integers(1, 5), n), probabilities
        )
        report = report_of(predictions, CLASSES, dict(zip(CLASSES, (0.5, 0.5, 0.0, 0.0), strict=True)))
        for estimate in estimates(json.loads(json_output.encode(report.as_json()))):
            if estimate["interval"]:
                low, high = estimate["interval"]
                assert low <= estimate["value"] <= high
        assert "nan" not in format_report(report)


def test_an_interval_stays_within_the_range_of_its_metric():
    rng = np.random.default_rng(0)
    near = Resampled(0.99, rng.normal(0.99, 0.01, 2000), rng.normal(0.99, 0.001, 50), 50)
    low, high = near.interval()
    assert 0.5 < low < 0.99 < high < 1
    low, high = Resampled(-0.9, rng.normal(-0.9, 0.2, 2000), rng.normal(0, 1, 50), 50).interval(-1, 1)
    assert -1 < low < -0.9 < high < 1


def test_texts():
    assert str(Estimate(0.9123, (0.8741, 0.9409))) == "0.912 (0.874-0.941)"
    assert str(Estimate(-0.01, (-0.1, 0.08))) == "-0.010 (-0.100 to 0.080)"
    assert str(Estimate(None)) == "-"
    assert str(Proportion(value=None, count=0, total=0)) == "- 0/0"
    assert format_difference(0.014, (-0.012, 0.04)) == "+0.014 (-0.012 to +0.040)"


@pytest.mark.slow
def test_intervals_hold_the_truth_and_those_by_image_do_not(monkeypatch):
    """A small version of benchmarks/coverage.py: of 60 intervals at 95 %, 57 hold the truth, give or take 1.7."""
    monkeypatch.setattr("octtrain.evaluation.intervals.RESAMPLES", 400)
    found = coverage(World(40, 0.5, 2.6, scans=10), 60)
    for metric in ("balanced accuracy", "AUC", "sensitivity"):
        assert found[metric, "by patient"]["intervals"] == 60
        assert found[metric, "by patient"]["holds"] >= 53 / 60
        assert found[metric, "difference"]["holds"] >= 53 / 60
        assert found[metric, "by image"]["holds"] < 0.75


def test_metrics_of_two_models_on_the_same_patients_are_paired():
    """The models share half of the patients' effects, so their difference varies less than if they were apart."""
    scans = draw(World(60, 0.5, 2.6), 60, np.random.default_rng(1))
    first, second = (metrics_of(scans, model)["balanced_accuracy",] for model in (0, 1))
    apart = (first.standard_error**2 + second.standard_error**2) ** 0.5
    assert (first - second).standard_error < 0.95 * apart
