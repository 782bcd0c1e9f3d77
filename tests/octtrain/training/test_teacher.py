"""A run that is taught by the model of another (distillation)."""

import json
import shutil

import pytest

pytest.importorskip("tensorflow")
import numpy as np

from octprep.format.errors import LeakError, ManifestError, OutputError, SettingError
from octprep.format.manifest import Manifest
from octtrain.config import FitConfig
from octtrain.data.chunks import Chunk
from octtrain.evaluation.evaluate import evaluate
from octtrain.runs.exposure import TEACHER
from octtrain.runs.run import Run
from octtrain.training.fit import fit
from octtrain.training.trainer import Trainer
from tests.worlds.networks import tiny_run
from tests.worlds.runs import Stopped, quiet, stop_at
from tests.worlds.shards import CLASSES, write_shards

pytestmark = pytest.mark.slow

CONFIG = FitConfig(model="tests.worlds.networks:tiny", epochs=2, batch_size=8, lr=3e-3, patience=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Shards, others of different patients, and a teacher that was trained on the others."""
    folder = tmp_path_factory.mktemp("teacher")
    write_shards(folder / "shards", {"train": 4, "val": 2, "test": 2})
    write_shards(folder / "others", {"train": 4, "val": 2, "test": 2}, seed=1, first_patient=50_000)
    tiny_run(folder / "teacher", folder / "others", seed=7)
    return folder


def test_a_student_comes_near_its_teacher_without_any_labels(world):
    """With class weights of 0 the labels count nothing, so only the divergence from the teacher is left."""
    teacher = Run.load(world / "teacher").load_model()
    for layer in teacher.layers:
        if layer.name == "head":  # an opinion that no student starts with
            layer.set_weights([layer.get_weights()[0] * 0, np.array([0, 0, 3, 0], np.float32)])
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 32, 1), dtype=np.uint8)
    for mixup in (0.0, 0.4):
        config = FitConfig(model=CONFIG.model, epochs=5, batch_size=32, lr=1e-2, mixup=mixup, precision="float32")
        before, after, alone = [], [], []
        for network, store in ((teacher, after), (None, alone)):
            trainer = Trainer(config, (32, 32, 1), [0.0] * 4, 8, teacher=network)
            before = np.asarray(trainer.model.predict_on_batch(pixels[0]))
            order, labels = np.zeros((8, 32), np.int32), np.zeros((8, 32), np.int32)
            chunk = Chunk(
                images=trainer.programs.place(np.repeat(pixels, 8, axis=0)), order=order, labels=labels, steps=8
            )
            for epoch in range(5):
                trainer.train(chunk, trainer.programs.zeros(), epoch, 0)
            trainer.update_model()
            store.append(np.asarray(trainer.model.predict_on_batch(pixels[0])))
        taught = np.asarray(teacher.predict_on_batch(pixels[0]))
        distance, at_start = np.abs(after[0] - taught).mean(), np.abs(before - taught).mean()
        assert distance < at_start / 3
        assert np.abs(alone[0] - taught).mean() > at_start / 2
        assert not any("member" in layer.name or layer.name == "teacher" for layer in trainer.model.layers)


def test_the_exposure_of_a_teacher_is_that_of_its_student(world, tmp_path, monkeypatch):
    monkeypatch.chdir(world)
    lines = []
    run = fit("shards", tmp_path / "student", CONFIG, teacher="teacher", log=lines.append)
    assert f"teacher: {world}/teacher" in lines
    assert not any("was exposed to" in line for line in lines)
    stored = json.loads((run.folder / "config.json").read_text())
    assert stored["config"]["teacher"] == str(world / "teacher")
    taught = [image for image in run.exposure().images if image.split == TEACHER]
    assert {(image.patient, image.sha256) for image in taught} == {
        (image.patient, image.sha256) for image in Run.load(world / "teacher").exposure().images
    }
    evaluate(run, log=quiet)
    with pytest.raises(LeakError, match="4 of the 4 patients and 16 images of train"):
        evaluate(run, "train", dataset=world / "others", log=quiet)
    assert run.load_model().count_params() == Run.load(world / "teacher").load_model().count_params()


def test_a_teacher_that_was_exposed_to_held_out_patients_is_a_warning(world, tmp_path):
    """A teacher on the same split is not; one that was trained on patients of test is."""
    tiny_run(tmp_path / "same", world / "shards")
    lines = []
    with pytest.raises(Stopped):
        fit(world / "shards", tmp_path / "a", CONFIG, teacher=str(tmp_path / "same"), log=stop_at("epoch", lines))
    assert not any("was exposed to" in line for line in lines)
    write_shards(tmp_path / "leaky", {"train": 3, "val": 1}, first_patient=2000)  # 2000 and 2001 are in test
    tiny_run(tmp_path / "leaky-run", tmp_path / "leaky")
    lines.clear()
    with pytest.raises(Stopped):
        fit(world / "shards", tmp_path / "b", CONFIG, teacher=str(tmp_path / "leaky-run"), log=stop_at("epoch", lines))
    [warning] = [line for line in lines if "was exposed to" in line]
    assert warning.startswith(f"WARNING: the teacher {tmp_path}/leaky-run was exposed to 2 of the patients held out")
    fit(world / "shards", tmp_path / "b", resume=True, log=quiet)
    with pytest.raises(LeakError, match="2 of the 2 patients"):
        evaluate(tmp_path / "b", log=quiet)


def test_a_run_is_resumed_with_the_same_teacher_only(world, tmp_path):
    shutil.copytree(world / "teacher", tmp_path / "teacher")
    shutil.copytree(world / "others", tmp_path / "others")
    config = {"config": CONFIG, "teacher": str(tmp_path / "teacher"), "log": quiet}
    whole = fit(world / "shards", tmp_path / "whole", **config)
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        fit(world / "shards", run, **{**config, "log": stop_at("epoch   1")})
    with pytest.raises(OutputError, match=r"started with other settings \(teacher .*teacher in the run, None now"):
        fit(world / "shards", run, CONFIG, resume=True, log=quiet)
    model = (tmp_path / "teacher" / "model.keras").read_bytes()
    tiny_run(tmp_path / "other-teacher", world / "others", seed=8)
    shutil.copy(tmp_path / "other-teacher" / "model.keras", tmp_path / "teacher" / "model.keras")
    with pytest.raises(OutputError, match="was started with another teacher than"):
        fit(world / "shards", run, resume=True, log=quiet)
    (tmp_path / "teacher" / "model.keras").unlink()
    with pytest.raises(SettingError, match=r"has no model\.keras yet"):
        fit(world / "shards", run, resume=True, log=quiet)
    (tmp_path / "teacher" / "model.keras").write_bytes(model)
    resumed = fit(world / "shards", run, resume=True, log=quiet)
    for ours, theirs in zip(resumed.load_model().get_weights(), whole.load_model().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_unusable_teacher_is_an_error_before_the_run_is_made(world, tmp_path):
    write_shards(tmp_path / "names", {"train": 1, "val": 1}, classes=CLASSES[::-1])
    tiny_run(tmp_path / "other-classes", tmp_path / "names")
    for teacher, error, message in (
        ("none", SettingError, "--teacher .*none cannot be used: .*none does not exist"),
        ("other-classes", ManifestError, "cannot teach a model on these shards: class names NORMAL"),
    ):
        with pytest.raises(error, match=message):
            fit(world / "shards", tmp_path / "run", CONFIG, teacher=str(tmp_path / teacher), log=quiet)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SettingError, match="teacher must be the folder of a run"):
        FitConfig(teacher="")


def test_a_student_of_shards_in_folds_leaves_the_test_fold_to_its_teacher_too(tmp_path):
    """The teacher's exposure says which folds it saw: a fold that neither saw can be evaluated, another one cannot."""
    write_shards(tmp_path / "folds", {f"fold{i}": 2 for i in range(3)}, split="kfold")
    for test_fold in (0, 1):
        tiny_run(tmp_path / f"teacher{test_fold}", tmp_path / "folds", fold=2, test_fold=test_fold)
    assert Manifest.load(tmp_path / "folds").records("fold0") == 8
    for teacher in ("teacher0", "teacher1"):
        fit(
            tmp_path / "folds", tmp_path / f"by-{teacher}", CONFIG, fold=2, test_fold=0,
            teacher=str(tmp_path / teacher), log=quiet,
        )  # fmt: skip
    evaluate(tmp_path / "by-teacher0", "fold0", log=quiet)
    with pytest.raises(LeakError, match="of fold0"):
        evaluate(tmp_path / "by-teacher1", "fold0", log=quiet)
