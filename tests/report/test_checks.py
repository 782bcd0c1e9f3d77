"""The checks on the page: every violation is named, and checks without a complete table are unknown."""

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octprep import report
from octprep.format.images_csv import COLUMNS
from octprep.format.manifest import Leaks, Manifest
from octprep.pipeline import build
from octprep.report import checks
from tests.report.conftest import CONFIG
from tests.worlds.pages import Page, edit, edited, headline, of_split, rendered
from tests.worlds.tables import read_cells


def with_edit(folder, change):
    """The page after an edit of images.csv."""
    return rendered(folder, table=edited((folder / "images.csv").read_bytes(), change))


def test_patient_in_two_splits_is_named(built):
    def change(rows):
        of_split(rows, "test")[0]["patient"] = of_split(rows, "train")[0]["patient"] = "4711"

    html = with_edit(built, change)
    assert "LEAKY" in headline(html)
    assert "patient 4711: in train and test" in html
    assert "images.csv was changed after it was written" in html


def test_content_in_two_splits_is_named(built):
    def change(rows):
        of_split(rows, "test")[0]["sha256"] = of_split(rows, "train")[0]["sha256"] = "0123456789abcdef" * 4

    html = with_edit(built, change)
    assert "LEAKY" in headline(html)
    assert "In more than one split: 1 file content." in html
    assert "content 0123456789abcdef: in train and test" in html


def test_patient_group_in_two_splits_is_named(built):
    patients = []

    def change(rows):
        pair = of_split(rows, "train")[0], of_split(rows, "test")[0]
        for row in pair:
            row["patient_group"] = "4711"
            patients.append(row["patient"])

    html = with_edit(built, change)
    assert "LEAKY and images.csv modified; otherwise balanced and complete" in headline(html)
    assert "In more than one split: 1 group of linked patients." in html
    first, second = sorted(patients, key=lambda name: (len(name), name))
    assert f"group 4711, linked patients {first} and {second}: in train and test" in html


def test_declared_near_identical_pairs_are_named(built):
    pairs = (("train/a.jpeg", "test/b.jpeg"), ("train/c.jpeg", "val/d.jpeg"))
    check = checks.check_leaks([], dataclasses.replace(Manifest.load(built), leaks=Leaks(near=pairs)))
    assert (check.state, check.headline_word) == ("violated", "LEAKY")
    assert "2 near-identical pairs" in check.sentence
    assert check.details[1] == "train/c.jpeg and val/d.jpeg: near-identical, under different patient ids"


def test_declared_patient_is_named_without_a_row(built):
    check = checks.check_leaks([], dataclasses.replace(Manifest.load(built), leaks=Leaks(patients=("7",))))
    assert check.details == ("patient 7: in two splits, by the manifest",)


def leak_and_a_bad_number(rows):
    of_split(rows, "test")[0].update(patient=of_split(rows, "train")[0]["patient"], mean_intensity="-1")


