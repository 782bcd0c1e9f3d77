"""A training that is killed or asked to end at any step goes on as if nothing had happened."""

import dataclasses
import random
import signal
import time

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from octprep.format.manifest import Manifest
from octtrain.config import FitConfig
from octtrain.runs.folder import RunFolder
from octtrain.runs.run import Run
from octtrain.training import fit as fitting
from octtrain.training.fit import fit
from tests.worlds.runs import metrics_of, quiet, start
from tests.worlds.shards import write_shards

pytestmark = pytest.mark.slow

CONFIG = FitConfig(
    model="tests.worlds.networks:tiny", epochs=3, batch_size=4, lr=3e-3, patience=0, ema=0.9, mixup=0.3, fine_tune=1,
    deterministic=True,
)  # fmt: skip


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume") / "shards"
    write_shards(folder, {"train": 13, "val": 4}, height=16, width=16)
    return folder


def weights(run):
    return [np.asarray(array) for array in run.load_model().get_weights()]


@pytest.mark.parametrize("feed", ["mapped", "resident", "stream"])
def test_a_training_killed_at_random_steps_ends_as_an_unbroken_one(shards, tmp_path, monkeypatch, feed):
    """Bit for bit, as the CPU is asked to be deterministic. Steps that were saved are not done again."""
    config = dataclasses.replace(CONFIG, feed=feed)
    monkeypatch.setattr("octtrain.training.resolve.CPU_CHUNK_STEPS", 2)
    unbroken = fit(shards, tmp_path / "unbroken", config, log=quiet)

    steps = sorted(random.Random(feed).sample(range(2, 38), 3))  # of 39
    after_chunk, save_steps = fitting.Training._after_chunk, fitting.Training._save_steps
    done, saved = [], []

    def stop_now_and_then(training, state, clock):
        after_chunk(training, state, clock)
        total = state.epoch * 13 + state.steps
        done.append(total)
        if steps and total >= steps[0] and state.steps < 13:
            if len(steps) % 2:
                steps.pop(0)
                raise Killed  # as by SIGKILL
            return True  # as after SIGTERM
        return False

    def save_and_stop(training):
        save_steps(training)
        steps.pop(0)
        saved.append(training.state.epoch * 13 + training.state.steps)
        raise Killed

    monkeypatch.setattr(fitting.Training, "_after_chunk", stop_now_and_then)
    monkeypatch.setattr(fitting.Training, "_save_steps", save_and_stop)
    for attempt in range(5):
        try:
            run = fit(shards, tmp_path / "run", config, resume=attempt > 0, log=quiet)
        except Killed:
            continue
        break
    assert not steps
    assert attempt == 3
    for one, other in zip(metrics_of(unbroken.folder), metrics_of(run.folder), strict=True):
        values = [{name: float(value) for name, value in row.items()} for row in (one, other)]
        assert values[1] == pytest.approx(values[0], rel=1e-6)  # losses are summed up in other parts
    for one, other in zip(weights(unbroken), weights(run), strict=True):
        assert np.array_equal(one, other)
    for total in saved:
        assert done.count(total) == 1
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == [
        "epoch-0003.json", "epoch-0003.weights.h5"
    ]  # fmt: skip


def test_sigterm_saves_the_steps_done_and_exits(tmp_path):
    """As a machine does that is taken away."""
    write_shards(tmp_path / "shards", {"train": 1000, "val": 2}, height=64, width=64)
    process = start(
        "fit", tmp_path / "shards", "--run", tmp_path / "run", "--epochs", 1, "--batch-size", 1, "--feed", "mapped",
        "--model", "tests.worlds.networks:tiny", cwd=tmp_path,
    )  # fmt: skip
    while not (tmp_path / "run" / "logs").exists():  # written when all is ready for the first step
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + signal.SIGTERM
    command = f"octtrain fit {tmp_path / 'shards'} --run {tmp_path / 'run'} --resume"
    assert err == f"octtrain: ended by SIGTERM; resume by `{command}`.\n"
    state = RunFolder(Run.load(tmp_path / "run")).load_steps(1)
    assert 0 < state["steps"] < Manifest.load(tmp_path / "shards").records("train")
    lines = []
    fit(tmp_path / "shards", tmp_path / "run", resume=True, log=lines.append)
    assert any(line.startswith(f"resuming after {state['steps']:,} step") for line in lines)
    assert len(metrics_of(tmp_path / "run")) == 1


def test_steps_that_were_saved_half_are_done_again(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("octtrain.training.resolve.CPU_CHUNK_STEPS", 2)
    save_steps = fitting.Training._save_steps

    def save_and_stop(training):
        save_steps(training)
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(fitting.Training, "_after_chunk", lambda *_: True)
        patched.setattr(fitting.Training, "_save_steps", save_and_stop)
        fit(shards, tmp_path / "run", CONFIG, log=quiet)
    weights_file = tmp_path / "run" / "checkpoints" / "steps-0001.weights.h5"
    weights_file.write_bytes(weights_file.read_bytes()[:-1])
    lines = []
    fit(shards, tmp_path / "run", CONFIG, resume=True, log=lines.append)
    assert not any(line.startswith("resuming after") for line in lines)
    assert len(metrics_of(tmp_path / "run")) == 3
