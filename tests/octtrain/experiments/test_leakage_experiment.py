"""The leakage experiment on data with and without patient appearance."""

import dataclasses
import json

import pytest

pytest.importorskip("tensorflow")
import numpy as np

from octprep.format.errors import ManifestError, OutputError
from octtrain.config import FitConfig
from octtrain.experiments.leakage.config import LeakageConfig
from octtrain.experiments.leakage.experiment import PairedTrainer, leakage, read_pool
from tests.worlds.runs import TINY, quiet
from tests.worlds.shards import CLASSES, patient_of, write_folder, write_shards

pytestmark = pytest.mark.slow


PATIENTS, SCANS = 64, 5
# Small batches and a high learning rate, without which so few epochs do not learn to distinguish so many patients.
CONFIG = LeakageConfig(fit=FitConfig(model=TINY, epochs=12, batch_size=16, lr=6e-3, patience=0))


def synthetic_scans():
    """Images of 32x32 pixels whose patients differ far more than the classes, each of which has a band of its own.

    So few patients teach a network their appearance, 64 grey squares, rather than what the band is.
    """
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(PATIENTS):
        label = patient % len(CLASSES)
        appearance = 100 + np.kron(rng.normal(0, 40, (8, 8)), np.ones((4, 4)))
        appearance[2 + 8 * label : 6 + 8 * label] += 20
        for i in range(SCANS):
            pixels = np.clip(appearance + rng.normal(0, 4, appearance.shape), 0, 255).astype(np.uint8)
            rows.append((f"train/{CLASSES[label]}/{CLASSES[label]}-{patient}-{i}.jpeg", label, pixels))
    return rows


def with_random_patients(rows):
    """The same images, each under a patient id drawn from those of its class, so that images do not reveal patients."""
    rng = np.random.default_rng(0)
    mixed = []
    for label in range(len(CLASSES)):
        of_class = [row for row in rows if row[1] == label]
        mixed += [(of_class[i][0], label, of_class[j][2]) for i, j in enumerate(rng.permutation(len(of_class)))]
    return mixed


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leakage")
    rows = synthetic_scans()
    write_folder(folder / "look", {"train": rows[::2], "test": rows[1::2]})
    write_folder(folder / "none", {"train": with_random_patients(rows)})
    return folder


def test_patients_of_strong_appearance_make_a_split_by_image_easier(datasets, tmp_path):
    lines = []
    result = leakage(datasets / "look", CONFIG, tmp_path / "out.json", log=lines.append)
    for metric in (result.balanced_accuracy, result.mcc):
        assert 0 < metric.low < metric.difference < metric.high
        assert metric.difference == pytest.approx(metric.by_image - metric.by_patient)
    assert result.balanced_accuracy.difference > 0.15
    assert (result.images, result.patients, result.patients_with_several) == (PATIENTS * SCANS, PATIENTS, PATIENTS)
    assert all(repeat.shared > 0.9 for repeat in result.repeats)
    stored = json.loads((tmp_path / "out.json").read_text())
    assert stored["balanced_accuracy"]["low"] == result.balanced_accuracy.low
    assert len(stored["repeats"]) == sum(line.startswith("repeat") for line in lines) == CONFIG.repeats
    assert "points of balanced accuracy better" in stored["conclusion"]
    assert lines[-4].endswith(stored["conclusion"])
    assert "not other patients" in lines[-4]
    assert lines[-2] == f"wrote {tmp_path / 'out.json'}"


def test_images_that_do_not_reveal_patients_show_no_inflation(datasets):
    lines = []
    shorter = dataclasses.replace(CONFIG, fit=dataclasses.replace(CONFIG.fit, epochs=8), repeats=3)
    result = leakage(datasets / "none", shorter, log=lines.append)
    assert result.balanced_accuracy.by_patient > 0.4  # it does learn: chance is 0.25
    for metric in (result.balanced_accuracy, result.mcc):
        assert metric.low < 0 < metric.high
        assert abs(metric.difference) < 0.2
    assert "No inflation is shown" in lines[-4]


def test_equal_seeds_give_equal_initial_weights(datasets):
    manifest, _ = write_shards(datasets / "small", {"train": 8})
    trainer = PairedTrainer(read_pool(datasets / "small", manifest, CONFIG), manifest, CONFIG.fit, 16).trainer

    def first_weights(seed):
        trainer.reset(seed)
        return np.concatenate([weight.ravel() for weight in trainer.model.get_weights()])

    weights, others = first_weights(0), first_weights(1)
    assert not np.array_equal(weights, others)
    np.testing.assert_array_equal(first_weights(0), weights)
    assert all(not np.asarray(variable).any() for variable in trainer.networks.optimizer.variables)


def test_a_pool_holds_every_content_once_whatever_the_balance(tmp_path):
    manifest, written = write_shards(tmp_path / "s", {"train": 5, "test": 2})
    repeated = {name: [*scans, scans[0], scans[0]] for name, scans in written.items()}
    manifest, written = write_folder(tmp_path / "repeated", repeated, balance="oversample")
    pool = read_pool(tmp_path / "repeated", manifest, CONFIG)
    scans = {scan: (label, pixels) for rows in written.values() for scan, label, pixels in rows}
    assert len(pool.labels) == len(scans) == 28
    assert sorted(pool.patients) == sorted(map(patient_of, scans))
    stored = sorted((int(label), pixels.tobytes()) for label, pixels in zip(pool.labels, pool.pixels, strict=True))
    assert stored == sorted((label, pixels.tobytes()) for label, pixels in scans.values())


def test_unusable_files_are_an_error_before_any_training(tmp_path):
    write_shards(tmp_path / "s", {"train": 5})
    with pytest.raises(OutputError, match="the folder of --json"):
        leakage(tmp_path / "s", CONFIG, tmp_path / "no" / "out.json", log=quiet)
    with pytest.raises(OutputError, match="is a folder; name a file"):
        leakage(tmp_path / "s", CONFIG, tmp_path, log=quiet)
    (tmp_path / "s" / "images.csv").write_text("path\n")
    with pytest.raises(ManifestError, match=r"images\.csv has SHA-256"):
        leakage(tmp_path / "s", CONFIG, log=quiet)
