import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
import keras
import numpy as np

from octprep.format import images_csv
from octprep.format.errors import LeakError, ManifestError, OutputError, SettingError, SourceError
from octprep.format.manifest import Leaks, Manifest
from octtrain.evaluation.evaluate import evaluate
from octtrain.models import build_model
from octtrain.runs import provenance
from octtrain.runs.exposure import TrainingImage, overlap
from octtrain.runs.folder import FitConfig, Run, best_epoch
from octtrain.training.fit import BalancedAccuracy, choose_splits, class_weights, ended, fit
from tests.worlds.shards import CLASSES, picture, write_folder, write_images, write_shards

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = FitConfig(epochs=3, batch_size=16, lr=3e-3, patience=0, seed=2)


def quiet(line):
    pass


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "shards"
    write_shards(folder, {"train": 24, "val": 6, "test": 6})
    return folder


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """A whole run, what it said, and a copy of its folder as it was after the second of three epochs."""
    folder = tmp_path_factory.mktemp("fit")
    lines = []

    def say(line):
        lines.append(line)
        if line.startswith("epoch   2"):
            shutil.copytree(folder / "run", folder / "after-2")

    return fit(shards, folder / "run", CONFIG, say=say), lines, folder / "after-2"


def measured(folder):
    """The history without the clock's readings."""
    with (folder / "history.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(file)]


def test_a_separable_world_is_learnt_and_the_run_explains_itself(trained, shards):
    run, lines, _ = trained
    lines = list(lines)
    report = evaluate(run.folder, say=lines.append)
    assert report.balanced_accuracy > 0.95
    assert report.accuracy.of == 24
    assert len(measured(run.folder)) == 3
    assert sum(line.startswith("epoch") for line in lines) == 3
    stored = json.loads((run.folder / "evaluate-test.json").read_text())
    assert stored["balanced_accuracy"] == report.balanced_accuracy
    assert stored["leaky"] is None
    assert stored["digest"] == Manifest.load(shards).digest
    with (run.folder / "predictions-test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["path"] for row in rows}) == 24
    assert all(row["truth"] == row["path"].split("/")[1] for row in rows)
    assert all(abs(sum(float(row[name]) for name in CLASSES) - 1) < 1e-4 for row in rows)
    assert sum(row["truth"] == row["prediction"] for row in rows) == report.accuracy.hits


def test_the_kept_model_has_only_layers_that_keras_knows(trained):
    run, *_ = trained
    assert all(type(layer).__module__.startswith("keras.") for layer in run.model().layers)


def test_an_interrupted_training_ends_with_the_same_history_as_an_unbroken_one(trained, shards, tmp_path):
    whole, _, after_two = trained
    shutil.copytree(after_two, tmp_path / "run")
    assert len(measured(tmp_path / "run")) == 2
    lines = []
    fit(shards, tmp_path / "run", CONFIG, resume=True, say=lines.append)
    assert "going on after epoch 2" in lines
    one, two = measured(whole.folder), measured(tmp_path / "run")
    assert [row["epoch"] for row in two] == ["1", "2", "3"]
    for a, b in zip(one, two, strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx(
            {k: float(v) for k, v in b.items()}, rel=0.02, abs=1e-4
        )
    lines = []
    fit(shards, tmp_path / "run", CONFIG, resume=True, say=lines.append)
    assert len(lines) == 1
    assert "Nothing left to do" in lines[0]


def start(*arguments, cwd, **env):
    """The program as a process of its own, as a terminal starts it: in the background of a shell, Ctrl-C is ignored."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", code + "from octtrain.cli import main; main()", *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**{key: value for key, value in os.environ.items() if key != "HOME"}, "PYTHONPATH": path, **env},
    )  # fmt: skip


def end(process, word, how):
    """Wait for a line that begins with the word, send the signal; returns what was said."""
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith(word):
            break
    process.send_signal(how)
    return lines, process.communicate(timeout=120)[1]


def test_a_killed_training_goes_on_and_an_interrupted_one_says_how_to(shards, tmp_path):
    """Also where Keras' own settings ask for other numbers and other images, and there is no home."""
    keras_json = {"image_data_format": "channels_first", "floatx": "float16", "backend": "tensorflow", "epsilon": 0.1}
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "keras.json").write_text(json.dumps(keras_json))
    settings = {"KERAS_HOME": str(tmp_path / "keras"), "KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "1"}
    process = start("fit", f"{shards}/", "--epochs", 500, "--patience", 0, "--seed", 3, cwd=tmp_path, **settings)
    said, _ = end(process, "class weights", signal.SIGKILL)  # in the first epoch
    assert process.returncode == -signal.SIGKILL
    assert said[0] == "run: runs/shards-octnet-s-1"
    assert re.fullmatch(r"computing with tensorflow [\d.]+ on .* in float32; Keras [\d.]+", said[1])
    run = tmp_path / "runs" / "shards-octnet-s-1"
    assert not (run / "history.csv").exists()

    process = start(
        "fit", shards, "--resume", cwd=tmp_path, **settings
    )  # with the settings that the run was begun with
    said, err = end(process, "epoch   2", signal.SIGINT)
    assert process.returncode == 130
    assert said[0] == "resuming runs/shards-octnet-s-1, the latest run on these shards"
    assert err == (
        "octtrain: interrupted; go on after the last finished epoch with "
        f"`octtrain fit {shards} --run runs/shards-octnet-s-1 --resume`.\n"
    )
    after = measured(run)
    assert [int(row["epoch"]) for row in after] == list(range(1, len(after) + 1))
    found = Run.load(run)
    assert (found.config.epochs, found.config.patience, found.config.seed) == (500, 0, 3)
    assert found.checkpoint(len(after)).is_file()
    layers = [layer.get_config() for layer in found.model().layers]
    assert {config.get("data_format", "channels_last") for config in layers} == {"channels_last"}
    assert all(
        config["dtype"]["config"]["name"] == "float32" for config in layers if isinstance(config.get("dtype"), dict)
    )


def ended_early(*arguments, after=None, **env):
    """What the program says that ends before it has imported TensorFlow, and its exit code."""
    process = start("fit", *arguments, cwd=ROOT, **env)
    if after is not None:
        time.sleep(after)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err.count("\n")) == ("", 1)
    return process.returncode, err


def test_a_backend_that_octtrain_does_not_run_on_is_refused_in_one_sentence(shards, tmp_path):
    code, err = ended_early(shards, "--run", tmp_path / "run", KERAS_BACKEND="torch")
    assert (code, err) == (
        2,
        "octtrain: KERAS_BACKEND chooses the backend 'torch', but octtrain runs on TensorFlow or JAX; set the variable "
        "KERAS_BACKEND to tensorflow or jax.\n",
    )
    (tmp_path / "keras.json").write_text('{"backend": "nonsense"}')
    code, err = ended_early(shards, "--run", tmp_path / "run", KERAS_HOME=str(tmp_path), KERAS_BACKEND="")
    assert code == 2
    assert err.startswith(f"octtrain: {tmp_path / 'keras.json'} chooses the backend 'nonsense', but octtrain runs on")
    (tmp_path / "keras.json").write_text('{"floatx": "float128"}')
    code, err = ended_early(shards, "--run", tmp_path / "run", KERAS_HOME=str(tmp_path))
    assert code == 2
    assert err.startswith("octtrain: Keras cannot start (Invalid `floatx` configuration.")
    assert f"mend or delete {tmp_path / 'keras.json'}" in err
    assert not (tmp_path / "run").exists()


def test_an_interruption_while_libraries_are_imported_is_a_sentence(shards, tmp_path):
    code, err = ended_early(shards, "--run", tmp_path / "run", after=1.5)
    assert code == 130
    assert err == "octtrain: interrupted; nothing was trained yet, and the same command begins again.\n"
    assert not (tmp_path / "run").exists()


FULL = """
cd "$1"; shift; unset HOME
mount -t tmpfs -o size=1M tmpfs ro; mkdir ro/vol; mount -t tmpfs -o size=13M tmpfs ro/vol; mount -o remount,ro ro
"$@" --run ro/vol --epochs 2 --batch-size 16 --patience 0; echo "exit $?"
find ro/vol -type f -not -path '*/logs/*' | sort; wc -l < ro/vol/history.csv
mount -o remount,size=64M ro/vol
"$@" --run ro/vol --resume; echo "exit $?"
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root mounts disks")
def test_a_full_disk_is_a_sentence_and_the_training_goes_on_once_there_is_room(shards, tmp_path):
    """The run is an empty mounted volume in a folder that cannot be written to."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mounts of one's own here")
    (tmp_path / "ro").mkdir()
    command = [sys.executable, "-c", "from octtrain.cli import main; main()", "fit", str(shards)]
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", FULL, "bash", str(tmp_path), *command],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stderr == (
        "octtrain: epoch 2 cannot be kept in ro/vol (No space left on device). What was finished before is safe: "
        "make room there, and the same command with --resume goes on.\n"
    )
    lines = done.stdout.splitlines()
    first = lines.index("exit 1")
    kept = [f"ro/vol/{name}" for name in (
        "checkpoints/epoch-0001.json", "checkpoints/epoch-0001.weights.h5", "config.json", "history.csv",
        "manifest.json", "model.keras", "exposure.csv",
    )]  # fmt: skip
    assert lines[first + 1 : first + 9] == [*kept, "2"]
    assert "going on after epoch 1" in lines
    assert lines[-1] == "exit 0"


