import numpy as np
import pytest
from sklearn import metrics as reference

from octtrain.evaluation.metrics import COSTS, Proportion, auc, confusion, doubts, mcc, measure, table, weighted_error

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


def sample(seed=0, n=300, k=4, decimals=2):
    """Predictions better than chance, rounded so that many are tied."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    scores = rng.random((n, k)) + np.eye(k)[truth] * 0.4
    return truth, np.round(scores / scores.sum(axis=1, keepdims=True), decimals)


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_are_scikit_learns(seed):
    truth, probabilities = sample(seed)
    decided = probabilities.argmax(axis=1)
    found = measure(truth, probabilities, CLASSES)
    np.testing.assert_array_equal(found.confusion, reference.confusion_matrix(truth, decided))
    assert found.accuracy.value == pytest.approx(reference.accuracy_score(truth, decided))
    assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(truth, decided))
    assert mcc(found.confusion) == pytest.approx(reference.matthews_corrcoef(truth, decided))
    aucs = []
    for i, name in enumerate(CLASSES):
        one = found.per_class[name]
        aucs.append(reference.roc_auc_score(truth == i, probabilities[:, i]))
        assert one.auc == pytest.approx(aucs[-1])
        assert one.sensitivity.value == pytest.approx(reference.recall_score(truth == i, decided == i))
        assert one.specificity.value == pytest.approx(reference.recall_score(truth != i, decided != i))
    assert found.macro_auc == pytest.approx(np.mean(aucs))
    urgent_truth, urgent_score = truth < 2, probabilities[:, :2].sum(axis=1)
    assert found.urgent.auc == pytest.approx(reference.roc_auc_score(urgent_truth, urgent_score))
    assert found.urgent.sensitivity.value == pytest.approx(reference.recall_score(urgent_truth, decided < 2))
    assert found.urgent.specificity.value == pytest.approx(reference.recall_score(~urgent_truth, decided >= 2))


def test_what_is_called_all_the_same_has_no_correlation():
    assert mcc(np.array([[3, 0], [4, 0]])) is None
    assert mcc(np.array([[3, 0], [0, 4]])) == 1
    assert mcc(np.array([[0, 3], [4, 0]])) == -1


def test_a_table_counted_by_hand():
    #        predicted CNV DME DRUSEN NORMAL
    counts = [[8, 1, 0, 1], [2, 6, 1, 1], [0, 0, 9, 1], [0, 1, 0, 19]]
    truth, decided = zip(*[(t, p) for t in range(4) for p in range(4) for _ in range(counts[t][p])], strict=True)
    found = measure(np.array(truth), np.eye(4)[list(decided)], CLASSES)
    assert found.confusion.tolist() == counts
    assert found.accuracy == Proportion(42, 50)
    assert found.per_class["CNV"].sensitivity == Proportion(8, 10)
    assert found.per_class["CNV"].specificity == Proportion(38, 40)
    assert found.per_class["NORMAL"].specificity == Proportion(27, 30)
    assert found.urgent.sensitivity == Proportion(17, 20)
    assert found.urgent.specificity == Proportion(29, 30)
    assert found.balanced_accuracy == pytest.approx((0.8 + 0.6 + 0.9 + 0.95) / 4)
    # CNV: one as DME 1, one as NORMAL 4; DME: two as CNV 2, one as DRUSEN 2, one as NORMAL 4; the rest: two errors of 1
    assert found.weighted_error == pytest.approx(100 * (1 + 4 + 2 + 2 + 4 + 1 + 1) / 50)
    assert "0.800 (8/10)" in table(found)


def test_the_cost_matrix_is_the_published_one():
    order = ["NORMAL", "DRUSEN", "CNV", "DME"]
    assert [[COSTS[t][p] for p in order] for t in order] == [[0, 1, 1, 1], [1, 0, 1, 1], [4, 2, 0, 1], [4, 2, 1, 0]]


def test_classes_are_found_by_name_whatever_their_order():
    truth, probabilities = sample(5, decimals=12)  # no ties: the first of equals depends on the order
    other = [3, 1, 0, 2]
    back = np.argsort(other)
    one = measure(truth, probabilities, CLASSES)
    two = measure(back[truth], probabilities[:, other], [CLASSES[i] for i in other])
    assert two.weighted_error == one.weighted_error
    assert two.urgent == one.urgent
    assert dict(two.per_class) == dict(one.per_class)


def test_what_cannot_be_told_is_none_and_shown_as_a_dash():
    truth = np.array([0, 0, 1, 3])
    found = measure(truth, np.eye(4)[[0, 1, 1, 3]], CLASSES)
    drusen = found.per_class["DRUSEN"]
    assert (drusen.sensitivity, drusen.sensitivity.value, drusen.auc) == (Proportion(0, 0), None, None)
    assert drusen.specificity == Proportion(4, 4)
    assert found.balanced_accuracy == pytest.approx((0.5 + 1 + 1) / 3)
    line = next(line for line in table(found).splitlines() if line.startswith("DRUSEN"))
    assert "- (0/0)" in line
    assert line.endswith("-")
    assert "nan" not in table(found)


def test_other_classes_have_no_weighted_error_and_no_urgent_referral():
    truth, probabilities = sample(1, k=3)
    found = measure(truth, probabilities, ["AMD", "DME", "NORMAL"])
    assert found.weighted_error is None
    assert found.urgent is None
    assert "urgent" not in table(found)
    assert weighted_error(confusion(truth, truth, 3), ["AMD", "DME", "NORMAL"]) is None


def test_equal_scores_count_half():
    assert auc(np.array([True, False]), np.array([0.5, 0.5])) == 0.5
    assert auc(np.array([True, True, False]), np.array([0.9, 0.5, 0.5])) == 0.75
    assert auc(np.array([True, True]), np.array([0.9, 0.5])) is None


def judged(counts, patients):
    """What is doubted of a table of counts with so many patients in each class."""
    classes = CLASSES[: len(counts)]
    pairs = [(t, p) for t, row in enumerate(counts) for p, n in enumerate(row) for _ in range(n)]
    truth, decided = (np.array(side) for side in zip(*pairs, strict=True))
    return doubts(measure(truth, np.eye(len(classes))[decided], classes), dict(zip(classes, patients, strict=True)))


def test_a_good_model_on_enough_patients_is_not_doubted():
    assert judged([[90, 10], [20, 80]], [50, 50]) == []


def test_what_too_little_was_measured_on_is_said_with_the_numbers():
    (few,) = judged([[90, 10], [5, 95]], [1, 50])
    assert few.startswith("few patients in test (CNV 1):")
    missing, few, alone = judged([[8, 2], [0, 0]], [10, 0])[0], *judged([[8, 2], [0, 0]], [2, 0])[1:][::-1]
    assert missing.startswith("test has no image of DME")
    assert "over 1 of 2 classes" in missing
    assert "(CNV 2)" in few
    assert alone.startswith("test has one class alone, CNV")


def test_a_model_at_chance_is_called_so():
    (line,) = judged([[26, 24], [25, 25]], [50, 50])
    assert line.startswith("balanced accuracy 0.510 with an error of 0.09")
    assert line.endswith("from 100 patients is not set apart from guessing, 0.500")
    assert judged([[260, 240], [250, 250]], [50, 50]) == [line]  # images are not patients
    (line,) = judged([[50, 0], [50, 0]], [50, 50])
    assert line == "the model calls all 100 images CNV, so it tells no classes apart"
