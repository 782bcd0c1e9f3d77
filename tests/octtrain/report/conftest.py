"""Runs that were calibrated and evaluated, with their reports."""

import shutil

import pytest

from tests.worlds.runs import quiet
from tests.worlds.shards import untrained_run


@pytest.fixture(scope="session")
def reported(trained, shards, tmp_path_factory):
    """A calibrated run with its results, its report and its card. Only to be read."""
    from octtrain.calibration.config import CalibrationConfig
    from octtrain.evaluation.calibrate import calibrate
    from octtrain.evaluation.evaluate import evaluate
    from octtrain.report.write import write_pages

    run, *_ = trained
    folder = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("checkpoints", "logs"))
    calibrate(folder, shards=shards, config=CalibrationConfig(sensitivity=0.2, error=0.6), log=quiet)
    evaluate(
        folder, shards=shards, prevalence={"CNV": 0.1, "DME": 0.1, "DRUSEN": 0.2}, write_pages=write_pages, log=quiet
    )
    return folder


@pytest.fixture(scope="session")
def uncertain(untrained, tmp_path_factory):
    """An untrained run without a calibration, which is wrong on many images, and its report. Only to be read."""
    import keras

    from octprep.format.manifest import Manifest
    from octtrain.evaluation.evaluate import evaluate
    from octtrain.report.write import write_pages

    folder = tmp_path_factory.mktemp("uncertain")
    for name in ("shards", "others"):
        shutil.copytree(untrained / name, folder / name)
    keras.utils.set_random_seed(0)
    untrained_run(folder / "run", Manifest.load(folder / "shards"), folder / "shards")
    evaluate(folder / "run", write_pages=write_pages, log=quiet)
    return folder / "run"
