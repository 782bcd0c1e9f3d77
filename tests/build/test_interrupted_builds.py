"""The folder that a build leaves: whole on the disk, looked at again, and right after a kill at any moment."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.worlds.archive import archive, files_of, write_folder, write_scan

from octprep import console, pipeline, preprocessing
from octprep.duplicates import file
from octprep.format import files, images_csv
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import Notice, OutputError, SourceError, StoppedError
from octprep.format.manifest import IMAGES_NAME, DUPLICATES_NAME, MANIFEST_NAME, Manifest
from octprep.pipeline import build
from octprep.duplicates import file as duplicates_file
from octprep.shards import cache, workdir
from octprep.splits import balance as class_balance
from octprep.verification import verify

pytestmark = pytest.mark.slow

CONFIG = BuildConfig(recipe=Preprocessing(height=32, width=48), shard_mb=0.02)
OLDER = dataclasses.replace(CONFIG, seed=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    src = write_folder(tmp_path_factory.mktemp("source"), archive(3, {"CNV": 3, "DME": 2, "DRUSEN": 1, "NORMAL": 2}))
    cnv = src / "train" / "CNV"
    (cnv / "CNV-0-91.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes()[:-400])  # cut short
    return src


@pytest.fixture(scope="module")
def shards(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "shards"
    build(source, out, CONFIG, workers=1)
    return out


@pytest.fixture(scope="module")
def older(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("older") / "shards"
    build(source, out, OLDER, workers=1)
    return out


# Where a build kills itself: a function of octprep, and at which of its calls.
STAGES = {
    "lock": ("shards.workdir.finished", 1),
    "prepare": ("shards.cache._write_receipt", 3),
    "prepare a scan": ("preprocessing.preprocess", 20),
    "compare": ("duplicates.file.near_duplicate_pairs", 1),
    "write a record": ("shards.tfrecord.frame", 30),
    "write a shard": ("shards.writer._shard", 2),
    "table": ("format.images_csv.table", 1),
    "joins": ("duplicates.file.collect", 1),
    "report": ("report.render", 1),
    "publish": ("shards.workdir.place", 1),
    "publish shards": ("shards.workdir.sync", 2),
    "publish tables": ("shards.workdir.sync", 6),
    "publish manifest": ("format.manifest.Manifest.save", 1),
    "half a manifest": ("KILL AT MANIFEST", 1),
    "clean up": ("shards.workdir.tidy", 1),
    "half cleaned up": ("KILL AT RMTREE", 1),
}

KILLER = """
import dataclasses, functools, importlib, json, os, shutil, signal, sys
from pathlib import Path
from octprep import pipeline
from octprep.format import files
from octprep.format.config import BuildConfig, Preprocessing
from octprep.shards import cache

src, jobs, seed = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
config = BuildConfig(recipe=Preprocessing(height=32, width=48), shard_mb=0.02, seed=seed)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def arm(place, call):
    if place == "KILL AT MANIFEST":
        sync = files.sync
        files.sync = lambda path: die() if path.name.endswith("manifest.json") else sync(path)
        return
    if place == "KILL AT RMTREE":
        shutil.rmtree = lambda path, **_: ((path / "config.json").unlink(), die())
        return
    *owners, name = place.split(".")
    owner = importlib.import_module("octprep")
    for one in owners:
        if not hasattr(owner, one):
            importlib.import_module(f"{owner.__name__}.{one}")
        owner = getattr(owner, one)
    true, calls = getattr(owner, name), [0]
    def counted(*arguments, **settings):
        calls[0] += 1
        if calls[0] == call:
            die()
        return true(*arguments, **settings)
    setattr(owner, name, counted)

for out, place, call in jobs:
    child = os.fork()
    if not child:
        cache.BATCH = 8
        arm(place, call)
        pipeline.build(src, Path(out), config, workers=1, overwrite=True)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def killed(source, older, tmp_path_factory):
    """Folders in which a build was killed: by stage, and by whether there was another dataset before."""
    if not hasattr(os, "fork"):
        pytest.skip("the builds are forked")
    root = tmp_path_factory.mktemp("killed")
    folders = {(stage, was): root / f"{stage} {was}" for stage in STAGES for was in ("new", "older")}
    for (_, was), out in folders.items():
        if was == "older":
            shutil.copytree(older, out)
    jobs = json.dumps([[str(out), *STAGES[stage]] for (stage, _), out in folders.items()])
    done = subprocess.run([sys.executable, "-c", KILLER, source, jobs, "0"], capture_output=True, text=True)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * len(folders), done.stderr
    return folders


