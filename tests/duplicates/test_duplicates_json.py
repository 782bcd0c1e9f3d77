"""duplicates.json is read back as it was written; any other content is an error."""

import json

import pytest

from octprep.duplicates.distances import Distances
from octprep.duplicates.duplicates_json import DuplicatesFile, collect
from octprep.duplicates.exact import DuplicatePair
from tests.worlds.archive import scan

DISTANCES = Distances((0, 1, 2), (1, 2), (0, 3), 3, 9)
FILE = DuplicatesFile((DuplicatePair("a", "b", "near-identical", 0.9),), DISTANCES)


def test_a_file_is_read_as_it_was_written():
    for file in (FILE, DuplicatesFile((), None)):
        assert DuplicatesFile.from_json(file.to_json()) == file


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.pop("pairs"),
        lambda raw: raw.update(pairs=3),
        lambda raw: raw["pairs"][0].update(first=1),
        lambda raw: raw["pairs"][0].update(reason="similar"),
        lambda raw: raw["pairs"][0].update(reason=["same bytes"]),
        lambda raw: raw["pairs"][0].update(correlation=1.5),
        lambda raw: raw["pairs"][0].update(correlation="0.9"),
        lambda raw: raw["pairs"][0].update(note="x"),
        lambda raw: raw.update(threshold=True),
        lambda raw: raw.update(distances={"edges": [0, 1]}),
        lambda raw: raw["distances"].update(within=[1, 9]),
        lambda raw: raw.update(distances="far"),
    ],
)
def test_other_content_is_a_value_error(change):
    raw = json.loads(FILE.to_json())
    change(raw)
    with pytest.raises(ValueError, match=r"."):
        DuplicatesFile.from_json(json.dumps(raw).encode())


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff", b"{}", b"[]", b"3"])
def test_other_bytes_are_a_value_error(data):
    with pytest.raises(ValueError, match=r"."):
        DuplicatesFile.from_json(data)


def test_a_pair_with_the_same_content_is_not_listed_as_near_identical():
    first, second = scan("train/CNV/CNV-1-1.jpeg", content="x"), scan("test/CNV/CNV-2-1.jpeg", content="x")
    third = scan("test/CNV/CNV-3-1.jpeg")
    near = [
        DuplicatePair(second.path, first.path, "near-identical", 1.0),
        DuplicatePair(second.path, third.path, "near-identical", 0.9),
    ]
    assert collect([first, second, third], near, None) == DuplicatesFile(
        (near[1], DuplicatePair(second.path, first.path, "same bytes")), None
    )


def test_a_pair_of_the_same_bytes_in_a_chain_of_the_same_pixels_is_not_listed_as_near_identical():
    scans = [
        scan(f"train/CNV/CNV-{patient}-1.jpeg", content=content).with_pixels(bytes(32))
        for patient, content in ((1, "x"), (2, "y"), (3, "x"))
    ]
    first, second, third = (item.path for item in scans)
    near = [DuplicatePair(first, third, "near-identical", 1.0)]
    assert collect(scans, near, None).pairs == (
        DuplicatePair(first, second, "same pixels"),
        DuplicatePair(second, third, "same pixels"),
    )
