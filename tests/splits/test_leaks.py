"""Leaks: patients, contents and near-duplicates in several splits, also if only an excluded scan links them."""

from octprep.duplicates.exact import NEAR_IDENTICAL, DuplicatePair
from octprep.splits.leaks import find_hidden_leaks, find_leaks
from octprep.splits.patients import group_patients
from tests.worlds.archive import scan

A1, A2 = scan("train/CNV/CNV-1-1.jpeg"), scan("train/CNV/CNV-1-2.jpeg")
B1 = scan("train/CNV/CNV-2-1.jpeg")
C1 = scan("test/DME/DME-3-1.jpeg")


def test_a_patient_in_two_splits_is_a_leak():
    leaks = find_leaks([[A1, B1], [A2, C1]])
    assert (leaks.patients, leaks.contents, leaks.near) == (("1",), (), ())
    assert not find_leaks([[A1, A2, B1], [C1]])


def test_leaking_patients_are_in_numeric_order():
    splits = [[scan(f"{folder}/CNV/CNV-{patient}-1.jpeg") for patient in (10, 9, 100)] for folder in ("train", "test")]
    assert find_leaks(splits).patients == ("9", "10", "100")


def test_equal_bytes_and_equal_pixels_in_two_splits_are_a_leak():
    same_bytes = scan("test/CNV/CNV-9-1.jpeg", content=A1.path)
    assert find_leaks([[A1], [same_bytes]]).contents == (A1.sha256,)
    same_pixels = [member.with_pixels(b"p") for member in (A1, C1)]
    assert find_leaks([same_pixels[:1], same_pixels[1:]]).contents == (A1.sha256,)


def test_near_duplicates_in_two_splits_are_a_leak():
    near = [DuplicatePair(B1.path, C1.path, NEAR_IDENTICAL, 0.9)]
    assert find_leaks([[A1, B1], [C1]], near).near == ((B1.path, C1.path),)
    assert not find_leaks([[A1, B1, C1], []], near)
    assert not find_leaks([[A1], [C1]], near)  # B1 is in no split


def test_patients_linked_by_an_excluded_scan_are_a_hidden_leak():
    near = [DuplicatePair(A1.path, B1.path, NEAR_IDENTICAL, 0.9), DuplicatePair(B1.path, C1.path, NEAR_IDENTICAL, 0.9)]
    groups = group_patients([A1, B1, C1], near)
    splits = {"train": [A1], "test": [C1]}  # B1, which links them, is in no split
    assert not find_leaks(splits.values(), near)
    assert find_hidden_leaks(splits, groups, near).patients == ("1", "3")
    assert not find_hidden_leaks({"train": [A1, C1], "test": []}, groups, near)
