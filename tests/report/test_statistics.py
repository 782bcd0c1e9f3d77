"""Counts, samples, AUC, and the accuracy of guessing the class from the source size."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from octprep.format.manifest import Manifest
from octprep.report import histograms, statistics
from tests.worlds.pages import kept_rows
from tests.worlds.tables import image_row

LABELS = ("CNV", "DME", "DRUSEN", "NORMAL")


def test_sample_is_of_different_training_patients_and_independent_of_the_order(built):
    manifest, kept = Manifest.load(built), kept_rows(built)
    sample = statistics.sample_patients(kept, manifest)
    assert sample == statistics.sample_patients(kept[::-1], manifest)
    for label, rows in sample.items():
        assert {(row.label, row.split) for row in rows} == {(label, "train")}
        assert len({row.patient for row in rows}) == len(rows) > 0


def test_auc_is_1_for_a_value_that_decides_the_class_and_half_for_a_constant(built):
    kept = kept_rows(built)
    deciding = histograms.histogram(kept, LABELS, lambda row: float(row.label == "DME"))
    assert {quantiles.label: quantiles.auc for quantiles in deciding.quantiles}["DME"] == 1
    constant = histograms.histogram(kept, LABELS, lambda row: 7.0)
    assert {quantiles.auc for quantiles in constant.quantiles} == {0.5}
    assert all(sum(shares) == pytest.approx(1) for shares in deciding.shares.values())


def test_auc_counts_ties_as_half_and_a_low_value_like_a_high_one():
    values, positive = np.array([1.0, 2, 2, 3]), np.array([False, False, True, True])
    assert histograms.auc(values, positive) == histograms.auc(-values, positive) == 0.875
    assert histograms.auc(values, np.ones(4, np.bool_)) == 0.5


def test_balanced_accuracy_of_guessing_the_class_from_the_size(built):
    kept = kept_rows(built)
    by_class = [dataclasses.replace(row, width=512 + LABELS.index(row.label)) for row in kept]
    sizes = statistics.sizes(by_class, LABELS)
    assert (sizes.balanced_accuracy, sizes.chance) == (1, 0.25)
    equal = [dataclasses.replace(row, width=512) for row in kept]
    assert statistics.sizes(equal, LABELS).balanced_accuracy == 0.25
    for uninformative in (
        [dataclasses.replace(row, width=512 + index) for index, row in enumerate(kept)],
        [dataclasses.replace(row, width=int(row.patient) + 1) for row in kept],
        [dataclasses.replace(row, width=512 + int(row.patient) % 2) for row in kept],
    ):
        assert statistics.sizes(uninformative, LABELS).balanced_accuracy == pytest.approx(0.25)


@given(low=st.integers(1, 10**8), ratio=st.floats(1.02, 1e6))
@example(low=30_000, ratio=3.0)
@settings(deadline=None)
def test_axis_of_file_sizes_has_two_different_labels_at_least(low, ratio):
    rows = [image_row(bytes=low), image_row(bytes=low + max(int(low * ratio), 3))]
    ticks = histograms.histogram(rows, ["CNV"], lambda row: row.bytes, log=True).ticks
    assert len({text for _, text in ticks}) == len(ticks) >= 2
    assert all(-1e-6 <= position <= 36 + 1e-6 for position, _ in ticks)
