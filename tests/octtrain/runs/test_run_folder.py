"""What a run folder holds in each state, and what a resumed training starts from.

Epochs are saved by the code that training saves them with, but no network is trained.
"""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
import keras

from octprep.format import images_csv
from octprep.format.errors import ManifestError, OutputError, SettingError, SourceError
from octtrain.config import FitConfig, merge_settings
from octtrain.runs.folder import RunFolder
from octtrain.runs.run import Run
from octtrain.settings_file import read_settings
from octtrain.training.fit import fit, restore
from octtrain.training.opening import opening_lines
from tests.worlds.runs import (
    LONG_CONFIG,
    Stopped,
    bias,
    epoch_row,
    initialised,
    quiet,
    save_epochs,
    set_bias,
    stop_at,
)

pytestmark = pytest.mark.slow


def contents_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails_to_resume(run, shards, message, error=ManifestError):
    """A resumed training ends with this message and leaves every byte as it was."""
    before = contents_of(run)
    with pytest.raises(error, match=message) as caught:
        fit(shards, run, LONG_CONFIG, resume=True, log=quiet)
    assert len(str(caught.value).splitlines()) == 1
    assert contents_of(run) == before


def test_a_run_without_epochs_keeps_its_settings_and_is_not_started_twice(tmp_path, shards):
    config = dataclasses.replace(LONG_CONFIG, model="octnet-m", lr=0.01)
    run = initialised(tmp_path / "run", shards, config)
    assert Run.load(run.path).config == config
    with pytest.raises(OutputError, match=r"already holds a run; continue it by --resume, or give another --run"):
        fit(shards, run.path, config, log=quiet)
    with pytest.raises(SourceError, match=r"no model.keras yet.*--resume"):
        Run.load(run.path).load_model()
    assert run.resumable_history(resume=True) == []


def header(run, shards, config):
    """The lines of a resumed training before its first epoch."""
    stored = Run.load(run.path)
    rows = images_csv.read_checked(shards, stored.manifest).rows
    resumed = dataclasses.replace(stored, config=config, shards=shards)
    settings = {"feed": "mapped", "batch_size": 16, "steps_done": 0, "history": stored.history()}
    return opening_lines(resumed, stored, rows, (("train",), ("val",)), **settings)


def test_epochs_and_patience_may_change_when_a_run_is_resumed(saved, shards):
    more = merge_settings(Run.load(saved.path).config, {"epochs": 800, "patience": 9})
    lines = header(saved, shards, more)
    change = next(line for line in lines if line.startswith("--epochs was 500 and is 800"))
    assert "follows the cosine of 800 epochs from here on" in change
    run = RunFolder(dataclasses.replace(saved.run, config=more))
    history = run.resumable_history(resume=True)
    assert len(history) == 3
    run.initialise(history)
    assert Run.load(saved.path).config == more
    assert FitConfig(**read_settings(saved.path / "config.toml", FitConfig)) == more
    assert header(run, shards, more)[-1] == "resuming after epoch 3"
    lines = []
    fit(shards, saved.path, dataclasses.replace(more, epochs=2), resume=True, log=lines.append)
    assert lines == [
        f"Nothing left to do: {saved.path} has finished 3 epochs, and --epochs is 2. "
        "Best epoch 2: balanced accuracy 0.9000 on val.",
        f"next: `octtrain evaluate {saved.path}` evaluates it on patients it was not trained on",
    ]
    lines = []
    fit(shards, saved.path, dataclasses.replace(more, patience=1), resume=True, log=lines.append)
    assert "no better balanced accuracy for 1 epoch (--patience 1)" in lines[0]
    for change in ({"lr": 0.1}, {"model": "octnet-m"}, {"seed": 4}, {"batch_size": 8}):
        with pytest.raises(OutputError, match="was started with other settings"):
            fit(shards, saved.path, dataclasses.replace(more, **change), resume=True, log=quiet)


