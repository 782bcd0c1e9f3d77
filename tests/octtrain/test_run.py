"""The run folder: its name, what is believed of it, what is kept when, and what a resumed training goes on from.

Epochs are kept here by the code that training keeps them with, but no network is trained.
"""

import dataclasses
import json
import os
import shutil
import signal
import threading
import time
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
import h5py
import keras
import numpy as np

from octprep.format.errors import ManifestError, OutputError, SettingError, SourceError
from octprep.format.files import locked
from octprep.format.manifest import Manifest
from octtrain.models import build_model
from octtrain.runs import provenance
from octtrain.runs.folder import FitConfig, Run, held, latest_run, new_run, resolve
from octtrain.training import fit as fitting
from octtrain.training.fit import EpochRecorder, chance_remarks, compile_model, few_remarks, fit, reseed
from tests.worlds.shards import write_shards

pytestmark = pytest.mark.slow

CONFIG = FitConfig(model="octnet-s", epochs=500, batch_size=16, patience=0)


def quiet(line):
    pass


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "shards"
    write_shards(folder, {"train": 6, "val": 5, "test": 5})
    return folder


@pytest.fixture(scope="module")
def networks(shards):
    """A model and the same one behind its augmentation, with an optimizer that has its variables."""
    return compile_model(Manifest.load(shards), CONFIG, 1)


def row(epoch, accuracy=0.5):
    numbers = {"loss": 1.0, "val_loss": 1.0, "val_balanced_accuracy": accuracy, "images_per_second": 1.0}
    return {"epoch": epoch, **numbers}


def set_to(model, value):
    """Make the last bias of a model a number by which it is known again."""
    model.layers[-1].bias.assign(np.full(4, value, np.float32))


def bias(model):
    return float(np.asarray(model.layers[-1].bias)[0])


def begun(folder, shards, config=CONFIG):
    run = Run(folder=folder, config=config, manifest=Manifest.load(shards), shards=shards)
    with held(folder):
        run.begin([])
    return run


def keep(run, networks, accuracies, start=1):
    """Keep epochs with these balanced accuracies; the model after each has the epoch's number as its bias."""
    model, training = networks
    history = [row(number) for number in range(1, start)] if start > 1 else []
    for epoch, accuracy in enumerate(accuracies, start):
        set_to(model, epoch)
        history.append(row(epoch, accuracy))
        run.keep(history, training, model)
    return history


@pytest.fixture(scope="module")
def kept_once(tmp_path_factory, shards, networks):
    run = begun(tmp_path_factory.mktemp("kept") / "run", shards)
    keep(run, networks, [0.5, 0.9, 0.7])
    return run


@pytest.fixture
def kept(tmp_path, kept_once):
    """A run of three epochs, the second of which is the best."""
    shutil.copytree(kept_once.folder, tmp_path / "run")
    return dataclasses.replace(kept_once, folder=tmp_path / "run")


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuses(run, shards, message, error=ManifestError):
    """A resumed training ends with this message and leaves every byte as it was."""
    before = everything(run)
    with pytest.raises(error, match=message) as caught:
        fit(shards, run, CONFIG, resume=True, say=quiet)
    assert len(str(caught.value).splitlines()) == 1
    assert everything(run) == before