@pytest.mark.parametrize("was", ["new", "older"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_build_killed_in_any_stage_goes_on_to_the_same_bytes_and_leaves_no_stray_file(
    killed, source, shards, older, stage, was
):
    out = killed[stage, was]
    whole = {"new": shards, "older": older}[was]
    if (out / MANIFEST_NAME).exists():  # then it is a whole dataset, whichever
        digest = Manifest.load(out).digest
        assert digest in (Manifest.load(shards).digest, Manifest.load(whole).digest)
        assert workdir.damage(out, Manifest.load(out)) == []
    cleaning = stage in ("clean up", "half cleaned up")
    assert cleaning == ((out / MANIFEST_NAME).exists() and Manifest.load(out).config.seed == 0)
    built = build(source, out, CONFIG, workers=1, overwrite=was == "older" and not cleaning)
    assert built.built != cleaning
    assert files_of(out) == files_of(shards)


def test_what_a_killed_build_has_done_is_not_done_again(source, shards, killed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(older_work(killed, source, tmp_path), out, dirs_exist_ok=True)
    monkeypatch.setattr(cache, "BATCH", 8)
    read = []
    monkeypatch.setattr(preprocessing, "preprocess", lambda *_: read.append(1))
    build(source, out, CONFIG, workers=1)
    assert read == []
    assert files_of(out) == files_of(shards)


def older_work(killed, source, tmp_path):
    """A folder in which a build was killed while it published."""
    out = tmp_path / "killed"
    jobs = json.dumps([[str(out), "shards.workdir.sync", 4]])
    subprocess.run([sys.executable, "-c", KILLER, source, jobs, "0"], check=True)
    assert not (out / MANIFEST_NAME).exists()
    assert list(out.glob("train/*.tfrecord"))
    return out


def test_every_file_is_on_the_disk_before_the_manifest_and_the_folder_after_it(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    events = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor):
        status = os.fstat(descriptor)
        events.append(("sync", status.st_ino))
        fsync(descriptor)

    def replaced(path, target):
        inode = path.stat().st_ino
        replace(path, target)
        events.append(("named", inode))
        events.append(("changed", Path(target).parent.stat().st_ino))
        return Path(target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    manifest = build(source, out, CONFIG, workers=1).manifest
    published = events.index(("named", (out / MANIFEST_NAME).stat().st_ino))
    before, after = events[:published], events[published:]
    for name in files_of(out):
        inode = (out / name).stat().st_ino
        assert ("sync", inode) in before, f"{name} may be lost"
        assert ("named", inode) in events[: published + 1], f"{name} is published after the manifest"
        if name != MANIFEST_NAME:
            folder = (out / name).parent.stat().st_ino
            moved = len(before) - before[::-1].index(("changed", folder))
            assert ("sync", folder) in before[moved:], f"{name} may lose its name"
    assert after.index(("sync", out.stat().st_ino))
    assert len(manifest.splits) == 3


def spoil(path: Path, how: str) -> None:
    """Damage a file."""
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "a link":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "a byte", "a link"])
def test_damaged_shards_alone_are_built_again(source, shards, tmp_path, how, monkeypatch):
    out = Path(shutil.copytree(shards, tmp_path / "out"))
    damaged = [Manifest.load(out).splits["train"][1], Manifest.load(out).splits["test"][0]]
    for shard in damaged:
        spoil(out / shard.name, how)
    digest_ok = {path: path.stat().st_ino for path in out.rglob("*.tfrecord") if path.is_file()}
    read = []
    preprocess = preprocessing.preprocess
    monkeypatch.setattr(preprocessing, "preprocess", lambda *given: (read.append(1), preprocess(*given))[1])
    with pytest.warns(Notice, match=rf"{out} was damaged: {damaged[0].name} .*, {damaged[1].name} .* is built again"):
        built = build(source, out, CONFIG, workers=1)
    rows = images_csv.read((out / IMAGES_NAME).read_bytes())
    assert len(read) == sum(bool({one.name for one in damaged} & set(row["shard"].split())) for row in rows)
    assert built.built and built.manifest == Manifest.load(shards)
    (out / damaged[0].name).with_name("elsewhere").unlink(missing_ok=True)
    (out / damaged[1].name).with_name("elsewhere").unlink(missing_ok=True)
    assert files_of(out) == files_of(shards)
    kept = {path for path, inode in digest_ok.items() if path.stat().st_ino == inode}
    assert len(kept) >= len(digest_ok) - 2
    assert not build(source, out, CONFIG, workers=1).built


@pytest.mark.parametrize("balance", ["undersample", "none"])
def test_a_shard_is_built_again_however_the_classes_are_balanced(source, tmp_path, balance):
    config = dataclasses.replace(CONFIG, balance=balance, encoding="png", shard_mb=0.01)
    out = tmp_path / "out"
    manifest = build(source, out, config, workers=1).manifest
    whole = files_of(out)
    assert len(manifest.splits["train"]) > 1
    (out / manifest.splits["train"][0].name).unlink()
    with pytest.warns(Notice, match="was damaged"):
        assert build(source, out, config, workers=1).built
    assert files_of(out) == whole


@pytest.mark.parametrize("how", ["missing", "empty", "a byte"])
@pytest.mark.parametrize("name", [IMAGES_NAME, DUPLICATES_NAME])
def test_a_folder_with_a_damaged_table_is_built_again_to_the_same_dataset(source, shards, tmp_path, name, how):
    out = Path(shutil.copytree(shards, tmp_path / "out"))
    spoil(out / name, how)
    with pytest.warns(Notice, match=f"{out} was damaged: {name} "):
        assert build(source, out, CONFIG, workers=1).built
    assert files_of(out) == files_of(shards)


def test_an_edited_manifest_is_written_again_and_an_unreadable_one_only_if_asked_for(source, shards, tmp_path):
    out = Path(shutil.copytree(shards, tmp_path / "out"))
    text = (out / MANIFEST_NAME).read_text()
    (out / MANIFEST_NAME).write_text(text.replace('"found": ', '"found": 1'))
    with pytest.warns(Notice, match=r"was damaged: manifest.json was changed"):
        build(source, out, CONFIG, workers=1)
    assert files_of(out) == files_of(shards)
    for damage in ("empty", "missing"):
        spoil(out / MANIFEST_NAME, damage)
        with pytest.raises(OutputError, match=r"se --overwrite"):
            build(source, out, CONFIG, workers=1)
        build(source, out, CONFIG, workers=1, overwrite=True)
        assert files_of(out) == files_of(shards)


def test_a_finished_folder_may_be_read_only_and_a_copy(source, shards, tmp_path):
    out = Path(shutil.copytree(shards, tmp_path / "out", copy_function=shutil.copyfile))
    assert workdir.stamped(out) != workdir.stamped(shards)
    assert not build(source, out, CONFIG, workers=1).built
    assert workdir.stamped(out) == workdir.stamped(shards)
    mounted = subprocess.run(["mount", "--bind", "-o", "ro", out, out], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a folder read-only needs root")
    try:
        for has_flock in (True, False):
            files.HAS_FLOCK = has_flock
            assert not build(source, out, CONFIG, workers=1).built
    finally:
        files.HAS_FLOCK = True
        subprocess.run(["umount", out], check=True)


def test_files_that_were_only_touched_change_nothing_and_are_read_once(source, shards, tmp_path, monkeypatch):
    src = Path(shutil.copytree(source, tmp_path / "src"))
    out = Path(shutil.copytree(shards, tmp_path / "out"))
    for path in src.rglob("*.jpeg"):
        os.utime(path, (1, 1))
    assert not build(src, out, CONFIG, workers=1).built
    assert files_of(out) == files_of(shards)
    monkeypatch.setattr(pipeline, "_digests", None)  # nothing is read again
    assert not build(src, out, CONFIG, workers=1).built


@pytest.mark.parametrize("kind", ["replaced", "mended"])
def test_a_source_file_of_the_same_size_and_another_content_is_noticed(source, shards, tmp_path, kind):
    src = Path(shutil.copytree(source, tmp_path / "src"))
    out = Path(shutil.copytree(shards, tmp_path / "out"))
    path = src / "train" / "CNV" / ("CNV-0-91.jpeg" if kind == "mended" else "CNV-1-1.jpeg")
    size = path.stat().st_size
    data = write_scan(tmp_path / "other.jpeg", quality=5).read_bytes()
    assert len(data) < size
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(data + b"\0" * (size - len(data)))
    os.utime(path, ns=times)  # as copies have them
    with pytest.warns(Notice) as notices:
        built = build(src, out, CONFIG, workers=1)
    first, second = (str(notice.message) for notice in notices)
    assert first.startswith(f"1 source file changed since {out} was built: {path.relative_to(src).as_posix()}.")
    assert "holds another dataset than before" in second
    assert built.built
    rows = {row["path"]: row for row in images_csv.read((out / IMAGES_NAME).read_bytes())}
    assert rows[path.relative_to(src).as_posix()]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert verify(out, workers=1).violations == ()
    assert not build(src, out, CONFIG, workers=1).built


def test_a_source_that_was_copied_is_the_same_for_a_folder_that_is_read_only(source, shards, tmp_path):
    src = Path(shutil.copytree(source, tmp_path / "src"))
    out = Path(shutil.copytree(shards, tmp_path / "out"))
    for path in src.rglob("*.jpeg"):
        os.utime(path, (1, 1))
    if subprocess.run(["mount", "--bind", "-o", "ro", out, out], capture_output=True).returncode:
        pytest.skip("mounting a folder read-only needs root")
    try:
        assert not build(src, out, CONFIG, workers=1).built
    finally:
        subprocess.run(["umount", out], check=True)
    assert files_of(out) == files_of(shards)


def test_another_build_is_asked_for_before_anything_is_believed(source, shards):
    with files.locked(shards, "octprep build"), pytest.raises(OutputError, match="another octprep build is writing"):
        build(source, shards, CONFIG, workers=1)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, StoppedError, SourceError, OSError, KeyboardInterrupt])
def test_whatever_ends_a_build_late_what_is_prepared_is_kept(source, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(duplicates_file, "near_duplicate_pairs", fail)
    with pytest.raises(StoppedError if error is MemoryError else (error, OutputError)):
        build(source, tmp_path / "out", CONFIG, workers=1)
    assert [path.name for path in (tmp_path / "out" / ".octprep-work" / "cache").glob("*.bin")] == ["000000.bin"]


def test_threads_that_cannot_be_started_are_a_sentence(source, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(duplicates_file, "near_duplicate_pairs", fail)
    with pytest.raises(StoppedError, match="memory ran out"):
        build(source, tmp_path / "out", CONFIG, workers=1)


def test_the_closing_words_name_what_is_too_little_and_what_comes_next(shards):
    rows = images_csv.read((shards / IMAGES_NAME).read_bytes())
    closing = console.built(shards, Manifest.load(shards))
    assert class_balance.scarce(rows)
    assert all(line in closing for line in class_balance.scarce(rows))
    assert closing.endswith(f"\nnext: octprep verify {shards}, then octtrain fit {shards}")


def interrupted(source, out, monkeypatch):
    """An unfinished build in which everything is prepared; its first receipt."""
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(duplicates_file, "near_duplicate_pairs", stop)
        build(source, out, CONFIG, workers=1)
    return out / ".octprep-work" / "cache" / "000000.json"


def stop(*_, **__):
    raise StoppedError("here")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"patient": "50"', '"patient": "51"'),
        ('"label": "DME"', '"label": "CNV"'),
        ('"affine": [', '"affine": [0.5, '),
        ('"crc": ', '"crd": '),
        ('"key": "', '"key": "0'),
        ('"pixels_crc": ', '"pixels_crc": 1'),
        ('"rows_sha256": "', '"rows_sha256": "0'),
        ('"sha256": "', '"sha257": "'),
        ("{", "["),
    ],
)
def test_a_receipt_that_was_changed_is_made_again(source, shards, tmp_path, monkeypatch, old, new):
    receipt = interrupted(source, tmp_path / "out", monkeypatch)
    text = receipt.read_text()
    assert old in text
    receipt.write_text(text.replace(old, new, 1))
    build(source, tmp_path / "out", CONFIG, workers=1)
    assert files_of(tmp_path / "out") == files_of(shards)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "a byte"])
