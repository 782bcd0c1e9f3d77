"""Cross-validation: each patient predicted once by models that were not exposed to them; resuming; the results."""

import csv
import dataclasses
import json
import shutil
from collections import defaultdict

import pytest

pytest.importorskip("tensorflow")
import numpy as np

from octprep.format import images_csv
from octprep.format.errors import LeakError, ManifestError, OutputError, SettingError, SourceError
from octprep.format.manifest import Manifest
from octtrain.evaluation.compare import compare, read_evaluated
from octtrain.evaluation.evaluate import evaluate
from octtrain.evaluation.predictions import SplitPredictions
from octtrain.experiments.crossval.config import CrossvalConfig
from octtrain.experiments.crossval.experiment import crossval
from octtrain.experiments.crossval.pooling import mean_over_seeds, require_each_once, require_unexposed
from octtrain.runs.run import Run
from tests.worlds.networks import tiny_run
from tests.worlds.runs import Stopped, metrics_of, program, quiet, signal_after, start, stop_at
from tests.worlds.shards import CLASSES, patient_of, write_shards

pytestmark = pytest.mark.slow

SETTINGS = {"model": "tests.worlds.networks:tiny", "epochs": 2, "batch_size": 8, "lr": 3e-3, "patience": 0}
FOLDS = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Shards in folds, and a cross-validation of two seeds on them."""
    folder = tmp_path_factory.mktemp("crossval")
    write_shards(folder / "shards", {**{f"fold{i}": 3 for i in range(FOLDS)}, "test": 2}, split="kfold")
    lines = []
    result = crossval(folder / "shards", folder / "cv", seeds=2, **SETTINGS, log=lines.append)
    return folder, result, tuple(lines)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_patient_is_predicted_once_by_models_that_were_not_exposed_to_them(world):
    folder, result, _ = world
    images = {
        row.path: row for row in images_csv.read_checked(folder / "shards", Manifest.load(folder / "shards")).rows
    }
    predicted = rows_of(folder / "cv" / "predictions-out-of-fold.csv")
    assert sorted(row["path"] for row in predicted) == sorted(p for p, row in images.items() if row.split != "test")
    exposed_to = defaultdict(set)  # fold -> patients of the runs that predict it
    for path in (folder / "cv").glob("fold*-seed*"):
        exposed_to[path.name.partition("-")[0]] |= {row["patient"] for row in rows_of(path / "exposure.csv")}
    assert len(exposed_to) == FOLDS
    for row in predicted:
        assert row["patient"] == patient_of(row["path"])
        assert row["patient"] not in exposed_to[images[row["path"]].split]
    everyone = {row["patient"] for row in predicted}
    for fold, patients in exposed_to.items():  # and they learnt from all the others
        assert patients == everyone - {row["patient"] for row in predicted if images[row["path"]].split == fold}
    assert result.report.patients == len(everyone) == 9


def test_the_results_are_those_of_the_runs(world):
    """Probabilities are the mean of what `evaluate` gives for the runs; it finds no leak in any, and no caveat."""
    folder, result, lines = world
    stored = json.loads((folder / "cv" / "crossval.json").read_text())
    assert stored["digest"] == Manifest.load(folder / "shards").digest
    assert (stored["folds"], stored["seeds"], stored["images"]) == (["fold0", "fold1", "fold2"], [0, 1], 36)
    assert stored["settings"]["epochs"] == 2
    pooled = {row["path"]: row for row in rows_of(folder / "cv" / "predictions-out-of-fold.csv")}
    sums = defaultdict(list)
    for fold in range(FOLDS):
        for seed in range(2):
            name = f"fold{fold}-seed{seed}"
            run = Run.load(folder / "cv" / name)
            assert (run.config.fold, run.config.test_fold, run.config.seed) == ((fold + 1) % FOLDS, fold, seed)
            report = evaluate(run, f"fold{fold}", out=folder / "out" / name, log=quiet)
            assert stored["balanced_accuracy_by_run"][name] == report.balanced_accuracy.value
            found = json.loads((folder / "out" / name / f"evaluate-fold{fold}.json").read_text())
            assert found["leak_warning"] is None
            assert not any("select" in caveat for caveat in found["caveats"])
            for row in rows_of(folder / "out" / name / f"predictions-fold{fold}.csv"):
                sums[row["path"]].append([float(row[label]) for label in CLASSES])
    assert pooled.keys() == sums.keys()
    for path, row in pooled.items():
        assert len(sums[path]) == 2
        np.testing.assert_allclose([float(row[label]) for label in CLASSES], np.mean(sums[path], axis=0), atol=2e-6)
    correct = sum(row["truth"] == row["prediction"] for row in pooled.values())
    assert stored["accuracy"]["count"] == result.report.accuracy.count == correct
    by_fold = list(stored["balanced_accuracy_by_fold"].values())
    assert stored["balanced_accuracy_over_folds"]["mean"] == pytest.approx(np.mean(by_fold))
    assert stored["balanced_accuracy_over_folds"]["std"] == pytest.approx(np.std(by_fold, ddof=1))
    assert stored["balanced_accuracy_over_seeds"]["std"] is not None
    text = "\n".join(lines)
    assert "36 images of 9 patients in 3 of 3 folds, each predicted by 2 models that had not been exposed" in text
    assert f"balanced accuracy  {result.report.balanced_accuracy}" in text
    assert lines[-2] == f"wrote {folder}/cv/crossval.json and {folder}/cv/predictions-out-of-fold.csv"
    assert lines[-1].startswith(f"next: `octtrain evaluate {folder}/cv/fold0-seed0 {folder}/cv/fold0-seed1 ")
    assert sum(line.startswith("next: ") for line in lines) == 1


def test_a_cross_validation_can_be_compared(world, tmp_path):
    folder, result, _ = world
    (comparison,) = compare([folder / "cv", folder / "cv"], json_file=tmp_path / "out.json", log=quiet)
    found = {difference.key: difference for difference in comparison.images}
    assert found["accuracy",].first.value == result.report.accuracy.value
    assert comparison.trainings == (0, (0, 0), 6)  # three folds, two seeds
    assert read_evaluated(folder / "cv", "test").ratio == 1  # each predicts one fold, and is trained on one


def test_an_interrupted_cross_validation_goes_on_where_it_stopped(world, tmp_path):
    """One run was never started, one has one epoch of two: the others are not touched, and the result is the same."""
    folder, result, _ = world
    whole = {path.name: metrics_of(path) for path in (folder / "cv").glob("fold*")}
    shutil.copytree(folder / "cv", tmp_path / "cv")
    shutil.copytree(folder / "shards", tmp_path / "shards")
    for name in ("fold0-seed1", "fold2-seed0"):
        shutil.rmtree(tmp_path / "cv" / name)
    (tmp_path / "cv" / "crossval.json").unlink()
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "cv").glob("*/model.keras")}
    assert len(models) == 4
    lines = []
    with pytest.raises(Stopped):
        crossval(tmp_path / "shards", tmp_path / "cv", resume=True, log=stop_at("epoch   1", lines))
    assert (tmp_path / "cv" / "fold0-seed1" / "history.csv").is_file()
    assert not (tmp_path / "cv" / "crossval.json").exists()
    lines.clear()
    resumed = crossval(tmp_path / "shards", tmp_path / "cv", seeds=2, **SETTINGS, log=lines.append)  # the same command
    assert sum(line.startswith("Nothing left to do") for line in lines) == 4
    assert sum(line.startswith("epoch ") for line in lines) == 3
    assert {path: path.stat().st_mtime_ns for path in models} == models
    assert {path.name: metrics_of(path) for path in (tmp_path / "cv").glob("fold*")} == whole
    assert resumed.as_json() == result.as_json()
    name = "predictions-out-of-fold.csv"
    assert (tmp_path / "cv" / name).read_bytes() == (folder / "cv" / name).read_bytes()
    with pytest.raises(OutputError, match=r"started with other settings \(lr 0\.003 there, 0\.1 now\)"):
        crossval(tmp_path / "shards", tmp_path / "cv", resume=True, lr=0.1, log=quiet)
    with pytest.raises(OutputError, match=r"other settings \(model tests\.worlds\.networks:tiny there, octnet-s now"):
        crossval(tmp_path / "shards", tmp_path / "cv", log=quiet, lr=3e-3)
    write_shards(tmp_path / "others", {f"fold{i}": 3 for i in range(FOLDS)}, split="kfold", seed=1)
    with pytest.raises(OutputError, match="started on other shards"):
        crossval(tmp_path / "others", tmp_path / "cv", resume=True, log=quiet)


def test_the_command_chooses_a_folder_and_resumes_the_latest(world, tmp_path, monkeypatch, capsys):
    folder, *_ = world
    monkeypatch.chdir(tmp_path)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    code, out, err = program(capsys, "crossval", folder / "shards", "--folds", "2", *options, "--epochs=1")
    assert (code, err) == (0, "")
    made = tmp_path / "runs" / "shards-tests.worlds.networks-tiny-crossval-1"
    assert {path.name for path in made.iterdir()} == {
        "settings.json", "fold2-seed0", "crossval.json", "predictions-out-of-fold.csv"
    }  # fmt: skip
    assert "in 1 of 3 folds, each predicted by 1 model" in out
    assert json.loads((made / "crossval.json").read_text())["images"] == 12
    code, out, err = program(capsys, "crossval", folder / "shards", "--resume", "--json", "-")
    assert code == 0
    assert json.loads(out) == json.loads((made / "crossval.json").read_text())
    assert "the latest cross-validation of these shards" in err
    assert "has finished 1 epoch" in err
    with pytest.raises(SourceError, match="holds no cross-validation of these shards"):
        write_shards(tmp_path / "others", {f"fold{i}": 1 for i in range(FOLDS)}, split="kfold", seed=1)
        crossval(tmp_path / "others", resume=True, log=quiet)


def test_an_interruption_says_how_to_resume_the_whole(world, tmp_path):
    """Not only the run that is interrupted."""
    folder, *_ = world
    options = [f"--{name.replace('_', '-')}={value}" for name, value in {**SETTINGS, "epochs": 500}.items()]
    process = start("crossval", folder / "shards", "--run", "cv", *options, cwd=tmp_path)
    lines, err = signal_after(process, "epoch   1")
    assert lines[0] == "training 1 of 3, without fold0: fold0-seed0"
    assert err == f"octtrain: interrupted; resume by `octtrain crossval {folder}/shards --run cv --resume`.\n"
    assert process.returncode == 130


def test_what_cannot_be_cross_validated_is_an_error_before_anything_is_made(world, tmp_path, capsys):
    folder, *_ = world
    write_shards(tmp_path / "plain", {"train": 1, "val": 1, "test": 1})
    write_shards(tmp_path / "two", {"fold0": 1, "fold1": 1}, split="kfold")
    code, _, err = program(capsys, "crossval", tmp_path / "plain", "--run", tmp_path / "cv")
    assert (code, err.count("\n")) == (2, 1)
    assert "has no folds but train, val, test" in err
    assert "--split kfold --folds 5" in err
    with pytest.raises(SettingError, match="two has 2 folds, and a cross-validation needs 3"):
        crossval(tmp_path / "two", tmp_path / "cv", log=quiet)
    for settings, message in (
        ({"folds": (0, 3)}, "folds must be between 0 and 2; got 3"),
        ({"folds": (1, 1)}, "once; got 1,1"),
        ({"folds": ()}, "all, or numbers"),
        ({"seeds": 0}, "seeds must be a whole number between 1 and 100; got 0"),
        ({"fold": 1}, "omit fold, and name those to predict by --folds"),
        ({"lr": 0}, "lr must be auto, or above 0"),
        ({"sneeze": 1}, "no setting sneeze"),
        ({"seed": 2**32 - 1, "seeds": 2}, "seed must be at most"),
    ):
        with pytest.raises(SettingError, match=message):
            crossval(folder / "shards", tmp_path / "cv", log=quiet, **settings)
    with pytest.raises(SourceError, match="nothing to resume"):
        crossval(folder / "shards", tmp_path / "cv", resume=True, log=quiet)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not the folder of a cross-validation"):
        crossval(folder / "shards", tmp_path / "full", log=quiet)
    (tmp_path / "full" / "settings.json").write_text("{}")
    with pytest.raises(ManifestError, match="crossval_version is missing"):
        crossval(folder / "shards", tmp_path / "full", log=quiet)
    assert not (tmp_path / "cv").exists()


def test_a_model_that_would_be_exposed_is_an_error_before_any_training(world, tmp_path):
    """A teacher that was trained on some folds, and initial weights of such a run."""
    folder, *_ = world
    teacher = tiny_run(tmp_path / "teacher", folder / "shards", fold=1, test_fold=0)
    for settings in ({"teacher": str(teacher.folder)}, {"weights": str(teacher.folder / "model.keras")}):
        with pytest.raises(LeakError, match=r"model of fold1-seed0 is to predict fold1, but was exposed to 3 patients"):
            crossval(folder / "shards", tmp_path / "cv", **SETTINGS, **settings, log=quiet)
        assert not (tmp_path / "cv").exists()
    crossval(folder / "shards", tmp_path / "cv", **SETTINGS, folds=(0,), teacher=str(teacher.folder), log=quiet)


def test_a_run_that_predicts_its_own_fold_is_an_error(world, tmp_path):
    """The check itself, on a run that trained on the fold, and on one that only selected its epoch on it."""
    folder, *_ = world
    rows = images_csv.read_checked(folder / "shards", Manifest.load(folder / "shards")).rows
    run = Run.load(folder / "cv" / "fold0-seed0")
    require_unexposed(run.exposure(), rows, "fold0", "the model")
    for fold in ("fold1", "fold2"):
        with pytest.raises(LeakError, match=f"the model is to predict {fold}, but was exposed to 3 patients and 12"):
            require_unexposed(run.exposure(), rows, fold, "the model")
    shutil.copytree(folder / "cv", tmp_path / "cv")
    shutil.copytree(folder / "shards", tmp_path / "shards")
    shutil.rmtree(tmp_path / "cv" / "fold0-seed0")
    shutil.copytree(folder / "cv" / "fold1-seed0", tmp_path / "cv" / "fold0-seed0")
    with pytest.raises(OutputError, match="test-fold 1 in the run, 0 now"):
        crossval(tmp_path / "shards", tmp_path / "cv", resume=True, log=quiet)


def test_an_image_that_is_missing_or_twice_is_an_error(world):
    folder, *_ = world
    rows = images_csv.read_checked(folder / "shards", Manifest.load(folder / "shards")).rows

    def predictions(paths):
        count = len(paths)
        return SplitPredictions(
            paths, [""] * count, [""] * count, np.zeros(count, np.int64), np.ones((count, 4), np.float32)
        )

    of_fold = {fold: [row.path for row in rows if row.split == fold] for fold in ("fold0", "fold1")}
    require_each_once({fold: predictions(paths) for fold, paths in of_fold.items()}, rows)
    first, second = of_fold["fold0"], of_fold["fold1"]
    for broken in (first[1:], [*first, first[0]], [*first[1:], second[0]]):
        with pytest.raises(ManifestError, match="would not be predicted exactly once"):
            require_each_once({"fold0": predictions(broken), "fold1": predictions(second)}, rows)
    moved = [dataclasses.replace(row, split="fold1") if row.path == first[0] else row for row in rows]
    with pytest.raises(LeakError, match="1 patient would be predicted in two folds"):
        require_each_once({"fold0": predictions(first[1:]), "fold1": predictions([*second, first[0]])}, moved)
    with pytest.raises(ValueError, match="different images"):
        mean_over_seeds([predictions(first), predictions(second)])


def test_settings_of_a_training_are_numbered():
    config = CrossvalConfig().merged({"seeds": 2, "seed": 10, "epochs": 3})
    trainings = [config.training(fold, seed, 4) for fold in (0, 3) for seed in range(2)]
    assert [(t.test_fold, t.fold, t.seed) for t in trainings] == [(0, 1, 10), (0, 1, 11), (3, 0, 10), (3, 0, 11)]
    assert {t.epochs for t in trainings} == {3}
