"""The run that comes with the package: packed in float16, named by a word, and exposed to no genuine patient."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
import h5py
import keras
import numpy as np

from octprep.format.errors import LeakError, OutputError, SettingError, SourceError
from octtrain import pretrained
from octtrain.evaluation.evaluate import evaluate
from octtrain.models import logits_model
from octtrain.prediction.classify import load_run
from octtrain.prediction.inputs import choose_runs
from octtrain.runs import packing
from octtrain.runs.exposure import INITIAL_WEIGHTS
from octtrain.runs.folder import RunFolder
from octtrain.runs.packing import MAX_BYTES, pack
from octtrain.runs.run import Run
from octtrain.training.fit import fit
from tests.worlds.environments import ROOT
from tests.worlds.networks import tiny_run
from tests.worlds.runs import CONFIG, program, quiet, scan_file
from tests.worlds.shards import write_shards

pytestmark = pytest.mark.slow
NAME = pretrained.NAME
shipped = pytest.mark.skipif(not pretrained.FOLDER.is_dir(), reason="the weights are not in this checkout")


@pytest.fixture
def packed(trained, tmp_path, monkeypatch):
    """A trained run in the place of the packaged one; an empty working folder."""
    folder = tmp_path / "package" / NAME
    monkeypatch.setattr(pretrained, "FOLDER", folder)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return pack(trained[0].folder, folder, made_by="make weights SEED=2")


def _weights(model):
    return [np.asarray(keras.ops.convert_to_numpy(values)) for values in model.weights]


def _content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_packed_model_is_float16_on_disk_and_gives_the_logits_of_its_run(packed, trained):
    run, images = trained[0], np.random.default_rng(0).integers(0, 256, (64, 32, 32, 1), np.uint8)
    assert (packed / "model.keras").stat().st_size < 0.7 * (run.folder / "model.keras").stat().st_size
    model = Run.load(packed).load_model()
    assert {values.dtype for values in model.weights if "seed" not in values.path} == {"float32"}
    expected, given = (logits_model(each).predict_on_batch(images) for each in (run.load_model(), model))
    assert np.abs(np.subtract(expected, given)).max() < 1e-2
    assert expected.std() > 0.1  # as logits that are all alike would agree anyhow


def test_a_packed_run_names_no_place_and_no_patient_id_of_its_training(packed, trained):
    text = "".join((packed / name).read_text() for name in ("config.json", "README.md", "exposure.csv"))
    assert str(trained[0].folder.parent) not in text
    assert "make weights SEED=2" in text
    exposed = Run.load(packed).exposure()
    assert exposed.complete
    own = trained[0].exposure().images
    assert {image.patient for image in exposed.images} == {f"synthetic-{image.patient}" for image in own}
    assert len(exposed.images) == len({image.patient for image in own})


def test_of_many_patients_some_are_listed_and_all_are_counted(packed, trained, monkeypatch, tmp_path):
    monkeypatch.setattr(packing, "MAX_EXPOSED", 20)
    run, everything = Run.load(pack(trained[0].folder, tmp_path / "few")), Run.load(packed)
    assert len(run.exposure().images) == 20
    assert set(run.exposure().images) < set(everything.exposure().images)
    assert run.exposed_patients() == everything.exposed_patients() == trained[0].exposed_patients()
    with pytest.raises(LeakError, match="trained on, or selected on"):
        evaluate(run, "train", dataset=trained[0].shards, out=tmp_path / "out", log=quiet)


def test_the_word_names_the_packaged_run_unless_such_a_folder_is_here(packed, trained, tmp_path):
    scan = scan_file(tmp_path / "CNV-1-1.jpeg")
    assert choose_runs([Path(NAME), scan]) == ([packed], [scan], False)
    (result,) = load_run(NAME).predict([scan])
    assert result.probabilities == pytest.approx(load_run(trained[0].folder).predict([scan])[0].probabilities, abs=0.01)
    shutil.copytree(trained[0].folder, NAME)
    assert Run.load(Path(NAME)).folder == Path(NAME)


def test_results_of_the_packaged_run_are_written_into_a_copy(packed, trained, tmp_path):
    write_shards(tmp_path / "other", {"test": 3}, seed=5, first_patient=50_000)
    before = _content(packed)
    report = evaluate(NAME, dataset=tmp_path / "other", log=quiet)
    assert report.patients == 3
    (result,) = (tmp_path / "cwd" / "runs" / NAME).glob("evaluate-test-*.json")
    assert "LEAKY" not in result.read_text()
    assert json.loads(result.read_text())["trained_on"] == trained[0].manifest.digest
    assert _content(packed) == before
    evaluate(NAME, dataset=tmp_path / "other", log=quiet)  # the copy is used again
    (tmp_path / "cwd" / "runs" / NAME / "model.keras").write_bytes(b"")
    with pytest.raises(OutputError, match=r"runs/synthetic holds other weights than this version's"):
        evaluate(NAME, dataset=tmp_path / "other", log=quiet)
    with pytest.raises(SourceError, match=r"come without the scans they were trained on; .* by --dataset DIR"):
        evaluate(NAME, log=quiet)


def test_no_genuine_patient_counts_as_exposed_but_the_synthetic_scans_of_the_training_do(packed, trained, tmp_path):
    run = trained[0]
    # Other scans, under the ids of the patients that the run was trained on: train, val and test in one split.
    write_shards(tmp_path / "genuine", {"test": 8}, seed=5)
    with pytest.raises(LeakError):
        evaluate(run, dataset=tmp_path / "genuine", out=tmp_path / "out", log=quiet)
    evaluate(NAME, dataset=tmp_path / "genuine", log=quiet)
    with pytest.raises(LeakError, match="trained on, or selected on"):
        evaluate(NAME, "train", dataset=run.shards, log=quiet)


def test_a_training_starts_from_the_packaged_weights_and_keeps_their_exposure(packed, trained, tmp_path):
    write_shards(tmp_path / "other", {"train": 8, "val": 4}, seed=5, first_patient=50_000)
    settings = {"weights": NAME, "model": CONFIG.model, "epochs": 1, "batch_size": 16, "lr": 1e-9, "patience": 0}
    run = fit(tmp_path / "other", tmp_path / "run", log=quiet, show_progress=False, **settings)
    started, ended = _weights(Run.load(packed).load_model()), _weights(run.load_model())
    kernels = [(before, after) for before, after in zip(started, ended, strict=True) if before.ndim > 1]
    assert len(kernels) == 2  # of the convolution, and of the head
    for before, after in kernels:
        np.testing.assert_allclose(before, after, atol=1e-6)
    inherited = [image for image in run.exposure().images if image.split == INITIAL_WEIGHTS]
    assert {image.patient for image in inherited} == {image.patient for image in Run.load(packed).exposure().images}


@pytest.mark.parametrize(
    ("classes", "settings", "message"),
    [
        (
            ("A", "B", "C", "D"),
            {"model": CONFIG.model},
            "tell CNV, DME, DRUSEN, NORMAL, .* have the classes A, B, C, D",
        ),
        (("CNV", "DME", "DRUSEN", "NORMAL"), {}, "are of tests.worlds.networks:tiny, and the model is octnet-s; give"),
    ],
)
def test_weights_of_other_classes_or_another_model_are_refused(packed, tmp_path, classes, settings, message):
    write_shards(tmp_path / "other", {"train": 2, "val": 1}, classes=classes)
    with pytest.raises(SettingError, match=message):
        fit(tmp_path / "other", tmp_path / "run", weights=NAME, log=quiet, **settings)
    assert not (tmp_path / "run").exists()


def test_an_installation_without_the_weights_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    code, _, error = program(capsys, "predict", NAME, scan_file(tmp_path / "CNV-1-1.jpeg"))
    assert code and "this installation has no weights `synthetic`; make them by `make weights`" in error


def test_a_weight_out_of_range_or_an_unknown_start_is_not_packed(untrained, tmp_path):
    run = tiny_run(tmp_path / "run", untrained / "shards")
    (tmp_path / "run" / "history.csv").write_text("")
    model = run.load_model()
    model.layers[-1].bias.assign(np.full(4, 1e6, np.float32))
    RunFolder(run).save_model(model, tmp_path / "run" / "model.keras")
    with pytest.raises(SettingError, match="are out of the range of float16"):
        pack(tmp_path / "run", tmp_path / "out")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"exposure_complete": False}))
    with pytest.raises(SettingError, match="weights whose training images are unknown"):
        pack(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@shipped
def test_the_weights_of_the_package_are_small_float16_and_fit_this_version(tmp_path):
    model = pretrained.FOLDER / "model.keras"
    assert model.stat().st_size <= MAX_BYTES
    dtypes = set()
    with zipfile.ZipFile(model) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
        weights.visititems(lambda _, item: dtypes.add(item.dtype) if isinstance(item, h5py.Dataset) else None)
    assert np.dtype("float16") in dtypes and np.dtype("float32") not in dtypes
    # The recipe is of this version, so that scans can be preprocessed for them.
    (result,) = load_run(pretrained.FOLDER).predict([scan_file(tmp_path / "CNV-1-1.jpeg")])
    assert sum(result.probabilities) == pytest.approx(1, abs=1e-4)


@shipped
def test_the_wheel_and_the_source_archive_hold_the_weights(tmp_path):
    """What hatchling would put into both, from the settings in pyproject.toml."""
    wheel = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    sdist = pytest.importorskip("hatchling.builders.sdist").SdistBuilder(str(ROOT))
    names = {f"octtrain/pretrained/{NAME}/{path.name}" for path in pretrained.FOLDER.iterdir()}
    assert len(names) == 6
    for builder in (wheel, sdist):
        assert names <= {file.distribution_path for file in builder.recurse_included_files()}
