"""The exposure of a model: which patients count, and the file that keeps them."""

import shutil

import pytest

pytest.importorskip("tensorflow")

from octprep.format.errors import ManifestError
from octprep.format.manifest import Leaks
from octtrain.evaluation.evaluate import evaluate
from octtrain.runs import exposure
from octtrain.runs.exposure import TrainingImage
from octtrain.training.fit import fit
from tests.worlds.runs import CONFIG, quiet
from tests.worlds.shards import write_shards


def test_another_id_of_the_same_patient_group_is_exposed():
    training = [TrainingImage("7", "5", "a", "train")]  # 5 and 7 are one patient group
    evaluated = [
        TrainingImage("5", "5", "b", "test"),
        TrainingImage("6", "6", "c", "test"),
        TrainingImage("9", "7", "a", "test"),
    ]
    assert exposure.exposed(training, evaluated) == Leaks(patients=("5", "9"), contents=("a",))


def test_exposure_reads_back_as_written():
    images = (TrainingImage("7", "5", "a", "train"), TrainingImage("8", "8", "b", exposure.INITIAL_WEIGHTS))
    assert exposure.decode(exposure.encode(images)) == images
    for content in (b"", b"path\n", b"patient,patient_group,sha256,split\n1,2\n"):
        with pytest.raises((ValueError, TypeError)):
            exposure.decode(content)


def test_a_run_keeps_its_exposure(trained, tmp_path):
    run, *_ = trained
    images, complete = run.exposure()
    assert complete
    assert {image.split for image in images} == {"train", "val"}
    assert len({image.sha256 for image in images}) == len(images) == 4 * (24 + 6)
    shutil.copytree(run.folder, tmp_path / "run")
    path = tmp_path / "run" / "exposure.csv"
    path.write_bytes(path.read_bytes().replace(b"\n0,", b"\n7,", 1))
    with pytest.raises(ManifestError, match=r"exposure\.csv is not what .* training patients are unknown"):
        evaluate(tmp_path / "run", shards=run.shards, log=quiet)
    path.unlink()
    with pytest.raises(ManifestError, match="training patients are unknown"):
        evaluate(tmp_path / "run", shards=run.shards, log=quiet)


def test_shards_without_their_images_csv_are_not_trained_on(tmp_path):
    write_shards(tmp_path / "s", {"train": 2, "val": 1})
    (tmp_path / "s" / "images.csv").write_text("path\n")
    with pytest.raises(ManifestError, match=r"images\.csv has SHA-256 .*`octprep build` that made it"):
        fit(tmp_path / "s", tmp_path / "runs" / "a", CONFIG, log=quiet)
    (tmp_path / "s" / "images.csv").unlink()
    with pytest.raises(ManifestError, match=r"images\.csv cannot be read"):
        fit(tmp_path / "s", tmp_path / "runs" / "a", CONFIG, log=quiet)
    assert not (tmp_path / "runs").exists()
