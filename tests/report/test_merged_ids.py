"""The section on merged patient ids: pairs, distances, and edited or missing duplicates.json files."""

import dataclasses
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octprep import duplicates, report
from octprep.duplicates import Distances
from octprep.duplicates.duplicates_json import REASONS, DuplicatesFile
from octprep.duplicates.exact import DuplicatePair
from octprep.format.manifest import DUPLICATES_NAME
from octprep.format.paths import path_to_text
from octprep.html.text import visible
from octprep.pipeline import build
from octprep.report import duplicates as duplicate_pairs
from tests.report.conftest import CONFIG
from tests.worlds.pages import HOSTILE, SCRIPT, Page, headline, kept_rows, rendered, section
from tests.worlds.tables import read_cells


@pytest.mark.slow
def test_pairs_are_named_and_pictured_side_by_side(synthetic_source, synthetic_shards):
    file = DuplicatesFile.from_json((synthetic_shards / DUPLICATES_NAME).read_bytes())
    near = [pair for pair in file.pairs if pair.reason == "near-identical"]
    content, texts = section(rendered(synthetic_shards, synthetic_source), "duplicates")
    assert len(near) == 4
    rows = {row["path"]: row for row in read_cells(synthetic_shards)}
    for pair in near:
        assert f"<b>near-identical</b>, correlation {pair.correlation:.2f}" in content
        for path in (pair.first, pair.second):
            assert path in content
            assert f"patient <bdi>{rows[path]['patient']}</bdi>" in content
            if rows[path]["shard"]:
                assert f"{path} as stored, 224 x 224 pixels" in texts
                assert any(text.startswith(f"Source of {path},") for text in texts)
            else:
                assert f"{path}, excluded: {rows[path]['exclusion_reason']}" in texts
    assert f'<th scope="row">near-identical</th><td class="n">{len(near)}</td>' in content
    assert f'<th scope="row">All</th><td class="n">{len(file.pairs)}</td>' in content
    assert 'aria-labelledby="distances-title distances-desc"' in content
    assert "same patient: median 0." in content
    assert f"is at least {duplicates.MIN_CORRELATION:.2f}." in content
    assert "absent" not in content


@pytest.mark.slow
def test_numbers_of_compared_pairs_are_shown(synthetic_shards):
    ids = [row["patient"] for row in read_cells(synthetic_shards) if row["mean_intensity"]]
    same = sum(first == second for first, second in itertools.combinations(ids, 2))
    every = len(ids) * (len(ids) - 1) // 2
    distances = DuplicatesFile.from_json((synthetic_shards / DUPLICATES_NAME).read_bytes()).distances
    assert (distances.within_total, distances.between_total) == (same, every - same)
    assert sum(distances.within) == same
    assert f"all {same:,} pairs of scans of one patient" in Page(synthetic_shards).text


@pytest.mark.slow
def test_pairs_without_the_source_show_stored_pixels(synthetic_shards):
    content, texts = section(rendered(synthetic_shards), "duplicates")
    assert texts
    assert all("as stored" in text for text in texts)
    excluded = [row["path"] for row in read_cells(synthetic_shards) if row["exclusion_reason"]]
    assert content.count("the report was made without the source") == sum(path in content for path in excluded)


def changed(data, **changes):
    return json.dumps({**json.loads(data), **changes}).encode()


@pytest.mark.parametrize(
    ("change", "word", "sentence"),
    [
        (lambda pairs: changed(pairs, threshold=0.5), "modified", "No two patient ids share a scan."),
        (lambda pairs: pairs + b" ", "modified", "No two patient ids share a scan."),
        (lambda pairs: None, "missing", "so it is unknown"),
        (lambda pairs: b"\xff", "missing", "so it is unknown"),
        (lambda pairs: b"[" * 100_000, "missing", "so it is unknown"),
        (lambda pairs: b"[1]", "missing", "so it is unknown"),
        (lambda pairs: changed(pairs, threshold="0.8"), "missing", "so it is unknown"),
        (lambda pairs: changed(pairs, distances={"edges": [0, 1]}), "missing", "so it is unknown"),
    ],
)
def test_modified_or_missing_duplicates_file_is_in_the_headline(built, change, word, sentence):
    html = rendered(built, pairs=change((built / DUPLICATES_NAME).read_bytes()))
    assert f"duplicates.json {word}; otherwise leak-free, balanced and complete" in headline(html)
    assert sentence in section(html, "duplicates")[0]


