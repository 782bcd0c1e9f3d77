"""images.csv is read back as it was written; an invalid cell is an error with its column and value."""

import dataclasses
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octprep.format.errors import ManifestError
from octprep.format.images_csv import COLUMNS, ExcludedRow, decode, encode, read_checked
from octprep.format.manifest import Manifest
from tests.worlds.shards import write_shards
from tests.worlds.tables import bytes_of, cells_of, image_row, scan_row

ROWS = [
    image_row("a.jpeg", shards=("train/00000-of-00002.tfrecord", "train/00001-of-00002.tfrecord"), record_count=5),
    image_row('b, "b".jpeg', split="test", source_split="test", patient="7"),
    ExcludedRow(path="c.txt", exclusion_reason="not an image"),
    ExcludedRow(path="d.jpeg", exclusion_reason="same bytes as a.jpeg", scan=scan_row("d.jpeg")),
]


def test_rows_are_read_back_as_they_were_written():
    table = decode(encode(reversed(ROWS)))
    assert [*table.rows, *table.excluded] == ROWS
    assert (table.count, table.problems) == (4, ())
    assert [scan.path for scan in table.scans] == ["a.jpeg", 'b, "b".jpeg', "d.jpeg"]
    assert encode([*table.rows, *table.excluded]) == encode(ROWS)


def test_measurements_are_rounded_when_they_are_written():
    measured = dataclasses.replace(ROWS[0].measurements, mean_intensity=1 / 3, fill_fraction=1 / 7)
    [row] = decode(encode([dataclasses.replace(ROWS[0], measurements=measured)])).rows
    assert (row.measurements.mean_intensity, row.measurements.fill_fraction) == (0.33, 0.142857)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("path", "", "column 'path' is empty"),
        ("width", "x", "column 'width' is not a whole number: 'x'"),
        ("width", "0128", "column 'width' is not a whole number: '0128'"),
        ("width", "", "column 'width' is empty: ''"),
        ("bytes", "9" * 400, f"column 'bytes' is not a whole number: '{'9' * 37}...'"),
        ("bytes", "0", "column 'bytes' is not a number from 1 to 100,000,000,000,000: '0'"),
        ("fill_fraction", "-3.0", "column 'fill_fraction' is not a number from 0 to 1: '-3.0'"),
        ("crop_confidence", "1.5", "column 'crop_confidence' is not a number from 0 to 1: '1.5'"),
        ("mean_intensity", "nan", "column 'mean_intensity' is not a number from 0 to 255: 'nan'"),
        ("mean_intensity", "1e308", "column 'mean_intensity' is not a number from 0 to 255: '1e308'"),
        ("std_intensity", "256", "column 'std_intensity' is not a number from 0 to 255: '256'"),
        ("std_intensity", "1.234", "column 'std_intensity' is not a number with 2 decimal places at most: '1.234'"),
        ("sharpness", "wide", "column 'sharpness' is not a number: 'wide'"),
        ("sharpness", "1e7", "column 'sharpness' is not a number from 0 to 1,000,000: '1e7'"),
        ("crop_left", "-1", "column 'crop_left' is not a number from 0 to 10,000,000: '-1'"),
        ("crop_right", "129", "column 'crop_right' is not between crop_left 0 and width 128: '129'"),
        ("crop_bottom", "-999", "column 'crop_bottom' is not below crop_top 0: '-999'"),
        ("sha256", "AB", "column 'sha256' is not a SHA-256 in hexadecimal digits: 'AB'"),
        ("note", "a\nb", "column 'note' is not one line of printable text: 'a\\nb'"),
        ("flags", "small drawn", "column 'flags' is not a sorted list of flags: 'small drawn'"),
        ("flags", "no-such-flag", "column 'flags' is not a sorted list of flags: 'no-such-flag'"),
        ("patient_group", "", "column 'patient_group' is empty: ''"),
        ("split", "", "column 'split' is empty for a file that is in a shard: ''"),
        ("shard", "b a", "column 'shard' is not a sorted list of names: 'b a'"),
        ("shard", "", "has neither a shard nor an exclusion_reason"),
        ("record_count", "0", "column 'record_count' is not a number from 1 to 100,000,000,000,000: '0'"),
        ("exclusion_reason", "why not", "has a shard and an exclusion_reason"),
    ],
)
def test_cell_that_no_build_writes_is_a_problem_with_its_column_and_value(column, cell, message):
    cells = cells_of(encode(ROWS))
    cells[0][column] = cell
    table = decode(bytes_of(cells))
    assert [problem.message for problem in table.problems] == [message]
    assert (len(table.rows), len(table.excluded), table.count) == (1, 2, 4)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("split", "test", "column 'split' must be empty for a file that is in no shard: 'test'"),
        ("record_count", "1", "column 'record_count' must be 0 for a file that is in no shard: '1'"),
        ("patient", "", "column 'patient' is empty: ''"),
    ],
)
def test_cell_of_an_excluded_file_that_no_build_writes(column, cell, message):
    cells = cells_of(encode(ROWS))
    cells[3][column] = cell
    assert [problem.message for problem in decode(bytes_of(cells)).problems] == [message]


TEXT = st.text(st.characters(blacklist_categories=("Cc", "Cs")), max_size=4)  # paths and reasons have no others


@given(index=st.integers(0, 3), column=st.sampled_from(COLUMNS), cell=TEXT | st.floats().map(str))
@settings(deadline=None)
def test_any_cell_is_either_a_problem_or_written_back_as_it_was(index, column, cell):
    cells = cells_of(encode(ROWS))
    cells[index][column] = cell
    data = bytes_of(sorted(cells, key=lambda row: row["path"]))
    table = decode(data)
    assert table.problems or encode([*table.rows, *table.excluded]) == data


@pytest.mark.parametrize("data", [b"", b"path\nx\n", b"\xff", b'"', encode(ROWS) + b"\0", encode(ROWS) + b"x,y\n"])
def test_bytes_that_are_no_such_table_are_a_value_error(data):
    with pytest.raises(ValueError, match=r"."):
        decode(data)


def test_table_of_a_folder_must_be_the_one_of_its_manifest(tmp_path):
    manifest, _ = write_shards(tmp_path / "shards", {"train": 1, "val": 1})
    path = tmp_path / "shards" / "images.csv"
    table = read_checked(path.parent, manifest)
    assert len(table.rows) == 8
    original = path.read_bytes()
    path.write_bytes(original + b"\n")
    with pytest.raises(ManifestError, match=r"images\.csv has SHA-256 .* where the manifest says"):
        read_checked(path.parent, manifest)
    edited = original.replace(b",128,96,", b",128,x,", 1)
    path.write_bytes(edited)
    changed = dataclasses.replace(manifest, images_sha256=hashlib.sha256(edited).hexdigest())
    with pytest.raises(
        ManifestError, match=r"not a table that octprep wrote \(.*column 'height' is not a whole number"
    ):
        read_checked(path.parent, changed)
    path.unlink()
    with pytest.raises(ManifestError, match=r"images\.csv cannot be read"):
        read_checked(path.parent, Manifest.load(path.parent))
