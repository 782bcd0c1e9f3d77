"""Who counts as one person: by id, by content, by near-identical pixels; and what contradicts itself."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octprep import preprocessing
from octprep.duplicates.exact import DuplicatePair, conflicts, joins, same_contents, settle_duplicates
from octprep.duplicates.file import DuplicatesFile
from octprep.format import images_csv
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import LeakError, SourceError
from octprep.format.manifest import DUPLICATES_NAME, Manifest
from octprep.pipeline import build
from octprep.shards import tfrecord
from octprep.splits.leaks import find_leaks
from octprep.splits.patients import group
from octprep.synthetic import draw
from octprep.synthetic.faults import near_duplicate
from octprep.verification import verify
from tests.worlds.archive import SAMPLE, archive, files_of, path_of, scan, write_folder

pytestmark = pytest.mark.slow


def pixels(one, digest):
    return dataclasses.replace(one, pixels=digest)


A1, A2 = scan("train/CNV/CNV-1-1.jpeg"), scan("train/CNV/CNV-1-2.jpeg")
B1 = scan("train/CNV/CNV-2-1.jpeg")
C1 = scan("test/DME/DME-3-1.jpeg")


def test_near_identical_scans_bring_their_patients_together_and_so_do_chains():
    near = [
        DuplicatePair(A2.path, B1.path, "near-identical", 0.9),
        DuplicatePair(B1.path, C1.path, "near-identical", 0.8),
    ]
    assert [one.key for one in group([A1, A2, B1, C1])] == ["1", "2", "3"]
    assert [len(one.scans) for one in group([A1, A2, B1, C1], near[:1])] == [3, 1]
    assert [(one.key, len(one.scans)) for one in group([C1, B1, A2, A1], near)] == [("1", 4)]
    assert [one.key for one in group([A1, C1], near)] == ["1", "3"]  # what is not there joins nobody


def test_equal_pixels_are_the_same_content_as_equal_bytes():
    copies = [pixels(A1, "p"), pixels(B1, "p"), pixels(scan("train/CNV/CNV-4-1.jpeg", content=A1.path), "q")]
    assert [len(one) for one in same_contents(copies)] == [3]
    assert len(group(copies)) == 1
    kept, left_out = settle_duplicates(copies)
    assert [one.path for one in kept] == [A1.path]
    assert [one.reason.partition(":")[0] for one in left_out] == [
        "same pixels as another scan",
        "same bytes as another scan",
    ]
    assert {join.reason for join in joins(copies)} == {"same bytes", "same pixels"} or len(joins(copies)) == 2


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)), max_size=14, unique=True))
def test_sets_of_equal_content_part_the_scans_and_hang_together(population):
    scans = [
        pixels(scan(f"train/CNV/CNV-{p}-{i}.jpeg", content=f"bytes {b}" if b else None), f"pixels {x}" if x else "")
        for i, (p, b, x) in enumerate(population)
    ]
    sets = same_contents(scans)
    members = [one.path for copies in sets for one in copies]
    assert len(members) == len(set(members))
    for first in scans:
        for second in scans:
            equal = first.sha256 == second.sha256 or (first.pixels and first.pixels == second.pixels)
            if equal and first is not second:
                assert any(first in copies and second in copies for copies in sets)
    assert same_contents(scans[::-1]) == sets


def test_copies_under_two_classes_are_left_out_kept_or_refused_as_asked():
    other = dataclasses.replace(scan("train/DME/DME-2-1.jpeg"), sha256=A1.sha256)
    third = dataclasses.replace(scan("train/DME/DME-5-1.jpeg"), sha256=A1.sha256)
    scans = [A1, A2, other, third]
    assert [[one.path for one in copies] for copies in conflicts(scans)] == [[A1.path, other.path, third.path]]
    kept, left_out = settle_duplicates(scans)
    assert [one.path for one in kept] == [A2.path]
    assert {one.reason for one in left_out} == {"same bytes under different classes: CNV and DME"}
    kept, left_out = settle_duplicates(scans, "keep")
    assert [one.path for one in kept] == [A1.path, A2.path, other.path]
    assert [one.reason for one in left_out] == [f"same bytes as another scan: {other.path}"]
    with pytest.raises(SourceError, match=r"1 content stands under different classes: .*--conflicts drop"):
        settle_duplicates(scans, "error")


@pytest.mark.parametrize("strategy", ["grouped", "repaired"])
@pytest.mark.parametrize("seed", range(4))
def test_a_copy_under_another_id_joins_two_patients_also_where_the_copy_is_left_out(strategy, seed, tmp_path):
    src = write_folder(tmp_path / "src", archive())
    for copy, of in (("CNV-0-90", "CNV-1-1"), ("CNV-2-90", "CNV-3-1")):
        (src / path_of(f"train/{copy}")).write_bytes((src / path_of(f"train/{of}")).read_bytes())
    config = BuildConfig(recipe=Preprocessing(height=32, width=32), split=strategy, seed=seed)
    build(src, tmp_path / "out", config, workers=1)
    assert verify(tmp_path / "out", workers=1).faults == ()
    rows = images_csv.read((tmp_path / "out" / "images.csv").read_bytes())
    homes = {
        patient: {row["split"] for row in rows if row["patient"] == patient and row["split"]} for patient in "0123"
    }
    assert homes["0"] == homes["1"]
    assert homes["2"] == homes["3"]
    assert {row["group"] for row in rows if row["patient"] in "01"} == {"0"}


def test_near_identical_scans_on_two_sides_are_a_leak():
    near = [DuplicatePair(B1.path, C1.path, "near-identical", 0.9)]
    assert find_leaks([[A1, B1], [C1]], near).near == ((B1.path, C1.path),)
    assert not find_leaks([[A1, B1, C1], []], near)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Phantoms, four of them once more under other ids: moved, brightened, encoded anew."""
    src = tmp_path_factory.mktemp("near") / "src"
    draw(src, patients=24, seed=6, workers=2)
    return src