def test_prepared_pixels_that_were_damaged_are_made_again(source, shards, tmp_path, monkeypatch, how):
    receipt = interrupted(source, tmp_path / "out", monkeypatch)
    spoil(receipt.with_suffix(".bin"), how)
    build(source, tmp_path / "out", CONFIG, workers=1)
    assert files_of(tmp_path / "out") == files_of(shards)


def test_a_receipt_of_another_version_is_made_again(source, shards, tmp_path, monkeypatch):
    receipt = interrupted(source, tmp_path / "out", monkeypatch)
    results = cache.read_receipt(receipt.parent, "000000")
    head = json.loads(receipt.read_bytes().splitlines()[0])
    task = cache.BatchTask(source, receipt.parent, "000000", (), CONFIG.recipe, "raw")

    @dataclasses.dataclass(frozen=True)
    class Other(cache.CachedScan):
        eye: str = ""

    key, to_row = cache._key(task), cache._to_row
    with monkeypatch.context() as patch:
        patch.setattr(cache, "CachedScan", Other)
        other_key = cache._key(task)
        assert other_key != key, "a field more is another version"
        patch.setattr(cache, "_to_row", lambda result: to_row(result) | {"eye": ""})
        cache._write_receipt(receipt, other_key, results, head["pixels_bytes"], head["pixels_crc"])
    build(source, tmp_path / "out", CONFIG, workers=1)
    assert files_of(tmp_path / "out") == files_of(shards)


