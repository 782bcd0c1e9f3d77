"""The similarity of scans within and between patients."""

import itertools

import pytest

from octprep.inspection.similarity import THRESHOLD, between_patient_pairs, within_patient_pairs
from octprep.splits.patients import group_patients
from tests.worlds.archive import scan


@pytest.mark.slow
def test_pairs_of_one_patient_group_are_not_shown_as_pairs_of_two(inspection):
    similarity = inspection.pixels.similarity
    for pair in similarity.below_threshold:
        assert inspection.group_of[pair.first] != inspection.group_of[pair.second]
    assert all(pair.correlation >= THRESHOLD for pair in similarity.duplicates)
    assert max(similarity.between) < THRESHOLD
    assert similarity.within


@pytest.mark.slow
def test_totals_count_every_pair(inspection):
    similarity = inspection.pixels.similarity
    ids = [scan.patient for scan in inspection.scans]
    within = sum(first == second for first, second in itertools.combinations(ids, 2))
    assert similarity.distances.within_total == within
    assert similarity.distances.between_total == len(ids) * (len(ids) - 1) // 2 - within
    assert similarity.within_total == len(within_patient_pairs(inspection.scans))


def test_consecutive_scans_of_one_patient_and_class_are_pairs():
    scans = [
        scan(path)
        for path in (
            "train/CNV/CNV-1-3.jpeg",
            "test/CNV/CNV-1-1.jpeg",
            "train/DME/DME-1-2.jpeg",
            "test/CNV/CNV-2-1.jpeg",
        )
    ]
    scans = [item.with_pixels(item.path.encode()) for item in scans]
    pairs = within_patient_pairs(scans)
    assert [(first.path, second.path) for first, second in pairs] == [
        ("test/CNV/CNV-1-1.jpeg", "train/CNV/CNV-1-3.jpeg")
    ]


def test_a_patient_group_is_in_at_most_two_pairs_with_others():
    groups = group_patients(
        [scan(f"train/CNV/CNV-{patient}-{number}.jpeg") for patient in range(9) for number in range(3)]
    )
    pairs = between_patient_pairs(groups, seed=1)
    assert len(pairs) == 8
    assert all(first.patient != second.patient for first, second in pairs)
    patients = [member.patient for pair in pairs for member in pair]
    assert max(map(patients.count, patients)) <= 2
    assert pairs == between_patient_pairs(groups[::-1], seed=1)
