"""The quality report: what it says is so, what it shows is there, and a browser finds nothing to complain about."""

import base64
import csv
import dataclasses
import io
import itertools
import json
import os
import re
import shlex
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from octprep import cli, duplicates, report
from octprep.duplicates import Distances
from octprep.duplicates.exact import DuplicatePair
from octprep.duplicates.file import REASONS, DuplicatesFile
from octprep.format import images_csv
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import ManifestError, OutputError, SourceError
from octprep.format.files import path_to_text
from octprep.format.manifest import DUPLICATES_NAME, REPORT_NAME, Leaks, Manifest
from octprep.html import charts
from octprep.html.text import visible
from octprep.pipeline import build
from octprep.report import checks, command, pictures, statistics
from octprep.report import duplicates as duplicate_pairs
from octprep.report import table as images_table
from octprep.splits import split_file
from octprep.synthetic import draw
from tests.worlds.archive import SAMPLE, archive, files_of, write_folder, write_scan

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=alert(1)>.jpeg"
SCRIPT = "\"'&amp;<script>alert(2)<!--\n\u202egpj.jpeg"
SMALL = Preprocessing(height=32, width=48)
CONFIG = BuildConfig(recipe=SMALL, shard_mb=0.02)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An archive with leaks, a duplicate, junk, and names that mean harm."""
    src = write_folder(tmp_path_factory.mktemp("report"), [*archive(), "train/CNV-50-7"])
    cnv = src / "train" / "CNV"
    (cnv / "CNV-0-90.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes())
    (cnv / "CNV-0-91.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes()[:-400])
    for name in (HOSTILE, SCRIPT, "x" * 240 + ".jpeg"):
        write_scan(src / "train" / "DME" / name)
    (src / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return src


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "shards"
    build(source, out, CONFIG, workers=1)
    return out


@pytest.fixture
def shards(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "shards"))


class Page(HTMLParser):
    """The words and the pictures of a page."""

    def __init__(self, folder):
        super().__init__()
        self.words, self.pictures, self.tags, self.no_progress = [], [], set(), False
        self.html = (folder / REPORT_NAME).read_text(encoding="utf-8")
        self.feed(self.html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.no_progress = tag in ("style", "script")
        if tag == "img":
            self.pictures.append(dict(attrs))

    def handle_data(self, data):
        if not self.no_progress:
            self.words.append(data)

    def handle_endtag(self, tag):
        self.no_progress = False


def edited(table, change):
    """The bytes of images.csv after a change of its rows."""
    rows = images_csv.read(table)
    change(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, images_csv.COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def edit(folder, change):
    """Rewrite images.csv after a change of its rows."""
    path = folder / "images.csv"
    path.write_bytes(edited(path.read_bytes(), change))


def rendered(folder, src=None, **files):
    """The page of a folder, with other bytes of images.csv (table) or duplicates.json (joins) if they are given."""
    table, joins = ((folder / name).read_bytes() for name in ("images.csv", DUPLICATES_NAME))
    given = {"table": table, "joins": joins, **files}
    return report.render(folder, Manifest.load(folder), given["table"], given["joins"], report.SourceImages(src))


def an_image(folder):
    return images_table.read((folder / "images.csv").read_bytes(), Manifest.load(folder)).kept[0]


def rows_of(rows, split):
    return [row for row in rows if row["split"] == split]


def test_a_good_build_says_so_first_and_shows_every_part(built):
    page = Page(built)
    assert re.search(r"<h1[^>]*>.*?Leak-free, balanced and complete", page.html)
    assert "No patient (nor patients taken for one) and no file content is in two of train, val and test." in page.text
    assert Manifest.load(built).digest in page.text
    for part in (
        "Counts by split and class",
        "Images per patient",
        "No two patient ids share a scan.",
        "What gives a class away",
        "Before and after",
        "Lowest crop confidence",
        "Most fill at the border",
        "Darkest",
        "Most blurred",
        "Left out, and why",
        "same bytes as another scan",
        "truncated JPEG",
        "its patient is in the test set",
        "octprep build --src DIR --out DIR --split keep-test --size 32x48 --shard-mb 0.02",
    ):
        assert part in page.text, part
    assert all(picture["alt"] and picture["src"].startswith("data:image/jpeg;base64,") for picture in page.pictures)
    assert page.html.count('role="img"') == page.html.count("<desc") == 8


def test_the_counts_are_those_of_the_manifest(built):
    manifest = Manifest.load(built)
    rows = images_csv.read((built / "images.csv").read_bytes())
    cells = [re.sub(r"<[^>]*>", " ", line).split() for line in Page(built).html.splitlines() if line.startswith("<tr")]
    for split in manifest.splits:
        shown = next(line for line in cells if line[:1] == [split] and "images" in line)
        assert int(shown[-1]) == sum(row["split"] == split for row in rows)
    records = next(line for line in cells if line[:2] == ["train", "records"])
    assert list(map(int, records[2:])) == [*manifest.per_class("train").values(), manifest.records("train")]


def test_every_row_and_column_of_a_table_has_a_name(built):
    heads = re.findall(r"<th scope=[^>]*>(.*?)</th>", Page(built).html)
    assert len(heads) > 40
    assert all(re.sub(r"<[^>]*>", "", head).strip() for head in heads)


def test_build_and_report_write_the_same_bytes(source, shards):
    before = (shards / REPORT_NAME).read_bytes()
    (shards / REPORT_NAME).unlink()
    written = report.write(shards, source)
    assert (written.path, written.bytes) == (shards / REPORT_NAME, len(before))
    assert written.sources > 20
    assert written.strange == 0
    assert (shards / REPORT_NAME).read_bytes() == before


def test_a_build_that_has_nothing_to_do_writes_only_a_report_that_is_missing(source, shards):
    before = files_of(shards)
    again = build(source, shards, CONFIG)
    assert (again.built, again.report_written, files_of(shards)) == (False, False, before)
    (shards / REPORT_NAME).unlink()
    again = build(source, shards, CONFIG)
    assert (again.built, again.report_written, files_of(shards)) == (False, True, before)


def test_the_page_names_no_folder_of_this_machine(source, built):
    html = Page(built).html
    assert str(source) not in html
    assert str(built) not in html


def test_without_the_source_only_stored_pixels_are_shown_and_the_page_says_so(built, shards):
    report.write(shards, without_source=True)
    page = Page(shards)
    assert "Made without the source" in page.text
    assert "octprep report DIR --src SRC" in page.text
    assert page.pictures
    assert all("as stored" in picture["alt"] for picture in page.pictures)
    assert len(page.pictures) < len(Page(built).pictures)
    assert "Made without" not in Page(built).text


def test_a_page_that_shows_the_source_is_not_replaced_by_one_that_does_not_unless_that_is_wanted(source, shards):
    before = files_of(shards)
    with pytest.raises(OutputError, match=r"was left alone\. Give --src SRC, .* or --without-source"):
        report.write(shards)
    done = CliRunner().invoke(cli.app, ["report", str(shards), "--src", str(source), "--without-source"])
    assert "exclude each other" in str(done.exception)
    assert files_of(shards) == before
    done = CliRunner().invoke(cli.app, ["report", str(shards), "--without-source"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "Made without the source" in Page(shards).text
    report.write(shards)  # nothing is lost now
    report.write(shards, source)
    assert files_of(shards) == before


@pytest.mark.parametrize("content", [None, b"path\nx\n", b"\xff", b'"', b"[" * 100_000, "pipe"])
@pytest.mark.parametrize("name", ["images.csv", DUPLICATES_NAME])
def test_a_page_without_its_table_says_so_on_it_and_beside_it(source, shards, name, content):
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
    if name == DUPLICATES_NAME:
        assert "it is not known here" in page.text
        return
    assert "images.csv could not be read, so no image is accounted for." in page.text
    assert "By the manifest" in page.text
    assert "Not known: images.csv is missing or cannot be read." in page.text
    assert "None." not in page.text
    assert not re.search(r"\b0 (images|patients|rows)\b", page.text)
    assert "has no image of" not in page.text


def test_too_few_patients_are_named_with_their_number_near_the_verdict(built):
    header = Page(built).html.partition("</header>")[0]
    assert re.search(r"test has few patients \([0-9] of CNV, 2 of DME, 2 of DRUSEN, 2 of NORMAL\)", header)
    assert "a result on so few says little about others." in header


def test_the_page_says_whom_it_names(built):
    footer = Page(built).html.partition("<footer>")[2]
    assert "This page names patient ids and files as the source has them" in footer
    assert "before you share" in footer


def test_shards_that_are_links_are_not_followed_for_pictures(shards, tmp_path):
    for path in shards.glob("train/*.tfrecord"):
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    report.write(shards, without_source=True)
    text = Page(shards).text
    assert "is a link, not a file" in text
    assert "the record cannot be read from its shard" in text


def test_a_source_file_that_changed_is_not_shown_for_the_one_that_was_built_from(source, shards, tmp_path):
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    path = Page(shards).pictures[0]["alt"].removeprefix("Source of ").partition(",")[0]
    write_scan(copy / path, key="another eye")
    report.write(shards, copy)
    page = Page(shards)
    assert report.write(shards, copy).strange == 1
    assert "not the one that was built from" in page.text
    assert not any(picture["alt"].startswith(f"Source of {path},") for picture in page.pictures)


def test_a_source_file_that_vanished_leaves_a_sentence_in_its_place(source, shards, tmp_path):
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    path = Page(shards).pictures[0]["alt"].removeprefix("Source of ").partition(",")[0]
    (copy / path).unlink()
    assert report.write(shards, copy).strange == 1
    assert "the file is not in the source, or cannot be read" in Page(shards).text
    told = CliRunner().invoke(cli.app, ["report", str(shards), "--src", str(copy)])
    assert re.fullmatch(r"octprep: 1 of the \d+ source files to show are not in .*\n", told.stderr)
    assert CliRunner().invoke(cli.app, ["report", str(shards), "--src", str(source)]).stderr == ""


def test_a_page_is_not_replaced_with_the_help_of_a_source_that_is_not_its_own(source, shards, tmp_path):
    before = files_of(shards)
    other = Path(shutil.copytree(source, tmp_path / "other"))
    for path in other.rglob("*.jpeg"):
        path.write_bytes(path.read_bytes() + b"\0")
    for src in (source / "train", other):  # the second has a .DS_Store, whose SHA-256 no row tells
        with pytest.raises(SourceError, match="or others of the same names"):
            report.write(shards, src)
    assert files_of(shards) == before


def test_nothing_outside_the_source_is_shown(shards, source, tmp_path):
    outside = write_scan(tmp_path / "private" / "eye.jpeg")
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    (copy / "link.jpeg").symlink_to(outside)

    def point_out(rows):
        left = [row for row in rows if row["left_out"]]
        left[0]["path"], left[1]["path"] = "../private/eye.jpeg", "link.jpeg"
        left[2]["path"] = str(outside)
        for row in left[:3]:
            row.update(left_out="pointed out", sha256="")

    edit(shards, point_out)
    report.write(shards, copy)
    page = Page(shards)
    assert "pointed out" in page.text
    assert not any("pointed out" in picture["alt"] for picture in page.pictures)


def test_a_patient_put_on_two_sides_is_named(source, shards):
    def move(rows):
        rows_of(rows, "test")[0]["patient"] = rows_of(rows, "train")[0]["patient"] = "4711"

    edit(shards, move)
    report.write(shards, source)
    page = Page(shards)
    assert "LEAKY" in re.search(r"<h1[^>]*>(.*?)</h1>", page.html)[1]
    assert "patient 4711: in train and test" in page.text
    assert "images.csv was changed after it was written" in page.text


def test_a_content_put_on_two_sides_is_named(shards):
    def copy(rows):
        rows_of(rows, "test")[0]["sha256"] = rows_of(rows, "train")[0]["sha256"] = "0123456789abcdef" * 4

    edit(shards, copy)
    report.write(shards, without_source=True)
    page = Page(shards)
    assert "LEAKY" in re.search(r"<h1[^>]*>(.*?)</h1>", page.html)[1]
    assert "In more than one split: 1 file content." in page.text
    assert "content 0123456789abcdef: in train and test" in page.text


def test_near_identical_scans_that_the_manifest_owns_up_to_are_named(built):
    manifest = Manifest.load(built)
    pairs = (("train/a.jpeg", "test/b.jpeg"), ("train/c.jpeg", "val/d.jpeg"))
    check = checks.leaks([], dataclasses.replace(manifest, leaks=Leaks(near=pairs)))
    assert (check.state, check.word) == ("broken", "LEAKY")
    assert "2 pairs of near-identical scans" in check.sentence
    assert check.details[1] == "train/c.jpeg and val/d.jpeg: near-identical, under different patient ids"


def leak_with_a_bad_number(rows):
    rows_of(rows, "test")[0].update(patient=rows_of(rows, "train")[0]["patient"], mean="-1")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: None,
        lambda table: b"\xff",
        lambda table: table[: len(table) // 2],
        lambda table: b"".join(table.splitlines(keepends=True)[:-1]),
        lambda table: edited(table, leak_with_a_bad_number),
    ],
    ids=["missing", "no text", "cut in a row", "cut after a row", "a bad number"],
)
def test_what_cannot_be_told_without_the_whole_table_is_not_told(built, spoil):
    table = spoil((built / "images.csv").read_bytes())
    html = rendered(built, table=table).decode()
    headline = re.search(r"<h1[^>]*>(.*?)</h1>", html)[1]
    assert "INCOMPLETE" in headline
    assert "eak-free" not in headline
    assert html.count("This cannot be told without the whole images.csv.") == 2
    assert html.count('class="check not-known"') == 2
    assert "is in two of" not in html
    assert "every image once." not in html.split("</header>")[0]


def test_a_leak_that_is_seen_stays_one_where_the_table_is_not_whole(built):
    def spoil(rows):
        rows_of(rows, "test")[0]["patient"] = rows_of(rows, "train")[0]["patient"] = "4711"
        rows_of(rows, "test")[1].update(copies="2")
        rows_of(rows, "val")[0]["mean"] = "-1"

    table = edited((built / "images.csv").read_bytes(), spoil)
    html = rendered(built, table=table).decode()
    assert "LEAKY, INCOMPLETE, WITH REPEATS and EDITED; otherwise balanced" in html


def test_shards_that_are_gone_or_of_another_size_are_named(shards):
    manifest = Manifest.load(shards)
    gone, short = (part[0] for part in (manifest.splits["test"], manifest.splits["train"]))
    (shards / gone.name).unlink()
    (shards / short.name).write_bytes(b"x")
    report.write(shards, without_source=True)
    page = Page(shards)
    assert "INCOMPLETE; otherwise leak-free and balanced" in re.search(r"<h1[^>]*>(.*?)</h1>", page.html)[1]
    number = sum(map(len, manifest.splits.values()))
    assert f"Not there as the manifest says: 2 of {number} shards." in page.text
    assert f"{gone.name} is missing" in page.text
    assert f"{short.name} has 1 bytes, where the manifest says {short.bytes:,}" in page.text
    assert "do not agree" not in page.text


@pytest.mark.parametrize(
    ("change", "word", "detail"),
    [
        (lambda rows: images_table.pop(), "INCOMPLETE", "rows, where the manifest says"),
        (lambda rows: rows_of(rows, "test")[0].update(copies="2"), "WITH REPEATS", "2 times in test"),
        (lambda rows: rows_of(rows, "val")[0].update(left_out="why not"), "INCOMPLETE", "a shard and a reason"),
        (lambda rows: rows_of(rows, "val")[0].update(shard="", split=""), "INCOMPLETE", "neither a shard nor a reason"),
        (lambda rows: rows_of(rows, "val")[0].update(mean="nan"), "INCOMPLETE", "a number that cannot be"),
        (lambda rows: rows_of(rows, "val")[0].update(width="wide"), "INCOMPLETE", "a number that is none"),
        (lambda rows: rows_of(rows, "val")[0].update(bytes="9" * 400), "INCOMPLETE", "a number that cannot be"),
        (lambda rows: rows_of(rows, "val")[0].update(border="-3"), "INCOMPLETE", "a number that cannot be"),
        (lambda rows: rows_of(rows, "val")[0].update(confidence="1.5"), "INCOMPLETE", "a number that cannot be"),
        (lambda rows: rows_of(rows, "val")[0].update(mean="1e308"), "INCOMPLETE", "a number that cannot be"),
        (lambda rows: rows_of(rows, "val")[0].update(deviation="256"), "INCOMPLETE", "a number that cannot be"),
        (lambda rows: rows_of(rows, "val")[0].update(sharpness="1e6"), "INCOMPLETE", "a number that cannot be"),
        (lambda rows: rows_of(rows, "val")[0].update(crop_left="-1"), "INCOMPLETE", "a number that cannot be"),
        (lambda rows: rows_of(rows, "val")[0].update(crop_right="129"), "INCOMPLETE", "a number that cannot be"),
        (lambda rows: rows_of(rows, "val")[0].update(crop_bottom="-999"), "INCOMPLETE", "a number that cannot be"),
        (lambda rows: rows_of(rows, "val")[0].update(crop_top=str(-(2**31))), "INCOMPLETE", "a number that cannot be"),
        (lambda rows: rows_of(rows, "val")[0].update({"class": "<b>"}), "INCOMPLETE", "class '<b>'"),
        (lambda rows: rows_of(rows, "val")[0].update(shard="../x"), "INCOMPLETE", "which the manifest does not have"),
        (lambda rows: images_table.append(dict(rows[-1])), "INCOMPLETE", "has 2 rows"),
    ],
)
def test_every_edit_of_the_table_changes_the_verdict(shards, change, word, detail):
    edit(shards, change)
    report.write(shards, without_source=True)
    page = Page(shards)
    assert word in re.search(r"<h1[^>]*>(.*?)</h1>", page.html)[1]
    assert "EDITED" in page.text
    assert detail in page.text


WORDS = ["", " ", "\0", "/", "train", "test"]
NUMBERS = ["0", "-1", "1", "2", "1e-320", "1e308", "inf", "nan", "2147483647", "9" * 400]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_edit_of_any_cell_gives_a_page(source, built, data):
    number = images_csv.read((built / "images.csv").read_bytes())
    cell = st.tuples(
        st.integers(0, len(number) - 1),
        st.sampled_from(images_csv.COLUMNS),
        st.sampled_from(WORDS + NUMBERS) | st.text(max_size=8) | st.floats().map(str) | st.integers().map(str),
    )
    cells = data.draw(st.lists(cell, min_size=1, max_size=12))

    def change(rows):
        for row, column, value in cells:
            rows[row][column] = value

    table = edited((built / "images.csv").read_bytes(), change)
    src = data.draw(st.sampled_from([None, source]))
    assert b"</html>" in rendered(built, src, table=table)


@given(
    crop=st.tuples(*[st.integers(1 - 2**31, 2**31 - 1)] * 2, st.integers(0, 150), st.integers(0, 150)),
    bent=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_any_crop_that_a_row_may_tell_can_be_framed(built, source, crop, bent):
    image = dataclasses.replace(an_image(built), width=150, crop=(*sorted(crop[:2]), *sorted(crop[2:])))
    shift = np.linspace(-9.0, 9.0, 48) if bent else np.zeros(48)
    kept = pictures.Stored(np.zeros((32, 48), np.uint8), np.linspace(40.0, 80.0, 48), shift)
    steps = pictures.steps(report.SourceImages(source), image, kept, SMALL, pictures.LARGE, cleaned=False)
    assert steps.source.uri


def framed(built, source, shift):
    """The rows of the crop's frame in the columns 10, 64 and 118 of a source of 128 columns: first and last."""
    image = dataclasses.replace(an_image(built), crop=(20, 60, 0, 128))
    kept = pictures.Stored(np.zeros((32, 128), np.uint8), np.arange(128.0), shift)
    steps = pictures.steps(report.SourceImages(source), image, kept, SMALL, pictures.LARGE, cleaned=False)
    data = np.frombuffer(base64.b64decode(steps.source.uri.partition(",")[2]), np.uint8)
    blue, _, red = np.moveaxis(cv2.imdecode(data, cv2.IMREAD_COLOR).astype(int), 2, 0)
    rows = [np.flatnonzero((red - blue)[:, column] > 40) for column in (10, 64, 118)]
    return np.array([(found.min(), found.max()) for found in rows])