def test_a_run_resumed_under_other_versions_is_a_warning_with_both(saved, shards):
    path = saved.path / "config.json"
    raw = json.loads(path.read_text())
    raw["libraries"]["keras"] = "3.8.0"
    path.write_text(json.dumps(raw))
    warning = header(saved, shards, LONG_CONFIG)[-1]
    assert warning.startswith(
        f"WARNING: the run was started with other versions (keras 3.8.0 then, {keras.__version__} now)"
    )


def test_initial_weights_are_read_from_elsewhere_and_not_after_an_epoch(tmp_path, shards, networks, monkeypatch):
    (tmp_path / "start").mkdir()
    networks[0].save(tmp_path / "start" / "first.keras")
    monkeypatch.chdir(tmp_path / "start")
    (tmp_path / "elsewhere").mkdir()

    config = dataclasses.replace(LONG_CONFIG, weights="first.keras")
    with pytest.raises(Stopped):
        fit(shards, tmp_path / "run", config, log=stop_at("class weights"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    stored = Run.load(tmp_path / "run").config
    with pytest.raises(Stopped):
        fit(shards, tmp_path / "run", stored, resume=True, log=stop_at("class weights"))  # no epoch yet, so it is read
    (tmp_path / "start" / "first.keras").unlink()
    with pytest.raises(SettingError, match=r"first\.keras is not a file"):
        fit(shards, tmp_path / "run", stored, resume=True, log=quiet)
    run = RunFolder(Run.load(tmp_path / "run"))
    save_epochs(run, networks, [0.5])
    exposure = run.run.exposure()
    with pytest.raises(Stopped):
        fit(shards, tmp_path / "run", stored, resume=True, log=stop_at("resuming after epoch 1"))
    assert Run.load(tmp_path / "run").exposure() == exposure


def test_a_damaged_or_missing_checkpoint_is_an_error(saved, shards):
    path = saved.checkpoint(3)
    content = path.read_bytes()
    path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    fails_to_resume(
        saved.path, shards, r"epoch-0003\.weights\.h5 is damaged.*put it back to resume, or give another --run"
    )
    path.unlink()
    fails_to_resume(saved.path, shards, r"epoch-0003\.weights\.h5 cannot be read")


def test_a_damaged_model_is_an_error(saved, shards):
    path = saved.path / "model.keras"
    content = path.read_bytes()
    path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    fails_to_resume(saved.path, shards, r"model\.keras is damaged")


def test_missing_checksums_are_an_error(saved, shards):
    (saved.path / "checkpoints" / "epoch-0003.json").write_text("{}")
    fails_to_resume(saved.path, shards, r"epoch-0003\.json cannot be read .*checksums of epoch 3")


@pytest.mark.parametrize("how", ["missing", "empty", "header", "shorter", "changed", "binary"])
def test_a_lost_or_edited_history_is_an_error_and_nothing_is_deleted(saved, shards, how):
    path = saved.path / "history.csv"
    lines = path.read_text().splitlines(keepends=True)
    match how:
        case "missing":
            path.unlink()
        case "empty":
            path.write_text("")
        case "header":
            path.write_text(lines[0])
        case "shorter":
            path.write_text("".join(lines[:-1]))
        case "changed":
            path.write_text("".join(lines).replace("0.7", "0.8"))
        case "binary":
            path.write_bytes(b"\xff\x00\n")
    fails_to_resume(
        saved.path, shards, r"history\.csv (is missing|is not what|is damaged)|epoch-0002.json cannot be read"
    )


def test_only_files_of_the_run_are_removed(saved, networks):
    folder = saved.path / "checkpoints"
    other_files = [
        folder / name for name in ("notes.txt", "epoch-0001.weights.h5.bak", "best.keras", "my-epoch-0001.json")
    ]
    for path in other_files:
        path.write_text("kept")
    (folder / "sub").mkdir()
    stale = [folder / "best-0004.keras", folder / "epoch-0004.weights.h5", folder / ".part-1-epoch-0004.weights.h5"]
    for path in stale:
        path.write_text("of an epoch that was killed before its row was written")
    saved.initialise(saved.resumable_history(resume=True))
    assert all(path.read_text() == "kept" for path in other_files)
    assert not any(path.exists() for path in stale)
    history = [epoch_row(1), epoch_row(2, 0.9), epoch_row(3, 0.7), epoch_row(4, 0.8)]
    saved.save_epoch(history, networks[1], networks[0])
    assert all(path.exists() for path in other_files)
    assert saved.checkpoint(4).exists()
    assert not saved.checkpoint(3).exists()


def test_the_model_is_of_the_best_epoch_and_the_checkpoint_of_the_last(saved, networks):
    assert bias(Run.load(saved.path).load_model()) == 2
    set_bias(networks[0], 0)
    restore(networks[1], saved.checkpoint(3))
    assert bias(networks[0]) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed in the midst of its writing")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")
def test_a_kill_while_an_epoch_is_saved_leaves_the_state_before_or_after(tmp_path, shards, networks):
    """Epoch 2 is better than epoch 1 and is killed before each change of a file's name, and before each removal."""
    original = initialised(tmp_path / "original", shards)
    save_epochs(original, networks, [0.5])
    stages = 0
    while True:
        run = RunFolder(dataclasses.replace(original.run, folder=tmp_path / f"run{stages}"))
        shutil.copytree(original.path, run.path)
        child = os.fork()
        if not child:
            signal.alarm(60)
            remaining = [stages]

            def counting(operation, remaining=remaining):
                def wrapped(*arguments, **settings):
                    if remaining[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    remaining[0] -= 1
                    return operation(*arguments, **settings)

                return wrapped

            Path.replace, Path.unlink = counting(Path.replace), counting(Path.unlink)
            model, training = networks
            set_bias(model, 2)
            run.save_epoch([epoch_row(1, 0.5), epoch_row(2, 0.9)], training, model)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            break
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        history = run.resumable_history(resume=True)
        run.initialise(history)
        assert len(history) in (1, 2)
        assert bias(run.run.load_model()) == len(history)
        assert {path.name for path in (run.path / "checkpoints").iterdir()} == {
            f"epoch-000{len(history)}.weights.h5", f"epoch-000{len(history)}.json"
        }  # fmt: skip
        restore(networks[1], run.checkpoint(len(history)))
        stages += 1
    assert stages >= 6


def test_an_interrupted_start_is_repeated(tmp_path, shards):
    run = initialised(tmp_path / "run", shards)
    for missing in (["config.json"], ["config.json", "manifest.json"]):
        for name in missing:
            (run.path / name).unlink()
        (run.path / ".part-7-config.json").touch()
        assert run.resumable_history(resume=False) == []
        run.initialise()
        assert not list(run.path.glob(".part*"))
        run.resumable_history(resume=True)
    (run.path / "config.json").unlink()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (run.path / name).touch()
    assert run.resumable_history(resume=False) == []
    for name in ("thesis.txt", "a", "b\n", "c", "d"):
        (run.path / name).touch()
    with pytest.raises(OutputError, match=r"is not a run folder, as it holds a, b\\x0a, c and 2 more; give"):
        run.resumable_history(resume=False)


def test_files_of_an_epoch_without_a_row_are_removed(trained, shards, tmp_path):
    shutil.copytree(trained[0].folder, tmp_path / "run")
    history = trained[0].history()
    stale = tmp_path / "run" / "checkpoints" / "best-0004.keras"
    stale.write_bytes(b"of an epoch that was killed before its row was written")
    model = (tmp_path / "run" / "model.keras").read_bytes()
    RunFolder(dataclasses.replace(trained[0], folder=tmp_path / "run")).initialise(history)
    assert not stale.exists()
    assert (tmp_path / "run" / "model.keras").read_bytes() == model
    assert Run.load(tmp_path / "run").history() == history
