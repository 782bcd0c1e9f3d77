"""Slices: compared with what is expected of their classes, the worst first, with a warning where it is not chance."""

import dataclasses

import numpy as np
import pytest

from octtrain.evaluation.predictions import SplitPredictions
from octtrain.evaluation.slices import format_slices, slices_of
from tests.worlds.tables import image_row


def world(wrong_of, patients=60, images=4, width_of=lambda i: 512, label_of=lambda i: i % 2, **measured):
    """Predictions of two classes and their rows; wrong_of(patient, image) says which are wrong."""
    rows, truth, predicted, ids = [], [], [], []
    for i in range(patients):
        for j in range(images):
            row = image_row(f"test/{i}-{j}.jpeg", patient=str(i), split="test")
            values = {name: value_of(i, j) for name, value_of in measured.items()}
            rows.append(
                dataclasses.replace(
                    row,
                    width=width_of(i),
                    source="",
                    eye="",
                    volume="",
                    source_split="",
                    measurements=dataclasses.replace(row.measurements, **values),
                )
            )
            truth.append(label_of(i))
            predicted.append(1 - truth[-1] if wrong_of(i, j) else truth[-1])
            ids.append(str(i))
    probabilities = np.eye(2, dtype=np.float32)[predicted]
    return SplitPredictions([row.path for row in rows], ids, ids, np.array(truth), probabilities), rows


def test_a_slice_that_is_worse_comes_first_with_a_warning_and_its_numbers():
    predictions, rows = world(
        lambda i, j: j < (2 if i % 3 == 0 else i % 2), width_of=lambda i: 768 if i % 3 == 0 else 512
    )
    worst, best = slices_of(predictions, rows, 2)
    assert (worst.column, worst.values, worst.patients) == ("source width", "768", 20)
    assert (worst.accuracy.count, worst.accuracy.total) == (40, 80)
    assert worst.is_worse
    assert not best.is_worse
    # Of the first class 20 of 120 are wrong, of the second 20 + 20; the slice has as many of both.
    assert worst.difference == pytest.approx(40 / 80 - (100 / 120 + 80 / 120) / 2)
    assert worst.interval[0] < worst.difference < worst.interval[1] < 0
    text = format_slices([worst, best])
    assert "worse than the whole: source width 768 by 0.250. 2 slices were looked at, of which about 0.1 would" in text


def test_a_slice_of_a_harder_class_is_not_worse_for_that():
    """All images of the second class are as wide as no others, and half of them are wrong wherever they are from."""
    predictions, rows = world(lambda i, j: i % 2 and j < 2, width_of=lambda i: 768 if i % 2 else 512)
    for part in slices_of(predictions, rows, 2):
        assert part.difference == pytest.approx(0, abs=1e-6)
        assert not part.is_worse
    assert "worse" not in format_slices(slices_of(predictions, rows, 2)).replace("worst", "")


def test_numbers_are_cut_into_parts_of_equal_size_and_ties_stay_together():
    predictions, rows = world(
        lambda i, j: (i + j) % 5 == 0,
        sharpness=lambda i, j: float(i),
        fill_fraction=lambda i, j: 0.0 if i < 40 else i / 100,
    )
    found = slices_of(predictions, rows, 2)
    sharpness = sorted(part.values for part in found if part.column == "sharpness")
    assert sharpness == ["0 to 14", "15 to 29", "30 to 44", "45 to 59"]
    fill = {part.values: part.accuracy.total for part in found if part.column == "fill fraction"}
    assert fill["0"] == 160
    assert sum(fill.values()) == 240
    assert [part.difference for part in found] == sorted(part.difference for part in found)


def test_few_patients_get_no_warning_and_equal_images_no_slices():
    predictions, rows = world(lambda i, j: i < 4 or (i + j) % 7 == 0, width_of=lambda i: 768 if i < 4 else 512)
    worst, _ = slices_of(predictions, rows, 2)
    assert (worst.values, worst.accuracy.value, worst.patients, worst.is_worse) == ("768", 0, 4, False)
    assert "768" not in format_slices(slices_of(predictions, rows, 2))
    predictions, rows = world(lambda i, j: (i + j) % 7 == 0)
    assert slices_of(predictions, rows, 2) == []
    assert format_slices([]) == ""