def test_the_frame_follows_the_retina_where_the_scan_was_flattened(built, source):
    straight = framed(built, source, np.zeros(128))
    assert np.abs(straight - (20, 59)).max() <= 2
    assert np.abs(framed(built, source, np.full(128, 12.0)) - (32, 71)).max() <= 2
    slope = np.arange(128.0) / 8 - 8
    assert np.abs(framed(built, source, slope) - straight - slope[[10, 64, 118], None]).max() <= 2


def test_a_scan_is_cleaned_for_the_page_only_where_that_is_shown(built, source, monkeypatch):
    monkeypatch.setattr(pictures.preprocessing, "find_fill", None)
    shown = pictures.steps(report.SourceImages(source), an_image(built), None, SMALL, pictures.SMALL, cleaned=False)
    assert shown.source.uri
    assert shown.cleaned is None


def test_a_missing_table_and_a_ruined_shard_do_not_stop_the_report(source, shards):
    test = Manifest.load(shards).splits["test"][0].name
    for path in shards.glob("train/*.tfrecord"):
        path.write_bytes(b"ruined")
    (shards / test).unlink()
    report.write(shards, source)
    assert "the record cannot be read from its shard" in Page(shards).text
    for content in (b"\xff\xfe", b"path\nx\n", None):
        (shards / "images.csv").unlink()
        if content is not None:
            (shards / "images.csv").write_bytes(content)
        report.write(shards, source)
        assert "WITHOUT ITS TABLE" in Page(shards).text
        (shards / "images.csv").touch()