def test_runs_are_numbered_by_dataset_and_model(tmp_path, shards, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new_run(shards, "octnet-s") == Path("runs/shards-octnet-s-1")
    assert new_run(Path(f"{shards}/"), "octnet-s") == Path("runs/shards-octnet-s-2")
    assert new_run(shards, "octnet-m") == Path("runs/shards-octnet-m-1")
    (tmp_path / "runs" / "shards-octnet-s-1").rmdir()
    assert new_run(shards, "octnet-s").name == "shards-octnet-s-3"  # no name comes back
    monkeypatch.chdir(shards)
    assert new_run(Path(), "octnet-s", tmp_path / "runs").name == "shards-octnet-s-4"
    assert new_run(Path("../shards/train/.."), "octnet-s", tmp_path / "runs").name == "shards-octnet-s-5"
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no run can be made in the folder"):
        new_run(shards, "octnet-s", tmp_path / "file")


def test_runs_that_are_begun_at_the_same_time_get_folders_of_their_own(tmp_path, shards):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(new_run(shards, "m", tmp_path / "runs"))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 16


def test_the_latest_run_is_the_one_begun_last_whatever_was_touched_since(tmp_path, shards):
    with pytest.raises(SourceError, match="runs, which is no folder here, holds no run; make one"):
        latest_run(tmp_path / "runs")
    write_shards(tmp_path / "other", {"train": 1, "val": 1})
    for name, where in (("c", shards), ("b", shards), ("a", tmp_path / "other")):
        begun(tmp_path / "runs" / name, where)
    os.utime(tmp_path / "runs" / "c" / "config.json")
    (tmp_path / "runs" / "c" / "evaluate-test.json").touch()
    (tmp_path / "runs" / "odd").mkdir()
    (tmp_path / "runs" / "odd" / "config.json").write_text("[" * 100_000)
    assert latest_run(tmp_path / "runs").name == "a"
    assert latest_run(tmp_path / "runs", Manifest.load(shards).digest).name == "b"
    with pytest.raises(SourceError, match="holds no run on these shards"):
        latest_run(tmp_path / "runs", "f" * 64)


def test_nothing_is_resumed_where_there_is_no_run(tmp_path, shards):
    for folder in (tmp_path / "mistyped", tmp_path):
        with pytest.raises(SourceError, match=r"nothing to resume; look at the name given as --run"):
            resolve(folder, {}, resume=True)
        with pytest.raises(SourceError, match="nothing to resume"):
            fit(shards, folder, CONFIG, resume=True, say=quiet)
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_only_begun_keeps_its_settings_and_is_not_begun_a_second_time(tmp_path, shards):
    config = dataclasses.replace(CONFIG, model="octnet-m", lr=0.01)
    run = begun(tmp_path / "run", shards, config)
    assert resolve(run.folder, {}, resume=True) == config
    with pytest.raises(OutputError, match=r"holds a run already; go on with it by --resume, or give another --run"):
        fit(shards, run.folder, config, say=quiet)
    with pytest.raises(SourceError, match=r"no model.keras yet.*--resume"):
        Run.load(run.folder).model()
    assert run.claim(resume=True) == []


def opening(run, shards, config):
    """What a resumed training says before it goes on."""
    resumed = dataclasses.replace(Run.load(run.folder), config=config, shards=shards)
    return fitting._opening(resumed, Run.load(run.folder), ("train",), ("val",), 2, Run.load(run.folder).history())


def test_epochs_and_patience_may_change_when_a_run_is_resumed_and_the_schedule_says_so(kept, shards):
    more = resolve(kept.folder, {"epochs": 800, "patience": 9}, resume=True)
    lines = opening(kept, shards, more)
    said = next(line for line in lines if line.startswith("--epochs was 500 and is 800"))
    assert "follows the cosine of 800 epochs from here on" in said
    run = dataclasses.replace(kept, config=more)
    history = run.claim(resume=True)
    assert len(history) == 3
    run.begin(history)
    assert Run.load(kept.folder).config == more
    assert opening(run, shards, more)[-1] == "going on after epoch 3"
    lines = []
    fit(shards, kept.folder, dataclasses.replace(more, epochs=2), resume=True, say=lines.append)
    assert lines == [
        f"Nothing left to do: {kept.folder} has finished 3 epochs, and --epochs is 2. "
        "Best epoch 2: balanced accuracy 0.9000 on val."
    ]
    lines = []
    fit(shards, kept.folder, dataclasses.replace(more, patience=1), resume=True, say=lines.append)
    assert "no better balanced accuracy for 1 epochs (--patience 1)" in lines[0]
    for change in ({"lr": 0.1}, {"model": "octnet-m"}, {"seed": 4}, {"batch_size": 8}):
        with pytest.raises(OutputError, match="was begun with other settings"):
            fit(shards, kept.folder, dataclasses.replace(more, **change), resume=True, say=quiet)


def test_a_run_resumed_under_other_versions_names_both(kept, shards):
    path = kept.folder / "config.json"
    raw = json.loads(path.read_text())
    raw["libraries"]["keras"] = "3.8.0"
    path.write_text(json.dumps(raw))
    said = opening(kept, shards, CONFIG)[-1]
    assert said.startswith(
        f"WARNING: the run was begun with other versions (keras 3.8.0 then, {keras.__version__} now)"
    )


def test_the_file_of_first_weights_is_found_from_elsewhere_and_not_needed_after_an_epoch(
    tmp_path, shards, networks, monkeypatch
):
    (tmp_path / "start").mkdir()
    networks[0].save(tmp_path / "start" / "first.keras")
    monkeypatch.chdir(tmp_path / "start")
    (tmp_path / "elsewhere").mkdir()

    def until(word):
        def say(line):
            if line.startswith(word):
                raise Stopped

        return say

    config = dataclasses.replace(CONFIG, weights="first.keras")
    with pytest.raises(Stopped):
        fit(shards, tmp_path / "run", config, say=until("class weights"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    stored = resolve(tmp_path / "run", {}, resume=True)
    with pytest.raises(Stopped):
        fit(shards, tmp_path / "run", stored, resume=True, say=until("class weights"))  # only begun, so it is read
    (tmp_path / "start" / "first.keras").unlink()
    with pytest.raises(SettingError, match=r"first\.keras is no file"):
        fit(shards, tmp_path / "run", stored, resume=True, say=quiet)
    run = Run.load(tmp_path / "run")
    keep(run, networks, [0.5])
    sights = run.seen()
    with pytest.raises(Stopped):
        fit(shards, tmp_path / "run", stored, resume=True, say=until("going on after epoch 1"))
    assert Run.load(tmp_path / "run").seen() == sights


def test_two_trainings_do_not_write_to_one_folder(kept, shards):
    with held(kept.folder):
        for resume in (False, True):
            with pytest.raises(OutputError, match="another octtrain fit is writing to"):
                fit(shards, kept.folder, CONFIG, resume=resume, say=quiet)
    with (
        held(kept.folder),
        pytest.raises(OutputError, match="another octtrain fit"),
        locked(kept.folder, "octtrain fit"),
    ):
        pass


def test_a_damaged_or_missing_checkpoint_is_named_and_nothing_is_trained_on_it(kept, shards):
    path = kept.checkpoint(3)
    content = path.read_bytes()
    path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    refuses(kept.folder, shards, r"epoch-0003\.weights\.h5 is damaged.*put it back to go on, or give another --run")
    path.unlink()
    refuses(kept.folder, shards, r"epoch-0003\.weights\.h5 cannot be read")


def test_a_damaged_model_is_named(kept, shards):
    path = kept.folder / "model.keras"
    content = path.read_bytes()
    path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    refuses(kept.folder, shards, r"model\.keras is damaged")


def test_checksums_that_are_gone_are_named(kept, shards):
    (kept.folder / "checkpoints" / "epoch-0003.json").write_text("{}")
    refuses(kept.folder, shards, r"epoch-0003\.json cannot be read .*checksums of epoch 3")


@pytest.mark.parametrize("how", ["missing", "empty", "header", "shorter", "changed", "binary"])
def test_a_lost_or_edited_history_is_named_and_nothing_is_deleted(kept, shards, how):
    path = kept.folder / "history.csv"
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
    refuses(kept.folder, shards, r"history\.csv (is missing|is not what|is damaged)|epoch-0002.json cannot be read")


def test_only_files_that_training_names_are_ever_removed(kept, shards, networks):
    folder = kept.folder / "checkpoints"
    mine = [folder / name for name in ("notes.txt", "epoch-0001.weights.h5.bak", "best.keras", "my-epoch-0001.json")]
    for path in mine:
        path.write_text("mine")
    (folder / "sub").mkdir()
    stale = [folder / "best-0004.keras", folder / "epoch-0004.weights.h5", folder / ".part-1-epoch-0004.weights.h5"]
    for path in stale:
        path.write_text("of an epoch that was killed before its row was written")
    kept.begin(kept.claim(resume=True))
    assert all(path.read_text() == "mine" for path in mine)
    assert not any(path.exists() for path in stale)
    keep_on = [row(1), row(2, 0.9), row(3, 0.7), row(4, 0.8)]
    kept.keep(keep_on, networks[1], networks[0])
    assert all(path.exists() for path in mine)
    assert kept.checkpoint(4).exists()
    assert not kept.checkpoint(3).exists()


def test_the_model_is_of_the_best_epoch_and_the_checkpoint_of_the_last(kept, networks):
    assert bias(Run.load(kept.folder).model()) == 2
    set_to(networks[0], 0)
    fitting._restore(networks[1], kept.checkpoint(3))
    assert bias(networks[0]) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed in the midst of its writing")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")
def test_a_kill_in_any_stage_of_keeping_an_epoch_leaves_the_state_before_or_after(tmp_path, shards, networks):
    """Epoch 2 is better than epoch 1 and is killed before each change of a file's name, and before each removal."""
    whole = begun(tmp_path / "whole", shards)
    keep(whole, networks, [0.5])
    stages = 0
    while True:
        run = dataclasses.replace(whole, folder=tmp_path / f"run{stages}")
        shutil.copytree(whole.folder, run.folder)
        child = os.fork()
        if not child:
            signal.alarm(60)
            left = [stages]

            def counting(operation, left=left):
                def wrapped(*arguments, **settings):
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left[0] -= 1
                    return operation(*arguments, **settings)

                return wrapped

            Path.replace, Path.unlink = counting(Path.replace), counting(Path.unlink)
            model, training = networks
            set_to(model, 2)
            run.keep([row(1, 0.5), row(2, 0.9)], training, model)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            break
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        history = run.claim(resume=True)
        run.begin(history)
        assert len(history) in (1, 2)
        assert bias(run.model()) == len(history)
        assert {path.name for path in (run.folder / "checkpoints").iterdir()} == {
            f"epoch-000{len(history)}.weights.h5", f"epoch-000{len(history)}.json"
        }  # fmt: skip
        fitting._restore(networks[1], run.checkpoint(len(history)))
        stages += 1
    assert stages >= 6


def test_a_start_that_was_killed_is_begun_again(tmp_path, shards):
    run = begun(tmp_path / "run", shards)
    for gone in (["config.json"], ["config.json", "manifest.json"]):
        for name in gone:
            (run.folder / name).unlink()
        (run.folder / ".part-7-config.json").touch()
        assert run.claim(resume=False) == []
        run.begin([])
        assert not list(run.folder.glob(".part*"))
        run.claim(resume=True)
    (run.folder / "config.json").unlink()
    (run.folder / "thesis.txt").touch()
    with pytest.raises(OutputError, match="is no run folder"):
        run.claim(resume=False)


def test_a_run_may_be_the_working_folder_an_empty_one_or_a_link_to_one(tmp_path, shards, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    begun(Path(), shards)
    assert Run.load(Path()).shards == shards.resolve()
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    run = begun(tmp_path / "link", shards)
    assert Run.load(run.folder).shards == Run.load(tmp_path / "far" / "away").shards == shards.resolve()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    for place in ("loop", "file", "file/run"):
        with pytest.raises(OutputError, match="cannot be used as a folder to write to") as caught:
            fit(shards, tmp_path / place, CONFIG, say=quiet)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": {"epochs": 4.5}}, "epochs must be a whole number; got 4.5"),
        ({"config": {"epochs": "12"}}, "epochs must be a whole number"),
        ({"config": {"epochs": True}}, "epochs must be a whole number"),
        ({"config": {"lr": float("nan")}}, "lr must be above 0"),
        ({"config": {"lr": "fast"}}, "lr must be a number"),
        ({"config": {"model": ["octnet-s"]}}, "model must be a name"),
        ({"config": {"weights": None}}, "weights must be a name"),
        ({"config": {"fold": 0.5}}, "fold must be a whole number"),
        ({"config": 7}, "config.json is not what"),
        ({"config": {"depth": 3}}, "config.json is not what"),
        ({"shards": 7}, "7 is no text"),
        ({"shards": "a\0b"}, "is no text"),
        ({"libraries": ["keras"]}, "config.json is not what"),
        ({"libraries": {"keras": 3}}, "3 is no text"),
        ({"digest": "f" * 64}, "manifest.json is of the dataset"),
        ({"run_version": [1]}, "of version"),
        ("[" * 100_000, "config.json is not what"),
        ("null", "it is no JSON object"),
        ("7", "it is no JSON object"),
        ("{}", "'run_version' is missing"),
        (b"\xff\xfe", "config.json is not what"),
    ],
)
def test_an_odd_config_is_a_sentence(tmp_path, shards, change, reason):
    run = begun(tmp_path / "run", shards)
    path = run.folder / "config.json"
    if isinstance(change, dict):
        raw = json.loads(path.read_text())
        for key, value in change.items():
            raw[key] = {**raw[key], **value} if key == "config" and isinstance(value, dict) else value
        path.write_text(json.dumps(raw))
    elif isinstance(change, bytes):
        path.write_bytes(change)
    else:
        path.write_text(change)
    with pytest.raises(ManifestError, match=reason) as caught:
        Run.load(run.folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "epoch,loss\n1,1\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1,1,1\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1,1,1,1,1\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1.5,1,1,1\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n2,1,1,1\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1,nan,1,1\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1,1,1,nan\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1,1,1,7\n",
        "epoch,loss,val_loss,val_balanced_accuracy\n1,1,1,\n",
        'epoch,loss,val_loss,val_balanced_accuracy\n1,1,1,"1\n',
        "",
    ],
)
def test_an_odd_history_is_a_sentence(tmp_path, shards, text):
    run = begun(tmp_path / "run", shards)
    (run.folder / "history.csv").write_text(text)
    with pytest.raises(ManifestError, match=r"history\.csv is not what `octtrain fit` wrote") as caught:
        run.history()
    assert len(str(caught.value).splitlines()) == 1


