"""Metrics compared with scikit-learn, with numbers counted by hand, and their caveats."""

import numpy as np
import pytest
from sklearn import metrics as reference

from octtrain.evaluation.metrics import COSTS, auc, confusion, mcc, weighted_error
from octtrain.evaluation.report import caveats, compute_metrics, format_report

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Fewer than users get, as what is tested here does not depend on their number."""
    monkeypatch.setattr("octtrain.evaluation.intervals.RESAMPLES", 200)


def random_predictions(seed=0, n=300, k=4, decimals=2):
    """Truth and probabilities better than chance, rounded so that many are tied."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    scores = rng.random((n, k)) + np.eye(k)[truth] * 0.4
    return truth, np.round(scores / scores.sum(axis=1, keepdims=True), decimals)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_those_of_scikit_learn(seed):
    truth, probabilities = random_predictions(seed)
    predicted = probabilities.argmax(axis=1)
    report = compute_metrics(truth, probabilities, CLASSES)
    np.testing.assert_array_equal(report.confusion, reference.confusion_matrix(truth, predicted))
    assert report.accuracy.value == pytest.approx(reference.accuracy_score(truth, predicted))
    assert report.balanced_accuracy.value == pytest.approx(reference.balanced_accuracy_score(truth, predicted))
    correlation = reference.matthews_corrcoef(truth, predicted)
    assert mcc(report.confusion) == report.mcc.value == pytest.approx(correlation)
    assert report.macro_f1.value == pytest.approx(reference.f1_score(truth, predicted, average="macro"))
    aucs = []
    for i, name in enumerate(CLASSES):
        one_class = report.per_class[name]
        aucs.append(reference.roc_auc_score(truth == i, probabilities[:, i]))
        assert one_class.auc.value == pytest.approx(aucs[-1])
        average_precision = reference.average_precision_score(truth == i, probabilities[:, i])
        assert one_class.pr_auc.value == pytest.approx(average_precision)
        assert one_class.precision.value == pytest.approx(reference.precision_score(truth == i, predicted == i))
        assert one_class.f1.value == pytest.approx(reference.f1_score(truth == i, predicted == i))
        assert one_class.sensitivity.value == pytest.approx(reference.recall_score(truth == i, predicted == i))
        assert one_class.specificity.value == pytest.approx(reference.recall_score(truth != i, predicted != i))
    assert report.macro_auc.value == pytest.approx(np.mean(aucs))
    urgent_truth, urgent_score = truth < 2, probabilities[:, :2].sum(axis=1)
    assert report.urgent.auc.value == pytest.approx(reference.roc_auc_score(urgent_truth, urgent_score))
    assert report.urgent.sensitivity.value == pytest.approx(reference.recall_score(urgent_truth, predicted < 2))
    assert report.urgent.specificity.value == pytest.approx(reference.recall_score(~urgent_truth, predicted >= 2))


def test_mcc_of_a_constant_prediction_is_undefined():
    assert mcc(np.array([[3, 0], [4, 0]])) is None
    assert mcc(np.array([[3, 0], [0, 4]])) == 1
    assert mcc(np.array([[0, 3], [4, 0]])) == -1


def test_metrics_of_a_confusion_matrix_counted_by_hand():
    #        predicted CNV DME DRUSEN NORMAL
    counts = [[8, 1, 0, 1], [2, 6, 1, 1], [0, 0, 9, 1], [0, 1, 0, 19]]
    truth, predicted = zip(*[(t, p) for t in range(4) for p in range(4) for _ in range(counts[t][p])], strict=True)
    report = compute_metrics(np.array(truth), np.eye(4)[list(predicted)], CLASSES)
    assert report.confusion.tolist() == counts
    assert counted(report.accuracy) == (42, 50)
    assert counted(report.per_class["CNV"].sensitivity) == (8, 10)
    assert counted(report.per_class["CNV"].specificity) == (38, 40)
    assert counted(report.per_class["CNV"].precision) == (8, 10)
    assert counted(report.per_class["NORMAL"].specificity) == (27, 30)
    assert counted(report.per_class["NORMAL"].precision) == (19, 22)
    assert report.per_class["NORMAL"].f1.value == pytest.approx(2 * 19 / (20 + 22))
    assert counted(report.urgent.sensitivity) == (17, 20)
    assert counted(report.urgent.specificity) == (29, 30)
    assert report.balanced_accuracy.value == pytest.approx((0.8 + 0.6 + 0.9 + 0.95) / 4)
    # CNV: one as DME 1, one as NORMAL 4; DME: two as CNV 2, one as DRUSEN 2, one as NORMAL 4; the rest: two errors of 1
    assert report.weighted_error.value == pytest.approx(100 * (1 + 4 + 2 + 2 + 4 + 1 + 1) / 50)
    (line,) = [line for line in format_report(report).splitlines() if line.startswith("CNV") and " 38/40" in line]
    assert line.split()[:2] == ["CNV", "0.800"]
    assert line.split()[3:5] == ["8/10", "0.950"]


