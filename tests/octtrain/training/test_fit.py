"""Training: what is learnt, class weights, resumed trainings, errors and warnings."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

pytest.importorskip("tensorflow")
import numpy as np

from octprep.format.errors import LeakError, ManifestError, OutputError, SettingError
from octprep.format.manifest import Leaks
from octtrain.evaluation.evaluate import evaluate
from octtrain.models import build_model
from octtrain.runs.folder import RunFolder
from octtrain.runs.run import Run
from octtrain.training import schedule
from octtrain.training.fit import fit
from tests.worlds.runs import CONFIG, ROOT, TINY, Stopped, metrics_of, quiet, signal_after, start, stop_at
from tests.worlds.shards import CLASSES, picture, write_folder, write_shards

pytestmark = pytest.mark.slow


def test_a_resumed_training_has_the_history_of_an_unbroken_one(trained, shards, tmp_path):
    whole, _, after_two = trained
    shutil.copytree(after_two, tmp_path / "run")
    assert len(metrics_of(tmp_path / "run")) == 2
    lines = []
    fit(shards, tmp_path / "run", CONFIG, resume=True, log=lines.append)
    assert "resuming after epoch 2" in lines
    unbroken, resumed = metrics_of(whole.folder), metrics_of(tmp_path / "run")
    assert [row["epoch"] for row in resumed] == ["1", "2", "3"]
    for a, b in zip(unbroken, resumed, strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx(
            {k: float(v) for k, v in b.items()}, rel=0.02, abs=1e-4
        )
    lines = []
    fit(shards, tmp_path / "run", CONFIG, resume=True, log=lines.append)
    assert lines[0].startswith("Nothing left to do")
    assert lines[1].startswith("next: ")
    assert len(lines) == 2


def test_tensorboard_shows_the_curves_and_images_as_the_network_sees_them(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0].folder / "logs" / "train")).Reload()
    assert [point.step for point in events.Scalars("epoch_loss")] == [1, 2, 3]
    (name,) = events.PluginTagToContent("images")
    (shown,) = events.Tensors(name)
    width, height, *files = shown.tensor_proto.string_val
    assert (width, height, len(files)) == (b"32", b"32", 8)


def test_a_killed_training_can_be_resumed_and_an_interrupted_one_says_how(shards, tmp_path):
    """Also where Keras is configured for other precision and image format, and there is no home folder."""
    keras_json = {"image_data_format": "channels_first", "floatx": "float16", "backend": "tensorflow", "epsilon": 0.1}
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "keras.json").write_text(json.dumps(keras_json))
    settings = {"KERAS_HOME": str(tmp_path / "keras"), "KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "1"}
    options = ("--model", TINY, "--epochs", 500, "--patience", 0, "--seed", 3)
    process = start("fit", f"{shards}/", *options, cwd=tmp_path, **settings)
    lines, _ = signal_after(process, "class weights", signal.SIGKILL)  # in the first epoch
    assert process.returncode == -signal.SIGKILL
    name = "shards-tests.worlds.networks-tiny-1"
    assert lines[0] == f"run: runs/{name}"
    assert re.fullmatch(r"computing with tensorflow [\d.]+ on .* in float32; Keras [\d.]+", lines[1])
    run = tmp_path / "runs" / name
    assert not (run / "history.csv").exists()

    # with the settings that the run was started with
    process = start("fit", shards, "--resume", cwd=tmp_path, **settings)
    lines, err = signal_after(process, "epoch   2")
    assert process.returncode == 130
    assert lines[0] == f"resuming runs/{name}, the latest run on these shards"
    assert err == f"octtrain: interrupted; resume by `octtrain fit {shards} --run runs/{name} --resume`.\n"
    after = metrics_of(run)
    assert [int(row["epoch"]) for row in after] == list(range(1, len(after) + 1))
    loaded = Run.load(run)
    assert (loaded.config.epochs, loaded.config.patience, loaded.config.seed) == (500, 0, 3)
    assert RunFolder(loaded).checkpoint(len(after)).is_file()
    layers = [layer.get_config() for layer in loaded.load_model().layers]
    assert {config.get("data_format", "channels_last") for config in layers} == {"channels_last"}
    assert all(
        config["dtype"]["config"]["name"] == "float32" for config in layers if isinstance(config.get("dtype"), dict)
    )


FULL = """
cd "$1"; shift; unset HOME
mount -t tmpfs -o size=1M tmpfs ro; mkdir ro/vol; mount -t tmpfs -o size=6M tmpfs ro/vol; mount -o remount,ro ro
exec "$@"
"""
# In one process, as importing TensorFlow takes seconds.
FULL_FIT = """
import subprocess, sys
from octtrain.cli import main
fit = ["fit", sys.argv[1], "--run", "ro/vol"]
settings = ["--model", "tests.worlds.networks:wide", "--epochs", "2", "--batch-size", "16", "--patience", "0"]
for options in (settings, ["--resume"]):
    try:
        main([*fit, *options])
    except SystemExit as end:
        print("exit", end.code or 0, flush=True)
    listing = "find ro/vol -type f -not -path '*/logs/*' | sort; wc -l < ro/vol/history.csv"
    subprocess.run(["bash", "-c", f"{listing}; mount -o remount,size=64M ro/vol"], check=True)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root mounts disks")
