"""The rate that is printed after each epoch."""

import time

import pytest

pytest.importorskip("tensorflow")

from octtrain.training.callbacks import EpochRecorder
from tests.worlds.runs import epoch_row, initialised, quiet

pytestmark = pytest.mark.slow


def test_images_per_second_excludes_compilation_and_validation(tmp_path, shards, networks):
    folder = initialised(tmp_path / "run", shards)
    recorder = EpochRecorder(folder, networks[0], [], steps=2, batch_size=16, log=quiet)
    recorder.set_model(networks[1])
    recorder.on_epoch_begin(0)
    time.sleep(0.8)  # compiling
    recorder.on_train_batch_end(0)
    time.sleep(0.05)
    recorder.on_train_batch_end(1)
    recorder.on_test_begin()
    time.sleep(0.8)  # validating
    recorder.on_epoch_end(0, {key: value for key, value in epoch_row(1).items() if "loss" in key or "accuracy" in key})
    assert recorder.history[0]["images_per_second"] > 16 / 0.3