def bomb(path, member, size=600_000_000):
    """An archive of a few hundred kilobytes that would unpack to so many bytes."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(member, "w", force_zip64=True) as out,
    ):
        for _ in range(size // 10_000_000):
            out.write(bytes(10_000_000))


def test_an_archive_that_unpacks_to_far_more_than_it_holds_is_refused_unread(kept, shards):
    bomb(kept.folder / "model.keras", "model.weights.h5")
    with pytest.raises(ManifestError, match=r"would unpack to 600,000,000, and at most"):
        kept.model()
    bomb(kept.folder / "model.keras", "octtrain.json", 100_000_000)
    with pytest.raises(ManifestError, match="would unpack to 100,000,000"):
        kept.model()
    with pytest.raises(SettingError, match="would unpack to 100,000,000"):
        build_model("octnet-s", (32, 32, 1), 4, str(kept.folder / "model.keras"))


def test_weights_whose_arrays_are_far_larger_than_their_file_are_refused_unread(kept, tmp_path):
    with h5py.File(tmp_path / "bomb.weights.h5", "w") as file:
        file.create_dataset("layers/conv2d/vars/0", shape=(200_000_000,), dtype="float32", chunks=True, fillvalue=1)
    with pytest.raises(SettingError, match=r"bytes would unpack to 800,000,000, and at most"):
        build_model("octnet-s", (32, 32, 1), 4, str(tmp_path / "bomb.weights.h5"))
    with zipfile.ZipFile(kept.folder / "model.keras") as old:
        content = {name: old.read(name) for name in old.namelist()}
    content["model.weights.h5"] = (tmp_path / "bomb.weights.h5").read_bytes()
    with zipfile.ZipFile(kept.folder / "model.keras", "w") as new:
        for name, data in content.items():
            new.writestr(name, data)
    with pytest.raises(ManifestError, match="would unpack to 800,000,000"):
        kept.model()


def test_of_a_file_of_weights_only_the_numbers_are_taken(tmp_path, networks):
    set_to(networks[0], 5)
    networks[0].save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as old, zipfile.ZipFile(tmp_path / "odd.keras", "w") as new:
        for name in old.namelist():
            new.writestr(name, b'{"class_name": "Evil"}' if name == "config.json" else old.read(name))
    assert bias(build_model("octnet-s", (32, 32, 1), 4, str(tmp_path / "odd.keras"))) == 5
    with pytest.raises(SettingError, match="holds no weights for octnet-m"):
        build_model("octnet-m", (32, 32, 1), 4, str(tmp_path / "good.keras"))


def test_a_model_of_another_keras_that_cannot_be_loaded_names_both_versions(kept):
    path = kept.folder / "model.keras"
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    content["metadata.json"] = b'{"keras_version": "9.1.0"}'
    content["config.json"] = content["config.json"].replace(
        b'"class_name": "Functional"', b'"class_name": "Futuristic"'
    )
    with zipfile.ZipFile(path, "w") as new:
        for name, data in content.items():
            new.writestr(name, data)
    with pytest.raises(
        ManifestError, match=rf"written by Keras 9\.1\.0 and cannot be loaded by Keras {keras.__version__}"
    ):
        kept.model()
    assert provenance.keras_version(path) == "9.1.0"


def test_the_random_numbers_of_neighbouring_seeds_and_epochs_have_nothing_in_common(networks):
    found = set()
    for seed in range(3):
        for epoch in range(4):
            reseed(networks[1], seed, epoch)
            states = [np.asarray(v) for v in networks[1].variables if "seed_generator" in v.path]
            assert len(states) >= 2
            found |= {tuple(int(word) for word in state) for state in states}
    assert len(found) == 3 * 4 * len(states)
    assert len({key for key, _ in found}) == len(found)
    reseed(networks[1], 2, 3)
    again = [np.asarray(v) for v in networks[1].variables if "seed_generator" in v.path]
    assert all((a == b).all() for a, b in zip(states, again, strict=True))


def test_images_per_second_counts_the_images_and_the_time_of_training_alone(tmp_path, shards, networks):
    journal = EpochRecorder(begun(tmp_path / "run", shards), networks[0], [], 2, quiet)
    journal.set_model(networks[1])
    assert journal.batch == 16
    journal.on_epoch_begin(0)
    time.sleep(0.8)  # compiling
    journal.on_train_batch_end(0)
    time.sleep(0.05)
    journal.on_train_batch_end(1)
    journal.on_test_begin()
    time.sleep(0.8)  # validating
    journal.on_epoch_end(0, {key: value for key, value in row(1).items() if "loss" in key or "accuracy" in key})
    assert journal.history[0]["images_per_second"] > 16 / 0.3
    few = dataclasses.replace(CONFIG, batch_size=1000)
    assert EpochRecorder(begun(tmp_path / "few", shards, few), networks[0], [], 1, quiet).batch == 24


def test_what_rests_on_very_few_patients_is_said_with_the_number(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {"train": 6, "val": 1}, skip={"val": ["NORMAL"]})
    run = Run(folder=tmp_path / "run", config=CONFIG, manifest=manifest, shards=tmp_path / "s")
    assert few_remarks(run, ("train", "val"), ("val",)) == [
        "WARNING: val has 1 patient of CNV, 1 patient of DME, 1 patient of DRUSEN, no patients of NORMAL: "
        "the best epoch is chosen on very little."
    ]
    manifest, _ = write_shards(tmp_path / "one", {"train": 2, "val": 9}, skip={"train": ["CNV", "DME", "DRUSEN"]})
    run = Run(folder=tmp_path / "run", config=CONFIG, manifest=manifest, shards=tmp_path / "one")
    few, single = few_remarks(run, ("train", "val"), ("val",))
    assert "training has no patients of CNV" in few
    assert "2 patients of NORMAL" in few
    assert "training has images of one class only" in single


def test_a_model_at_chance_is_called_so_with_the_numbers(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {"train": 1, "val": 25})
    run = Run(folder=tmp_path / "run", config=CONFIG, manifest=manifest, shards=tmp_path / "s")
    for accuracy, learnt in ((0.25, False), (0.3, False), (0.4, True), (1.0, True)):
        lines = chance_remarks(run, ("val",), [row(1, accuracy), row(2, 0.1)])
        assert (lines == []) == learnt
    assert (
        "guessing among 4 classes gives 0.2500, and on 100 patients up to 0.3366 by luck"
        in chance_remarks(run, ("val",), [row(1, 0.3)])[0]
    )


def test_one_seed_and_epoch_do_not_give_the_order_of_another_seed(tmp_path):
    from octtrain.data import stream

    manifest, _ = write_shards(tmp_path / "s", {"train": 12})

    def order(seed, epoch):
        batches = stream.training_batches(tmp_path / "s", manifest, ["train"], 16, seed, range(epoch, epoch + 1))
        return [image.tobytes() for images, _ in batches for image in images.numpy()]

    assert order(0, 100_003) != order(1, 0)
    assert order(1, 0) == order(1, 0)
