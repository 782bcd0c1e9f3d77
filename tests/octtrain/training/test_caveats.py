"""Warnings of a training: few patients, and a result at chance."""

import pytest

pytest.importorskip("tensorflow")

from octtrain.training.caveats import chance_warnings, few_patients_warnings
from tests.worlds.runs import epoch_row
from tests.worlds.shards import CLASSES
from tests.worlds.tables import image_row


def rows_of(**patients):
    """Rows of images.csv, one for each patient, by the number of patients of each class in some splits."""
    return [
        image_row(f"{split}/{label}-{i}.jpeg", label=label, patient=f"{split}{label}{i}", split=split)
        for split, counts in patients.items()
        for label, count in zip(CLASSES, counts, strict=True)
        for i in range(count)
    ]


def test_few_patients_are_a_warning_with_the_number():
    rows = rows_of(train=(6, 6, 6, 6), val=(1, 1, 1, 0))
    assert few_patients_warnings(rows, CLASSES, ("train",), ("val",)) == [
        "WARNING: val has 1 patient of CNV, 1 patient of DME, 1 patient of DRUSEN, no patients of NORMAL: "
        "the best epoch is selected on very little."
    ]
    rows = rows_of(train=(0, 0, 0, 2), val=(9, 9, 9, 9))
    few, single = few_patients_warnings(rows, CLASSES, ("train",), ("val",))
    assert "training has no patients of CNV" in few
    assert "2 patients of NORMAL" in few
    assert "training has images of one class only" in single


def test_a_result_at_chance_is_a_warning_with_the_numbers():
    rows = rows_of(val=(25, 25, 25, 25))
    for accuracy, is_above_chance in ((0.25, False), (0.3, False), (0.4, True), (1.0, True)):
        lines = chance_warnings(rows, CLASSES, ("val",), [epoch_row(1, accuracy), epoch_row(2, 0.1)])
        assert (lines == []) == is_above_chance
    assert (
        "guessing among 4 classes gives 0.2500, and on 100 patients up to 0.3366 by luck"
        in chance_warnings(rows, CLASSES, ("val",), [epoch_row(1, 0.3)])[0]
    )
