"""Several devices share every batch: in one process on either backend, and in two processes on JAX."""

import csv
import importlib.util
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("keras")

from octprep.format.errors import SettingError
from octtrain import devices
from tests.worlds.runs import ROOT
from tests.worlds.shards import write_shards

pytestmark = pytest.mark.slow

FIT = """
import sys
from pathlib import Path
{setup}
import octtrain
octtrain.fit(sys.argv[1], sys.argv[2], model="tests.worlds.networks:tiny", epochs=2, batch_size=8, lr=3e-3,
             devices={devices}, feed={feed!r}, log=print)
"""
TWO_CPUS = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
JOIN = 'import jax; jax.distributed.initialize("{address}", num_processes=2, process_id={number})'

needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
needs_tensorflow = pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="there is no TensorFlow")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices") / "shards"
    write_shards(folder, {"train": 12, "val": 4}, height=16, width=16)
    return folder


def start(shards, run, backend, *, setup="", count=1, feed="mapped", flags=""):
    code = FIT.format(setup=setup, devices=count, feed=feed)
    env = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {flags}"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(shards), str(run)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip


def history(process, run):
    """The metrics of every epoch: (epochs, metrics)."""
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    with (run / "history.csv").open(newline="") as file:
        return np.array(
            [[float(v) for k, v in row.items() if k != "images_per_second"] for row in csv.DictReader(file)]
        )


@needs_jax
def test_two_devices_on_jax_train_as_one(shards, tmp_path):
    flags = "--xla_force_host_platform_device_count=2"
    one = history(start(shards, tmp_path / "one", "jax"), tmp_path / "one")
    for feed in ("mapped", "resident"):
        run = tmp_path / feed
        two = history(start(shards, run, "jax", count=2, feed=feed, flags=flags), run)
        np.testing.assert_allclose(two, one, rtol=1e-3)


@needs_jax
def test_two_processes_on_jax_train_as_one_and_end_with_the_same_weights(shards, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    runs = [tmp_path / "first", tmp_path / "second"]
    processes = [
        start(shards, run, "jax", count=2, setup=JOIN.format(address=address, number=number))
        for number, run in enumerate(runs)
    ]
    first, second = (history(process, run) for process, run in zip(processes, runs, strict=True))
    assert np.array_equal(first, second)
    one = history(start(shards, tmp_path / "one", "jax"), tmp_path / "one")
    np.testing.assert_allclose(first, one, rtol=1e-3)


@needs_tensorflow
def test_two_devices_on_tensorflow_learn_the_same(shards, tmp_path):
    """Not the same numbers: each has its own batch statistics, augmentation and dropout."""
    run = tmp_path / "two"
    two = history(start(shards, run, "tensorflow", count=2, setup=TWO_CPUS), run)
    one = history(start(shards, tmp_path / "one", "tensorflow"), tmp_path / "one")
    assert two[-1, 1] < two[0, 1]
    np.testing.assert_allclose(two[:, 1], one[:, 1], rtol=0.5)


def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(SettingError, match=r"--devices 99, but \w+ has \d+ here"):
        devices.shared_by(99)
