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

# Several trainings one after the other in one process, as importing a backend takes seconds.
FITS = """
import sys
from pathlib import Path
{setup}
import octtrain
for run, (devices, feed) in {runs}.items():
    octtrain.fit(sys.argv[1], run, model="tests.worlds.networks:tiny", epochs=2, batch_size=8, lr=3e-3,
                 devices=devices, feed=feed, log=print)
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


def start(shards, runs, backend, *, setup="", flags=""):
    """Start a process of trainings. runs: folder -> number of devices and feed."""
    code = FITS.format(setup=setup, runs={str(run): settings for run, settings in runs.items()})
    env = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {flags}"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(shards)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def histories(process, runs):
    """The metrics of every epoch of each run: (epochs, metrics)."""
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    for run in runs:
        with (run / "history.csv").open(newline="") as file:
            yield np.array(
                [[float(v) for k, v in row.items() if k != "images_per_second"] for row in csv.DictReader(file)]
            )


@pytest.fixture(scope="module")
def on_jax(shards, tmp_path_factory):
    """The histories of one device, and of two devices that take the images from either feed."""
    folder = tmp_path_factory.mktemp("on_jax")
    runs = {folder / "one": (1, "mapped"), folder / "mapped": (2, "mapped"), folder / "resident": (2, "resident")}
    process = start(shards, runs, "jax", flags="--xla_force_host_platform_device_count=2")
    return list(histories(process, runs))


@needs_jax
def test_two_devices_on_jax_train_as_one(on_jax):
    one, mapped, resident = on_jax
    np.testing.assert_allclose(mapped, one, rtol=1e-3)
    np.testing.assert_allclose(resident, one, rtol=1e-3)


@needs_jax
def test_two_processes_on_jax_train_as_one_and_end_with_the_same_weights(shards, on_jax, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    runs = [{tmp_path / name: (2, "mapped")} for name in ("first", "second")]
    processes = [
        start(shards, run, "jax", setup=JOIN.format(address=address, number=number)) for number, run in enumerate(runs)
    ]
    (first,), (second,) = [list(histories(process, run)) for process, run in zip(processes, runs, strict=True)]
    assert np.array_equal(first, second)
    np.testing.assert_allclose(first, on_jax[0], rtol=1e-3)


@needs_tensorflow
def test_two_devices_on_tensorflow_learn_the_same(shards, tmp_path):
    """Not the same numbers: each has its own batch statistics, augmentation and dropout."""
    runs = {tmp_path / "two": (2, "mapped"), tmp_path / "one": (1, "mapped")}
    two, one = histories(start(shards, runs, "tensorflow", setup=TWO_CPUS), runs)
    assert two[-1, 1] < two[0, 1]
    np.testing.assert_allclose(two[:, 1], one[:, 1], rtol=0.5)


def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(SettingError, match=r"--devices 99, but \w+ has \d+ here"):
        devices.shared_by(99)
