"""The whole preparation on a tiny archive: the nine laws, interruptions, refusals."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.worlds.archive import SAMPLE, archive, files_of, write_folder, write_scan

from octprep import console, preprocessing
from octprep.format import images_csv
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import LeakError, OutputError, SettingError, SourceError, StoppedError
from octprep.format.manifest import IMAGES_NAME, DUPLICATES_NAME, MANIFEST_NAME, REPORT_NAME, Manifest
from octprep.pipeline import build
from octprep.shards import tfrecord
from octprep.splits import balance as class_balance
from octprep.splits import split_file
from octprep.verification import verify

SMALL = Preprocessing(height=32, width=48)
CONFIG = BuildConfig(recipe=SMALL, shard_mb=0.02)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An archive with leaks, duplicates and junk."""
    src = write_folder(tmp_path_factory.mktemp("source"), [*archive(), "train/CNV-50-7", "train/DME-0-1"])
    cnv = src / "train" / "CNV"
    (cnv / "CNV-0-90.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes())
    (cnv / "CNV-0-91.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes()[:-400])
    (cnv / "=cmd.jpeg").write_bytes(b"x")
    (src / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    write_scan(src / "train" / "NORMAL" / "NORMAL-0-1, copy.jpeg")
    return src


@pytest.fixture(scope="module")
def shards(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "shards"
    build(source, out, CONFIG, workers=1)
    return out


def records(folder, split):
    for shard in Manifest.load(folder).splits[split]:
        for data in tfrecord.read(folder / shard.name):
            yield shard, tfrecord.decode(data)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        BuildConfig(recipe=SMALL, shard_mb=0.02, balance="undersample", seed=3),
        BuildConfig(recipe=SMALL, shard_mb=0.02, balance="none", encoding="png"),
        BuildConfig(recipe=SMALL, split="by-patient", fractions=(2, 1, 1)),
        BuildConfig(recipe=SMALL, split="kfold", folds=3, balance="none"),
        BuildConfig(recipe=SMALL, max_per_patient=3),
        BuildConfig(recipe=dataclasses.replace(SMALL, crop="none", denoise="bilateral", denoise_strength=None, resize="pad")),
    ],
    ids=["oversample", "undersample", "png", "by-patient", "kfold", "capped", "pad"],
)
def test_all_laws_hold_and_the_source_stays_as_it_was(source, tmp_path, config):
    before = files_of(source)
    manifest = build(source, tmp_path / "out", config, workers=2).manifest
    verdict = verify(tmp_path / "out", workers=1)
    assert verdict.violations == ()
    assert verdict.records == sum(manifest.records(split) for split in manifest.splits) > 0
    assert files_of(source) == before
    assert not manifest.leaks


def test_tensorflow_reads_every_record_and_would_have_written_the_same_bytes(shards):
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is the judge here")
    for path in shards.glob("*/*.tfrecord"):
        theirs = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
        assert theirs == list(tfrecord.read(path))
        again = path.with_suffix(".again")
        with tf.io.TFRecordWriter(str(again)) as writer:
            for data in theirs:
                message = tf.train.Example.FromString(data)
                assert set(message.features.feature) == set(tfrecord.decode(data))
                writer.write(message.SerializeToString(deterministic=True))
        assert again.read_bytes() == path.read_bytes()
        again.unlink()


@pytest.mark.parametrize("balance", ["oversample", "undersample"])
def test_images_csv_of_an_earlier_build_makes_the_same_splits_again(source, tmp_path, balance):
    config = dataclasses.replace(CONFIG, balance=balance, seed=5)
    first = build(source, tmp_path / "first", config, workers=1).manifest
    given = split_file.load(tmp_path / "first" / IMAGES_NAME)
    again = dataclasses.replace(config, split="file", split_file_sha256=given.sha256)
    second = build(source, tmp_path / "second", again, split_file=given, workers=1).manifest
    assert second.splits == first.splits
    assert second.config.split_file_sha256 == given.sha256
    assert verify(tmp_path / "second", workers=1).violations == ()
    assert not build(source, tmp_path / "second", again, split_file=given).built


def test_a_file_and_a_config_that_do_not_belong_together_are_refused(source, tmp_path):
    given = split_file.SplitFile("patient", {"0": "train", "50": "test"})
    other = dataclasses.replace(CONFIG, split="file", split_file_sha256="00" * 32)
    for config, file in ((other, given), (other, None), (CONFIG, given)):
        with pytest.raises(SettingError, match="splits_sha256 must be the sha256 of the assignment"):
            build(source, tmp_path / "out", config, split_file=file)
    assert not (tmp_path / "out").exists()


def test_the_closing_words_say_which_share_is_furthest_from_what_was_wanted(source, tmp_path):
    for config, words in (
        (dataclasses.replace(CONFIG, balance="none"), "what the test set leaves"),
        (dataclasses.replace(CONFIG, balance="undersample", split="by-patient"), "the scans"),
        (dataclasses.replace(CONFIG, balance="none", split="kfold", folds=3), "what the test set leaves"),
    ):
        out = tmp_path / words.split()[-1] / config.split
        manifest = build(source, out, config, workers=1).manifest
        rows = images_csv.read((out / "images.csv").read_bytes())
        [clause] = class_balance.told(rows, manifest.config)
        said = rf"of {words}, (\w+) has ([\d.]+)% of (\w+) where ([\d.]+)% were wanted \((.*?) percentage"
        split, share, label, wanted, deviation = re.match(said, clause).groups()
        assert f"\nshares: {clause}\n" in console.built(out, manifest)
        assert f"As dealt: {clause}." in (out / "report.html").read_text()
        rows = [row for row in rows if row["class"] == label]
        dealt = [row for row in rows if row["split"] or "undersample" in row["left_out"]]
        if "leaves" in words:
            dealt = [row for row in dealt if row["split"] != "test"]
        held = sum((row["split"] or "train") == split for row in dealt)
        assert float(share) == pytest.approx(100 * held / len(dealt), abs=0.006)
        assert float(deviation) == pytest.approx(float(share) - float(wanted), abs=0.011)


def test_workers_do_not_change_a_byte(source, shards, tmp_path):
    build(source, tmp_path / "three", CONFIG, workers=3)
    assert files_of(tmp_path / "three") == files_of(shards)


def test_order_of_files_times_and_place_do_not_change_a_byte(source, shards, tmp_path):
    copy = tmp_path / "elsewhere" / "archive"
    for path in sorted((path for path in source.rglob("*") if path.is_file()), reverse=True):
        target = copy / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    build(copy, tmp_path / "out", CONFIG, workers=1)
    assert files_of(tmp_path / "out") == files_of(shards)


def test_a_finished_folder_holds_shards_table_report_and_manifest_and_nothing_else(shards):
    written = {shard.name for part in Manifest.load(shards).splits.values() for shard in part}
    named = {IMAGES_NAME, DUPLICATES_NAME, REPORT_NAME, MANIFEST_NAME}
    assert set(files_of(shards)) == {*written, *named}


def test_train_shards_are_balanced_and_test_holds_every_kept_image_once(source, shards):
    manifest = Manifest.load(shards)
    assert len(manifest.splits["train"]) > 1
    assert all(len(set(shard.per_class)) == 1 for shard in manifest.splits["train"])
    test = Counter(example["path"][0].decode() for _, example in records(shards, "test"))
    assert test == {path.relative_to(source).as_posix(): 1 for path in source.glob("test/*/*.jpeg")}


def test_records_hold_the_pixels_that_preparation_gives_and_say_where_they_come_from(source, shards):
    seen = 0
    for _, example in records(shards, "test"):
        path = source / example["path"][0].decode()
        gray = preprocessing.decode(path.read_bytes())
        ready = preprocessing.preprocess(gray, SMALL)
        assert example["image"][0] == ready.pixels.tobytes()
        assert np.allclose(example["affine"], ready.geometry.affine)
        assert tuple(example["source_size"]) == gray.shape
        label, patient, number = path.stem.split("-")
        assert Manifest.load(shards).class_names[example["label"][0]] == label
        assert (example["patient"], example["number"]) == ([patient.encode()], [int(number)])
        seen += 1
    assert seen == 8


def test_a_second_run_finds_all_done_and_other_settings_or_sources_are_refused(source, shards, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(shards, out)
    assert not build(source, out, CONFIG).built
    other = dataclasses.replace(CONFIG, seed=9)
    with pytest.raises(OutputError, match=r"finished, but with other settings: seed 0 there, 9 now.*--overwrite"):
        build(source, out, other)
    fewer = tmp_path / "fewer"
    shutil.copytree(source, fewer)
    (fewer / "train" / "CNV" / "CNV-1-1.jpeg").unlink()
    with pytest.raises(OutputError, match="another list of source files"):
        build(fewer, out, CONFIG)
    assert files_of(out) == files_of(shards)
    (out / "my notes.txt").write_text("keep me")
    assert build(source, out, other, overwrite=True).built
    assert verify(out).violations == ()
    assert (out / "my notes.txt").exists()


def test_a_folder_that_is_not_ours_is_left_alone(source, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds nothing that octprep built"):
            build(source, tmp_path, CONFIG, overwrite=overwrite)
    with pytest.raises(OutputError, match="is a file"):
        build(source, tmp_path / "thesis.tex", CONFIG)
    assert files_of(tmp_path) == {"thesis.tex": b"years of work"}


def test_out_is_never_inside_the_source_nor_the_source_inside_out(source, tmp_path):
    before = files_of(source)
    for out in (source / "shards", source, source.parent):
        with pytest.raises(OutputError, match="one inside the other"):
            build(source, out, CONFIG)
    assert files_of(source) == before


def test_what_cannot_be_split_by_names_leaves_nothing_behind_and_by_content_what_was_prepared(tmp_path):
    src = write_folder(tmp_path / "src", [*archive(), "train/CNV-50-7"])
    with pytest.raises(LeakError, match="patient 50 stand"):
        build(src, tmp_path / "out", dataclasses.replace(CONFIG, split="as-given"))
    lonely = write_folder(tmp_path / "lonely", [f"CNV-{n}-1" for n in range(5)] + ["DME-9-1", "DME-9-2"])
    with pytest.raises(SourceError, match="class DME has 1 patient"):
        build(lonely, tmp_path / "out", CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lonely", "src"]
    for path in (src / "train" / "DME").iterdir():  # by their names they would do, by their content they do not
        path.write_bytes(b"")
    with pytest.raises(SourceError, match="DME"):
        build(src, tmp_path / "out", CONFIG)
    assert (tmp_path / "out" / ".octprep-work" / "cache" / "000000.bin").stat().st_size, "the work was thrown away"


def test_a_source_of_unreadable_scans_is_a_sentence(tmp_path):
    src = write_folder(tmp_path / "src", archive())
    for path in src.rglob("*.jpeg"):
        path.write_bytes(b"")
    with pytest.raises(SourceError, match="has no readable scan"):
        build(src, tmp_path / "out", dataclasses.replace(CONFIG, split="by-patient"))
    assert not (tmp_path / "out").exists()


def test_allowed_leaks_are_in_the_manifest_and_break_law_1_for_ever(tmp_path):
    src = write_folder(tmp_path / "src", [*archive(), "train/CNV-50-7"])
    manifest = build(src, tmp_path / "out", dataclasses.replace(CONFIG, split="as-given", allow_leaks=True)).manifest
    assert manifest.leaks.patients == ("50",)
    faults = verify(tmp_path / "out").faults
    assert {fault.law for fault in faults} == {1}
    assert "patient 50 is in test and in train" in faults[0].what


def start_build(source, out, *extra):
    command = [sys.executable, "-m", "octprep.cli", "build", "--src", source, "--out", out, *extra]
    size = ["--size", "32x48", "--shard-mb", "0.02"]
    return subprocess.Popen([*map(str, command), *size], stderr=subprocess.PIPE, start_new_session=True)


@pytest.fixture(scope="module")
def large_source(tmp_path_factory):
    images = {"CNV": 90, "DME": 60, "DRUSEN": 40, "NORMAL": 80}
    return write_folder(tmp_path_factory.mktemp("large"), archive(4, images))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a POSIX signal")
def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(large_source, tmp_path):
    build(large_source, tmp_path / "whole", CONFIG)
    killed, batches = tmp_path / "killed", tmp_path / "killed" / ".octprep-work" / "cache"
    process = start_build(large_source, killed, "--workers", "2", "--denoise", "median")
    while process.poll() is None and len(list(batches.glob("*.json"))) < 3:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    done = {path.name: path.stat().st_mtime_ns for path in batches.glob("*.json")}
    assert len(done) >= 3, "the build was over before it could be killed"
    assert not (killed / MANIFEST_NAME).exists()
    with pytest.raises(OutputError, match="unfinished build with other settings: seed 0 there, 1 now"):
        build(large_source, killed, dataclasses.replace(CONFIG, seed=1))
    batch = batches / min(done).replace(".json", ".bin")
    inode = batch.stat().st_ino
    handle = batch.open("rb")  # keeps the inode from being used anew
    seen = []
    build(
        large_source,
        killed,
        CONFIG,
        workers=1,
        progress=lambda what, _, __: seen.append(batch.exists() and batch.stat().st_ino == inode),
    )
    handle.close()
    assert seen[1] is True, "a finished batch was made again"
    assert files_of(killed) == files_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finding the workers needs Linux")
def test_a_killed_worker_is_a_sentence_and_the_next_run_goes_on(large_source, tmp_path):
    out = tmp_path / "out"
    process = start_build(large_source, out, "--workers", "2")
    batches = out / ".octprep-work" / "cache"
    while process.poll() is None and not list(batches.glob("*.json")):
        time.sleep(0.002)
    workers = []
    for task in Path(f"/proc/{process.pid}/task").glob("*/children"):
        children = [int(child) for child in task.read_text().split()]
        workers += [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1
    assert "a worker process was ended from outside" in errors.decode()
    assert "Traceback" not in errors.decode()
    assert build(large_source, out, CONFIG).built
    assert verify(out).violations == ()


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_the_next_run_goes_on(large_source, tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", mount], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(StoppedError, match=r"disk of --out .* is full"):
            build(large_source, mount / "out", CONFIG, workers=1)
        assert not (mount / "out" / MANIFEST_NAME).exists()
        assert not list(mount.rglob("*.part-*"))
        subprocess.run(["mount", "-o", "remount,size=50m", mount], check=True)
        build(large_source, mount / "out", CONFIG, workers=1)
        assert verify(mount / "out").violations == ()
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.slow
def test_two_builds_do_not_write_to_one_folder(large_source, tmp_path):
    process = start_build(large_source, tmp_path / "out", "--workers", "1")
    while process.poll() is None and not (tmp_path / "out" / ".octprep-work" / "config.json").exists():
        time.sleep(0.005)
    with pytest.raises(OutputError, match="another octprep build is writing"):
        build(large_source, tmp_path / "out", CONFIG)
    process.stderr.close()
    assert process.wait() == 0
    assert verify(tmp_path / "out").violations == ()


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is not here")
def test_the_sample_of_real_scans_is_built_with_the_defaults(tmp_path):
    manifest = build(SAMPLE, tmp_path / "out", BuildConfig()).manifest
    assert verify(tmp_path / "out").violations == ()
    assert manifest.config.split == "keep-test"
    assert manifest.records("test") == 8
    with pytest.raises(LeakError, match="patients 53018, 732516 and 6294785"):
        build(SAMPLE, tmp_path / "as-given", BuildConfig(split="as-given"))
    leaky = build(SAMPLE, tmp_path / "as-given", BuildConfig(split="as-given", allow_leaks=True)).manifest
    assert leaky.leaks.patients == ("53018", "732516", "6294785")


def test_the_source_may_be_read_only(source, shards, tmp_path):
    copy = Path(shutil.copytree(source, tmp_path / "source"))
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        build(copy, tmp_path / "out", CONFIG)
    finally:
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755)
    assert files_of(tmp_path / "out") == files_of(shards)
