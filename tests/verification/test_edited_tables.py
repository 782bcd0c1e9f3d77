"""verify reports every edit of images.csv and duplicates.json, also where all digests were updated after it."""

import dataclasses
import os
import re
import shutil

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from octprep import console
from octprep.duplicates.duplicates_json import DuplicatesFile
from octprep.duplicates.exact import DuplicatePair
from octprep.format.errors import ManifestError
from octprep.format.images_csv import COLUMNS
from octprep.format.manifest import Manifest
from octprep.verification import verify
from tests.worlds.archive import files_of
from tests.worlds.edits import first_shard, restore, update_digests, violations_of
from tests.worlds.tables import read_cells, write_cells

QUICK = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Columns whose cells, in rows of images in a shard, can be checked against a record, a path or duplicates.json.
IN_RECORDS = [name for name in COLUMNS if name not in ("bytes", "fill_fraction", "crop_confidence", "note", "flags")]
ODD = ["", " ", "\0", "-1", "0", "1", "1.0", "01", "1e3", "nan", "inf", "9" * 5000, "train", "x", "\u0661", "CNV", "'"]


@pytest.mark.slow
@QUICK
@given(data=st.data())
def test_edit_of_any_byte_of_any_file_is_named(good, shards, data):
    names = sorted(name for name in files_of(good) if name != "report.html")
    name = data.draw(st.sampled_from(["manifest.json", "images.csv", "duplicates.json", *names]))
    before = (good / name).read_bytes()
    start = data.draw(st.integers(0, len(before) - 1))
    removed = data.draw(st.integers(0, 3))
    inserted = data.draw(st.binary(max_size=3) | st.sampled_from([b" ", b"\n", b"[" * 9999, b"9" * 9999, b'"', b","]))
    after = before[:start] + inserted + before[start + removed :]
    assume(after != before)
    try:
        (shards / name).write_bytes(after)
        assert any(name in where for _, where, _ in violations_of(shards))
    finally:
        restore(good, shards)


@pytest.mark.slow
@QUICK
@given(data=st.data())
def test_edit_of_any_cell_is_named(good, shards, data):
    rows = read_cells(good)
    cell = st.tuples(
        st.integers(0, len(rows) - 1), st.sampled_from(COLUMNS), st.sampled_from(ODD) | st.text(max_size=5)
    )
    before = [dict(row) for row in rows]
    for index, column, value in data.draw(st.lists(cell, min_size=1, max_size=3)):
        rows[index][column] = value
    assume(rows != before)
    try:
        write_cells(shards, rows)
        assert any(where.startswith("images.csv") for _, where, _ in violations_of(shards))
    finally:
        restore(good, shards)


@pytest.mark.slow
@settings(QUICK, max_examples=25)
@given(data=st.data())
def test_edit_of_any_cell_that_records_show_is_named_though_all_digests_fit(good, shards, data):
    rows = read_cells(good)
    kept = [row for row in rows if row["shard"]]
    row = data.draw(st.sampled_from(kept))
    column = data.draw(st.sampled_from(IN_RECORDS))
    neighbours = []
    if re.fullmatch(r"-?[0-9.]+", row[column]) and "." in row[column]:
        unit = 10 ** (4 if column == "sharpness" else 2)
        neighbours = [repr(round(float(row[column]) + step / unit, 4)) for step in (-1, 1)]
    elif re.fullmatch(r"-?[0-9]{1,9}", row[column]):
        neighbours = [str(int(row[column]) + step) for step in (-1, 1)]
    value = data.draw(st.sampled_from([*neighbours * 9, *ODD, *(row[column] for row in kept)]))
    assume(value != row[column])
    path = row["path"]
    row[column] = value
    try:
        write_cells(shards, rows)
        update_digests(shards)
        violations = violations_of(shards)
        assert violations
        if "\0" not in value and len(value) < 5000:
            assert any(path in where + message or value in message for _, where, message in violations)
    finally:
        restore(good, shards)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("class", "DME"), ("patient", "4711"), ("image_number", "91"), ("source_split", ""), ("patient_group", "9"),
        ("split", "test"), ("record_count", "1"), ("shard", "test/00000-of-00001.tfrecord"), ("exclusion_reason", ""),
        ("width", "wide"), ("mean_intensity", "nan"), ("fill_fraction", "2"), ("sha256", "ab"), ("bytes", ""),
    ],
)  # fmt: skip
def test_row_of_an_excluded_file_is_checked_for_form_and_path(shards, column, value):
    rows = read_cells(shards)
    row = next(row for row in rows if row["exclusion_reason"].startswith("same bytes") and row["class"] == "CNV")
    row[column] = value
    write_cells(shards, rows)
    update_digests(shards)
    assert any(row["path"] in where for _, where, _ in violations_of(shards))