def test_a_full_disk_is_a_one_line_error_and_the_training_can_be_resumed(shards, tmp_path):
    """The run is an empty mounted volume in a folder that cannot be written to."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mounts of one's own here")
    (tmp_path / "ro").mkdir()
    command = [sys.executable, "-c", FULL_FIT, str(shards)]
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", FULL, "bash", str(tmp_path), *command],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stderr == (
        "octtrain: epoch 2 cannot be saved in ro/vol (No space left on device). The epochs before it are safe: "
        "make room there, and resume by the same command with --resume.\n"
    )
    lines = done.stdout.splitlines()
    first = lines.index("exit 1")
    files = [f"ro/vol/{name}" for name in (
        "checkpoints/epoch-0001.json", "checkpoints/epoch-0001.weights.h5", "config.json", "config.toml",
        "exposure.csv", "history.csv", "manifest.json", "model.keras",
    )]  # fmt: skip
    assert lines[first + 1 : first + 10] == [*files, "2"]
    assert "resuming after epoch 1" in lines
    assert "exit 0" in lines[first + 10 :]
    assert lines[-1] == "3"  # the header and both epochs


def test_classes_are_weighted_and_val_is_what_is_validated_on(tmp_path):
    """The classes of val are labelled wrongly, so a model that learns must fail there."""
    rng = np.random.default_rng(0)
    counts = (24, 6, 12, 18)
    train = [(f"train/{CLASSES[k]}/{CLASSES[k]}-{100 * k + i}-1.jpeg", k, picture(k, rng))
             for k in range(4) for i in range(counts[k])]  # fmt: skip
    val = [(f"val/{CLASSES[k]}/{CLASSES[k]}-{900 + 10 * k + i}-1.jpeg", k, picture((k + 1) % 4, rng))
           for k in range(4) for i in range(6)]  # fmt: skip
    rows = {"train": [train[i] for i in rng.permutation(len(train))], "val": val}
    for balance in ("none", "oversample"):
        write_folder(tmp_path / balance, rows, balance=balance)
    config = dataclasses.replace(CONFIG, lr=0.01, batch_size=8)  # learns in the first epoch already
    lines = []
    run = fit(tmp_path / "none", tmp_path / "run", config, log=lines.append)
    last = run.history()[-1]
    assert last["balanced_accuracy"] > 0.9
    assert last["val_balanced_accuracy"] < 0.5

    with pytest.raises(Stopped):  # the same images in shards that count as balanced, and so without weights
        fit(tmp_path / "oversample", tmp_path / "other", config, log=stop_at("epoch"))
    assert abs(run.history()[0]["loss"] - Run.load(tmp_path / "other").history()[0]["loss"]) > 0.01
    assert any(line.startswith("WARNING: that is not above chance") for line in lines)


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(trained, shards, tmp_path):
    run, *_ = trained
    with pytest.raises(OutputError, match="--resume, or give another --run"):
        fit(shards, run.folder, CONFIG, log=quiet)
    with pytest.raises(OutputError, match=r"lr 0.003 in the run, 0.1 now"):
        fit(shards, run.folder, dataclasses.replace(CONFIG, lr=0.1), resume=True, log=quiet)
    write_shards(tmp_path / "other", {"train": 4, "val": 4}, seed=1)
    with pytest.raises(OutputError, match="was started on other shards"):
        fit(tmp_path / "other", run.folder, CONFIG, resume=True, log=quiet)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").touch()
    for resume in (False, True):
        with pytest.raises(OutputError, match="is not a run folder"):
            fit(shards, tmp_path / "work", CONFIG, resume=resume, log=quiet)


def test_a_failed_start_leaves_no_folder(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for change in ({"model": "no_such_module:build"}, {"weights": "missing.keras"}, {"fold": 1}):
        with pytest.raises(SettingError):
            fit(shards, None, dataclasses.replace(CONFIG, **change), log=quiet)
        with pytest.raises(SettingError):
            fit(shards, tmp_path / "runs" / "a", dataclasses.replace(CONFIG, **change), log=quiet)
    shutil.copytree(shards, tmp_path / "shards")
    shard = next((tmp_path / "shards" / "val").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ManifestError, match="bytes where the manifest says"):
        fit(tmp_path / "shards", tmp_path / "runs" / "a", CONFIG, log=quiet)
    assert not (tmp_path / "runs").exists()


def exposure_after_start(shards, folder, config):
    """The lines of a training until its first step, and its run."""
    lines = []
    with pytest.raises(Stopped):
        fit(shards, folder, config, log=stop_at("class weights", lines))
    return lines, Run.load(folder)


def test_exposure_includes_that_of_the_initial_weights(trained, shards, tmp_path):
    write_shards(tmp_path / "other", {"train": 5, "val": 5, "test": 5}, seed=1, first_patient=50_000)
    config = dataclasses.replace(CONFIG, weights=str(trained[0].folder / "model.keras"))
    lines, run = exposure_after_start(tmp_path / "other", tmp_path / "a", config)
    assert not any(line.startswith("WARNING") for line in lines)
    RunFolder(run).save_model(trained[0].load_model(), run.folder / "model.keras")
    assert {image.split for image in run.exposure().images} == {"train", "val", "initial_weights"}
    with pytest.raises(LeakError, match="24 of the 24 patients"):
        evaluate(tmp_path / "a", "train", dataset=shards, log=quiet)

    write_shards(tmp_path / "same patients", {"val": 3, "train": 3, "test": 3}, seed=2)
    lines, _ = exposure_after_start(tmp_path / "same patients", tmp_path / "b", config)
    assert any("was exposed to 3 of the patients held out here (val, test)" in line for line in lines)

    shutil.copy(trained[0].folder / "model.keras", tmp_path / "unknown.keras")
    config = dataclasses.replace(CONFIG, weights=str(tmp_path / "unknown.keras"))
    lines, run = exposure_after_start(tmp_path / "other", tmp_path / "c", config)
    assert any(line.startswith("WARNING: the training patients of") for line in lines)
    RunFolder(run).save_model(trained[0].load_model(), run.folder / "model.keras")
    lines = []
    evaluate(tmp_path / "c", log=lines.append)
    assert "whose training patients are unknown; they may include patients of this split" in lines[1]


def test_leaky_shards_are_marked_by_fit_and_evaluate(tmp_path):
    leaks = Leaks(patients=("1016042",))
    write_shards(tmp_path / "s", {"train": 4, "val": 2, "test": 2}, split="as-given", leaks=leaks)

    with pytest.raises(Stopped):
        fit(tmp_path / "s", tmp_path / "run", CONFIG, log=stop_at("WARNING: 1 patient and 0 images"))
    RunFolder(Run.load(tmp_path / "run")).save_model(
        build_model("octnet-s", (32, 32, 1), 4), tmp_path / "run" / "model.keras"
    )
    lines = []
    evaluate(tmp_path / "run", log=lines.append)
    assert any(line.startswith("LEAKY: patients in two splits") for line in lines)
    assert json.loads((tmp_path / "run" / "evaluate-test.json").read_text())["leak_warning"].startswith("LEAKY")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dataset_leaks"] is True


def test_a_loss_that_is_not_finite_is_an_error_with_advice(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "optimizer", lambda *_: schedule.keras.optimizers.SGD(1e30))
    with pytest.raises(SettingError, match=r"no longer a number in epoch .* lower --lr"):
        fit(shards, tmp_path / "run", CONFIG, log=quiet)
