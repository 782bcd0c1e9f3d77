"""A finished folder is checked by the next build: damage is repaired, a changed source is built again."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import time

import pytest

from octprep import preprocessing
from octprep.format import images_csv, locks
from octprep.format.errors import Notice, OutputError
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, MANIFEST_NAME, Manifest
from octprep.pipeline import build
from octprep.shards import repair, workdir
from octprep.verification import verify
from tests.worlds.archive import files_of, write_scan
from tests.worlds.builds import CONFIG, damage


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "a byte", "a link"])
def test_damaged_shards_alone_are_built_again(source, shards, out, how, monkeypatch):
    manifest = Manifest.load(out)
    damaged = [manifest.splits["train"][1], manifest.splits["test"][0]]
    inodes = {path: path.stat().st_ino for path in out.rglob("*.tfrecord")}
    for shard in damaged:
        damage(out / shard.name, how)
    prepared = []
    preprocess = preprocessing.preprocess
    monkeypatch.setattr(preprocessing, "preprocess", lambda *given: (prepared.append(1), preprocess(*given))[1])
    with pytest.warns(
        Notice, match=rf"{out} was damaged: {damaged[0].name} .* and {damaged[1].name} .* is built again"
    ):
        result = build(source, out, CONFIG, workers=0)
    assert result.built and result.manifest == manifest
    rows = images_csv.read_checked(out, manifest).rows
    assert len(prepared) == sum(bool({shard.name for shard in damaged} & set(row.shards)) for row in rows)
    for shard in damaged:
        (out / shard.name).with_name("elsewhere").unlink(missing_ok=True)
    assert files_of(out) == files_of(shards)
    kept = {path for path, inode in inodes.items() if path.stat().st_ino == inode}
    assert len(kept) >= len(inodes) - 2
    assert not build(source, out, CONFIG, workers=0).built


def test_another_file_of_the_same_size_and_time_in_the_place_of_a_shard_is_detected(source, shards, out):
    path = out / Manifest.load(out).splits["train"][1].name
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    os.utime(other, (1, 1))
    os.utime(out / MANIFEST_NAME)
    time.sleep(0.02)
    other.rename(path)
    with pytest.warns(Notice, match="was damaged"):
        assert build(source, out, CONFIG, workers=0).built
    assert files_of(out) == files_of(shards)


@pytest.mark.parametrize("balance", ["undersample", "none"])
def test_a_shard_is_built_again_however_the_classes_are_balanced(source, tmp_path, balance):
    config = dataclasses.replace(CONFIG, balance=balance, encoding="png", shard_mb=0.01)
    out = tmp_path / "out"
    manifest = build(source, out, config, workers=0).manifest
    before = files_of(out)
    assert len(manifest.splits["train"]) > 1
    (out / manifest.splits["train"][0].name).unlink()
    with pytest.warns(Notice, match="was damaged"):
        assert build(source, out, config, workers=0).built
    assert files_of(out) == before


@pytest.mark.parametrize(
    ("name", "how"), [(IMAGES_NAME, "missing"), (IMAGES_NAME, "a byte"), (DUPLICATES_NAME, "empty")]
)
def test_a_folder_with_a_damaged_table_is_built_again_to_the_same_dataset(source, shards, out, name, how):
    damage(out / name, how)
    with pytest.warns(Notice, match=f"{out} was damaged: {name} "):
        assert build(source, out, CONFIG, workers=0).built
    assert files_of(out) == files_of(shards)


def test_an_edited_manifest_is_written_again_and_an_unreadable_one_with_overwrite(source, shards, out):
    text = (out / MANIFEST_NAME).read_text()
    (out / MANIFEST_NAME).write_text(text.replace('"found": ', '"found": 1'))
    with pytest.warns(Notice, match=r"was damaged: manifest.json was changed"):
        build(source, out, CONFIG, workers=0)
    assert files_of(out) == files_of(shards)
    for how in ("empty", "missing"):
        damage(out / MANIFEST_NAME, how)
        with pytest.raises(OutputError, match=r"se --overwrite"):
            build(source, out, CONFIG, workers=0)
    build(source, out, CONFIG, workers=0, overwrite=True)
    assert files_of(out) == files_of(shards)


def test_a_manifest_that_says_the_same_in_other_bytes_is_written_again_and_nothing_else(source, shards, out):
    with (out / MANIFEST_NAME).open("ab") as file:
        file.write(b"\n")
    assert verify(out, workers=0).violations != ()
    assert not build(source, out, CONFIG, workers=0).built
    assert files_of(out) == files_of(shards)


def test_a_finished_folder_may_be_a_copy(source, shards, tmp_path):
    out = shutil.copytree(shards, tmp_path / "out", copy_function=shutil.copyfile)  # with the times of now
    assert workdir.newest_source_ns(out) != workdir.newest_source_ns(shards)
    assert not build(source, out, CONFIG, workers=0).built
    assert workdir.newest_source_ns(out) == workdir.newest_source_ns(shards)


@pytest.fixture
def read_only(out):
    """A finished folder on a disk that cannot be written to."""
    if subprocess.run(["mount", "--bind", "-o", "ro", out, out], capture_output=True).returncode:
        pytest.skip("mounting a folder read-only needs root")
    yield out
    subprocess.run(["umount", out], check=True)


@pytest.mark.parametrize("has_flock", [True, False])
def test_a_finished_folder_may_be_read_only(source, shards, read_only, has_flock, monkeypatch):
    monkeypatch.setattr(locks, "HAS_FLOCK", has_flock)
    assert not build(source, read_only, CONFIG, workers=0).built
    assert files_of(read_only) == files_of(shards)


def test_a_copied_source_is_the_same_for_a_folder_that_is_read_only(src, shards, read_only):
    for path in src.rglob("*.jpeg"):
        os.utime(path, (1, 1))
    assert not build(src, read_only, CONFIG, workers=0).built
    assert files_of(read_only) == files_of(shards)


def test_files_with_only_a_new_time_change_nothing_and_are_read_once(src, shards, out, monkeypatch):
    for path in src.rglob("*.jpeg"):
        os.utime(path, (1, 1))
    assert not build(src, out, CONFIG, workers=0).built
    assert files_of(out) == files_of(shards)
    monkeypatch.setattr(repair, "hash_files", None)  # no file is read again
    assert not build(src, out, CONFIG, workers=0).built


@pytest.mark.parametrize("name", ["CNV-1-1.jpeg", "CNV-0-91.jpeg"], ids=["a scan", "a file that was no scan"])
def test_a_source_file_with_other_content_and_the_same_size_is_detected(src, out, tmp_path, name):
    path = src / "train" / "CNV" / name
    status = path.stat()
    data = write_scan(tmp_path / "other.jpeg", quality=5).read_bytes()
    assert len(data) < status.st_size
    path.write_bytes(data + b"\0" * (status.st_size - len(data)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a copy has them
    with pytest.warns(Notice) as notices:
        result = build(src, out, CONFIG, workers=0)
    changed, other_dataset = (str(notice.message) for notice in notices)
    key = path.relative_to(src).as_posix()
    assert changed.startswith(f"1 source file changed since {out} was built: {key}.")
    assert "holds another dataset than before" in other_dataset
    assert result.built
    sha256 = {row.path: row.sha256 for row in images_csv.read_checked(out, result.manifest).scans}
    assert sha256[key] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert verify(out, workers=0).violations == ()
    assert not build(src, out, CONFIG, workers=0).built


def test_shards_that_are_not_of_the_dataset_are_named_and_stay(source, out):
    copy = next(out.glob("test/*.tfrecord")).with_name("00001-of-00002.tfrecord")
    copy.write_bytes(b"of another build")
    with pytest.warns(Notice, match=r"holds 1 shard that its manifest does not have, such as test/00001-of-00002.tf"):
        assert not build(source, out, CONFIG, workers=0).built
    assert copy.exists()
