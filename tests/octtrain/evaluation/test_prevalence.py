"""Predictive values where classes are as frequent as given."""

import numpy as np
import pytest

from octprep.format.errors import SettingError
from octtrain.evaluation.prevalence import complete_prevalence, parse_prevalence
from octtrain.evaluation.report import compute_metrics, format_report

SICK = ("SICK", "WELL")


def test_predictive_values_are_bayes_theorem():
    """90 of 100 sick and 80 of 100 healthy are found: at 1 %, 0.9 * 0.01 of 0.9 * 0.01 + 0.2 * 0.99 alarms are true."""
    truth = np.repeat([0, 1], 100)
    predicted = np.concatenate([np.repeat([0, 1], [90, 10]), np.repeat([0, 1], [20, 80])])
    report = compute_metrics(truth, np.eye(2)[predicted], SICK, prevalence={"SICK": 0.01, "WELL": 0.99})
    found = report.at_prevalence
    assert found.precision["SICK"].value == pytest.approx(0.009 / (0.009 + 0.198))
    assert found.npv["SICK"].value == found.precision["WELL"].value == pytest.approx(0.792 / (0.792 + 0.001))
    assert found.accuracy.value == pytest.approx(0.009 + 0.792)
    assert "1.0%" in format_report(report)
    same = compute_metrics(truth, np.eye(2)[predicted], SICK, prevalence={"SICK": 0.5, "WELL": 0.5})
    assert same.at_prevalence.precision["SICK"].value == pytest.approx(same.per_class["SICK"].precision.value)
    low, high = found.precision["SICK"].interval
    assert low < 0.0435 < high < 0.1


def test_a_class_that_does_not_occur_there_needs_no_images_here():
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
    names = ("A", "B", "C")
    found = compute_metrics(truth, np.eye(3)[predicted], names, prevalence={"A": 0.5, "B": 0.5, "C": 0.0})
    assert found.at_prevalence.precision["A"].value == 1
    assert found.at_prevalence.precision["C"].value == 0
    found = compute_metrics(truth, np.eye(3)[predicted], names, prevalence={"A": 0.5, "B": 0.4, "C": 0.1})
    assert found.at_prevalence.precision["A"].value is None  # how C would be classified is unknown


def test_shares_are_read_and_completed_or_an_error():
    assert parse_prevalence("CNV=0.1, DME=.2") == {"CNV": 0.1, "DME": 0.2}
    for text in ("", "CNV", "CNV=x", "CNV=1.1", "CNV=nan", "CNV=0.1,CNV=0.2", "=1"):
        with pytest.raises(SettingError, match="each class once with its share"):
            parse_prevalence(text)
    assert complete_prevalence({"WELL": 0.9}, SICK) == pytest.approx({"SICK": 0.1, "WELL": 0.9})
    for given in ({"WELL": 0.9, "SICK": 0.2}, {"WELL": 0.4, "SICK": 0.4}, {}):
        with pytest.raises(SettingError, match="1 in all, or of all but one"):
            complete_prevalence(given, SICK)
    with pytest.raises(SettingError, match="names ILL, but the classes are SICK and WELL"):
        complete_prevalence({"ILL": 0.5}, SICK)
