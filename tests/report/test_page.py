"""The report page: every section is there, counts are the manifest's, and hostile names are escaped."""

import re

import pytest

from octprep import report
from octprep.format.manifest import REPORT_NAME, Manifest
from tests.worlds.pages import HOSTILE, Page, edit, headline
from tests.worlds.tables import read_cells


def test_headline_sections_and_pictures_of_a_good_build(built):
    page = Page(built)
    assert "Leak-free, balanced and complete" in headline(page.html)
    sentence = "No patient, no group of linked patients and no file content is in two of train, val and test."
    assert sentence in page.text
    assert Manifest.load(built).digest in page.text
    for text in (
        "Counts by split and class",
        "Images per patient",
        "Merged patient ids",
        "No two patient ids share a scan.",
        "Shortcut features",
        "Before and after",
        "Lowest crop confidence",
        "Most fill",
        "Darkest",
        "Most blurred",
        "Excluded files",
        "same bytes as another scan",
        "truncated JPEG",
        "its patient is in the test set",
        "octprep build --src DIR --out DIR --split keep-test --shard-mb 0.02 --size 32x48",
    ):
        assert text in page.text, text
    assert all(picture["alt"] and picture["src"].startswith("data:image/jpeg;base64,") for picture in page.pictures)
    assert page.html.count('role="img"') == page.html.count("<desc") == 8


def test_counts_are_those_of_the_manifest(built):
    manifest, rows = Manifest.load(built), read_cells(built)
    lines = [line for line in Page(built).html.splitlines() if line.startswith("<tr")]
    cells = [re.sub(r"<[^>]*>", " ", line).split() for line in lines]
    for split in manifest.splits:
        line = next(line for line in cells if line[:1] == [split] and "images" in line)
        assert int(line[-1]) == sum(row["split"] == split for row in rows)
    records = next(line for line in cells if line[:2] == ["train", "records"])
    assert list(map(int, records[2:])) == [*manifest.per_class("train").values(), manifest.records("train")]


def test_every_row_and_column_of_a_table_has_a_header(built):
    headers = re.findall(r"<th scope=[^>]*>(.*?)</th>", Page(built).html)
    assert len(headers) > 40
    assert all(re.sub(r"<[^>]*>", "", header).strip() for header in headers)


def test_page_names_no_folder_of_this_machine(source, built):
    html = Page(built).html
    assert str(source) not in html
    assert str(built) not in html


def test_too_few_patients_are_named_with_their_number_near_the_headline(built):
    header = Page(built).html.partition("</header>")[0]
    assert re.search(r"test has few patients \([0-9] of CNV, 2 of DME, 2 of DRUSEN, 2 of NORMAL\)", header)


def test_footer_says_that_the_page_names_patients(built):
    footer = Page(built).html.partition("<footer>")[2]
    assert "This page names patient ids and files as the source has them" in footer
    assert "before you share" in footer


def test_hostile_file_names_are_escaped(built):
    page = Page(built)
    assert HOSTILE in page.text
    assert "\"'&amp;<script>alert(2)<!--\\x0a\\u202egpj.jpeg" in page.text
    assert page.html.count("<script>") == 1
    assert "<img src=x" not in page.html
    assert "\u202e" not in page.html
    assert not page.tags & {"iframe", "object", "embed", "form", "base"}


def test_page_without_an_image_in_a_split(shards):
    excluded = {"exclusion_reason": "taken out", "shard": "", "split": "", "record_count": "0"}
    edit(shards, lambda rows: [row.update(excluded) for row in rows])
    report.write_report(shards, without_source=True)
    page = Page(shards)
    assert page.text.count("None.") >= 6
    assert "taken out" in page.text


@pytest.mark.slow
def test_synthetic_scans_are_shown_step_by_step_on_a_small_page(synthetic_shards):
    page = Page(synthetic_shards)
    assert len(page.html) < 3_000_000
    texts = [picture["alt"] for picture in page.pictures]
    assert sum("its crop framed" in text for text in texts) >= 16
    assert sum("as stored, 224 x 224 pixels" in text for text in texts) >= 16
    assert any("with its fill inpainted" in text for text in texts)
    assert 'class="absent"' not in page.html
    assert (synthetic_shards / REPORT_NAME).stat().st_size < 3_000_000
