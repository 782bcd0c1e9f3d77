"""Where runs are kept: numbered folders, the latest one, and the lock."""

import os
import threading
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from octprep.format.errors import OutputError, SourceError
from octprep.format.locks import locked
from octprep.format.manifest import Manifest
from octtrain.runs.locations import latest_run, lock_run, new_run
from octtrain.runs.run import Run
from octtrain.training.fit import fit
from tests.worlds.runs import LONG_CONFIG, initialised, quiet
from tests.worlds.shards import write_shards

pytestmark = pytest.mark.slow


def test_runs_are_numbered_by_dataset_and_model(tmp_path, shards, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new_run(shards, "octnet-s") == Path("runs/shards-octnet-s-1")
    assert new_run(Path(f"{shards}/"), "octnet-s") == Path("runs/shards-octnet-s-2")
    assert new_run(shards, "octnet-m") == Path("runs/shards-octnet-m-1")
    (tmp_path / "runs" / "shards-octnet-s-1").rmdir()
    assert new_run(shards, "octnet-s").name == "shards-octnet-s-3"  # no name is used twice
    monkeypatch.chdir(shards)
    assert new_run(Path(), "octnet-s", tmp_path / "runs").name == "shards-octnet-s-4"
    assert new_run(Path("../shards/train/.."), "octnet-s", tmp_path / "runs").name == "shards-octnet-s-5"
    assert new_run(shards, "my.module:build", tmp_path / "runs").name == "shards-my.module-build-1"
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no run can be made in the folder"):
        new_run(shards, "octnet-s", tmp_path / "file")


def test_runs_started_at_the_same_time_get_different_folders(tmp_path, shards):
    folders = []
    threads = [
        threading.Thread(target=lambda: folders.append(new_run(shards, "m", tmp_path / "runs"))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 16


def test_the_latest_run_is_the_one_started_last(tmp_path, shards):
    with pytest.raises(SourceError, match=r"there is no folder .*runs here with a run; make one"):
        latest_run(tmp_path / "runs")
    write_shards(tmp_path / "other", {"train": 1, "val": 1})
    for name, dataset in (("c", shards), ("b", shards), ("a", tmp_path / "other")):
        initialised(tmp_path / "runs" / name, dataset)
    os.utime(tmp_path / "runs" / "c" / "config.json")
    (tmp_path / "runs" / "c" / "evaluate-test.json").touch()
    (tmp_path / "runs" / "odd").mkdir()
    (tmp_path / "runs" / "odd" / "config.json").write_text("[" * 100_000)
    assert latest_run(tmp_path / "runs").name == "a"
    assert latest_run(tmp_path / "runs", Manifest.load(shards).digest).name == "b"
    with pytest.raises(SourceError, match="holds no run on these shards"):
        latest_run(tmp_path / "runs", "f" * 64)


def test_resuming_where_there_is_no_run_is_an_error(tmp_path, shards):
    for folder in (tmp_path / "mistyped", tmp_path):
        for config in (None, LONG_CONFIG):
            with pytest.raises(SourceError, match="nothing to resume; check the name given as --run"):
                fit(shards, folder, config, resume=True, log=quiet)
    assert not list(tmp_path.iterdir())


def test_two_trainings_do_not_write_to_one_folder(saved, shards):
    with lock_run(saved.path):
        for resume in (False, True):
            with pytest.raises(OutputError, match="another octtrain fit is writing to"):
                fit(shards, saved.path, LONG_CONFIG, resume=resume, log=quiet)
    with (
        lock_run(saved.path),
        pytest.raises(OutputError, match="another octtrain fit"),
        locked(saved.path, "octtrain fit"),
    ):
        pass


def test_a_run_may_be_the_working_folder_an_empty_one_or_a_link_to_one(tmp_path, shards, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    initialised(Path(), shards)
    assert Run.load(Path()).shards == shards.resolve()
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    run = initialised(tmp_path / "link", shards)
    assert Run.load(run.path).shards == Run.load(tmp_path / "far" / "away").shards == shards.resolve()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    for name in ("loop", "file", "file/run"):
        with pytest.raises(OutputError, match="cannot be used as a folder to write to") as caught:
            fit(shards, tmp_path / name, LONG_CONFIG, log=quiet)
        assert len(str(caught.value).splitlines()) == 1
