"""Exact duplicates, and which of them are kept."""

import dataclasses

import pytest

from octprep.duplicates.exact import (
    DuplicatePair,
    deduplicate,
    drop_label_conflicts,
    duplicate_sets,
    exact_duplicate_pairs,
    label_conflicts,
)
from octprep.format.errors import SourceError
from tests.worlds.archive import scan

TRAIN, TEST, OTHER = (
    scan(path, content="one") for path in ("train/CNV/CNV-1-1.jpeg", "test/CNV/CNV-2-1.jpeg", "train/DME/DME-3-1.jpeg")
)
UNIQUE = scan("train/CNV/CNV-1-2.jpeg")


def paths_of(scans):
    return [scan.path for scan in scans]


def test_sets_are_connected_by_bytes_and_by_pixels():
    first = scan("train/CNV/CNV-1-1.jpeg", content="a")
    second = dataclasses.replace(scan("train/CNV/CNV-2-1.jpeg", content="a"), pixels="p")
    third = dataclasses.replace(scan("train/CNV/CNV-3-1.jpeg", content="b"), pixels="p")
    assert duplicate_sets([third, UNIQUE, second, first]) == [[first, second, third]]
    assert exact_duplicate_pairs([first, second, third]) == [
        DuplicatePair(first.path, second.path, "same bytes"),
        DuplicatePair(second.path, third.path, "same pixels"),
    ]


def test_two_sets_that_a_third_scan_connects_are_one():
    by_bytes = scan("train/CNV/CNV-1-1.jpeg", content="a")
    by_pixels = dataclasses.replace(scan("train/CNV/CNV-2-1.jpeg", content="b"), pixels="p")
    both = dataclasses.replace(scan("train/CNV/CNV-3-1.jpeg", content="a"), pixels="p")
    assert duplicate_sets([by_bytes, by_pixels, both]) == [[by_bytes, by_pixels, both]]


def test_the_duplicate_in_the_test_folder_is_kept():
    kept, exclusions = deduplicate([TRAIN, UNIQUE, TEST])
    assert paths_of(kept) == [TEST.path, UNIQUE.path]
    assert [(exclusion.path, exclusion.reason) for exclusion in exclusions] == [
        (TRAIN.path, f"same bytes as another scan: {TEST.path}")
    ]


def test_another_class_outside_the_test_folder_does_not_count_against_it():
    kept, exclusions = deduplicate([TEST, OTHER])
    assert paths_of(kept) == [TEST.path]
    assert exclusions[0].reason == f"same bytes as a scan of CNV: {TEST.path}"


def test_label_conflicts_are_dropped_kept_or_an_error():
    scans = [TRAIN, OTHER, UNIQUE]
    assert label_conflicts(scans) == [[TRAIN, OTHER]]
    for work in (deduplicate, drop_label_conflicts):
        kept, exclusions = work(scans)
        assert paths_of(kept) == [UNIQUE.path]
        assert {exclusion.reason for exclusion in exclusions} == {"same bytes under different classes: CNV and DME"}
        assert work(scans, "keep") == (sorted(scans), [])
        with pytest.raises(SourceError, match=f"1 content is under different classes: {TRAIN.path} = {OTHER.path}"):
            work(scans, "error")


def test_one_of_each_class_is_kept():
    second = scan("train/DME/DME-4-1.jpeg", content="one")
    kept, exclusions = deduplicate([TRAIN, OTHER, second], "keep")
    assert paths_of(kept) == [TRAIN.path, OTHER.path]
    assert exclusions[0].reason == f"same bytes as another scan: {OTHER.path}"
