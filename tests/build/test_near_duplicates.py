"""Builds with near-duplicates: found, kept in one split, recorded, and found again by verify from the shards alone."""

import json
import shutil

import cv2
import numpy as np
import pytest

from octprep import preprocessing
from octprep.duplicates.duplicates_json import DuplicatesFile
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import LeakError
from octprep.format.manifest import DUPLICATES_NAME, Manifest
from octprep.pipeline import build
from octprep.shards import tfrecord
from octprep.synthetic import draw
from octprep.synthetic.faults import near_duplicate
from octprep.verification import verify
from tests.worlds.archive import SAMPLE, archive, files_of, path_of, write_folder
from tests.worlds.tables import read_cells

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("strategy", ["by-patient", "keep-test"])
@pytest.mark.parametrize("seed", range(4))
def test_a_duplicate_under_another_id_groups_two_patients_also_where_it_is_excluded(strategy, seed, tmp_path):
    src = write_folder(tmp_path / "src", archive())
    for duplicate, original in (("CNV-0-90", "CNV-1-1"), ("CNV-2-90", "CNV-3-1")):
        shutil.copyfile(src / path_of(f"train/{original}"), src / path_of(f"train/{duplicate}"))
    config = BuildConfig(recipe=Preprocessing(height=32, width=32), split=strategy, seed=seed)
    build(src, tmp_path / "out", config, workers=0)
    assert verify(tmp_path / "out", workers=0).violations == ()
    rows = read_cells(tmp_path / "out")
    splits = {
        patient: {row["split"] for row in rows if row["patient"] == patient and row["split"]} for patient in "0123"
    }
    assert splits["0"] == splits["1"]
    assert splits["2"] == splits["3"]
    assert {row["patient_group"] for row in rows if row["patient"] in "01"} == {"0"}


def test_planted_near_duplicates_are_found_kept_in_one_split_and_recorded(synthetic_source, synthetic_shards):
    planted = {path.relative_to(synthetic_source).as_posix() for path in synthetic_source.rglob("*-999998?-*.jpeg")}
    file = DuplicatesFile.from_json((synthetic_shards / DUPLICATES_NAME).read_bytes())
    assert len(planted) == 4
    assert {pair.second for pair in file.pairs if pair.reason == "near-identical"} >= planted
    assert sum(file.distances.between) > 0
    assert verify(synthetic_shards, workers=0).violations == ()


def test_workers_do_not_change_a_byte(synthetic_source, synthetic_shards, tmp_path):
    build(synthetic_source, tmp_path / "out", BuildConfig(), workers=0)
    assert files_of(tmp_path / "out") == files_of(synthetic_shards)


def test_folders_with_near_duplicates_in_two_splits_leak_although_no_id_and_no_file_does(tmp_path):
    src = tmp_path / "src"
    draw(src, patients=24, seed=6, faults=False, workers=2)
    original = sorted((src / "test" / "CNV").iterdir())[0]
    duplicate = src / "train" / "CNV" / "CNV-9999980-1.jpeg"
    duplicate.write_bytes(near_duplicate(preprocessing.decode(original.read_bytes()), np.random.default_rng(0)))
    pair = (f"test/CNV/{original.name}", f"train/CNV/{duplicate.name}")
    with pytest.raises(LeakError, match=rf"1 near-identical pair \({' = '.join(pair)}\)"):
        build(src, tmp_path / "out", BuildConfig(split="as-given"), workers=2)
    config = BuildConfig(split="as-given", allow_leaks=True)
    assert build(src, tmp_path / "out", config, workers=2).manifest.leaks.near == (pair,)
    assert any("near-identical" in violation.message for violation in verify(tmp_path / "out", workers=0).violations)


def test_near_duplicates_are_not_searched_for_where_that_is_off(synthetic_source, tmp_path):
    build(synthetic_source, tmp_path / "out", BuildConfig(near_duplicates=False), workers=2)
    file = DuplicatesFile.from_json((tmp_path / "out" / DUPLICATES_NAME).read_bytes())
    assert file.distances is None
    assert not any(pair.reason == "near-identical" for pair in file.pairs)
    assert verify(tmp_path / "out", workers=0).violations == ()


def test_verify_finds_a_duplicate_of_a_test_scan_in_train_by_its_pixels_alone(
    synthetic_source, synthetic_shards, tmp_path
):
    folder = shutil.copytree(synthetic_shards, tmp_path / "shards")
    manifest = Manifest.load(folder)
    record = tfrecord.decode(next(tfrecord.read(folder / manifest.splits["test"][0].name)))
    original = synthetic_source / record["path"][0].decode()
    moved = preprocessing.decode(near_duplicate(preprocessing.decode(original.read_bytes()), np.random.default_rng(3)))
    record["image"] = [preprocessing.preprocess(moved, manifest.recipe).pixels.tobytes()]
    record["patient"], record["sha256"], record["path"] = [b"424242"], [bytes(32)], [b"train/CNV/CNV-424242-1.jpeg"]
    flat = {key: values[0] if isinstance(values[0], bytes) else values for key, values in record.items()}
    train = folder / manifest.splits["train"][0].name
    train.write_bytes(train.read_bytes() + tfrecord.frame(tfrecord.encode(flat)))
    [violation] = [violation for violation in verify(folder, workers=0).violations if violation.check == 1]
    text = violation.where + violation.message
    assert "CNV-424242-1" in text and original.name in text and "near-identical" in text


def test_verify_names_an_edited_or_missing_duplicates_file(synthetic_shards, tmp_path):
    folder = shutil.copytree(synthetic_shards, tmp_path / "shards")

    def messages():
        violations = verify(folder, workers=0).violations
        return [violation.message for violation in violations if violation.where == DUPLICATES_NAME]

    raw = json.loads((folder / DUPLICATES_NAME).read_text())
    raw["pairs"] = []
    (folder / DUPLICATES_NAME).write_text(json.dumps(raw))
    assert any("changed" in message for message in messages())
    (folder / DUPLICATES_NAME).unlink()
    assert any("missing" in message for message in messages())


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is missing")
def test_no_two_patients_of_the_real_sample_are_grouped(tmp_path):
    build(SAMPLE, tmp_path / "out", BuildConfig(), workers=2)
    assert DuplicatesFile.from_json((tmp_path / "out" / DUPLICATES_NAME).read_bytes()).pairs == ()


def test_a_scan_that_is_nothing_but_fill_is_excluded(source, src, tmp_path):
    white = cv2.imencode(".jpeg", np.full((496, 512), 255, np.uint8))[1].tobytes()
    (src / "train" / "CNV" / "CNV-31337-1.jpeg").write_bytes(white)
    build(src, tmp_path / "out", BuildConfig(recipe=Preprocessing(height=32, width=48)), workers=0)
    assert "nothing but fill: 100% of it is white or black" in (tmp_path / "out" / "images.csv").read_text()
