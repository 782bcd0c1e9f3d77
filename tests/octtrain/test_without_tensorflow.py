"""An environment with JAX and without TensorFlow: all commands work, and a model gives TensorFlow's probabilities."""

import csv
import importlib.util
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from tests.worlds.environments import Environment
from tests.worlds.runs import metrics_of, quiet, scan_file
from tests.worlds.shards import CLASSES, untrained_run, write_shards

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed"),
]

FIT = "--model tests.worlds.networks:tiny --epochs 2 --batch-size 16 --lr 3e-3"
END = "-- end with "

# Runs command lines one after the other in one process, as importing JAX and Keras takes a while.
PROGRAM = f"""
import shlex, sys
from octtrain.cli import main
for line in sys.argv[1:]:
    code = 0
    try:
        main(shlex.split(line))
    except SystemExit as error:
        code = error.code or 0
    for stream in (sys.stdout, sys.stderr):
        print({END!r} + str(code), file=stream, flush=True)
"""


@pytest.fixture(scope="module")
def jax_only(tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("jax_only"), "tensorflow", "tf_keras")
    assert "No module named 'tensorflow'" in environment.python("-c", "import tensorflow").stderr
    return environment


@pytest.fixture(scope="module")
def world(jax_only, tmp_path_factory):
    """A folder, and what each of some commands did in it: exit code, standard output and standard error."""
    folder = tmp_path_factory.mktemp("world")
    manifest, _ = write_shards(folder / "shards", {"train": 24, "val": 6, "test": 6})
    untrained_run(folder / "untrained", manifest, folder / "shards")
    write_shards(folder / "png", {"train": 8, "val": 2, "test": 2}, encoding="png")
    write_shards(folder / "other", {"test": 2}, first_patient=50_000)
    write_shards(folder / "other-png", {"test": 2}, encoding="png", first_patient=50_000)
    shutil.copytree(folder / "shards", folder / "bare")
    shutil.rmtree(folder / "bare" / "index")
    scan_file(folder / "scan.jpeg")
    commands = {
        "mapped": f"fit shards --run mapped {FIT} --feed mapped",
        "resident": f"fit shards --run resident {FIT} --feed resident",
        "evaluate": "evaluate mapped --json -",
        "predict": "predict mapped scan.jpeg",
        "explain": "explain untrained scan.jpeg --out explained --json explained.json",
        "leakage": f"leakage shards {FIT} --epochs 1 --repeats 2 --folds 3",
        "bench": "bench shards --seconds 0.05 --model tests.worlds.networks:tiny",
        "fit bare": f"fit bare --run none {FIT}",
        "fit png": f"fit png --run none {FIT}",
        "fit stream": f"fit shards --run none {FIT} --feed stream",
        "evaluate bare": "evaluate mapped --shards bare",
        "evaluate png": "evaluate mapped --dataset other-png",
        "leakage bare": f"leakage bare {FIT}",
    }
    done = jax_only.python("-c", PROGRAM, *commands.values(), cwd=folder)
    parts = [re.split(rf"{END}(\d+)\n", text) for text in (done.stdout, done.stderr)]  # text, code, text, code, ...
    assert [len(part) for part in parts] == [2 * len(commands) + 1] * 2, done.stderr
    (outs, codes), (errors, _) = ((part[:-1:2], part[1::2]) for part in parts)
    results = {
        name: SimpleNamespace(code=int(code), out=out, err=err)
        for name, code, out, err in zip(commands, codes, outs, errors, strict=True)
    }
    return folder, results


def test_a_model_is_trained_from_either_feed_and_jax_is_chosen_by_itself(world):
    folder, results = world
    for feed in ("mapped", "resident"):
        assert (results[feed].code, results[feed].err) == (0, "")
        assert ", as TensorFlow is not installed, on " in results[feed].out
        assert f"feed: {feed}, as --feed says" in results[feed].out
        assert json.loads((folder / feed / "config.json").read_text())["backend"] == "jax"
        assert (folder / feed / "logs" / "train").is_dir()  # the curves too are written without TensorFlow
    for mapped, resident in zip(metrics_of(folder / "mapped"), metrics_of(folder / "resident"), strict=True):
        assert {key: float(value) for key, value in mapped.items()} == pytest.approx(
            {key: float(value) for key, value in resident.items()}, abs=1e-5
        )


