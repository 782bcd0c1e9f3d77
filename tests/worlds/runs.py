"""Runs, the program octtrain as a process, and other helpers for the tests of octtrain."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from octtrain.config import FitConfig
from tests.worlds.shards import picture

ROOT = Path(__file__).parents[2]
TINY = "tests.worlds.networks:tiny"
CONFIG = FitConfig(model=TINY, epochs=3, batch_size=16, lr=3e-3, patience=0, seed=2)  # learns in three epochs
# Of a run whose epochs are saved without training; without auto, as fit stores it.
LONG_CONFIG = FitConfig(model=TINY, epochs=500, batch_size=16, lr=1e-3, patience=0, feed="mapped", precision="float32")


class Stopped(Exception):
    pass


def quiet(line):
    pass


def stop_at(word, lines=None):
    """A log that keeps its lines and stops the work at one that begins with a word."""

    def log(line):
        if lines is not None:
            lines.append(line)
        if line.startswith(word):
            raise Stopped

    return log


def command(*arguments):
    """The program, for a process of its own."""
    return [sys.executable, "-c", "from octtrain.cli import main; main()", *map(str, arguments)]


def program(capsys, *arguments):
    """Exit code, standard output and standard error of the program, in this process."""
    from octtrain import cli

    with pytest.raises(SystemExit) as caught:
        cli.main(list(map(str, arguments)))
    output = capsys.readouterr()
    return caught.value.code or 0, output.out, output.err


def start(*arguments, cwd, **env):
    """Start the program as a process that reacts to Ctrl-C, also where the tests run in a shell's background."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program = [sys.executable, "-c", code + "from octtrain.cli import main; main()", *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        program, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**{key: value for key, value in os.environ.items() if key != "HOME"}, "PYTHONPATH": path, **env},
    )  # fmt: skip


def signal_after(process, word, number=signal.SIGINT):
    """Wait for a line that begins with a word, send a signal; returns the lines and standard error."""
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith(word):
            break
    process.send_signal(number)
    return lines, process.communicate(timeout=120)[1]


def metrics_of(folder):
    """The history of a run without the clock's readings."""
    with (folder / "history.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(file)]


def epoch_row(epoch, accuracy=0.5):
    numbers = {"loss": 1.0, "val_loss": 1.0, "val_balanced_accuracy": accuracy, "images_per_second": 1.0}
    return {"epoch": epoch, **numbers}


def set_bias(model, value):
    """Make the last bias of a model a number by which its file is recognised."""
    _last_dense(model).bias.assign(np.full(4, value, np.float32))


def bias(model):
    return float(np.asarray(_last_dense(model).bias)[0])


def _last_dense(model):
    return next(layer for layer in reversed(model.layers) if type(layer).__name__ == "Dense")


def initialised(folder, shards, config=LONG_CONFIG):
    """A new run without a finished epoch."""
    from octprep.format.manifest import Manifest
    from octtrain.runs.folder import RunFolder
    from octtrain.runs.locations import lock_run
    from octtrain.runs.run import Run

    run_folder = RunFolder(Run(folder=folder, config=config, manifest=Manifest.load(shards), shards=shards))
    with lock_run(folder):
        run_folder.initialise()
    return run_folder


def save_epochs(run_folder, networks, accuracies):
    """Save epochs with these balanced accuracies; the model after each has the epoch's number as its bias."""
    model, training = networks
    history = []
    for epoch, accuracy in enumerate(accuracies, 1):
        set_bias(model, epoch)
        history.append(epoch_row(epoch, accuracy))
        run_folder.save_epoch(history, training, model)
    return history


def scan_file(path, label=0, seed=0):
    """A B-scan as a JPEG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = cv2.resize(picture(label, np.random.default_rng(seed), 64, 64), (256, 128))
    path.write_bytes(cv2.imencode(".jpeg", image)[1].tobytes())
    return path


def read_rows(path):
    """The rows of --csv by their paths; the file must hold whole rows only, each path once."""
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    rows = list(csv.DictReader(text.splitlines(), strict=True))
    assert all(None not in row and None not in row.values() for row in rows)
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}