def counted(proportion):
    assert proportion.value == proportion.count / proportion.total
    return proportion.count, proportion.total


def test_the_cost_matrix_is_the_published_one():
    order = ["NORMAL", "DRUSEN", "CNV", "DME"]
    assert [[COSTS[t][p] for p in order] for t in order] == [[0, 1, 1, 1], [1, 0, 1, 1], [4, 2, 0, 1], [4, 2, 1, 0]]


def test_the_order_of_classes_does_not_matter():
    truth, probabilities = random_predictions(5, decimals=12)  # no ties: the first of equals depends on the order
    order = [3, 1, 0, 2]
    back = np.argsort(order)
    report = compute_metrics(truth, probabilities, CLASSES)
    reordered = compute_metrics(back[truth], probabilities[:, order], [CLASSES[i] for i in order])
    assert reordered.weighted_error == report.weighted_error
    assert reordered.urgent == report.urgent
    assert dict(reordered.per_class) == dict(report.per_class)
    assert reordered.mcc.value == pytest.approx(report.mcc.value)


def test_an_undefined_metric_is_none_and_shown_as_a_dash():
    truth = np.array([0, 0, 1, 3])
    report = compute_metrics(truth, np.eye(4)[[0, 1, 1, 3]], CLASSES)
    drusen = report.per_class["DRUSEN"]
    assert (drusen.sensitivity.value, drusen.sensitivity.total, drusen.auc.value) == (None, 0, None)
    assert drusen.auc.interval is drusen.sensitivity.interval is None
    assert counted(drusen.specificity) == (4, 4)
    assert report.balanced_accuracy.value == pytest.approx((0.5 + 1 + 1) / 3)
    lines = [line.split() for line in format_report(report).splitlines() if line.startswith("DRUSEN")]
    assert lines[0] == ["DRUSEN", "-", "0/0", "1.000", "(0.398-1.000", "exact)", "4/4"]
    assert lines[1] == ["DRUSEN", "-", "0/0", "-"]
    assert "nan" not in format_report(report)


def test_other_classes_have_no_weighted_error_and_no_urgent_referral():
    truth, probabilities = random_predictions(1, k=3)
    report = compute_metrics(truth, probabilities, ["AMD", "DME", "NORMAL"])
    assert report.weighted_error is None
    assert report.urgent is None
    assert "urgent" not in format_report(report)
    assert weighted_error(confusion(truth, truth, 3), ["AMD", "DME", "NORMAL"]) is None


def test_tied_scores_count_half_in_the_auc():
    assert auc(np.array([True, False]), np.array([0.5, 0.5])) == 0.5
    assert auc(np.array([True, True, False]), np.array([0.9, 0.5, 0.5])) == 0.75
    assert auc(np.array([True, True]), np.array([0.9, 0.5])) is None


def caveats_of(counts, patients):
    """The caveats of a confusion matrix with so many patients in each class."""
    classes = CLASSES[: len(counts)]
    pairs = [(t, p) for t, row in enumerate(counts) for p, n in enumerate(row) for _ in range(n)]
    truth, predicted = (np.array(side) for side in zip(*pairs, strict=True))
    ids = [f"{t} {i % patients[t]}" for i, t in enumerate(truth)]
    return caveats(
        compute_metrics(truth, np.eye(len(classes))[predicted], classes, ids),
        dict(zip(classes, patients, strict=True)),
    )


def test_a_good_model_on_enough_patients_has_no_caveats():
    assert caveats_of([[90, 10], [20, 80]], [50, 50]) == []


def test_few_patients_are_a_caveat_with_numbers():
    (few,) = caveats_of([[90, 10], [5, 95]], [1, 50])
    assert few.startswith("few patients in test (CNV 1):")
    missing, few, single = caveats_of([[8, 2], [0, 0]], [10, 0])[0], *caveats_of([[8, 2], [0, 0]], [2, 0])[1:][::-1]
    assert missing.startswith("test has no image of DME")
    assert "over 1 of 2 classes" in missing
    assert "(CNV 2)" in few
    assert single.startswith("test has only one class, CNV")


def test_a_model_at_chance_is_a_caveat():
    (line,) = caveats_of([[26, 24], [25, 25]], [50, 50])
    assert line.startswith("balanced accuracy 0.510 (0.4")
    assert line.endswith(" of 100 patients does not differ from guessing, 0.500")
    (line,) = caveats_of([[50, 0], [50, 0]], [50, 50])
    assert line == "the model classifies all 100 images as CNV, so it distinguishes nothing"
