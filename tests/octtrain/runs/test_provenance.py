"""What a model file says about its training, and the checks of files before they are unpacked."""

import shutil
import zipfile

import pytest

pytest.importorskip("tensorflow")
import h5py
import keras

from octprep.format.errors import ManifestError, SettingError
from octtrain.model_files import keras_version
from octtrain.models import build_model
from octtrain.runs.folder import RunFolder
from octtrain.runs.provenance import read_provenance
from octtrain.runs.run import Run
from tests.worlds.runs import CONFIG, bias, set_bias
from tests.worlds.shards import CLASSES, write_shards

pytestmark = pytest.mark.slow


def test_a_model_file_holds_its_provenance(trained):
    run, *_ = trained
    provenance = read_provenance(run.folder / "model.keras")
    assert (provenance.digest, provenance.class_names) == (run.manifest.digest, CLASSES)
    assert provenance.recipe == run.manifest.recipe
    assert (provenance.trained_on, provenance.selected_on) == (("train",), ("val",))
    keras.saving.load_model(run.folder / "model.keras")  # Keras passes over what it does not know


def test_a_model_of_another_run_is_an_error_with_both_digests(trained, tmp_path):
    shutil.copytree(trained[0].folder, tmp_path / "run")
    run, model = Run.load(tmp_path / "run"), trained[0].load_model()
    manifest, _ = write_shards(tmp_path / "other", {"train": 1, "val": 1}, seed=1)
    other = Run(folder=tmp_path, config=CONFIG, manifest=manifest, shards=tmp_path / "other")
    RunFolder(other).save_model(model, tmp_path / "run" / "model.keras")
    both = f"dataset {manifest.digest[:12]}, .*dataset {run.manifest.digest[:12]}"
    with pytest.raises(ManifestError, match=both):
        run.load_model()
    model.save(tmp_path / "run" / "model.keras")
    with pytest.raises(ManifestError, match="does not say what it was trained on"):
        run.load_model()


def bomb(path, member, size=600_000_000):
    """An archive of a few hundred kilobytes that would unpack to so many bytes."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(member, "w", force_zip64=True) as out,
    ):
        for _ in range(size // 10_000_000):
            out.write(bytes(10_000_000))


def test_an_archive_that_unpacks_to_far_more_than_it_holds_is_not_read(saved):
    bomb(saved.path / "model.keras", "model.weights.h5")
    with pytest.raises(ManifestError, match=r"would unpack to 600,000,000, and at most"):
        saved.run.load_model()
    bomb(saved.path / "model.keras", "octtrain.json", 100_000_000)
    with pytest.raises(ManifestError, match="would unpack to 100,000,000"):
        saved.run.load_model()
    with pytest.raises(SettingError, match="would unpack to 100,000,000"):
        build_model("octnet-s", (32, 32, 1), 4, str(saved.path / "model.keras"))


def test_weights_whose_arrays_are_far_larger_than_their_file_are_not_read(saved, tmp_path):
    with h5py.File(tmp_path / "bomb.weights.h5", "w") as file:
        file.create_dataset("layers/conv2d/vars/0", shape=(200_000_000,), dtype="float32", chunks=True, fillvalue=1)
    with pytest.raises(SettingError, match=r"bytes would unpack to 800,000,000, and at most"):
        build_model("octnet-s", (32, 32, 1), 4, str(tmp_path / "bomb.weights.h5"))
    with zipfile.ZipFile(saved.path / "model.keras") as old:
        content = {name: old.read(name) for name in old.namelist()}
    content["model.weights.h5"] = (tmp_path / "bomb.weights.h5").read_bytes()
    with zipfile.ZipFile(saved.path / "model.keras", "w") as new:
        for name, data in content.items():
            new.writestr(name, data)
    with pytest.raises(ManifestError, match="would unpack to 800,000,000"):
        saved.run.load_model()


def test_only_numbers_are_read_from_a_file_of_weights(tmp_path):
    model = build_model("octnet-s", (32, 32, 1), 4)
    set_bias(model, 5)
    model.save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as old, zipfile.ZipFile(tmp_path / "odd.keras", "w") as new:
        for name in old.namelist():
            new.writestr(name, b'{"class_name": "Evil"}' if name == "config.json" else old.read(name))
    assert bias(build_model("octnet-s", (32, 32, 1), 4, str(tmp_path / "odd.keras"))) == 5
    with pytest.raises(SettingError, match="holds no weights for octnet-m"):
        build_model("octnet-m", (32, 32, 1), 4, str(tmp_path / "good.keras"))


def test_a_model_of_another_keras_that_cannot_be_loaded_names_both_versions(saved):
    path = saved.path / "model.keras"
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
        saved.run.load_model()
    assert keras_version(path) == "9.1.0"