def test_an_unbalanced_shard_is_named(built):
    manifest = Manifest.load(built)
    first, *rest = manifest.splits["train"]
    uneven = dataclasses.replace(first, per_class=(1, *first.per_class[1:]))
    check = checks.balance(dataclasses.replace(manifest, splits={**manifest.splits, "train": (uneven, *rest)}))
    assert (check.state, check.word) == ("broken", "NOT BALANCED")
    number = first.per_class[1]
    assert check.details == (f"{first.name}: CNV 1, DME {number}, DRUSEN {number}, NORMAL {number}",)


def test_a_leaky_build_says_leaky_and_names_the_patients(source, tmp_path):
    config = dataclasses.replace(CONFIG, split="as-given", allow_leaks=True, balance="none")
    build(source, tmp_path / "out", config)
    page = Page(tmp_path / "out")
    assert re.search(r'<h1 class="bad">.*LEAKY; otherwise complete</h1>', page.html)
    assert "patient 50: in train and test" in page.text
    assert "--allow-leaks" in page.text


def _config(recipe, **settings):
    return BuildConfig(recipe=Preprocessing(**{"height": 32, "width": 32, **recipe}), **settings)


CONFIGS = [
    _config({"width": 48}, split="keep-test", fractions=(3.0, 1.0, 1.0), balance="undersample", seed=12),
    _config({"denoise": "lee", "denoise_strength": 7.0, "resize": "pad"}, split="by-patient", encoding="png"),
    _config({"denoise": "bilateral", "denoise_strength": 12.5, "crop": "none"}, split="kfold", folds=2, balance="none"),
    _config(
        {"denoise": "none", "flatten": True, "field_of_view": 20.0}, split="as-given", allow_leaks=True, shard_mb=0.3
    ),
    _config(
        {"denoise": "nlm", "denoise_strength": 0.1}, split="keep-test", balance="none", seed=2**62, max_per_patient=3
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_command_on_the_page_makes_the_same_config(source, tmp_path, config):
    build(source, tmp_path / "first", config)
    page = Page(tmp_path / "first")
    said = unescape(re.search(r"<pre><code>(.*?)</code></pre>", page.html)[1])
    assert said == command.command(Manifest.load(tmp_path / "first").config)
    program, *words = shlex.split(said)
    assert program == "octprep"
    folders = iter([str(source), str(tmp_path / "again")])
    done = CliRunner().invoke(cli.app, [next(folders) if word == "DIR" else word for word in words])
    assert done.exit_code == 0, done.output
    assert Manifest.load(tmp_path / "again").config == config
    assert files_of(tmp_path / "again") == files_of(tmp_path / "first")
    assert "None" not in page.html.replace("<p>None.</p>", "")
    assert ("the bars of black beside it do not count" in page.text) == (config.recipe.resize == "pad")


def test_the_command_of_a_build_from_a_file_takes_the_file(source, built, tmp_path):
    given = split_file.load(built / "images.csv")
    config = _config({}, split="file", split_file_sha256=given.sha256)
    build(source, tmp_path / "first", config, split_file=given, workers=1)
    page = Page(tmp_path / "first")
    said = unescape(re.search(r"<pre><code>(.*?)</code></pre>", page.html)[1])
    assert said == "octprep build --src DIR --out DIR --split-file FILE --size 32"
    assert given.sha256 in page.text
    words = said.replace("DIR", str(source), 1).replace("DIR", str(tmp_path / "again"))
    done = CliRunner().invoke(cli.app, shlex.split(words.replace("FILE", str(built / "images.csv")))[1:])
    assert done.exit_code == 0, done.output
    assert files_of(tmp_path / "again") == files_of(tmp_path / "first")


def test_settings_without_an_option_are_told_beside_the_command():
    assert command.unsaid(BuildConfig()) == {}
    assert command.unsaid(BuildConfig(recipe=Preprocessing(inpaint_fill=False, margin_below=0.5))) == {
        "inpaint_fill": False,
        "margin_below": 0.5,
    }


def test_the_sample_is_of_different_training_patients_and_does_not_depend_on_the_order(built):
    manifest = Manifest.load(built)
    kept = images_table.read((built / "images.csv").read_bytes(), manifest).kept
    sample = statistics.fair_sample(kept, manifest)
    assert sample == statistics.fair_sample(kept[::-1], manifest)
    for label, drawn in sample.items():
        assert {(image.label, image.split) for image in drawn} == {(label, "train")}
        assert len({image.patient for image in drawn}) == len(drawn) > 0


def test_a_value_that_goes_with_the_class_is_told_from_one_that_does_not(built):
    kept = images_table.read((built / "images.csv").read_bytes(), Manifest.load(built)).kept
    labels = ("CNV", "DME", "DRUSEN", "NORMAL")
    given = statistics.histogram(kept, labels, lambda image: float(image.label == "DME"))
    assert {spread.label: spread.telling for spread in given.spreads}["DME"] == 1
    blind = statistics.histogram(kept, labels, lambda image: 7.0)
    assert {spread.telling for spread in blind.spreads} == {0.5}
    assert all(sum(shares) == pytest.approx(1) for shares in given.shares.values())
    wide = [dataclasses.replace(image, width=512 + labels.index(image.label)) for image in kept]
    assert (statistics.sizes(wide, labels).guess, statistics.sizes(wide, labels).chance) == (1, 0.25)
    same = [dataclasses.replace(image, width=512) for image in kept]
    assert statistics.sizes(same, labels).guess == 0.25
    for each_its_own in (
        [dataclasses.replace(image, width=512 + place) for place, image in enumerate(kept)],
        [dataclasses.replace(image, width=int(image.patient) + 1) for image in kept],
        [dataclasses.replace(image, width=512 + int(image.patient) % 2) for image in kept],
    ):
        assert statistics.sizes(each_its_own, labels).guess == pytest.approx(0.25)


@given(low=st.integers(1, 10**8), ratio=st.floats(1.02, 1e6))
@example(low=30_000, ratio=3.0)
@settings(deadline=None)
def test_the_axis_of_file_sizes_can_be_read(built, low, ratio):
    image = an_image(built)
    few = [dataclasses.replace(image, bytes=low), dataclasses.replace(image, bytes=low + max(int(low * ratio), 3))]
    ticks = statistics.histogram(few, [image.label], lambda image: image.bytes, log=True).ticks
    assert len({text for _, text in ticks}) == len(ticks) >= 2
    assert all(-1e-6 <= at <= 36 + 1e-6 for at, _ in ticks)


def test_an_empty_world_reads_well(shards):
    edit(shards, lambda rows: [row.update(left_out="taken out", shard="", split="", copies="0") for row in rows])
    report.write(shards, without_source=True)
    page = Page(shards)
    assert page.text.count("None.") >= 6
    assert "taken out" in page.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("train/CNV/CNV-1-1.jpeg", "train/CNV/CNV-1-1.jpeg"),
        ("gr\u00fc\u00df \u7f51", "gr\u00fc\u00df \u7f51"),
        ("a\nb\tc\0", "a\\nb\\tc\\x00"),
        ("\u202egpj.exe\u200b", "\\u202egpj.exe\\u200b"),
        ("\u3164\u115f\u2800", "\\u3164\\u115f\\u2800"),
        ("1\ufe0f \xa02\u3000", "1\\ufe0f \\xa02\\u3000"),
        ("\U000e0100", "\\U000e0100"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text, shown):
    assert visible(text) == shown


def test_names_that_mean_harm_stay_names(built):
    page = Page(built)
    assert HOSTILE in page.text
    assert "\"'&amp;<script>alert(2)<!--\\x0a\\u202egpj.jpeg" in page.text
    assert page.html.count("<script>") == 1
    assert "<img src=x" not in page.html
    assert "\u202e" not in page.html
    assert not page.tags & {"iframe", "object", "embed", "form", "base"}


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
def test_what_cannot_be_reported_is_a_sentence(shards, tmp_path, folder, src, error, words):
    (tmp_path / "empty").mkdir()
    before = files_of(tmp_path)
    with pytest.raises(error, match=words):
        report.write(tmp_path / folder, src and tmp_path / src)
    assert files_of(tmp_path) == before


def test_a_page_that_cannot_be_written_is_a_sentence(shards):
    (shards / REPORT_NAME).unlink()
    (shards / REPORT_NAME / "in the way").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"report\.html cannot be written: "):
        report.write(shards)
    assert not list(shards.glob(".*"))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    draw(folder / "src", patients=24, seed=3, workers=2)
    return folder / "src"


@pytest.mark.parametrize("flatten", [False, True], ids=["plain", "flattened"])
def test_phantoms_are_shown_step_by_step_on_a_small_page(phantoms, tmp_path, flatten):
    config = BuildConfig(recipe=Preprocessing(flatten=flatten))
    build(phantoms, tmp_path / "out", config)
    page = Page(tmp_path / "out")
    assert len(page.html) < 3_000_000
    kinds = [picture["alt"] for picture in page.pictures]
    assert sum("its crop framed" in alt for alt in kinds) >= 16
    assert sum("as stored, 224 x 224 pixels" in alt for alt in kinds) >= 16
    assert any("painted over" in alt for alt in kinds)
    assert 'class="absent"' not in page.html


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """An archive with four near-identical scans under other ids, and two files that stand under another id again."""
    src = tmp_path_factory.mktemp("copied") / "src"
    draw(src, patients=24, seed=6, workers=2)
    return src


@pytest.fixture(scope="module")
def joined(copied, tmp_path_factory):
    out = tmp_path_factory.mktemp("joined") / "shards"
    build(copied, out, BuildConfig(), workers=2)
    return out


def joined_part(html):
    """The section about scans taken for one person's, and its pictures' texts."""
    part = html.partition('<section id="joined"')[2].partition("</section>")[0]
    return part, [unescape(alt) for alt in re.findall(r'<img [^>]*alt="([^"]*)"', part)]


def test_scans_taken_for_one_person_are_named_and_pictured_side_by_side(copied, joined):
    joins = DuplicatesFile.from_json((joined / DUPLICATES_NAME).read_bytes()).pairs
    near = [join for join in joins if join.reason == "near-identical"]
    part, alts = joined_part(rendered(joined, copied).decode())
    assert len(near) == 4
    table = {row["path"]: row for row in images_csv.read((joined / "images.csv").read_bytes())}
    for join in near:
        assert f"<b>near-identical</b>, correlation {join.correlation:.2f}" in part
        for path in (join.first, join.second):
            assert path in part
            assert f"patient <bdi>{table[path]['patient']}</bdi>" in part
            if table[path]["shard"]:
                assert f"{path} as stored, 224 x 224 pixels" in alts
                assert any(alt.startswith(f"Source of {path},") for alt in alts)
            else:
                assert f"{path}, left out: {table[path]['left_out']}" in alts
    assert f'<th scope="row">near-identical</th><td class="n">{len(near)}</td>' in part
    assert f'<th scope="row">All</th><td class="n">{len(joins)}</td>' in part
    assert 'aria-labelledby="distances-title distances-desc"' in part
    assert "same patient: median 0." in part
    assert f"is at least {duplicates.MIN_CORRELATION:.2f}." in part
    assert "absent" not in part


def test_the_pairs_that_the_page_counts_are_those_there_are(copied, joined):
    table = images_csv.read((joined / "images.csv").read_bytes())
    ids = [row["patient"] for row in table if row["mean"]]
    same = sum(one == other for one, other in itertools.combinations(ids, 2))
    every = len(ids) * (len(ids) - 1) // 2
    found = DuplicatesFile.from_json((joined / DUPLICATES_NAME).read_bytes()).distances
    assert (found.within_total, found.between_total) == (same, every - same)
    assert sum(found.within) == same
    assert f"all {same:,} pairs of scans of one patient" in Page(joined).text


def test_joined_scans_read_well_without_the_source(joined):
    part, alts = joined_part(rendered(joined).decode())
    assert alts
    assert all("as stored" in alt for alt in alts)
    left_out = [row["path"] for row in images_csv.read((joined / "images.csv").read_bytes()) if row["left_out"]]
    number = sum(path in part for path in left_out)
    assert part.count("the report was made without the source") == number


def test_build_and_report_write_the_same_bytes_of_joined_scans(copied, joined):
    before = (joined / REPORT_NAME).read_bytes()
    assert rendered(joined, copied) == before
    assert len(before) < 3_000_000


def other_joins(data, **changes):
    return json.dumps({**json.loads(data), **changes}).encode()


@pytest.mark.parametrize(
    ("change", "word", "told"),
    [
        (lambda joins: other_joins(joins, pairs=[]), "WITH OTHER JOINS", "No two patient ids share a scan."),
        (lambda joins: joins + b" ", "WITH OTHER JOINS", "The pairs, least alike first"),
        (lambda joins: None, "WITHOUT ITS JOINS", "it is not known here"),
        (lambda joins: b"\xff", "WITHOUT ITS JOINS", "it is not known here"),
        (lambda joins: b"[" * 100_000, "WITHOUT ITS JOINS", "it is not known here"),
        (lambda joins: b"[1]", "WITHOUT ITS JOINS", "it is not known here"),
        (lambda joins: other_joins(joins, threshold="0.8"), "WITHOUT ITS JOINS", "it is not known here"),
        (lambda joins: other_joins(joins, distances={"edges": [0, 1]}), "WITHOUT ITS JOINS", "it is not known here"),
    ],
)
def test_joins_that_are_not_the_ones_built_are_told(joined, change, word, told):
    html = rendered(joined, joins=change((joined / DUPLICATES_NAME).read_bytes())).decode()
    assert f"{word}; otherwise leak-free, balanced and complete" in re.search(r"<h1[^>]*>(.*?)</h1>", html)[1]
    assert told in joined_part(html)[0]


def test_joins_that_are_missing_do_not_stop_the_report(shards):
    (shards / DUPLICATES_NAME).unlink()
    report.write(shards, without_source=True)
    assert "duplicates.json is missing or cannot be read." in Page(shards).text


THINGS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda things: st.lists(things, max_size=3) | st.dictionaries(st.text(max_size=3), things, max_size=2),
    max_leaves=4,
)
A_JOIN = {
    "first": st.sampled_from(["../x", HOSTILE, SCRIPT, "\ud800"]) | THINGS,
    "second": st.text(max_size=5) | THINGS,
    "reason": st.sampled_from(REASONS) | THINGS,
    "correlation": st.floats() | THINGS,
}
SOME_COUNTS = st.lists(st.integers(0, 3) | THINGS, min_size=2, max_size=2) | THINGS


