"""Bounds of rates whose unit is the patient."""

import numpy as np
import pytest

from octtrain.calibration.patients import (
    lower_bound,
    means_of_patients,
    number_of_patient,
    patients_needed,
    upper_bound,
)

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(("hits", "patients"), [(0, 20), (1, 20), (17, 20), (20, 20), (590, 600)])
def test_bounds_of_whole_numbers_are_those_of_clopper_and_pearson(hits, patients):
    exact = stats.binomtest(hits, patients).proportion_ci(0.90, method="exact")  # 95 % on each side
    assert lower_bound(hits, patients) == pytest.approx(exact.low, abs=1e-9)
    assert upper_bound(hits, patients) == pytest.approx(exact.high, abs=1e-9)


def test_the_patients_needed_are_the_fewest_that_can_assure_a_rate():
    assert patients_needed(0.95) == 59
    for rate in (0.5, 0.9, 0.95, 0.99):
        needed = patients_needed(rate)
        assert lower_bound(needed, needed) >= rate > lower_bound(needed - 1, needed - 1)


def test_scans_of_a_patient_share_the_patients_vote():
    patient = number_of_patient(["b", "a", "b", "b", "c"])
    assert means_of_patients(np.array([True, True, False, False, False]), patient).tolist() == [1, 1 / 3, 0]
    assert means_of_patients(np.array([True, False]), np.array([7, 3])).tolist() == [0, 1]  # numbers may be missing
