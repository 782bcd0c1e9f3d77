"""write_report: the same bytes as the build's page, nothing from outside the source, and errors in one sentence."""

import os
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from octprep import cli, report
from octprep.format.errors import ManifestError, OutputError, SourceError
from octprep.format.manifest import DUPLICATES_NAME, REPORT_NAME, Manifest
from octprep.pipeline import build
from tests.report.conftest import CONFIG
from tests.worlds.archive import files_of, write_scan
from tests.worlds.pages import Page, edit, headline, rendered


def test_build_and_report_write_the_same_bytes(source, shards):
    before = (shards / REPORT_NAME).read_bytes()
    (shards / REPORT_NAME).unlink()
    written = report.write_report(shards, source)
    assert (written.path, written.bytes) == (shards / REPORT_NAME, len(before))
    assert written.sources > 20
    assert written.mismatched == 0
    assert (shards / REPORT_NAME).read_bytes() == before


@pytest.mark.slow
def test_build_and_report_write_the_same_bytes_of_synthetic_scans(synthetic_source, synthetic_shards):
    assert rendered(synthetic_shards, synthetic_source) == (synthetic_shards / REPORT_NAME).read_text(encoding="utf-8")


def test_finished_build_writes_only_a_report_that_is_missing(source, shards):
    before = files_of(shards)
    again = build(source, shards, CONFIG, workers=0)
    assert (again.built, again.report_written, files_of(shards)) == (False, False, before)
    (shards / REPORT_NAME).unlink()
    again = build(source, shards, CONFIG, workers=0)
    assert (again.built, again.report_written, files_of(shards)) == (False, True, before)


def test_page_without_the_source_shows_stored_pixels_only_and_says_so(built, shards):
    report.write_report(shards, without_source=True)
    page = Page(shards)
    assert "Made without the source" in page.text
    assert "octprep report DIR --src SRC" in page.text
    assert page.pictures
    assert all("as stored" in picture["alt"] for picture in page.pictures)
    assert len(page.pictures) < len(Page(built).pictures)
    assert "Made without" not in Page(built).text