def test_an_unfinished_build_with_other_settings_lends_what_it_prepared(source, tmp_path, monkeypatch):
    interrupted(source, tmp_path / "out", monkeypatch)
    with pytest.raises(OutputError, match="unfinished build with other settings: seed 0 there, 1 now"):
        build(source, tmp_path / "out", OLDER, workers=1)
    monkeypatch.setattr(preprocessing, "preprocess", None)
    assert build(source, tmp_path / "out", OLDER, workers=1, overwrite=True).built


@pytest.mark.parametrize("balance", ["oversample", "undersample"])
def test_scans_are_compared_until_just_those_in_the_shards_were(source, tmp_path, monkeypatch, balance):
    compared = []
    find = file.near_duplicate_pairs
    monkeypatch.setattr(
        duplicates_file,
        "near_duplicate_pairs",
        lambda scans, *given, **more: (compared.append(scans), find(scans, *given, **more))[1],
    )
    build(source, tmp_path / "out", dataclasses.replace(CONFIG, balance=balance, max_per_patient=3), workers=1)
    rows = images_csv.read((tmp_path / "out" / IMAGES_NAME).read_bytes())
    assert {one.path for one in compared[-1]} == {row["path"] for row in rows if row["shard"]}
    assert len(compared[-1]) < len(compared[0])


