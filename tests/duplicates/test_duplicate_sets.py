"""Exact duplicates: scans with equal bytes or equal pixels, and those of them with different labels."""

import dataclasses
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octprep.duplicates.exact import deduplicate, duplicate_sets, exact_duplicate_pairs, label_conflicts
from octprep.format.errors import SourceError
from tests.worlds.archive import scan

A1, A2 = scan("train/CNV/CNV-1-1.jpeg"), scan("train/CNV/CNV-1-2.jpeg")
B1 = scan("train/CNV/CNV-2-1.jpeg")


def with_pixels(one, digest):
    return dataclasses.replace(one, pixels=digest)


def test_equal_pixels_are_the_same_content_as_equal_bytes():
    scans = [
        with_pixels(A1, "p"),
        with_pixels(B1, "p"),
        with_pixels(scan("train/CNV/CNV-4-1.jpeg", content=A1.path), "q"),
    ]
    assert [len(members) for members in duplicate_sets(scans)] == [3]
    kept, exclusions = deduplicate(scans)
    assert [one.path for one in kept] == [A1.path]
    assert [exclusion.reason.partition(":")[0] for exclusion in exclusions] == [
        "same pixels as another scan",
        "same bytes as another scan",
    ]
    assert {pair.reason for pair in exact_duplicate_pairs(scans)} == {"same bytes", "same pixels"} or len(
        exact_duplicate_pairs(scans)
    ) == 2


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)), max_size=14, unique=True))
def test_duplicate_sets_are_disjoint_and_hold_every_pair_of_equal_scans(population):
    scans = [
        with_pixels(
            scan(f"train/CNV/CNV-{p}-{i}.jpeg", content=f"bytes {b}" if b else None), f"pixels {x}" if x else ""
        )
        for i, (p, b, x) in enumerate(population)
    ]
    sets = duplicate_sets(scans)
    members = [one.path for duplicates in sets for one in duplicates]
    assert len(members) == len(set(members))
    for first in scans:
        for second in scans:
            equal = first.sha256 == second.sha256 or (first.pixels and first.pixels == second.pixels)
            if equal and first is not second:
                assert any(first in duplicates and second in duplicates for duplicates in sets)
    assert duplicate_sets(scans[::-1]) == sets


def test_label_conflicts_are_dropped_kept_or_an_error_as_asked():
    other = dataclasses.replace(scan("train/DME/DME-2-1.jpeg"), sha256=A1.sha256)
    third = dataclasses.replace(scan("train/DME/DME-5-1.jpeg"), sha256=A1.sha256)
    scans = [A1, A2, other, third]
    assert [[one.path for one in members] for members in label_conflicts(scans)] == [[A1.path, other.path, third.path]]
    kept, exclusions = deduplicate(scans)
    assert [one.path for one in kept] == [A2.path]
    assert {exclusion.reason for exclusion in exclusions} == {"same bytes under different classes: CNV and DME"}
    kept, exclusions = deduplicate(scans, "keep")
    assert [one.path for one in kept] == [A1.path, A2.path, other.path]
    assert [exclusion.reason for exclusion in exclusions] == [f"same bytes as another scan: {other.path}"]
    with pytest.raises(SourceError, match=r"under different classes: .*--label-conflicts drop"):
        deduplicate(scans, "error")


def test_of_equal_bytes_one_is_kept_the_published_test_image_first_and_none_where_labels_differ():
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
    assert [one.path for one in kept] == ["test/CNV/CNV-1-1.jpeg", "val/DME/DME-4-2.jpeg"]
    reasons = defaultdict(set)
    for exclusion in exclusions:
        reasons[exclusion.reason].add(exclusion.path)
    assert reasons == {
        "same bytes as another scan: test/CNV/CNV-1-1.jpeg": {"train/CNV/CNV-1-1.jpeg"},
        "same bytes as a scan of CNV: test/CNV/CNV-1-1.jpeg": {"train/DME/DME-5-1.jpeg"},
        "same bytes under different classes: CNV and DME": {"train/CNV/CNV-2-1.jpeg", "train/DME/DME-3-1.jpeg"},
        "same bytes as another scan: val/DME/DME-4-2.jpeg": {"train/DME/DME-4-1.jpeg"},
    }
    with pytest.raises(SourceError, match="2 contents"):
        deduplicate(population, "error")
