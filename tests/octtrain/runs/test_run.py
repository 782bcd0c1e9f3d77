"""A run as its folder describes it."""

import dataclasses
import json
import shutil

import pytest

pytest.importorskip("tensorflow")

from octprep.format.errors import ManifestError, SettingError, SourceError
from octtrain.runs.run import Run, choose_splits
from tests.worlds.runs import initialised
from tests.worlds.shards import write_shards

pytestmark = pytest.mark.slow


def test_the_saved_model_has_only_layers_of_keras(trained):
    run, *_ = trained
    assert all(type(layer).__module__.startswith("keras.") for layer in run.load_model().layers)


def test_a_folder_that_is_not_a_run_is_an_error(trained, tmp_path):
    with pytest.raises(SourceError, match="does not exist; make one with"):
        Run.load(tmp_path / "none")
    with pytest.raises(SourceError, match="is not a run folder"):
        Run.load(tmp_path)
    path = tmp_path / "run" / "config.json"
    shutil.copytree(trained[0].folder, tmp_path / "run")
    raw = json.loads(path.read_text())
    for change, message in (
        ({"run_version": 99}, "of version 99"),
        ({"run_version": 1}, "of version 1"),
        ({"config": {"depth": 3}}, "is not what"),
    ):
        path.write_text(json.dumps({**raw, **change}))
        with pytest.raises(ManifestError, match=message):
            Run.load(tmp_path / "run")
    path.write_text(json.dumps(raw))
    (tmp_path / "run" / "model.keras").write_bytes(b"half")
    with pytest.raises(ManifestError, match="cannot be loaded"):
        Run.load(tmp_path / "run").load_model()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": {"epochs": 4.5}}, "epochs must be a whole number; got 4.5"),
        ({"config": {"epochs": "12"}}, "epochs must be a whole number"),
        ({"config": {"epochs": True}}, "epochs must be a whole number"),
        ({"config": {"lr": float("nan")}}, "lr must be auto, or above 0"),
        ({"config": {"lr": "fast"}}, "lr must be auto or a number"),
        ({"config": {"model": ["octnet-s"]}}, "model must be a name"),
        ({"config": {"model": "resnet"}}, "no model called 'resnet'"),
        ({"config": {"weights": None}}, "weights must be a name"),
        ({"config": {"fold": 0.5}}, "fold must be a whole number"),
        ({"config": 7}, "config.json is not what"),
        ({"config": {"depth": 3}}, "config.json is not what"),
        ({"shards": 7}, "7 is not text"),
        ({"shards": "a\0b"}, "is not text"),
        ({"libraries": ["keras"]}, "config.json is not what"),
        ({"libraries": {"keras": 3}}, "3 is not text"),
        ({"digest": "f" * 64}, "manifest.json is of the dataset"),
        ({"run_version": [1]}, "of version"),
        ("[" * 100_000, "config.json is not what"),
        ("null", "it is not a JSON object"),
        ("7", "it is not a JSON object"),
        ("{}", "'run_version' is missing"),
        (b"\xff\xfe", "config.json is not what"),
    ],
)
def test_an_edited_config_is_a_one_line_error(tmp_path, shards, change, reason):
    path = initialised(tmp_path / "run", shards).path / "config.json"
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
        Run.load(path.parent)
    assert len(str(caught.value).splitlines()) == 1


def test_one_fold_is_validated_on_and_the_others_are_trained_on(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {"fold0": 1, "fold1": 1, "fold2": 1, "test": 1}, split="kfold")
    assert choose_splits(manifest, 1) == (("fold0", "fold2"), ("fold1",))
    with pytest.raises(SettingError, match="in 3 folds; choose the one"):
        choose_splits(manifest, None)
    with pytest.raises(SettingError, match="between 0 and 2; got 3"):
        choose_splits(manifest, 3)


def test_a_fold_to_test_on_is_neither_trained_nor_validated_on(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {f"fold{i}": 1 for i in range(3)}, split="kfold")
    assert choose_splits(manifest, 1, 0) == (("fold2",), ("fold1",))
    for fold, test_fold, message in ((1, 1, "must be two folds; got 1"), (1, 3, "test-fold must be between 0 and 2")):
        with pytest.raises(SettingError, match=message):
            choose_splits(manifest, fold, test_fold)
    two, _ = write_shards(tmp_path / "two", {f"fold{i}": 1 for i in range(2)}, split="kfold")
    with pytest.raises(SettingError, match="at least 3 folds"):
        choose_splits(two, 1, 0)


def test_shards_without_folds_or_without_val(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {"train": 1, "val": 1, "test": 1})
    assert choose_splits(manifest, None) == (("train",), ("val",))
    with pytest.raises(SettingError, match="omit --fold"):
        choose_splits(manifest, 0)
    with pytest.raises(SettingError, match="omit --test-fold"):
        choose_splits(manifest, None, 0)
    without = dataclasses.replace(manifest, splits={name: manifest.splits[name] for name in ("train", "test")})
    empty = dataclasses.replace(manifest, splits={**manifest.splits, "val": ()})
    for bad in (without, empty):
        with pytest.raises(ManifestError, match="no images in split 'val'"):
            choose_splits(bad, None)


def test_shards_of_a_test_split_alone_are_for_evaluation(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {"test": 1})
    config = dataclasses.replace(manifest.config, fractions=(0, 0, 1))
    with pytest.raises(ManifestError, match=r"hold a test split alone .*octtrain evaluate RUN --dataset DIR"):
        choose_splits(dataclasses.replace(manifest, config=config), None)
