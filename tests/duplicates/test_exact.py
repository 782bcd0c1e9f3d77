"""Exact duplicates, and which of them are kept."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    second = scan("train/CNV/CNV-2-1.jpeg", content="a").with_pixels(b"p")
    third = scan("train/CNV/CNV-3-1.jpeg", content="b").with_pixels(b"p")
    assert duplicate_sets([third, UNIQUE, second, first]) == [[first, second, third]]
    assert exact_duplicate_pairs([first, second, third]) == [
        DuplicatePair(first.path, second.path, "same bytes"),
        DuplicatePair(second.path, third.path, "same pixels"),
    ]


def test_two_sets_that_a_third_scan_connects_are_one():
    by_bytes = scan("train/CNV/CNV-1-1.jpeg", content="a")
    by_pixels = scan("train/CNV/CNV-2-1.jpeg", content="b").with_pixels(b"p")
    both = scan("train/CNV/CNV-3-1.jpeg", content="a").with_pixels(b"p")
    assert duplicate_sets([by_bytes, by_pixels, both]) == [[by_bytes, by_pixels, both]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)), max_size=14, unique=True))
def test_duplicate_sets_are_disjoint_and_hold_every_pair_of_equal_scans(population):
    scans = [
        scan(f"train/CNV/CNV-{patient}-{number}.jpeg", content=f"bytes {content}" if content else None).with_pixels(
            bytes([pixels]) if pixels else b""
        )
        for number, (patient, content, pixels) in enumerate(population)
    ]
    sets = duplicate_sets(scans)
    members = [path for duplicates in sets for path in paths_of(duplicates)]
    assert len(members) == len(set(members))
    for first in scans:
        for second in scans:
            equal = first.sha256 == second.sha256 or (
                first.pixels_sha256 and first.pixels_sha256 == second.pixels_sha256
            )
            if equal and first is not second:
                assert any(first in duplicates and second in duplicates for duplicates in sets)
    assert duplicate_sets(scans[::-1]) == sets


def test_the_duplicate_in_the_test_folder_is_kept():
    kept, exclusions = deduplicate([TRAIN, UNIQUE, TEST])
    assert paths_of(kept) == [TEST.path, UNIQUE.path]
    assert [(exclusion.path, exclusion.reason) for exclusion in exclusions] == [
        (TRAIN.path, f"same bytes as another scan: {TEST.path}")
    ]


def test_a_label_conflict_outside_the_test_folder_does_not_exclude_the_test_scan():
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


def test_keep_keeps_one_scan_of_each_class():
    second = scan("train/DME/DME-4-1.jpeg", content="one")
    kept, exclusions = deduplicate([TRAIN, OTHER, second], "keep")
    assert paths_of(kept) == [TRAIN.path, OTHER.path]
    assert exclusions[0].reason == f"same bytes as another scan: {OTHER.path}"


def test_each_duplicate_set_of_a_mixed_population_is_decided_separately():
    population = [
        scan("train/CNV/CNV-1-1.jpeg", content="a"),
        scan("test/CNV/CNV-1-1.jpeg", content="a"),
        scan("train/DME/DME-5-1.jpeg", content="a"),
        scan("train/CNV/CNV-2-1.jpeg", content="b"),
        scan("train/DME/DME-3-1.jpeg", content="b"),
        scan("train/DME/DME-4-1.jpeg", content="c"),
        scan("val/DME/DME-4-2.jpeg", content="c"),
    ]
    kept, exclusions = deduplicate(population)
    assert paths_of(kept) == ["test/CNV/CNV-1-1.jpeg", "val/DME/DME-4-2.jpeg"]
    reasons = defaultdict(set)
    for exclusion in exclusions:
        reasons[exclusion.reason].add(exclusion.path)
    assert reasons == {
        "same bytes as another scan: test/CNV/CNV-1-1.jpeg": {"train/CNV/CNV-1-1.jpeg"},
        "same bytes as a scan of CNV: test/CNV/CNV-1-1.jpeg": {"train/DME/DME-5-1.jpeg"},
        "same bytes under different classes: CNV and DME": {"train/CNV/CNV-2-1.jpeg", "train/DME/DME-3-1.jpeg"},
        "same bytes as another scan: val/DME/DME-4-2.jpeg": {"train/DME/DME-4-1.jpeg"},
    }
    with pytest.raises(SourceError, match="2 contents are under different classes"):
        deduplicate(population, "error")