def test_pairs_that_only_show_among_the_kept_scans_join_their_patients(source, tmp_path, monkeypatch):
    """Which pairs of a crowd are listed depends on who is there: the second look counts as the first does."""
    pair = ("train/CNV/CNV-1-1.jpeg", "test/CNV/CNV-50-1.jpeg")

    def find(scans, *_, **__):
        crowded = len(scans) == len(everyone)
        return [] if crowded else [patients_join(*sorted(pair))]

    def patients_join(first, second):
        return file.DuplicatePair(first, second, file.NEAR_IDENTICAL, 0.99)

    everyone = [path for path in source.rglob("*.jpeg") if path.name != "CNV-0-91.jpeg"]
    monkeypatch.setattr(duplicates_file, "near_duplicate_pairs", find)
    build(source, tmp_path / "out", dataclasses.replace(CONFIG, balance="undersample"), workers=1)
    rows = {row["path"]: row for row in images_csv.read((tmp_path / "out" / IMAGES_NAME).read_bytes())}
    assert rows[pair[0]]["group"] == rows[pair[1]]["group"]
    assert rows[pair[0]]["split"] in ("", "test")


@pytest.mark.parametrize("kind", ["loop", "nothing"])
def test_an_out_that_is_a_link_to_nowhere_is_a_sentence(source, tmp_path, kind):
    (tmp_path / "out").symlink_to("out" if kind == "loop" else "absent")
    words = {"loop": "leads to itself", "nothing": "is a link to nothing"}[kind]
    with pytest.raises(OutputError, match=words):
        build(source, tmp_path / "out", CONFIG, workers=1)


def test_an_empty_volume_is_built_in(source, shards, tmp_path):
    out = tmp_path / "volume"
    (out / "lost+found").mkdir(parents=True)
    build(source, out, CONFIG, workers=1)
    assert files_of(out) == files_of(shards)