@settings(max_examples=30, deadline=None)
@given(
    found=st.fixed_dictionaries(
        {
            "threshold": st.floats(0, 1) | THINGS,
            "pairs": st.lists(st.fixed_dictionaries(A_JOIN), max_size=3) | THINGS,
            "distances": st.none()
            | THINGS
            | st.fixed_dictionaries(
                {
                    "edges": st.just([0, 1, 2]) | THINGS,
                    "within": SOME_COUNTS,
                    "between": SOME_COUNTS,
                    "within_total": st.integers(0, 9) | THINGS,
                    "between_total": st.integers(0, 9) | THINGS,
                }
            ),
        }
    )
)
def test_any_joins_give_a_page(source, built, found):
    html = rendered(built, source, joins=json.dumps(found).encode()).decode()
    assert "</html>" in html
    assert "<img src=x" not in html
    assert html.count("<script>") == 1


def test_names_that_mean_harm_stay_names_among_joined_scans(source, built):
    first, second = (f"train/DME/{path_to_text(name)}" for name in (HOSTILE, SCRIPT))
    joins = [
        DuplicatePair(first, second, "near-identical", 0.9),
        DuplicatePair("../../etc/passwd", "\u202egpj.jpeg", "same bytes"),
    ]
    part, alts = joined_part(rendered(built, source, joins=DuplicatesFile(tuple(joins), None).to_json()).decode())
    assert "&lt;img src=x onerror=alert(1)&gt;.jpeg" in part
    assert "\u202e" not in part
    assert "\\u202egpj.jpeg" in part
    assert part.count("not in images.csv") == 2  # nothing is opened that the table does not name
    assert len(alts) == 2
    assert all(alt.startswith(visible(path)) for alt, path in zip(alts, (first, second), strict=True))


