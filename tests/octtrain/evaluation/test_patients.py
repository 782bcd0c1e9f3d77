"""Results per patient: cases by patient group and class, referral of the whole patient by the worst image."""

import csv
import io

import numpy as np
import pytest

from octtrain.evaluation.patients import cases_of, patients_csv, sample_of_cases
from octtrain.evaluation.predictions import SplitPredictions, predictions_csv, read_predictions
from octtrain.evaluation.report import report_of

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


def world():
    """Patients a and b, which are the same, c under two classes, and d."""
    rows = [
        ("a", "a", 3, [0.1, 0.1, 0.1, 0.7]),
        ("b", "a", 3, [0.1, 0.1, 0.7, 0.1]),
        ("b", "a", 3, [0.05, 0.05, 0.1, 0.8]),
        ("c", "c", 0, [0.4, 0.0, 0.6, 0.0]),
        ("c", "c", 3, [0.0, 0.0, 0.0, 1.0]),
        ("d", "d", 2, [0.1, 0.45, 0.35, 0.1]),
        ("d", "d", 2, [0.1, 0.1, 0.7, 0.1]),
    ]
    ids, groups, truth, probabilities = zip(*rows, strict=True)
    paths = [f"{i}.jpeg" for i in range(len(rows))]
    return SplitPredictions(paths, [*ids], [*groups], np.array(truth), np.array(probabilities, np.float32))


def test_a_case_is_the_mean_log_probability_of_a_patients_images_of_a_class():
    cases = cases_of(world(), CLASSES)
    assert cases.groups == ["a", "c", "c", "d"]
    assert cases.images.tolist() == [3, 1, 1, 2]
    assert cases.truth.tolist() == [3, 0, 3, 2]
    product = np.array([0.1 * 0.1 * 0.05, 0.1 * 0.1 * 0.05, 0.1 * 0.7 * 0.1, 0.7 * 0.1 * 0.8]) ** (1 / 3)
    np.testing.assert_allclose(cases.probabilities[0], product / product.sum(), rtol=1e-5)
    assert cases.probabilities[3].argmax() == 2  # one image as DME, both together as DRUSEN
    assert np.isfinite(cases.probabilities).all()  # although some probabilities are 0
    np.testing.assert_allclose(cases.worst, [0.2, 0.4, 0.4, 0.55], rtol=1e-5)


def test_referral_is_of_the_patient_by_the_worst_image():
    report = report_of(world(), CLASSES).per_patient
    assert (report.unit, report.accuracy.total, report.patients) == ("case", 4, 3)
    assert (report.accuracy.count, report.per_class["NORMAL"].sensitivity.count) == (3, 2)
    # c is urgent by one of its images, but not predicted to be; d is not urgent, but one of its images is predicted so
    assert (report.urgent.sensitivity.count, report.urgent.sensitivity.total) == (0, 1)
    assert (report.urgent.specificity.count, report.urgent.specificity.total) == (1, 2)
    assert report.urgent.auc.value == 0.5  # c 0.4 between a 0.2 and d 0.55


def test_classes_without_urgent_ones_have_no_referral():
    predictions = world()
    assert sample_of_cases(predictions, ("A", "B", "C", "D")).urgent is None
    assert cases_of(predictions, ("A", "B", "C", "D")).worst is None
    assert patients_csv(("A", "B", "C", "D"), cases_of(predictions, ("A", "B", "C", "D"))).startswith(
        b"patient_group,images,truth,prediction,A,B,C,D\n"
    )


def test_the_csv_of_patients_holds_the_cases():
    rows = list(csv.DictReader(io.StringIO(patients_csv(CLASSES, cases_of(world(), CLASSES)).decode())))
    assert [(row["patient_group"], row["images"], row["truth"], row["prediction"]) for row in rows] == [
        ("a", "3", "NORMAL", "NORMAL"), ("c", "1", "CNV", "DRUSEN"), ("c", "1", "NORMAL", "NORMAL"),
        ("d", "2", "DRUSEN", "DRUSEN"),
    ]  # fmt: skip
    assert float(rows[3]["worst_urgent"]) == pytest.approx(0.55)


def test_predictions_are_read_back_exactly_and_anything_else_is_an_error():
    predictions = world()
    noise = np.random.default_rng(0).random(predictions.probabilities.shape).astype(np.float32) ** 20
    predictions = SplitPredictions(
        predictions.paths, predictions.patients, predictions.groups, predictions.truth, noise
    )
    data = predictions_csv(CLASSES, predictions)
    names, back = read_predictions(data)
    assert names == CLASSES
    assert (back.paths, back.patients, back.groups) == (predictions.paths, predictions.patients, predictions.groups)
    np.testing.assert_array_equal(back.truth, predictions.truth)
    np.testing.assert_array_equal(back.probabilities, noise)
    header, first, *_ = data.decode().splitlines(keepends=True)
    for bad in (b"", b"\xff", b"a,b\n1,2\n", header.encode(), (header + first[:-5]).encode() + b"x\n",
                (header + first.replace("NORMAL", "ERM")).encode(), (header + "a,b\n").encode()):  # fmt: skip
        with pytest.raises(ValueError):
            read_predictions(bad)
