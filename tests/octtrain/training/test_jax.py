"""octtrain on JAX: the same commands work, and a model trained there gives the same probabilities on TensorFlow."""

import csv
import importlib.util
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("tensorflow")
import numpy as np

from tests.worlds.runs import ROOT
from tests.worlds.shards import CLASSES, write_shards

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed"),
]

# The networks of octtrain differ from this one in layers only, and take a minute to compile.
TINY = ("--model", "tests.worlds.networks:tiny", "--batch-size", 16, "--lr", 3e-3)


def octtrain(*words, backend="jax"):
    """The output of a command in a process of its own, as the backend of a process cannot be changed."""
    command = [sys.executable, "-m", "octtrain.cli", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "KERAS_BACKEND": backend}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jax")
    write_shards(folder / "shards", {"train": 24, "val": 6, "test": 6})
    octtrain("fit", folder / "shards", "--run", folder / "run", "--epochs", 3, *TINY)
    assert json.loads((folder / "run" / "config.json").read_text())["backend"] == "jax"
    return folder


def probabilities(folder):
    rows = list(csv.DictReader((folder / "run" / "predictions-test.csv").read_text().splitlines()))
    return np.array([[float(row[name]) for name in CLASSES] for row in rows])


def test_a_model_trained_on_jax_gives_the_same_probabilities_on_tensorflow(folder):
    octtrain("evaluate", folder / "run")
    on_jax = probabilities(folder)
    octtrain("evaluate", folder / "run", backend="tensorflow")
    on_tensorflow = probabilities(folder)
    assert on_jax.shape == (24, 4)
    assert np.allclose(on_jax.sum(axis=1), 1, atol=1e-3)
    assert np.allclose(on_jax, on_tensorflow, atol=1e-3)
    assert on_jax.std(axis=0).max() > 0.01


def test_the_leakage_experiment_runs_on_jax(folder):
    output = octtrain("leakage", folder / "shards", "--epochs", 1, "--repeats", 2, "--folds", 3, *TINY)
    assert "repeat 2/2" in output
    assert "95 % interval" in output


def test_mapped_and_resident_are_measured_on_jax_without_tensorflow(folder):
    code = (
        "from importlib.machinery import PathFinder as finder; find = finder.find_spec\n"
        "finder.find_spec = lambda name, *rest: None if name == 'tensorflow' else find(name, *rest)\n"
        "from octtrain.cli import main; main()"
    )
    command = ["bench", folder / "shards", "--seconds", 0.05, "--model", "tests.worlds.networks:tiny"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4].startswith("With ")
    reason = "--feed stream is TensorFlow's way of reading, and TensorFlow is not installed"
    assert f"not measured: stream, {reason}" in done.stdout