def test_the_least_alike_pairs_are_shown_and_all_are_counted(joined):
    kept = [image.path for image in images_table.read((joined / "images.csv").read_bytes(), Manifest.load(joined)).kept]
    joins = [
        DuplicatePair(kept[0], path, "near-identical", 0.99 - place / 1000) for place, path in enumerate(kept[1:31])
    ]
    part, alts = joined_part(rendered(joined, joins=DuplicatesFile(tuple(joins), None).to_json()).decode())
    assert part.count('<figure class="joined">') == duplicate_pairs.SHOWN == 12
    assert "12 of the pairs, least alike first" in part
    assert "And 18 more in duplicates.json." in part
    assert f"{kept[30]} as stored, 224 x 224 pixels" in alts
    assert kept[1] not in part


def test_a_group_that_is_parted_is_a_leak(joined):
    def part_them(rows):
        first, second = rows_of(rows, "train")[0], rows_of(rows, "test")[0]
        assert first["patient"] != second["patient"]
        first["group"] = second["group"] = "4711"
        names.extend(sorted((first["patient"], second["patient"]), key=lambda name: (len(name), name)))

    names = []
    table = edited((joined / "images.csv").read_bytes(), part_them)
    html = rendered(joined, table=table).decode()
    assert "LEAKY and EDITED; otherwise balanced and complete" in re.search(r"<h1[^>]*>(.*?)</h1>", html)[1]
    assert "In more than one split: 1 group of patients." in html
    assert f"group 4711, patients {names[0]} and {names[1]} taken for one: in train and test" in html


