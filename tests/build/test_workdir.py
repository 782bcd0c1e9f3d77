"""The output folder: what it may hold before a build, its lock, and the order in which files are published."""

import os
from pathlib import Path

import pytest

from octprep.duplicates import search
from octprep.format.errors import OutputError, SourceError, StoppedError
from octprep.format.locks import locked
from octprep.format.manifest import MANIFEST_NAME
from octprep.pipeline import build
from tests.worlds.archive import files_of
from tests.worlds.builds import CONFIG, cache_of


def test_a_folder_that_octprep_did_not_write_is_not_changed(source, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds nothing that octprep built"):
            build(source, tmp_path, CONFIG, overwrite=overwrite)
    with pytest.raises(OutputError, match="is a file"):
        build(source, tmp_path / "thesis.tex", CONFIG)
    assert files_of(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(("target", "message"), [("out", "leads to itself"), ("absent", "is a link to nothing")])
def test_an_out_that_is_a_link_to_nowhere_is_an_error(source, tmp_path, target, message):
    (tmp_path / "out").symlink_to(target)
    with pytest.raises(OutputError, match=message):
        build(source, tmp_path / "out", CONFIG, workers=0)


def test_an_empty_volume_can_be_built_in(source, shards, tmp_path):
    out = tmp_path / "volume"
    (out / "lost+found").mkdir(parents=True)
    build(source, out, CONFIG, workers=0)
    assert files_of(out) == files_of(shards)


def test_a_folder_that_another_build_has_locked_is_an_error(source, shards):
    with locked(shards, "octprep build"), pytest.raises(OutputError, match="another octprep build is writing"):
        build(source, shards, CONFIG, workers=0)


def test_every_file_is_on_the_disk_before_the_manifest_and_the_folder_after_it(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    events = []  # files and folders by inode, as they are synchronised, renamed or get another list of names
    fsync, replace = os.fsync, Path.replace

    def logged_fsync(descriptor):
        events.append(("sync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def logged_replace(path, target):
        inode = path.stat().st_ino
        replace(path, target)
        events.append(("named", inode))
        events.append(("changed", Path(target).parent.stat().st_ino))
        return Path(target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "replace", logged_replace)
    manifest = build(source, out, CONFIG, workers=0).manifest
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


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, StoppedError, SourceError, OSError, KeyboardInterrupt])
def test_cached_scans_are_kept_whatever_ends_a_build(source, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(search, "near_duplicate_pairs", fail)
    with pytest.raises(StoppedError if error is MemoryError else (error, OutputError)):
        build(source, tmp_path / "out", CONFIG, workers=0)
    assert [path.name for path in cache_of(tmp_path / "out").glob("*.bin")] == ["000000.bin"]


def test_threads_that_cannot_be_started_are_reported_as_a_lack_of_memory(source, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(search, "near_duplicate_pairs", fail)
    with pytest.raises(StoppedError, match="memory ran out"):
        build(source, tmp_path / "out", CONFIG, workers=0)
