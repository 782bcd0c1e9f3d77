"""Folds by patient and by image, and samples of whole patients."""

from collections import Counter

import numpy as np
import pytest

from octprep.format.errors import SettingError
from octtrain.experiments.leakage.folds import image_folds, patient_folds, sample_patients
from tests.worlds.shards import CLASSES
from tests.worlds.tables import image_row


def images_of_patients(sizes, labels=None):
    """Labels and patients of images, by the number of images of each patient; classes take turns."""
    patients = np.array([f"{i}" for i, size in enumerate(sizes) for _ in range(size)])
    if labels is None:
        labels = [i % 4 for i, size in enumerate(sizes) for _ in range(size)]
    return np.array(labels), patients


@pytest.mark.parametrize("seed", range(5))
def test_folds_by_patient_split_no_patient_and_balance_the_classes(seed):
    rng = np.random.default_rng(seed)
    labels, patients = images_of_patients(np.r_[rng.integers(1, 12, 60), 40])
    folds = patient_folds(labels, patients, CLASSES, 5, seed)
    assert sorted(np.concatenate(folds)) == list(range(len(labels)))
    members = [set(patients[fold]) for fold in folds]
    assert len(set.union(*members)) == sum(map(len, members)) == 61
    counts = np.array([np.bincount(labels[fold], minlength=4) for fold in folds])
    largest = max(Counter(patients).values())
    assert (abs(counts - counts.mean(axis=0)) <= largest).all()
    assert (
        len({tuple(fold) for fold in folds} & {tuple(fold) for fold in patient_folds(labels, patients, CLASSES, 5, 99)})
        == 0
    )


def test_folds_by_image_have_the_class_counts_of_folds_by_patient_but_split_patients():
    labels, patients = images_of_patients([7] * 40)
    by_patient = patient_folds(labels, patients, CLASSES, 5, 0)
    by_image = image_folds(labels, by_patient, 0)
    assert sorted(np.concatenate(by_image)) == list(range(len(labels)))
    for images, members in zip(by_image, by_patient, strict=True):
        assert Counter(labels[images].tolist()) == Counter(labels[members].tolist())
    assert len(set.intersection(*(set(patients[fold]) for fold in by_image))) >= 5


def test_a_class_with_too_few_patients_is_an_error_with_advice():
    with pytest.raises(
        SettingError, match=r"needs 5 patients .* but NORMAL has 3; give --folds 3 or use shards of more"
    ):
        patient_folds(*images_of_patients([2, 2, 2, 2] * 3 + [2, 2, 2, 0] * 2), CLASSES, 5, 0)
    with pytest.raises(SettingError, match="all of one class"):
        patient_folds(*images_of_patients([3, 3], [0] * 6), CLASSES, 2, 0)


def test_a_sample_holds_whole_patients_of_each_class():
    rows = [image_row(f"{i}-{k}", patient=str(i), label=CLASSES[i % 4]) for i in range(80) for k in range(1 + i % 7)]
    sampled = sample_patients(rows, 100, 0)
    assert 80 <= len(sampled) <= 100
    patients = {row.patient_group for row in sampled}
    assert sum(row.patient_group in patients for row in rows) == len(sampled)
    assert set(Counter(row.label for row in sampled)) == set(CLASSES)
    assert sample_patients(rows[::-1], 100, 0) == sampled[::-1]
    assert sample_patients(rows, 100, 1) != sampled
    assert sample_patients(rows, 1000, 0) == rows