def test_weights_of_classes_reach_the_training_and_the_held_out_split_is_what_is_validated_on(tmp_path):
    """The classes of val are named wrongly, so a model that learns must fail there."""
    rng = np.random.default_rng(0)
    counts = (24, 6, 12, 18)
    train = [(f"train/{CLASSES[k]}/{CLASSES[k]}-{100 * k + i}-1.jpeg", k, picture(k, rng))
             for k in range(4) for i in range(counts[k])]  # fmt: skip
    val = [(f"val/{CLASSES[k]}/{CLASSES[k]}-{900 + 10 * k + i}-1.jpeg", k, picture((k + 1) % 4, rng))
           for k in range(4) for i in range(6)]  # fmt: skip
    rows = {"train": [train[i] for i in rng.permutation(len(train))], "val": val}
    for balance in ("none", "oversample"):
        write_folder(tmp_path / balance, rows, balance=balance)
    config = dataclasses.replace(CONFIG, epochs=4)
    lines = []
    run = fit(tmp_path / "none", tmp_path / "run", config, say=lines.append)
    last = run.history()[-1]
    assert last["balanced_accuracy"] > 0.9
    assert last["val_balanced_accuracy"] < 0.5

    def until_one_epoch(line):
        if line.startswith("epoch"):
            raise Stopped

    with pytest.raises(Stopped):  # the same images, said to be balanced by the shards, and so without weights
        fit(tmp_path / "oversample", tmp_path / "other", config, say=until_one_epoch)
    assert abs(run.history()[0]["loss"] - Run.load(tmp_path / "other").history()[0]["loss"]) > 0.01
    assert any(line.startswith("WARNING: that is not above chance") for line in lines)