@pytest.fixture(scope="module")
def shards(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("near") / "out"
    build(source, out, BuildConfig(), workers=2)
    return out


def test_a_build_finds_the_planted_copies_keeps_them_on_one_side_and_says_so(source, shards):
    planted = {path.relative_to(source).as_posix() for path in source.rglob("*-999998?-*.jpeg")}
    found = DuplicatesFile.from_json((shards / DUPLICATES_NAME).read_bytes())
    assert len(planted) == 4
    assert {join.second for join in found.joins if join.reason == "near-identical"} >= planted
    assert sum(found.distances.different) > 0
    assert verify(shards, workers=1).faults == ()


def test_folders_that_part_near_identical_scans_leak_although_no_id_and_no_file_does(tmp_path):
    draw(tmp_path / "src", patients=24, seed=6, faults=False, workers=2)
    twin = sorted((tmp_path / "src" / "test" / "CNV").iterdir())[0]
    copy = tmp_path / "src" / "train" / "CNV" / "CNV-9999980-1.jpeg"
    copy.write_bytes(near_duplicate(preprocessing.decode(twin.read_bytes()), np.random.default_rng(0)))
    with pytest.raises(LeakError, match=rf"1 near-identical pair \(test/CNV/{twin.name} = train/CNV/{copy.name}\)"):
        build(tmp_path / "src", tmp_path / "out", BuildConfig(split="official"), workers=2)
    built = build(tmp_path / "src", tmp_path / "out", BuildConfig(split="official", allow_leaks=True), workers=2)
    assert built.manifest.leaks.near == ((f"test/CNV/{twin.name}", f"train/CNV/{copy.name}"),)
    assert any("near-identical" in fault.what for fault in verify(tmp_path / "out", workers=1).faults)


def test_near_identical_scans_are_not_looked_for_where_that_is_off(source, tmp_path):
    build(source, tmp_path / "out", BuildConfig(near_duplicates=False), workers=2)
    found = DuplicatesFile.from_json((tmp_path / "out" / DUPLICATES_NAME).read_bytes())
    assert found.distances is None
    assert not any(join.reason == "near-identical" for join in found.joins)
    assert verify(tmp_path / "out", workers=1).faults == ()


def test_verify_finds_a_copy_of_a_test_scan_in_train_by_its_pixels_alone(source, shards, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "shards")
    manifest = Manifest.load(folder)
    name = manifest.splits["test"][0].name
    victim = tfrecord.decode(next(tfrecord.read(folder / name)))
    original = source / victim["path"][0].decode()
    gray = preprocessing.decode(original.read_bytes())
    moved = preprocessing.decode(near_duplicate(gray, np.random.default_rng(3)))
    victim["image"] = [preprocessing.preprocess(moved, manifest.recipe).pixels.tobytes()]
    victim["patient"], victim["sha256"], victim["path"] = [b"424242"], [bytes(32)], [b"train/CNV/CNV-424242-1.jpeg"]
    train = folder / manifest.splits["train"][0].name
    flat = {key: values[0] if isinstance(values[0], bytes) else values for key, values in victim.items()}
    train.write_bytes(train.read_bytes() + tfrecord.frame(tfrecord.encode(flat)))
    told = [fault for fault in verify(folder, workers=1).faults if fault.law == 1]
    assert len(told) == 1
    assert "CNV-424242-1" in told[0].where + told[0].what
    assert original.name in told[0].where + told[0].what
    assert "near-identical" in told[0].what


def test_verify_names_an_edited_or_missing_joins_file(shards, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "shards")
    raw = json.loads((folder / DUPLICATES_NAME).read_text())
    raw["joins"] = []
    (folder / DUPLICATES_NAME).write_text(json.dumps(raw))
    assert any(fault.where == DUPLICATES_NAME and "changed" in fault.what for fault in verify(folder, workers=1).faults)
    (folder / DUPLICATES_NAME).unlink()
    assert any(fault.where == DUPLICATES_NAME and "missing" in fault.what for fault in verify(folder).faults)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is not here")
def test_no_two_people_of_the_real_sample_are_taken_for_one(tmp_path):
    build(SAMPLE, tmp_path / "out", BuildConfig(), workers=2)
    assert DuplicatesFile.from_json((tmp_path / "out" / DUPLICATES_NAME).read_bytes()).joins == ()


def test_workers_and_order_do_not_change_what_is_joined(source, shards, tmp_path):
    build(source, tmp_path / "out", BuildConfig(), workers=1)
    assert files_of(tmp_path / "out") == files_of(shards)


def test_a_scan_that_is_nothing_but_fill_is_left_out(source, tmp_path):
    src = shutil.copytree(source, tmp_path / "src")
    white = cv2.imencode(".jpeg", np.full((496, 512), 255, np.uint8))[1].tobytes()
    (src / "train" / "CNV" / "CNV-31337-1.jpeg").write_bytes(white)
    build(src, tmp_path / "out", BuildConfig(), workers=2)
    table = (tmp_path / "out" / "images.csv").read_text()
    assert "nothing but fill: 100% of it is white or black" in table