def test_a_model_is_evaluated_and_used(world):
    folder, results = world
    assert results["evaluate"].code == 0
    assert json.loads(results["evaluate"].out)["images"] == 24
    rows = list(csv.DictReader((folder / "mapped" / "predictions-test.csv").read_text().splitlines()))
    assert len({row["path"] for row in rows}) == 24
    assert all(abs(sum(float(row[name]) for name in CLASSES) - 1) < 1e-4 for row in rows)
    assert (results["predict"].code, results["predict"].err) == (0, "")
    assert results["predict"].out.startswith("scan.jpeg  ")


def probabilities(folder):
    rows = list(csv.DictReader((folder / "predictions-test.csv").read_text().splitlines()))
    return np.array([[float(row[name]) for name in CLASSES] for row in rows])


def test_a_model_trained_on_jax_gives_the_same_probabilities_on_tensorflow(world, tmp_path):
    pytest.importorskip("tensorflow")
    from octtrain.evaluation.evaluate import evaluate
    from octtrain.runtime import prepare_keras

    prepare_keras()
    import keras

    if keras.config.backend() != "tensorflow":
        pytest.skip("these tests run on another backend")
    folder, _ = world
    evaluate(folder / "mapped", out=tmp_path, log=quiet)
    on_jax, on_tensorflow = probabilities(folder / "mapped"), probabilities(tmp_path)
    assert on_jax.shape == (24, 4)
    assert np.allclose(on_jax, on_tensorflow, atol=1e-3)
    assert on_jax.std(axis=0).max() > 0.01


def test_a_scan_is_explained(world):
    folder, results = world
    assert (results["explain"].code, results["explain"].err) == (0, "")
    assert (folder / "explained" / "scan-evidence.png").read_bytes().startswith(b"\x89PNG")
    (image,) = json.loads((folder / "explained.json").read_text())["images"]
    assert np.any(image["evidence"])
    assert np.sum(image["evidence"]) + image["bias"] == pytest.approx(image["logits"][image["class"]], abs=1e-4)


def test_the_leakage_experiment_runs(world):
    _, results = world
    assert (results["leakage"].code, results["leakage"].err) == (0, "")
    assert "repeat 2/2" in results["leakage"].out


def test_mapped_and_resident_are_measured(world):
    _, results = world
    assert (results["bench"].code, results["bench"].err) == (0, "")
    assert results["bench"].out.splitlines()[-4].startswith("With ")
    reason = "--feed stream is TensorFlow's way of reading, and TensorFlow is not installed"
    assert f"not measured: stream, {reason}" in results["bench"].out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("fit bare", "bare/index/train.csv is missing, which says where each record is. Write it with `octprep index"),
        ("evaluate bare", "`octprep index bare`. Or install TensorFlow, which needs no index: `pip install "),
        ("leakage bare", "`octprep index bare`. Or install TensorFlow, which needs no index: `pip install "),
        ("fit png", 'not installed; run `pip install "octprep[train]"`, or build them with --encoding raw.'),
        ("evaluate png", "only TensorFlow reads the PNGs in the shards of other-png, and TensorFlow is not installed"),
        ("fit stream", 'not installed; run `pip install "octprep[train]"`, or use --feed mapped.'),
    ],
)
def test_what_needs_tensorflow_is_an_error_that_says_what_to_do(world, command, message):
    folder, results = world
    assert (results[command].code != 0, results[command].out) == (True, "")
    assert results[command].err.startswith("octtrain: ")
    assert results[command].err.count("\n") == 1
    assert message in results[command].err
    assert not (folder / "none").exists()


def test_without_any_backend_the_program_says_what_to_install(jax_only, tmp_path):
    none = Environment(tmp_path / "none", "tensorflow", "tf_keras", "jax")
    done = none.python("-m", "octtrain.cli", "predict", "run", "scan.jpeg")
    assert done.returncode == 1
    assert done.stderr == (
        'octtrain: neither TensorFlow nor JAX is installed; run `pip install "octprep[train]"` for TensorFlow, or '
        '`pip install "octprep[jax]"` for JAX.\n'
    )
    jax_only.variables["KERAS_BACKEND"] = "tensorflow"
    try:
        done = jax_only.python("-m", "octtrain.cli", "predict", "run", "scan.jpeg")
    finally:
        del jax_only.variables["KERAS_BACKEND"]
    assert done.returncode == 2
    assert done.stderr.startswith(
        "octtrain: KERAS_BACKEND chooses the backend tensorflow, which is not installed; run "
    )