def test_edited_cell_is_named_with_its_column_and_value(shards):
    rows = read_cells(shards)
    row = next(row for row in rows if row["split"] == "val")
    row["width"] = "x"
    write_cells(shards, rows)
    update_digests(shards)
    message = "column 'width' is not a whole number: 'x'"
    assert violations_of(shards) == [(2, f"images.csv {row['path']}", message)]


def test_missing_rows_are_named(shards):
    write_cells(shards, read_cells(shards)[:-1])
    assert any(check == 2 and "was changed" in message for check, _, message in violations_of(shards))


def test_row_that_puts_a_scan_in_another_split_than_its_records(shards):
    rows = read_cells(shards)
    row = next(row for row in rows if row["split"] == "test")
    row["split"] = "train"
    write_cells(shards, rows)
    update_digests(shards)
    messages = [message for _, where, message in violations_of(shards) if row["path"] in where]
    assert "says split train, but its records are in test" in messages


def test_wrong_row_is_named_where_another_shard_is_damaged(shards):
    name = first_shard(shards, "test")
    (shards / name).write_bytes((shards / name).read_bytes()[:-1])
    rows = read_cells(shards)
    row = next(row for row in rows if row["split"] == "val")
    row["mean_intensity"] = "1.0"
    write_cells(shards, rows)
    assert {(check, where.split()[-1]) for check, where, _ in violations_of(shards)} == {
        (5, name), (2, "images.csv"), (2, row["path"]),
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"9" * 5000, b"{}", b"[]", b'{"pairs": 3}'])
def test_unreadable_duplicates_file_is_named(shards, content):
    (shards / "duplicates.json").write_bytes(content)
    assert any("duplicates.json" in where and "cannot be read" in text for _, where, text in violations_of(shards))
    with pytest.raises(ManifestError, match=r"duplicates\.json cannot be read"):
        console.duplicate_lines(shards, Manifest.load(shards))


def test_edited_duplicate_pairs_are_named_though_all_digests_fit(good, shards):
    file = DuplicatesFile.from_json((good / "duplicates.json").read_bytes())
    rows = read_cells(good)
    paths = [next(row["path"] for row in rows if row["split"] == split) for split in ("train", "test")]
    for pairs in (
        (),
        (*file.pairs, DuplicatePair(*paths, "near-identical", 0.9)),
        (*file.pairs, DuplicatePair("a", "b", "near-identical", 0.9)),
        tuple(dataclasses.replace(pair, reason="near-identical", correlation=0.95) for pair in file.pairs),
        tuple(dataclasses.replace(pair, correlation=0.95) for pair in file.pairs),
    ):
        (shards / "duplicates.json").write_bytes(dataclasses.replace(file, pairs=pairs).to_json())
        update_digests(shards)
        assert violations_of(shards), pairs


@pytest.mark.parametrize("name", ["manifest.json", "images.csv", "duplicates.json"])
@pytest.mark.parametrize("kind", ["pipe", "link", "endless"])
def test_table_that_is_a_pipe_or_a_link_is_named_at_once(good, tmp_path, name, kind):
    folder = shutil.copytree(good, tmp_path / "out")
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(good / name if kind == "link" else "/dev/zero")
    assert any(name in where for _, where, _ in violations_of(folder))


def test_control_characters_are_not_printed(shards):
    rows = read_cells(shards)
    next(row for row in rows if row["shard"])["path"] = "a\x1b[31mred\u202e"
    write_cells(shards, rows)
    printed = console.verification_summary(shards, verify(shards, workers=0))
    assert "\x1b" not in printed
    assert "a\\x1b[31mred\\u202e" in printed


def test_of_many_violations_the_first_are_printed_and_the_rest_counted(shards):
    rows = read_cells(shards)
    kept = next(row for row in rows if row["shard"])
    write_cells(shards, [*rows, *({**kept, "path": f"x{n}"} for n in range(300))])
    result = verify(shards, workers=0)
    printed = console.verification_summary(shards, result)
    assert len(result.violations) > 300
    assert re.search(r"^  and [0-9,]+ more$", printed, re.MULTILINE)
    assert len(printed.splitlines()) < 120


def test_path_of_another_row_is_named(shards):
    rows = read_cells(shards)
    first, second = (row for row in rows if row["path"].startswith("test/CNV"))
    first["path"] = second["path"]
    write_cells(shards, rows)
    update_digests(shards)
    assert (2, f"images.csv {second['path']}", "has 2 rows") in violations_of(shards)
