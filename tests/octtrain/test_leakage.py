import dataclasses
import json
import math
from collections import Counter

import pytest

pytest.importorskip("tensorflow")
import cv2
import numpy as np

from octprep.format.errors import ManifestError, OutputError, SettingError
from octprep.synthetic import draw_appearance, draw_disease, draw_scan
from octprep.terminal import interrupts
from octtrain import cli
from octtrain.experiments.leakage import (
    LeakageConfig,
    PairedTrainer,
    Pool,
    Repeat,
    Score,
    deal_images,
    deal_patients,
    inflation,
    leakage,
    read_pool,
    sample,
    t95,
)
from octtrain.runs.folder import FitConfig
from tests.worlds.shards import CLASSES, patient_of, write_folder, write_shards
from tests.worlds.tables import image_row

pytestmark = pytest.mark.slow

SIDE = 32
PATIENTS, SCANS = 64, 5
# Small batches and a high rate: in so few epochs no others tell so many patients apart.
CONFIG = LeakageConfig(fit=FitConfig(epochs=12, batch_size=16, lr=6e-3, patience=0))


def phantoms():
    """Phantoms as octprep draws them, whose patients differ far more than diseases change them. So few patients at so
    few pixels teach a network their look (texture, tilt, place of the retina) rather than what lesions have in common.
    """
    rows = []
    for patient in range(PATIENTS):
        label = patient % len(CLASSES)
        rng = np.random.default_rng([0, patient])
        look = draw_appearance(rng)
        disease = draw_disease(CLASSES[label], look, rng)
        for turn in range(SCANS):
            pixels = draw_scan(look, disease, 0.2 + 0.6 * turn / SCANS, rng).pixels
            small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            rows.append((f"train/{CLASSES[label]}/{CLASSES[label]}-{patient}-{turn}.jpeg", label, small))
    return rows


def dealt_anew(rows):
    """The same images, but each under a patient number drawn from those of its class: images know no patient."""
    rng = np.random.default_rng(0)
    mixed = []
    for label in range(len(CLASSES)):
        mine = [row for row in rows if row[1] == label]
        mixed += [(mine[i][0], label, mine[j][2]) for i, j in enumerate(rng.permutation(len(mine)))]
    return mixed


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leakage")
    rows = phantoms()
    write_folder(folder / "look", {"train": rows[::2], "test": rows[1::2]})
    write_folder(folder / "none", {"train": dealt_anew(rows)})
    return folder


def pool(sizes, labels=None):
    """A pool without pixels: the number of images of each patient, patients taking turns in the classes."""
    patients = [f"{i}" for i, size in enumerate(sizes) for _ in range(size)]
    if labels is None:
        labels = [i % 4 for i, size in enumerate(sizes) for _ in range(size)]
    return Pool(pixels=np.zeros((len(labels), 1, 1, 1), np.uint8), labels=np.array(labels), patients=np.array(patients))


def quiet(line):
    pass


def test_phantoms_of_strong_look_seem_easier_when_split_by_image(worlds, tmp_path):
    lines = []
    found = leakage(worlds / "look", CONFIG, tmp_path / "out.json", say=lines.append)
    for measure in (found.balanced_accuracy, found.mcc):
        assert 0 < measure.low < measure.difference < measure.high
        assert measure.difference == pytest.approx(measure.by_image - measure.by_patient)
    assert found.balanced_accuracy.difference > 0.15
    assert (found.images, found.patients, found.repeated) == (PATIENTS * SCANS, PATIENTS, PATIENTS)
    assert all(repeat.shared > 0.9 for repeat in found.repeats)
    stored = json.loads((tmp_path / "out.json").read_text())
    assert stored["balanced_accuracy"]["low"] == found.balanced_accuracy.low
    assert len(stored["repeats"]) == sum(line.startswith("repeat") for line in lines) == CONFIG.repeats
    assert "points of balanced accuracy better" in stored["verdict"]
    assert lines[-1].endswith(stored["verdict"])
    assert "not of other patients" in lines[-1]


def test_images_that_know_no_patient_show_no_inflation(worlds):
    lines = []
    shorter = dataclasses.replace(CONFIG, resize=dataclasses.replace(CONFIG.fit, epochs=8), repeats=3)
    found = leakage(worlds / "none", shorter, say=lines.append)
    assert found.balanced_accuracy.by_patient > 0.4  # it does learn: chance is 0.25
    for measure in (found.balanced_accuracy, found.mcc):
        assert measure.low < 0 < measure.high
        assert abs(measure.difference) < 0.2
    assert "No inflation is shown" in lines[-1]


def test_both_arms_begin_alike_and_repeats_do_not(worlds):
    manifest, _ = write_shards(worlds / "alike", {"train": 8})
    config = dataclasses.replace(CONFIG, folds=2, repeats=2)
    arena = PairedTrainer(manifest, read_pool(worlds / "alike", manifest, config), config)

    def first_weights(seed):
        arena._begin_again(seed)
        return np.concatenate([weight.ravel() for weight in arena.model.get_weights()])

    one, other = first_weights(0), first_weights(1)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(first_weights(0), one)
    assert all(not np.asarray(variable).any() for variable in arena.training.optimizer.variables)


