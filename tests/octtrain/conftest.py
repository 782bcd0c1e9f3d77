"""Datasets, a trained run and compiled networks, made once and shared by the tests of octtrain."""

import shutil

import pytest

from tests.worlds.runs import CONFIG, LONG_CONFIG, initialised, save_epochs
from tests.worlds.shards import untrained_run, write_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "shards"
    write_shards(folder, {"train": 24, "val": 6, "test": 6})
    return folder


@pytest.fixture(scope="session")
def trained(shards, tmp_path_factory):
    """A whole run, its lines, and a copy of its folder as it was after the second of three epochs."""
    from octtrain.training.fit import fit

    folder = tmp_path_factory.mktemp("trained")
    lines = []

    def log(line):
        lines.append(line)
        if line.startswith("epoch   2"):
            shutil.copytree(folder / "run", folder / "after-2")

    return fit(shards, folder / "run", CONFIG, log=log), tuple(lines), folder / "after-2"


@pytest.fixture(scope="session")
def networks(shards):
    """A model and the same one behind its augmentation, with an optimizer that has its variables."""
    from octtrain.training.trainer import Trainer

    trainer = Trainer(LONG_CONFIG.resolved(batch_size=16), (32, 32, 1), [1.0] * 4, 1)
    return trainer.model, trainer.trained


@pytest.fixture(scope="session")
def saved_once(tmp_path_factory, shards, networks):
    run_folder = initialised(tmp_path_factory.mktemp("saved") / "run", shards)
    save_epochs(run_folder, networks, [0.5, 0.9, 0.7])
    return run_folder


@pytest.fixture
def saved(tmp_path, saved_once):
    """A run of three epochs, the second of which is the best."""
    import dataclasses

    from octtrain.runs.folder import RunFolder

    shutil.copytree(saved_once.path, tmp_path / "run")
    return RunFolder(dataclasses.replace(saved_once.run, folder=tmp_path / "run"))


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """A folder with shards, other shards of the same task, and a run with an untrained model."""
    folder = tmp_path_factory.mktemp("untrained")
    manifest, _ = write_shards(folder / "shards", {"train": 1, "val": 1, "test": 6})
    write_shards(folder / "others", {"test": 2}, seed=1, first_patient=50_000, skip={"test": ["DRUSEN"]})
    untrained_run(folder / "run", manifest, folder / "shards")
    return folder


@pytest.fixture(scope="session")
def run(untrained):
    """The folder of a run with an untrained model, for tests in which its predictions do not matter."""
    return untrained / "run"
