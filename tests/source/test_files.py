"""Paths of files are parsed as scans, or are exclusions with a reason."""

import pytest

from octprep.source.files import Exclusion, ScanFile, count_by_split_and_class, parse_scan_path, reason_kind


@pytest.mark.parametrize(
    ("path", "label", "patient", "number", "folder"),
    [
        ("train/CNV/CNV-1016042-12.jpeg", "CNV", "1016042", 12, "train"),
        ("Train/cnv/cnv-7-1.JPG", "CNV", "7", 1, "train"),
        ("DRUSEN/DRUSEN-5-2.jpeg", "DRUSEN", "5", 2, ""),
        ("val/NORMAL/NORMAL-5-2.png", "NORMAL", "5", 2, "val"),  # the content decides the format, not the ending
    ],
)
def test_paths_of_scans_are_parsed(path, label, patient, number, folder):
    assert parse_scan_path(path, 10, "") == ScanFile(path, label, patient, number, folder, 10)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("train/CNV/._CNV-1-1.jpeg", "macOS metadata"),
        ("__MACOSX/train/CNV/CNV-1-1.jpeg", "macOS metadata"),
        ("train/.DS_Store", "macOS metadata"),
        ("train/CNV/.hidden", "hidden file"),
        ("train/CNV/CNV-1.jpeg", "name is not CLASS-patientID-number.jpeg"),
        ("train/CNV/CNV-1-1.jpeg~", "name is not"),
        ("train/CNV/DME-1-1.jpeg", "name and folder disagree: DME in CNV"),
        ("README.txt", "not in a class folder"),
        ("other/CNV/CNV-1-1.jpeg", "not in a class folder"),
        ("train/CNV/more/CNV-1-1.jpeg", "not in a class folder"),
    ],
)
def test_other_paths_are_excluded_with_a_reason(path, reason):
    exclusion = parse_scan_path(path, 10, "")
    assert isinstance(exclusion, Exclusion)
    assert exclusion.reason.startswith(reason)


def test_paths_outside_the_root_are_excluded():
    assert parse_scan_path("other/CNV/CNV-1-1.jpeg", 10, "data").reason == "outside data, which holds the class folders"
    assert parse_scan_path("data/CNV/CNV-1-1.jpeg", 10, "data") == ScanFile(
        "data/CNV/CNV-1-1.jpeg", "CNV", "1", 1, "", 10
    )


def test_scans_are_counted_by_split_and_class():
    paths = ["test/CNV/CNV-1-1.jpeg", "train/CNV/CNV-2-1.jpeg", "train/CNV/CNV-2-2.jpeg", "train/DME/DME-3-1.jpeg"]
    counts = count_by_split_and_class(parse_scan_path(path, 10, "") for path in paths)
    assert counts == {"train": {"CNV": 2, "DME": 1}, "test": {"CNV": 1, "DME": 0}}
    assert list(counts) == ["train", "test"]


def test_a_kind_of_reason_has_no_details():
    assert reason_kind("same bytes as another scan: train/CNV/CNV-1-1.jpeg") == "same bytes as another scan"
    assert reason_kind("hidden file") == "hidden file"