@pytest.mark.parametrize(
    "change",
    [
        lambda table: None,
        lambda table: b"\xff",
        lambda table: table[: len(table) // 2],
        lambda table: b"".join(table.splitlines(keepends=True)[:-1]),
        lambda table: edited(table, leak_and_a_bad_number),
    ],
    ids=["missing", "no text", "cut in a row", "cut after a row", "a bad number"],
)
def test_leaks_and_repeats_are_unknown_without_the_whole_table(built, change):
    html = rendered(built, table=change((built / "images.csv").read_bytes()))
    assert "INCOMPLETE" in headline(html)
    assert "eak-free" not in headline(html)
    assert html.count("This is unknown without the whole images.csv.") == 2
    assert html.count('class="check unknown"') == 2
    assert "is in two of" not in html
    assert "every image once." not in html.split("</header>")[0]


def test_leak_is_reported_where_the_table_is_not_whole(built):
    def change(rows):
        of_split(rows, "test")[0]["patient"] = of_split(rows, "train")[0]["patient"] = "4711"
        of_split(rows, "test")[1].update(record_count="2")
        of_split(rows, "val")[0]["mean_intensity"] = "-1"

    line = headline(with_edit(built, change))
    assert "LEAKY, INCOMPLETE, WITH REPEATS and images.csv modified; otherwise balanced" in line


def test_missing_shards_and_those_of_another_size_are_named(shards):
    manifest = Manifest.load(shards)
    missing, short = (shards[0] for shards in (manifest.splits["test"], manifest.splits["train"]))
    (shards / missing.name).unlink()
    (shards / short.name).write_bytes(b"x")
    report.write_report(shards, without_source=True)
    page = Page(shards)
    assert "INCOMPLETE; otherwise leak-free and balanced" in headline(page.html)
    number = sum(map(len, manifest.splits.values()))
    assert f"Missing, or not as the manifest says: 2 of {number} shards." in page.text
    assert f"{missing.name} is missing" in page.text
    assert f"{short.name} has 1 bytes, where the manifest says {short.bytes:,}" in page.text
    assert "do not agree" not in page.text


def test_unbalanced_shard_is_named(built):
    manifest = Manifest.load(built)
    first, *others = manifest.splits["train"]
    uneven = dataclasses.replace(first, per_class=(1, *first.per_class[1:]))
    splits = {**manifest.splits, "train": (uneven, *others)}
    check = checks.check_balance(dataclasses.replace(manifest, splits=splits))
    assert (check.state, check.headline_word) == ("violated", "NOT BALANCED")
    count = first.per_class[1]
    assert check.details == (f"{first.name}: CNV 1, DME {count}, DRUSEN {count}, NORMAL {count}",)


@pytest.mark.parametrize(
    ("change", "word", "detail"),
    [
        (lambda rows: rows.pop(), "INCOMPLETE", "rows, where the manifest says"),
        (lambda rows: of_split(rows, "test")[0].update(record_count="2"), "WITH REPEATS", "2 times in test"),
        (lambda rows: of_split(rows, "val")[0].update(exclusion_reason="no"), "INCOMPLETE", "has a shard and an excl"),
        (lambda rows: of_split(rows, "val")[0].update(shard="", split=""), "INCOMPLETE", "neither a shard nor an"),
        (
            lambda rows: of_split(rows, "val")[0].update(width="wide"),
            "INCOMPLETE",
            "column 'width' is not a whole number: 'wide'",
        ),
        (lambda rows: of_split(rows, "val")[0].update({"class": "<b>"}), "INCOMPLETE", "class '<b>'"),
        (lambda rows: of_split(rows, "val")[0].update(shard="../x"), "INCOMPLETE", "which the manifest does not have"),
        (lambda rows: rows.append(dict(of_split(rows, "val")[0])), "INCOMPLETE", "has 2 rows"),
    ],
)
def test_every_edit_of_the_table_changes_the_headline(shards, change, word, detail):
    edit(shards, change)
    report.write_report(shards, without_source=True)
    page = Page(shards)
    assert word in headline(page.html)
    assert "images.csv modified" in headline(page.html)
    assert detail in page.text


WORDS = ["", " ", "\0", "/", "train", "test"]
NUMBERS = ["0", "-1", "1", "2", "1e-320", "1e308", "inf", "nan", "2147483647", "9" * 400]


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_page_is_made_after_any_edit_of_any_cell(source, built, data):
    count = len(read_cells(built))
    cell = st.tuples(
        st.integers(0, count - 1),
        st.sampled_from(COLUMNS),
        st.sampled_from(WORDS + NUMBERS) | st.text(max_size=8) | st.floats().map(str) | st.integers().map(str),
    )
    cells = data.draw(st.lists(cell, min_size=1, max_size=12))

    def change(rows):
        for index, column, value in cells:
            rows[index][column] = value

    table = edited((built / "images.csv").read_bytes(), change)
    assert "</html>" in rendered(built, data.draw(st.sampled_from([None, source])), table=table)


@pytest.mark.slow
def test_leaky_build_is_called_leaky_and_the_patients_are_named(source, tmp_path):
    config = dataclasses.replace(CONFIG, split="as-given", allow_leaks=True, balance="none")
    build(source, tmp_path / "out", config, workers=0)
    page = Page(tmp_path / "out")
    assert re.search(r'<h1 class="bad">.*LEAKY; otherwise complete</h1>', page.html)
    assert "patient 50: in train and test" in page.text
    assert "--allow-leaks" in page.text