@pytest.mark.parametrize("seed", range(5))
def test_folds_by_patient_part_no_patient_and_share_the_classes(seed):
    rng = np.random.default_rng(seed)
    images = pool(np.r_[rng.integers(1, 12, 60), 40])
    folds = deal_patients(images, CLASSES, 5, seed)
    assert sorted(np.concatenate(folds)) == list(range(len(images.labels)))
    owners = [set(images.patients[fold]) for fold in folds]
    assert len(set.union(*owners)) == sum(map(len, owners)) == 61
    counts = np.array([np.bincount(images.labels[fold], minlength=4) for fold in folds])
    lump = max(Counter(images.patients).values())
    assert (abs(counts - counts.mean(axis=0)) <= lump).all()
    assert len({tuple(fold) for fold in folds} & {tuple(fold) for fold in deal_patients(images, CLASSES, 5, 99)}) == 0


def test_folds_by_image_hold_as_many_of_each_class_but_part_patients():
    images = pool([7] * 40)
    by_patient = deal_patients(images, CLASSES, 5, 0)
    by_image = deal_images(images.labels, by_patient, 0)
    assert sorted(np.concatenate(by_image)) == list(range(len(images.labels)))
    for one, other in zip(by_image, by_patient, strict=True):
        assert Counter(images.labels[one].tolist()) == Counter(images.labels[other].tolist())
    assert len(set.intersection(*(set(images.patients[fold]) for fold in by_image))) >= 5


def test_a_class_of_too_few_patients_is_named_with_what_would_do():
    with pytest.raises(
        SettingError, match=r"needs 5 patients .* but NORMAL has 3; give --folds 3 or use shards of more"
    ):
        deal_patients(pool([2, 2, 2, 2] * 3 + [2, 2, 2, 0] * 2), CLASSES, 5, 0)
    with pytest.raises(SettingError, match="all of one class"):
        deal_patients(pool([3, 3], [0] * 6), CLASSES, 2, 0)


def test_a_sample_holds_whole_patients_of_each_class():
    rows = [image_row(f"{i}-{k}", patient=str(i), label=CLASSES[i % 4]) for i in range(80) for k in range(1 + i % 7)]
    chosen = sample(rows, 100, 0)
    assert 80 <= len(chosen) <= 100
    taken = {row.patient_group for row in chosen}
    assert sum(row.patient_group in taken for row in rows) == len(chosen)
    assert set(Counter(row.label for row in chosen)) == set(CLASSES)
    assert sample(rows[::-1], 100, 0) == chosen[::-1]
    assert sample(rows, 100, 1) != chosen
    assert sample(rows, 1000, 0) == rows


def test_a_pool_holds_every_content_once_whatever_the_balance(tmp_path):
    manifest, written = write_shards(tmp_path / "s", {"train": 5, "test": 2})
    again = {name: [*scans, scans[0], scans[0]] for name, scans in written.items()}
    manifest, written = write_folder(tmp_path / "again", again, balance="oversample")
    found = read_pool(tmp_path / "again", manifest, CONFIG)
    scans = {scan: (label, pixels) for rows in written.values() for scan, label, pixels in rows}
    assert len(found.labels) == len(scans) == 28
    assert sorted(found.patients) == sorted(map(patient_of, scans))
    kept = sorted((int(label), pixels.tobytes()) for label, pixels in zip(found.labels, found.pixels, strict=True))
    assert kept == sorted((label, pixels.tobytes()) for label, pixels in scans.values())


def repeats(*pairs, test=20):
    return [Repeat(100 - test, test, 0.5, Score(a, a), Score(b, b)) for a, b in pairs]


def test_the_interval_is_the_corrected_t_of_nadeau_and_bengio():
    found = inflation(repeats((0.9, 0.7), (0.8, 0.7), (0.9, 0.6)), "balanced_accuracy")
    differences = np.array([0.2, 0.1, 0.3])
    half = 4.3027 * math.sqrt((1 / 3 + 20 / 80) * differences.var(ddof=1))
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half))
    assert inflation(repeats((0.9, 0.9), (0.8, 0.8)), "mcc").low == pytest.approx(0)


def test_quantiles_of_t_are_those_of_the_tables():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (*range(1, 40), 100, 1000):
        assert t95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 1}, "repeats must be at least 2"),
        ({"folds": 1}, "folds must be between 2 and 100"),
        ({"max_images": 3}, "max-images must be at least 16"),
    ],
)
def test_settings_refuse_nonsense_at_birth(change, message):
    with pytest.raises(SettingError, match=message):
        LeakageConfig(**change)


def test_what_cannot_be_read_or_written_is_said_before_any_training(tmp_path):
    write_shards(tmp_path / "s", {"train": 5})
    with pytest.raises(OutputError, match="the folder of --json"):
        leakage(tmp_path / "s", CONFIG, tmp_path / "no" / "out.json", say=quiet)
    with pytest.raises(OutputError, match="is a folder; name a file"):
        leakage(tmp_path / "s", CONFIG, tmp_path, say=quiet)
    (tmp_path / "s" / "images.csv").write_text("path\n")
    with pytest.raises(ManifestError, match=r"images\.csv has SHA-256"):
        leakage(tmp_path / "s", CONFIG, say=quiet)


def test_an_interruption_before_the_last_repeat_says_that_nothing_was_written(tmp_path, monkeypatch):
    advice = []
    monkeypatch.setattr("octtrain.experiments.leakage.leakage", lambda *_, **__: advice.append(interrupts.advice()))
    with pytest.raises(SystemExit):
        cli.main(["leakage", str(tmp_path)])
    assert advice == ["not all repeats were done, so nothing was written"]


def test_the_program_takes_too_few_patients_as_one_line(tmp_path, capsys):
    write_shards(tmp_path / "s", {"train": 3})
    with pytest.raises(SystemExit) as caught:
        cli.main(["leakage", str(tmp_path / "s")])
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert said.err.startswith("octtrain: each class needs 5 patients")
    assert len(said.err.splitlines()) == 1