def test_missing_duplicates_file_does_not_stop_the_report(shards):
    (shards / DUPLICATES_NAME).unlink()
    report.write_report(shards, without_source=True)
    assert "duplicates.json is missing or cannot be read." in Page(shards).text


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=2),
    max_leaves=4,
)
PAIR = {
    "first": st.sampled_from(["../x", HOSTILE, SCRIPT, "\ud800"]) | ANYTHING,
    "second": st.text(max_size=5) | ANYTHING,
    "reason": st.sampled_from(REASONS) | ANYTHING,
    "correlation": st.floats() | ANYTHING,
}
COUNTS = st.lists(st.integers(0, 3) | ANYTHING, min_size=2, max_size=2) | ANYTHING


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    content=st.fixed_dictionaries(
        {
            "threshold": st.floats(0, 1) | ANYTHING,
            "pairs": st.lists(st.fixed_dictionaries(PAIR), max_size=3) | ANYTHING,
            "distances": st.none()
            | ANYTHING
            | st.fixed_dictionaries(
                {
                    "edges": st.just([0, 1, 2]) | ANYTHING,
                    "within": COUNTS,
                    "between": COUNTS,
                    "within_total": st.integers(0, 9) | ANYTHING,
                    "between_total": st.integers(0, 9) | ANYTHING,
                }
            ),
        }
    )
)
def test_page_is_made_with_any_duplicates_file(source, built, content):
    html = rendered(built, source, pairs=json.dumps(content).encode())
    assert "</html>" in html
    assert "<img src=x" not in html
    assert html.count("<script>") == 1


def test_hostile_file_names_in_pairs_are_escaped(source, built):
    first, second = (f"train/DME/{path_to_text(name)}" for name in (HOSTILE, SCRIPT))
    pairs = (
        DuplicatePair(first, second, "near-identical", 0.9),
        DuplicatePair("../../etc/passwd", "\u202egpj.jpeg", "same bytes"),
    )
    content, texts = section(rendered(built, source, pairs=DuplicatesFile(pairs, None).to_json()), "duplicates")
    assert "&lt;img src=x onerror=alert(1)&gt;.jpeg" in content
    assert "\u202e" not in content
    assert "\\u202egpj.jpeg" in content
    assert content.count("not in images.csv") == 2  # nothing is opened that the table does not name
    assert len(texts) == 2
    assert all(text.startswith(visible(path)) for text, path in zip(texts, (first, second), strict=True))


def test_least_similar_pairs_are_shown_and_all_are_counted(built):
    kept = [row.path for row in kept_rows(built)]
    pairs = [
        DuplicatePair(kept[0], path, "near-identical", 0.99 - index / 1000) for index, path in enumerate(kept[1:31])
    ]
    content, texts = section(rendered(built, pairs=DuplicatesFile(tuple(pairs), None).to_json()), "duplicates")
    assert content.count('<figure class="pair-card">') == duplicate_pairs.MAX_PAIRS == 12
    assert "12 of the pairs, least similar first" in content
    assert "And 18 more in duplicates.json." in content
    assert f"{kept[30]} as stored, 48 x 32 pixels" in texts
    assert f"{kept[1]}<" not in content


@pytest.mark.slow
def test_page_says_whether_near_identical_scans_were_searched_for(source, built, tmp_path):
    build(source, tmp_path / "out", dataclasses.replace(CONFIG, near_duplicates=False), workers=0)
    content = section(Page(tmp_path / "out").html, "duplicates")[0]
    assert "were not searched for: the folder was built with <code>--no-near-duplicates</code>." in content
    assert "correlation" not in content
    assert "distances" not in content
    assert "stored images of less than 8,192 pixels hold too little" in section(Page(built).html, "duplicates")[0]


def test_chart_of_distances_has_medians_and_counts():
    distances = Distances(
        (0, 0.5, 1, 1.5, 2), within=(0, 4, 0, 0), between=(0, 0, 1, 3), within_total=4, between_total=9
    )
    chart = duplicate_pairs.distance_chart(distances)
    assert "same patient: median 0.75; different patients: median 1.67" in chart
    assert chart.count('class="bars') == 2
    assert ">4 pairs<" in chart
    assert ">4 drawn<" in chart
    sentence = "Compared were all 4 pairs of scans of one patient and 4 of the 9 pairs of scans of two patients"
    assert duplicate_pairs.sampled(distances) == f"{sentence}, drawn at random."
    one_kind = dataclasses.replace(distances, within=(0, 0, 0, 0), between=(0, 0, 0, 1))
    assert duplicate_pairs.distance_chart(one_kind).count('class="bars') == 1
    assert duplicate_pairs.distance_chart(dataclasses.replace(one_kind, between=one_kind.within)) == ""
