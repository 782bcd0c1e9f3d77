"""How far class shares are from their targets, and splits with too few patients, are described with their numbers."""

from collections import Counter

import pytest

from octprep.format.images_csv import ExcludedRow, Table
from octprep.shards.plan import plan_shards
from octprep.splits.deviations import (
    FEW,
    ClassDeviation,
    count_patients,
    describe_deviation,
    describe_few_patients,
    deviations_from_splits,
    deviations_from_table,
    largest_deviation,
    patients_from_rows,
)
from octprep.splits.strategies import split_scans
from tests.splits.populations import config, scans
from tests.worlds.archive import archive
from tests.worlds.tables import image_row, scan_row

ENOUGH = [str(number) for number in range(FEW)]


def rows_of(splits):
    """Rows of images.csv; splits: split -> class -> patient ids."""
    return [
        image_row(split=split, label=label, patient=patient)
        for split, classes in splits.items()
        for label, patients in classes.items()
        for patient in patients
    ]


def few(splits):
    return describe_few_patients(patients_from_rows(rows_of(splits)))


def test_enough_patients_are_not_mentioned():
    assert few({"train": {"CNV": ENOUGH, "DME": ENOUGH}, "test": {"CNV": ENOUGH, "DME": ENOUGH}}) == []
    assert describe_few_patients({}) == []


def test_few_patients_of_a_class_are_named_with_their_number():
    sentences = few(
        {
            "test": {"CNV": ENOUGH, "DME": ["7", "7", "7"]},
            "fold10": {"CNV": ENOUGH, "DME": ["8", "9"]},
            "fold9": {"CNV": ENOUGH},
            "train": {"CNV": ["1"], "DME": ENOUGH},
        }
    )
    assert [sentence.partition(":")[0] for sentence in sentences] == [
        "train has few patients (1 of CNV)",
        "fold9 has few patients (0 of DME)",
        "fold10 has few patients (2 of DME)",
        "test has few patients (1 of DME)",
    ]


def test_the_ids_of_a_patient_group_count_once():
    rows = rows_of({"test": {"CNV": ENOUGH[2:], "DME": ENOUGH}})
    rows += [image_row(split="test", label="CNV", patient=patient, patient_group="0") for patient in "01"]
    assert patients_from_rows(rows) == {"test": {"CNV": FEW - 1, "DME": FEW}}


def test_a_source_of_one_class_is_named():
    [sentence] = few({"train": {"CNV": ENOUGH}})
    assert sentence.startswith("There is only one class, CNV")


def test_patients_are_counted_by_split_and_class():
    scans = [("train", "CNV", "1"), ("train", "CNV", "1"), ("train", "DME", "1"), ("test", "CNV", "2")]
    assert count_patients(scans) == {"train": {"CNV": 1, "DME": 1}, "test": {"CNV": 1}}


def test_the_largest_deviation_is_found():
    held = {"train": {"CNV": 79, "DME": 8}, "val": {"CNV": 21, "DME": 2}, "test": {"CNV": 50}}
    deviation = largest_deviation(held, {"train": 0.8, "val": 0.2})
    assert deviation == ClassDeviation("train", "CNV", 0.79, 0.8, ("train", "val"))
    assert describe_deviation(deviation) == (
        "of the scans not in test, train has 79.00% of CNV where the target is 80.00% (-1.00 percentage points), the "
        "largest deviation of a class in train, val"
    )


@pytest.mark.parametrize("balance", ["none", "undersample"])
@pytest.mark.parametrize("strategy", ["by-patient", "keep-test", "kfold", "as-given"])
@pytest.mark.parametrize("limit", [0, 2])
def test_deviations_of_a_build_and_of_its_table_are_equal(strategy, balance, limit):
    settled = config(strategy, max_per_patient=limit, folds=3)
    splits = split_scans(scans(archive(9)), settled)
    images, excluded = [], []
    for name, members in splits.members.items():
        _, undersampled = plan_shards(name, members, balance if name == "train" else "none", 100, 1000, 0)
        reasons = {exclusion.path: exclusion.reason for exclusion in undersampled}
        for member in members:
            columns = {
                "label": member.label,
                "patient": member.patient,
                "patient_group": splits.group_of[member.path],
                "source_split": member.source_split,
            }
            if member.path in reasons:
                row = scan_row(member.path, **columns)
                excluded.append(ExcludedRow(path=member.path, exclusion_reason=reasons[member.path], scan=row))
            else:
                images.append(image_row(member.path, split=name, **columns))
    deviations = deviations_from_splits(splits, settled)
    assert deviations == deviations_from_table(Table(tuple(images), tuple(excluded)), settled)
    assert len(deviations) == (0 if strategy == "as-given" else 1)
    if deviations and not limit:
        [deviation] = deviations
        counts = {
            name: Counter(member.label for member in splits.members[name])[deviation.label] for name in deviation.splits
        }
        assert deviation.share == counts[deviation.split] / sum(counts.values())


def test_kfold_without_a_test_folder_has_a_deviation_for_both_of_its_assignments():
    population = [member for member in scans(archive(9)) if member.source_split != "test"]
    settled = config("kfold", folds=3)
    deviations = deviations_from_splits(split_scans(population, settled), settled)
    assert [deviation.splits for deviation in deviations] == [("rest", "test"), ("fold0", "fold1", "fold2")]