def test_whether_near_identical_scans_were_looked_for_is_said(copied, built, tmp_path):
    build(copied, tmp_path / "out", BuildConfig(near_duplicates=False), workers=2)
    part = joined_part(Page(tmp_path / "out").html)[0]
    assert "were not looked for: the folder was built with <code>--no-near-duplicates</code>." in part
    assert "correlation" not in part
    assert "distances" not in part
    assert "stored images of less than 8,192 pixels hold too little" in joined_part(Page(built).html)[0]


def test_the_distances_of_pairs_have_their_medians():
    found = Distances((0, 0.5, 1, 1.5, 2), within=(0, 4, 0, 0), between=(0, 0, 1, 3), within_total=4, between_total=9)
    drawn = charts.distances("far", "Far", "distance", found)
    assert "same patient: median 0.75; different patients: median 1.67" in drawn
    assert drawn.count('class="bars') == 2
    assert ">4 pairs<" in drawn
    assert ">4 drawn<" in drawn
    told = "Compared were all 4 pairs of scans of one patient and 4 of the 9 pairs of scans of two patients"
    assert duplicate_pairs.sampled(found) == f"{told}, drawn at random."
    one = dataclasses.replace(found, within=(0, 0, 0, 0), between=(0, 0, 0, 1))
    assert charts.distances("far", "Far", "distance", one).count('class="bars') == 1
    assert charts.distances("far", "Far", "distance", dataclasses.replace(one, between=one.within)) == ""


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is not here")
def test_the_report_of_the_sample_is_good(tmp_path):
    build(SAMPLE, tmp_path / "out", BuildConfig())
    page = Page(tmp_path / "out")
    assert "Leak-free, balanced and complete" in page.text
    assert 'class="absent"' not in page.html


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright drives the browser")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--no-first-run", *(f"--disable-{part}" for part in quiet)]
        )
        yield chromium
        chromium.close()


