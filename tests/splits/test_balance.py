"""Splits with too few patients to say anything are named with their numbers."""

import dataclasses

from octprep.splits.balance import FEW, scarce
from tests.worlds.tables import image_row


def rows_of(splits):
    """Rows of images.csv; splits: split -> class -> patient ids."""
    return [
        image_row(split=split, label=label, patient=patient)
        for split, classes in splits.items()
        for label, patients in classes.items()
        for patient in patients
    ]


ENOUGH = [str(number) for number in range(FEW)]


def test_enough_patients_are_passed_over_in_silence():
    assert scarce(rows_of({"train": {"CNV": ENOUGH, "DME": ENOUGH}, "test": {"CNV": ENOUGH, "DME": ENOUGH}})) == []
    assert scarce([]) == []


def test_few_patients_of_a_class_are_named_with_their_number():
    found = scarce(
        rows_of(
            {
                "test": {"CNV": ENOUGH, "DME": ["7", "7", "7"]},
                "fold10": {"CNV": ENOUGH, "DME": ["8", "9"]},
                "fold9": {"CNV": ENOUGH},
                "train": {"CNV": ["1"], "DME": ENOUGH},
            }
        )
    )
    assert [sentence.partition(":")[0] for sentence in found] == [
        "train has few patients (1 of CNV)",
        "fold9 has few patients (0 of DME)",
        "fold10 has few patients (2 of DME)",
        "test has few patients (1 of DME)",
    ]


def test_patient_ids_of_one_group_count_once():
    rows = rows_of({"test": {"CNV": ENOUGH, "DME": ENOUGH}})
    rows[:2] = [dataclasses.replace(row, patient_group="0") for row in rows[:2]]
    assert scarce(rows) == ["test has few patients (4 of CNV): a result on so few says little about others."]


def test_a_class_alone_is_named():
    assert scarce(rows_of({"train": {"CNV": ENOUGH}})) == [
        "There is only one class, CNV: a model has nothing to tell apart."
    ]
