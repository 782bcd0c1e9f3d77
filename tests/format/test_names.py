"""The grammar of file names: CLASS-patientID-number and an optional ending."""

import pytest

from octprep.format.names import ScanName, parse_scan_name


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("CNV-1016042-12.jpeg", ScanName("CNV", "1016042", 12)),
        ("cnv-7-1.JPG", ScanName("CNV", "7", 1)),
        ("NORMAL-5-2", ScanName("NORMAL", "5", 2)),
        ("Wet_AMD2-007-03.png", ScanName("WET_AMD2", "007", 3)),
    ],
)
def test_names_are_parsed(name, parsed):
    assert parse_scan_name(name) == parsed


@pytest.mark.parametrize(
    "name",
    [
        "CNV-1.jpeg",
        "CNV-1-1.jpeg~",
        "CNV-1-1.",
        "CNV-a-1.jpeg",
        "2CNV-1-1.jpeg",
        "CNV--1-1.jpeg",
        "CNV-1-1.jpeg\n",
        "CNV-٣-1.jpeg",
        f"CNV-{'9' * 19}-1.jpeg",
        f"CNV-1-{'9' * 10}.jpeg",
        "CNV-1-1.toolong",
        "train/CNV-1-1.jpeg",
        "",
    ],
)
def test_other_names_are_none(name):
    assert parse_scan_name(name) is None
