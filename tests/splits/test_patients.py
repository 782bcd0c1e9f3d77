"""Patient groups: scans that share an id, content, or a near-duplicate, across classes and chains."""

from octprep.duplicates.exact import NEAR_IDENTICAL, DuplicatePair
from octprep.splits.patients import group_keys, group_patients, numeric_order
from tests.worlds.archive import scan

A1, A2 = scan("train/CNV/CNV-1-1.jpeg"), scan("train/CNV/CNV-1-2.jpeg")
B1 = scan("train/CNV/CNV-2-1.jpeg")
C1 = scan("test/DME/DME-3-1.jpeg")


def test_scans_of_one_patient_or_with_one_content_are_grouped_across_classes_and_chains():
    chain = [
        scan("train/CNV/CNV-1-1.jpeg", content="a"),
        scan("train/CNV/CNV-2-1.jpeg", content="a"),
        scan("train/DME/DME-2-2.jpeg", content="b"),
        scan("train/DME/DME-3-1.jpeg", content="b"),
        scan("train/DME/DME-4-1.jpeg"),
    ]
    groups = group_patients(chain)
    assert [[member.patient for member in group.scans] for group in groups] == [["1", "2", "2", "3"], ["4"]]


def test_near_duplicates_group_their_patients_and_so_do_chains():
    near = [
        DuplicatePair(A2.path, B1.path, NEAR_IDENTICAL, 0.9),
        DuplicatePair(B1.path, C1.path, NEAR_IDENTICAL, 0.8),
    ]
    assert [group.key for group in group_patients([A1, A2, B1, C1])] == ["1", "2", "3"]
    assert [len(group.scans) for group in group_patients([A1, A2, B1, C1], near[:1])] == [3, 1]
    assert [(group.key, len(group.scans)) for group in group_patients([C1, B1, A2, A1], near)] == [("1", 4)]
    assert [group.key for group in group_patients([A1, C1], near)] == ["1", "3"]  # B1 is not among the scans


def test_equal_pixels_group_patients_as_equal_bytes_do():
    scans = [A1.with_pixels(b"p"), B1.with_pixels(b"p"), C1]
    assert [len(group.scans) for group in group_patients(scans)] == [2, 1]


def test_the_key_of_a_scans_group_is_the_smallest_patient_id():
    near = [DuplicatePair(A1.path, B1.path, NEAR_IDENTICAL, 0.9)]
    assert group_keys(group_patients([B1, A1, C1], near)) == {A1.path: "1", B1.path: "1", C1.path: "3"}


def test_ids_are_ordered_as_numbers():
    assert sorted(["10", "9", "100"], key=numeric_order) == ["9", "10", "100"]