def test_an_epoch_that_was_not_recorded_leaves_no_trace(trained, shards, tmp_path):
    shutil.copytree(trained[0].folder, tmp_path / "run")
    history = trained[0].history()
    stale = tmp_path / "run" / "checkpoints" / "best-0004.keras"
    stale.write_bytes(b"of an epoch that was killed before its row was written")
    model = (tmp_path / "run" / "model.keras").read_bytes()
    dataclasses.replace(trained[0], folder=tmp_path / "run").begin(history)
    assert not stale.exists()
    assert (tmp_path / "run" / "model.keras").read_bytes() == model
    assert Run.load(tmp_path / "run").history() == history


def test_a_run_is_not_overwritten_nor_resumed_as_something_else(trained, shards, tmp_path):
    run, *_ = trained
    with pytest.raises(OutputError, match="--resume, or give another --run"):
        fit(shards, run.folder, CONFIG, say=quiet)
    with pytest.raises(OutputError, match=r"lr 0.003 there, 0.1 now"):
        fit(shards, run.folder, dataclasses.replace(CONFIG, lr=0.1), resume=True, say=quiet)
    write_shards(tmp_path / "other", {"train": 4, "val": 4}, seed=1)
    with pytest.raises(OutputError, match="was begun on other shards"):
        fit(tmp_path / "other", run.folder, CONFIG, resume=True, say=quiet)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for resume in (False, True):
        with pytest.raises(OutputError, match="is no run folder"):
            fit(shards, tmp_path / "mine", CONFIG, resume=resume, say=quiet)