@pytest.fixture(params=[("light", 1280), ("dark", 1280), ("light", 400), ("dark", 400)], ids=str)
def opened(browser, built, request):
    """The report in a browser, and everything that it asked for or complained about."""
    scheme, width = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto((built / REPORT_NAME).as_uri(), wait_until="load")
    yield page, asked, complaints, width
    context.close()


def test_a_browser_opens_the_page_and_asks_for_nothing_else(built, opened):
    page, asked, complaints, width = opened
    page.wait_for_timeout(200)
    page.mouse.wheel(0, 50_000)
    assert [url for url in asked if not url.startswith("data:")] == [(built / REPORT_NAME).as_uri()]
    assert complaints == []
    assert "Leak-free, balanced and complete" in page.locator("h1").inner_text()
    assert page.locator("table").count() >= 6
    assert page.locator("table >> visible=true").count() == page.locator("table").count()
    for text in (HOSTILE, "its patient is in the test set", "octprep build --src DIR"):
        assert page.get_by_text(text).first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every((image) => image.alt && image.complete && image.naturalWidth)")
    assert page.evaluate("[...document.querySelectorAll('svg')].every((svg) => svg.querySelector('title').textContent)")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgba(0, 0, 0, 0)"


def test_a_picture_is_enlarged_with_the_keyboard_alone(opened):
    page, _, complaints, width = opened
    first = page.locator("main button").first
    first.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    assert page.locator("dialog p").inner_text() == page.locator("dialog img").get_attribute("alt")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_hidden()
    assert complaints == []


def test_dark_and_light_are_both_readable(browser, built):
    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    backgrounds = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto((built / REPORT_NAME).as_uri())
        back = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        backgrounds.append(back)
        for selector in ("body", "h1", ".how", "nav a", ".check dd", "thead th", "svg .name"):
            script = f"getComputedStyle(document.querySelector('{selector}'))"
            ink = luminance(page.evaluate(f"{script}.{'fill' if selector.startswith('svg') else 'color'}"))
            contrast = (max(ink, back) + 0.05) / (min(ink, back) + 0.05)
            assert contrast >= 4.5, f"{selector} in {scheme}: {contrast:.1f}"
        page.close()
    assert backgrounds[0] > 0.8 > 0.1 > backgrounds[1]


def test_the_page_reads_without_its_script(browser, built):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((built / REPORT_NAME).as_uri())
    assert "Leak-free" in page.locator("h1").inner_text()
    assert page.locator("main img").first.is_visible()
    assert page.locator("dialog").count() == 0
    context.close()