def test_page_with_the_source_is_replaced_by_one_without_it_only_on_request(source, shards):
    before = files_of(shards)
    with pytest.raises(OutputError, match=r"was left alone\. Give --src SRC, .* or --without-source"):
        report.write_report(shards)
    done = CliRunner().invoke(cli.app, ["report", str(shards), "--src", str(source), "--without-source"])
    assert "exclude each other" in str(done.exception)
    assert files_of(shards) == before
    done = CliRunner().invoke(cli.app, ["report", str(shards), "--without-source"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "Made without the source" in Page(shards).text
    report.write_report(shards)  # the page has no pictures of the source any more
    report.write_report(shards, source)
    assert files_of(shards) == before


@pytest.mark.parametrize("content", [None, b"path\nx\n", b"\xff", b'"', b"[" * 100_000, "pipe"])
@pytest.mark.parametrize("name", ["images.csv", DUPLICATES_NAME])
def test_missing_or_unreadable_table_is_named_on_the_page_and_on_stderr(source, shards, name, content):
    (shards / name).unlink()
    if content == "pipe":
        os.mkfifo(shards / name)
    elif content is not None:
        (shards / name).write_bytes(content)
    done = CliRunner().invoke(cli.app, ["report", str(shards), "--src", str(source)])
    assert done.exit_code == 1
    assert re.fullmatch(
        rf"octprep: .*{re.escape(name)} (is missing|cannot be read \(.+\)), so the page holds nothing from it\. .*\n",
        done.stderr,
    )
    page = Page(shards)
    assert f"{name} missing" in headline(page.html)
    if name == DUPLICATES_NAME:
        assert "so it is unknown which scans were merged" in page.text
        return
    assert "images.csv could not be read, so no image is accounted for." in page.text
    assert "By the manifest" in page.text
    assert "Unknown: images.csv is missing or cannot be read." in page.text
    assert "None." not in page.text
    assert not re.search(r"\b0 (images|patients|rows)\b", page.text)
    assert "has no image of" not in page.text


def test_shards_that_are_links_are_not_followed_for_pictures(shards, tmp_path):
    for path in shards.glob("train/*.tfrecord"):
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    report.write_report(shards, without_source=True)
    text = Page(shards).text
    assert "is a link, not a file" in text
    assert "the record cannot be read from its shard" in text


def test_missing_and_damaged_shards_do_not_stop_the_report(source, shards):
    for path in shards.glob("train/*.tfrecord"):
        path.write_bytes(b"damaged")
    (shards / Manifest.load(shards).splits["test"][0].name).unlink()
    report.write_report(shards, source)
    assert "the record cannot be read from its shard" in Page(shards).text


def first_pictured(folder):
    return Page(folder).pictures[0]["alt"].removeprefix("Source of ").partition(",")[0]


def test_source_file_that_changed_is_not_shown(source, shards, tmp_path):
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    path = first_pictured(shards)
    write_scan(copy / path, key="another eye")
    assert report.write_report(shards, copy).mismatched == 1
    page = Page(shards)
    assert "not the one that was built from" in page.text
    assert not any(picture["alt"].startswith(f"Source of {path},") for picture in page.pictures)


def test_source_file_that_is_missing_is_replaced_by_a_sentence(source, shards, tmp_path):
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    (copy / first_pictured(shards)).unlink()
    assert report.write_report(shards, copy).mismatched == 1
    assert "the file is not in the source, or cannot be read" in Page(shards).text
    done = CliRunner().invoke(cli.app, ["report", str(shards), "--src", str(copy)])
    assert re.fullmatch(r"octprep: 1 of the \d+ source files to show are not in .*\n", done.stderr)
    assert CliRunner().invoke(cli.app, ["report", str(shards), "--src", str(source)]).stderr == ""


def test_another_source_is_an_error_and_the_page_stays(source, shards, tmp_path):
    before = files_of(shards)
    other = Path(shutil.copytree(source, tmp_path / "other"))
    for path in other.rglob("*.jpeg"):
        path.write_bytes(path.read_bytes() + b"\0")
    for src in (source / "train", other):  # the second has a .DS_Store, whose SHA-256 is in no row
        with pytest.raises(SourceError, match="or others of the same names"):
            report.write_report(shards, src)
    assert files_of(shards) == before


def test_nothing_outside_the_source_is_shown(shards, source, tmp_path):
    outside = write_scan(tmp_path / "private" / "eye.jpeg")
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    (copy / "link.jpeg").symlink_to(outside)

    def point_outside(rows):
        for path in ("../private/eye.jpeg", "link.jpeg", str(outside)):
            rows.append(dict.fromkeys(rows[0], ""))
            rows[-1].update(path=path, record_count="0", exclusion_reason="points outside")

    edit(shards, point_outside)
    report.write_report(shards, copy)
    page = Page(shards)
    assert "points outside" in page.text
    assert not any("points outside" in picture["alt"] for picture in page.pictures)


@pytest.mark.parametrize(
    ("folder", "src", "error", "words"),
    [
        ("absent", None, ManifestError, "is not a folder"),
        ("shards/manifest.json", None, ManifestError, "is not a folder"),
        ("shards", "x" * 300, SourceError, r"cannot be reached \(File name too long\)"),
        ("empty", None, ManifestError, "has no manifest.json"),
        ("shards", "absent", SourceError, "does not exist; give the folder that"),
        ("shards", "shards/manifest.json", SourceError, "is a file"),
        ("shards", "empty", SourceError, "has none of the files"),
    ],
)
def test_every_error_of_the_report_is_one_line(built, tmp_path, folder, src, error, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "shards").symlink_to(built)
    before = files_of(built)
    with pytest.raises(error, match=words):
        report.write_report(tmp_path / folder, src and tmp_path / src)
    assert files_of(built) == before


def test_page_that_cannot_be_written_is_an_error(shards):
    (shards / REPORT_NAME).unlink()
    (shards / REPORT_NAME / "in the way").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"report\.html cannot be written: "):
        report.write_report(shards)
    assert not list(shards.glob(".part*"))