def test_a_failed_start_leaves_nothing_in_the_way(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for change in ({"model": "../resnet"}, {"weights": "missing.keras"}, {"fold": 1}):
        with pytest.raises(SettingError):
            fit(shards, None, dataclasses.replace(CONFIG, **change), say=quiet)
        with pytest.raises(SettingError):
            fit(shards, tmp_path / "runs" / "a", dataclasses.replace(CONFIG, **change), say=quiet)
    shutil.copytree(shards, tmp_path / "shards")
    shard = next((tmp_path / "shards" / "val").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ManifestError, match="bytes where the manifest says"):
        fit(tmp_path / "shards", tmp_path / "runs" / "a", CONFIG, say=quiet)
    assert not (tmp_path / "runs").exists()


def test_what_is_no_run_is_refused_in_one_sentence(trained, tmp_path):
    with pytest.raises(SourceError, match="does not exist; make one with"):
        Run.load(tmp_path / "none")
    with pytest.raises(SourceError, match="is no run folder"):
        Run.load(tmp_path)
    path = tmp_path / "run" / "config.json"
    shutil.copytree(trained[0].folder, tmp_path / "run")
    raw = json.loads(path.read_text())
    for change, message in (
        ({"run_version": 99}, "of version 99"),
        ({"run_version": 1}, "did not keep whom"),
        ({"config": {"depth": 3}}, "is not what"),
    ):
        path.write_text(json.dumps({**raw, **change}))
        with pytest.raises(ManifestError, match=message):
            Run.load(tmp_path / "run")
    path.write_text(json.dumps(raw))
    (tmp_path / "run" / "model.keras").write_bytes(b"half")
    with pytest.raises(ManifestError, match="cannot be loaded"):
        Run.load(tmp_path / "run").model()


def test_the_shards_are_found_again_and_others_keep_their_own_results(trained, shards, tmp_path):
    run, *_ = trained
    moved = tmp_path / "deeper" / "than" / "before" / "run"
    shutil.copytree(run.folder, moved)
    with pytest.raises(SourceError, match="--shards DIR"):
        evaluate(moved, say=quiet)
    evaluate(moved, shards=shards, say=quiet)
    mine = (moved / "evaluate-test.json").read_bytes()
    other, _ = write_shards(tmp_path / "other", {"test": 4}, seed=1, first_patient=50_000)
    with pytest.raises(ManifestError, match=rf"{other.digest[:12]}.*\({run.manifest.digest[:12]}\).*--dataset"):
        evaluate(moved, shards=tmp_path / "other", say=quiet)
    lines = []
    assert evaluate(moved, dataset=tmp_path / "other", say=lines.append).accuracy.of == 16
    assert f"(dataset {other.digest[:12]}, not the run's own ({run.manifest.digest[:12]}))" in lines[0]
    assert not any("LEAKY" in line for line in lines)
    assert (moved / "evaluate-test.json").read_bytes() == mine
    stored = json.loads((moved / f"evaluate-test-{other.digest[:8]}.json").read_text())
    assert (stored["digest"], stored["trained_on"]) == (other.digest, run.manifest.digest)
    assert stored["leaky"] is None
    assert (moved / f"predictions-test-{other.digest[:8]}.csv").is_file()
    with pytest.raises(ManifestError, match="no split 'fold9'; it has train, val, test"):
        evaluate(run.folder, "fold9", say=quiet)


def test_shards_that_mean_something_else_are_refused_by_what_differs(trained, tmp_path):
    run, *_ = trained
    write_shards(tmp_path / "size", {"test": 1}, height=40, first_patient=50_000)
    with pytest.raises(ManifestError, match=r"is another dataset .*: height 32 there, 40 here\. Build it"):
        evaluate(run.folder, dataset=tmp_path / "size", say=quiet)
    write_shards(tmp_path / "names", {"test": 1}, classes=CLASSES[::-1], first_patient=50_000)
    with pytest.raises(
        ManifestError, match="class names CNV, DME, DRUSEN, NORMAL there, NORMAL, DRUSEN, DME, CNV here"
    ):
        evaluate(run.folder, dataset=tmp_path / "names", say=quiet)


def test_patients_that_the_model_has_seen_are_refused_by_name_or_marked(trained, tmp_path):
    run, *_ = trained
    other, _ = write_shards(tmp_path / "other", {"test": 30}, seed=1)  # of patients 0 to 29; train has 0 to 23
    with pytest.raises(
        LeakError, match=r"chosen by 24 of the 30 patients .*: patients 0, 1, 10, .* and 4 more"
    ) as caught:
        evaluate(run.folder, dataset=tmp_path / "other", say=quiet)
    assert caught.value.exit_code == 1
    assert "--allow-leaks" in str(caught.value)
    assert not list(run.folder.glob(f"*{other.digest[:8]}*"))
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    lines = []
    evaluate(copy, dataset=tmp_path / "other", allow_leaks=True, say=lines.append)
    assert lines[1].startswith("LEAKY: the model has seen 24 of the 30 patients")
    stored = json.loads((copy / f"evaluate-test-{other.digest[:8]}.json").read_text())
    assert stored["leaky"] == lines[1]
    assert stored["known"]["patients"] == 24


def test_an_image_is_known_again_under_another_patients_number(trained, tmp_path):
    run, *_ = trained
    other, _ = write_shards(tmp_path / "other", {"test": 2}, first_patient=50_000)
    first, *rows = images_csv.read_checked(tmp_path / "other", other).rows
    first = dataclasses.replace(first, sha256=run.seen().sights[0].sha256)
    write_images(tmp_path / "other", other, [first, *rows])
    with pytest.raises(LeakError, match="chosen by 1 image of test, under other patient numbers"):
        evaluate(run.folder, dataset=tmp_path / "other", say=quiet)


def test_the_split_trained_on_is_refused_and_the_one_that_chose_the_epoch_is_remarked(trained, shards, tmp_path):
    shutil.copytree(trained[0].folder, tmp_path / "run")
    with pytest.raises(LeakError, match="24 of the 24 patients and 96 images of train"):
        evaluate(tmp_path / "run", "train", shards, say=quiet)
    lines = []
    evaluate(tmp_path / "run", "train", shards, allow_leaks=True, say=lines.append)
    assert lines[1].startswith("LEAKY")
    lines = []
    evaluate(tmp_path / "run", "val", shards, say=lines.append)
    assert lines[1] == "val was used to choose the best epoch, so these numbers are a little too good"
    stored = json.loads((tmp_path / "run" / "evaluate-val.json").read_text())
    assert (stored["leaky"], stored["remarks"]) == (None, [lines[1]])


def test_another_id_of_a_patient_is_known_again():
    seen = [TrainingImage("7", "5", "a", "train")]  # 5 and 7 are taken for the same person
    judged = [
        TrainingImage("5", "5", "b", "test"),
        TrainingImage("6", "6", "c", "test"),
        TrainingImage("9", "7", "a", "test"),
    ]
    assert overlap(seen, judged) == Leaks(patients=("5", "9"), contents=("a",))


def test_a_run_keeps_whom_its_model_has_seen(trained, tmp_path):
    run, *_ = trained
    sights, complete = run.seen()
    assert complete
    assert {sight.split for sight in sights} == {"train", "val"}
    assert len({sight.sha256 for sight in sights}) == len(sights) == 4 * (24 + 6)
    shutil.copytree(run.folder, tmp_path / "run")
    path = tmp_path / "run" / "exposure.csv"
    path.write_bytes(path.read_bytes().replace(b"\n0,", b"\n7,", 1))
    with pytest.raises(ManifestError, match=r"seen\.csv is not what .* nobody knows whom the model has seen"):
        evaluate(tmp_path / "run", shards=run.shards, say=quiet)
    path.unlink()
    with pytest.raises(ManifestError, match="nobody knows whom"):
        evaluate(tmp_path / "run", shards=run.shards, say=quiet)


def test_a_model_file_says_alone_what_it_was_trained_on(trained):
    run, *_ = trained
    found = provenance.read(run.folder / "model.keras")
    assert (found.digest, found.class_names) == (run.manifest.digest, CLASSES)
    assert found.recipe == run.manifest.recipe
    assert (found.trained_on, found.chosen_by) == (("train",), ("val",))
    keras.saving.load_model(run.folder / "model.keras")  # Keras passes over what it does not know


def test_a_model_of_another_run_is_refused_with_both_digests(trained, tmp_path):
    shutil.copytree(trained[0].folder, tmp_path / "run")
    run, model = Run.load(tmp_path / "run"), trained[0].model()
    manifest, _ = write_shards(tmp_path / "other", {"train": 1, "val": 1}, seed=1)
    other = Run(folder=tmp_path, config=CONFIG, manifest=manifest, shards=tmp_path / "other")
    other.save_model(model, tmp_path / "run" / "model.keras")
    both = f"dataset {manifest.digest[:12]}, .*dataset {run.manifest.digest[:12]}"
    with pytest.raises(ManifestError, match=both):
        run.model()
    model.save(tmp_path / "run" / "model.keras")
    with pytest.raises(ManifestError, match="does not say what it was trained on"):
        run.model()


def until_the_first_step(run, shards, config):
    """What a training says before its first epoch."""
    lines = []

    def say(line):
        lines.append(line)
        if line.startswith("class weights"):
            raise Stopped

    with pytest.raises(Stopped):
        fit(shards, run, config, say=say)
    return lines


def test_a_model_has_seen_what_the_weights_it_was_begun_from_had_seen(trained, shards, tmp_path):
    write_shards(tmp_path / "other", {"train": 5, "val": 5, "test": 5}, seed=1, first_patient=50_000)
    config = dataclasses.replace(CONFIG, weights=str(trained[0].folder / "model.keras"))
    lines = until_the_first_step(tmp_path / "a", tmp_path / "other", config)
    assert not any(line.startswith("WARNING") for line in lines)
    run = Run.load(tmp_path / "a")
    run.save_model(trained[0].model(), run.folder / "model.keras")
    assert {sight.split for sight in run.seen().sights} == {"train", "val", "weights"}
    with pytest.raises(LeakError, match="24 of the 24 patients"):
        evaluate(tmp_path / "a", "train", dataset=shards, say=quiet)

    write_shards(tmp_path / "same people", {"val": 3, "train": 3, "test": 3}, seed=2)
    lines = until_the_first_step(tmp_path / "b", tmp_path / "same people", config)
    assert any("has seen 3 of the patients held out here (val, test)" in line for line in lines)

    shutil.copy(trained[0].folder / "model.keras", tmp_path / "stranger.keras")
    config = dataclasses.replace(CONFIG, weights=str(tmp_path / "stranger.keras"))
    lines = until_the_first_step(tmp_path / "c", tmp_path / "other", config)
    assert any(line.startswith("WARNING: nothing says whom") for line in lines)
    run = Run.load(tmp_path / "c")
    run.save_model(trained[0].model(), run.folder / "model.keras")
    lines = []
    evaluate(tmp_path / "c", say=lines.append)
    assert "nobody knows whether these patients were among them" in lines[1]


def test_a_training_needs_to_know_who_is_in_the_shards(tmp_path):
    write_shards(tmp_path / "s", {"train": 2, "val": 1})
    (tmp_path / "s" / "images.csv").write_text("path\n")
    with pytest.raises(ManifestError, match=r"images\.csv has SHA-256 .*`octprep build` that made it"):
        fit(tmp_path / "s", tmp_path / "runs" / "a", CONFIG, say=quiet)
    (tmp_path / "s" / "images.csv").unlink()
    with pytest.raises(ManifestError, match=r"images\.csv cannot be read"):
        fit(tmp_path / "s", tmp_path / "runs" / "a", CONFIG, say=quiet)
    assert not (tmp_path / "runs").exists()


def test_leaky_shards_are_called_so_by_fit_and_evaluate(tmp_path):
    leaks = Leaks(patients=("1016042",))
    write_shards(tmp_path / "s", {"train": 4, "val": 2, "test": 2}, split="as-given", leaks=leaks)

    def until_warned(line):
        if line.startswith("WARNING: 1 patients"):
            raise Stopped

    with pytest.raises(Stopped):
        fit(tmp_path / "s", tmp_path / "run", CONFIG, say=until_warned)
    Run.load(tmp_path / "run").save_model(build_model("octnet-s", (32, 32, 1), 4), tmp_path / "run" / "model.keras")
    lines = []
    evaluate(tmp_path / "run", say=lines.append)
    assert any(line.startswith("LEAKY: patients on both sides") for line in lines)
    assert json.loads((tmp_path / "run" / "evaluate-test.json").read_text())["leaky"].startswith("LEAKY")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["leaky"] is True


def test_classes_are_weighted_if_and_only_if_the_shards_are_not_balanced(tmp_path):
    natural, _ = write_shards(tmp_path / "n", {"train": 3}, skip={"train": ["DME"]})
    weights = class_weights(natural, ("train",))
    assert weights == {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}
    uneven = natural.splits["train"][:1]  # one shard: some classes have more than others
    natural = dataclasses.replace(natural, splits={"train": uneven})
    counts = list(natural.per_class("train").values())
    weights = class_weights(natural, ("train",))
    weighted = {counts[i] * weights[i] for i in range(4) if counts[i]}
    assert max(weighted) == pytest.approx(min(weighted))
    assert sum(counts[i] * weights[i] for i in range(4)) == pytest.approx(sum(counts))
    for balance in ("oversample", "undersample"):
        config = dataclasses.replace(natural.config, balance=balance)
        assert class_weights(dataclasses.replace(natural, config=config), ("train",)) is None


def test_folds_take_turns(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {"fold0": 1, "fold1": 1, "fold2": 1, "test": 1}, split="kfold")
    assert choose_splits(manifest, 1) == (("fold0", "fold2"), ("fold1",))
    with pytest.raises(SettingError, match="in 3 folds; say which"):
        choose_splits(manifest, None)
    with pytest.raises(SettingError, match="between 0 and 2; got 3"):
        choose_splits(manifest, 3)


def test_shards_without_folds_or_without_val(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {"train": 1, "val": 1, "test": 1})
    assert choose_splits(manifest, None) == (("train",), ("val",))
    with pytest.raises(SettingError, match="leave --fold out"):
        choose_splits(manifest, 0)
    without = dataclasses.replace(manifest, splits={name: manifest.splits[name] for name in ("train", "test")})
    empty = dataclasses.replace(manifest, splits={**manifest.splits, "val": ()})
    for bad in (without, empty):
        with pytest.raises(ManifestError, match="no images in split 'val'"):
            choose_splits(bad, None)


def rows(*pairs):
    return [{"val_balanced_accuracy": accuracy, "val_loss": loss} for accuracy, loss in pairs]


def test_the_best_epoch_has_the_highest_balanced_accuracy_then_the_lowest_loss():
    assert best_epoch(rows((0.5, 1), (0.9, 2), (0.8, 0.1))) == 2
    assert best_epoch(rows((0.9, 2), (0.9, 1), (0.9, 3))) == 2


def test_training_ends_when_patience_or_epochs_run_out():
    history = rows((0.5, 1), (0.9, 1), (0.8, 1), (0.8, 1))
    assert not ended([], FitConfig())
    assert ended(history, FitConfig(epochs=9, patience=2))
    assert not ended(history, FitConfig(epochs=9, patience=3))
    assert not ended(history, FitConfig(epochs=9, patience=0))
    assert ended(history, FitConfig(epochs=4, patience=0))


def test_balanced_accuracy_counts_every_class_the_same_and_absent_ones_not():
    metric = BalancedAccuracy(4)
    metric.update_state(np.array([0, 0, 0]), np.eye(4)[[0, 0, 1]])
    metric.update_state(np.array([2]), np.eye(4)[[2]], sample_weight=np.array([9.0]))
    assert float(metric.result()) == pytest.approx((2 / 3 + 1) / 2)
    metric.reset_state()
    assert float(metric.result()) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"epochs": 10**9}, "epochs must be at most 100,000; got 1,000,000,000"),
        ({"batch_size": 0}, "batch-size must be at least 1"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"seed": -1}, "seed must be between"),
        ({"fold": -1}, "fold must be 0 or more"),
        ({"patience": -1}, "patience must be at least 0"),
    ],
)
def test_settings_refuse_nonsense_at_birth(change, message):
    with pytest.raises(SettingError, match=message):
        FitConfig(**change)


def test_a_loss_that_is_no_number_ends_with_advice(shards, tmp_path, monkeypatch):
    import octtrain.training.fit as module

    monkeypatch.setattr(module, "_optimizer", lambda config, steps: module.keras.optimizers.SGD(1e30))
    with pytest.raises(SettingError, match=r"no longer a number in epoch .* lower --lr"):
        fit(shards, tmp_path / "run", CONFIG, say=quiet)
