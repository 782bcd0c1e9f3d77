"""Any file name survives build, verify and inspection, and control characters are not printed."""

import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from octprep.format import images_csv
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import SourceError
from octprep.format.paths import path_to_text, text_to_path
from octprep.pipeline import build
from octprep.source.files import MACOS_METADATA
from octprep.source.listing import list_source
from octprep.splits import split_file
from octprep.verification import verify
from tests.worlds.archive import archive, write_folder
from tests.worlds.tables import read_cells

pytestmark = pytest.mark.slow

CONFIG = BuildConfig(recipe=Preprocessing(height=96, width=96), near_duplicates=False)

ODD = (
    b"Icon\r",
    b"CNV-\xff-1.jpeg",
    b"CNV-\xfe-1.jpeg",
    b"a\nb\x1b[31m.jpeg",
    b'x,"y\\x0d.jpeg',
    "ä\u202e\u2028.jpeg".encode(),
)


@pytest.fixture
def odd_source(tmp_path):
    """A data set below a folder of odd bytes, with odd names among its scans."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/src/caf\xe9\r\\x"))
    write_folder(root, archive())
    for number, name in enumerate(ODD):
        path = os.fsencode(root / "train" / "CNV") + b"/" + name
        Path(os.fsdecode(path)).write_bytes(b"%d" % number)
    return tmp_path / "src"


def test_any_file_name_survives_build_and_verify(odd_source, tmp_path):
    out = tmp_path / "out"
    build(odd_source, out, dataclasses.replace(CONFIG, near_duplicates=True), workers=0)
    rows = read_cells(out)
    paths = [row["path"] for row in rows]
    assert len(paths) == len(set(paths)) == len(archive()) + len(ODD)
    assert all(path.isprintable() or "\u202e" in path for path in paths)
    source_files = {path for path in odd_source.rglob("*") if path.is_file()}
    assert {odd_source / text_to_path(path) for path in paths} == source_files
    reasons = {row["path"].rpartition("/")[2]: row["exclusion_reason"] for row in rows if row["exclusion_reason"]}
    assert reasons["Icon\\x0d"] == MACOS_METADATA
    assert {"CNV-\\xff-1.jpeg", "CNV-\\xfe-1.jpeg", "a\\x0ab\\x1b[31m.jpeg", 'x,"y\\\\x0d.jpeg'} < reasons.keys()
    assert verify(out, workers=0).violations == ()
    assert not build(odd_source, out, dataclasses.replace(CONFIG, near_duplicates=True), workers=0).built
    (tmp_path / "splits.csv").write_bytes((out / "images.csv").read_bytes())
    assigned = split_file.load(tmp_path / "splits.csv")
    config = dataclasses.replace(CONFIG, split="file", split_file_sha256=assigned.sha256)
    build(odd_source, tmp_path / "again", config, split_file=assigned, workers=0)
    moved = {row["path"]: row["split"] for row in read_cells(tmp_path / "again")}
    assert moved == {row["path"]: row["split"] for row in rows}


@pytest.mark.parametrize("options", [["--quick"], []], ids=["quick", "full"])
def test_control_characters_in_names_are_not_printed(odd_source, tmp_path, options):
    page = tmp_path / "found.json"
    for src in (odd_source, next(odd_source.iterdir()))[not options :]:
        command = [sys.executable, "-m", "octprep.cli", "inspect", src, *options, "--json", page, "--workers", "1"]
        done = subprocess.run(command, capture_output=True)
        assert done.returncode == 0, done.stderr
        printed = (done.stdout + done.stderr).decode()
        assert printed.replace("\n", "").isprintable()
        assert path_to_text(str(src)) in printed
    page.read_text(encoding="utf-8")
    (odd_source / "empty\x1b[1m").mkdir()
    with pytest.raises(SourceError) as caught:
        list_source(odd_source / "empty\x1b[1m")
    assert str(caught.value).isprintable()


def test_a_table_with_other_bytes_is_a_value_error(source, tmp_path):
    build(source, tmp_path / "out", CONFIG, workers=0)
    original = (tmp_path / "out" / "images.csv").read_bytes()
    head, first, *rest = original.split(b"\n")
    assert images_csv.decode(original).count == len(archive())
    for content in (
        b"",
        original + b"\0",
        original + b"\xff",
        original.replace(b"path", b"Path", 1),
        b"\n".join([head, first + b",1", *rest]),
        b"\n".join([head, first.rpartition(b",")[0], *rest]),
        b"\n".join([head, b'"' + b"x" * csv.field_size_limit() + b'"', *rest]),
        b"\n".join([head, b"a\rb" + first, *rest]),
        original + b'"',
    ):
        with pytest.raises(ValueError, match=r"."):
            images_csv.decode(content)
    table = images_csv.decode(original)
    assert images_csv.encode([*table.rows, *table.excluded]) == original
    assert path_to_text("a\rb") == "a\\x0db"
