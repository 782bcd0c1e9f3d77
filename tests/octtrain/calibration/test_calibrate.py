"""A run is calibrated on val, and evaluation and prediction use what was frozen: the whole way, on a small run."""

import csv
import dataclasses
import json
import shutil

import pytest

pytest.importorskip("tensorflow")
import cv2
import keras
import numpy as np

from octprep.format.errors import ManifestError, SettingError
from octtrain.calibration.config import CalibrationConfig
from octtrain.calibration.features import LOGITS, POOLED, with_features
from octtrain.calibration.frozen import CALIBRATION_NAME, FEATURES_NAME, load, save
from octtrain.config import FitConfig
from octtrain.evaluation.calibrate import calibrate, choose
from octtrain.evaluation.compare import read_evaluated
from octtrain.evaluation.evaluate import evaluate, predict_split
from octtrain.evaluation.predictions import AGGREGATIONS, LARGEST, MEAN_LOG
from octtrain.evaluation.target import resolve_target
from octtrain.inference import predict_probabilities, predict_with_features
from octtrain.models import build_model
from octtrain.prediction.classify import WITHHELD, Exclusion, load_run, predict
from octtrain.runs.ensemble import mean_of
from octtrain.runs.folder import RunFolder
from octtrain.runs.run import Run
from octtrain.training.fit import fit
from tests.worlds.networks import tiny
from tests.worlds.runs import program, quiet, read_rows, scan_file
from tests.worlds.shards import CLASSES, picture, write_folder

pytestmark = pytest.mark.slow

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Shards with 160 patients in val, a run on them, and the lines of its calibration. Only to be read."""
    folder = tmp_path_factory.mktemp("calibrated")
    patients, rng = iter(range(10**6)), np.random.default_rng(0)
    rows = {
        split: [
            (f"{split}/{name}/{name}-{next(patients)}-1.jpeg", label, picture(label, rng))
            for _ in range(count)
            for label, name in enumerate(CLASSES)
        ]
        for split, count in {"train": 24, "val": 40, "test": 10}.items()
    }
    write_folder(folder / "shards", rows)
    config = FitConfig(model="tests.worlds.networks:tiny", epochs=3, batch_size=16, lr=3e-3, patience=0, seed=2)
    fit(folder / "shards", folder / "plain", config, log=quiet)
    shutil.copytree(folder / "plain", folder / "run")
    lines = []
    calibrate(folder / "run", log=lines.append)
    return folder, lines


@pytest.fixture
def run(world, tmp_path):
    """A copy of the calibrated run; its path to the shards leads to a copy of them."""
    shutil.copytree(world[0] / "shards", tmp_path / "shards")
    shutil.copytree(world[0] / "run", tmp_path / "run")
    return tmp_path / "run"


def scans(folder, count=4):
    """Files whose stored pixels are much like those of the shards, and noise that is not."""
    images = {f"{CLASSES[i % 4]}-{i}-1": picture(i % 4, np.random.default_rng(i)) for i in range(count)}
    images["noise"] = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    folder.mkdir()
    for name, image in images.items():
        large = np.kron(image, np.ones((4, 4), np.uint8))  # which is made small again
        (folder / f"{name}.jpeg").write_bytes(
            cv2.imencode(".jpeg", large, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
        )
    return folder


def test_a_calibration_is_frozen_with_its_digests_and_printed(world):
    folder, lines = world
    calibration = load((Run.load(folder / "run"),))
    raw = json.loads((folder / "run" / CALIBRATION_NAME).read_text())
    assert raw["sha256"] == calibration.sha256
    assert raw["chosen_on"]["patients"] == 160
    frozen = calibration.frozen
    assert (frozen.split, frozen.features, frozen.urgent) == ("val", POOLED, ("CNV", "DME"))
    assert 0 < frozen.referral_threshold < 1
    assert raw["chosen_on"]["referral"]["sensitivity_lower_bound"] >= 0.95
    assert raw["chosen_on"]["abstention"]["error_upper_bound"] <= 0.05
    assert raw["chosen_on"]["unfamiliar"]["images"]["value"] <= 0.02
    starts = ("temperature", "  before", "  after", "referral", "abstention", "unfamiliar", "patients", "wrote", "next")
    assert all(any(line.startswith(start) for line in lines) for start in starts)


def test_calibrating_again_gives_the_same_numbers(run, world):
    before = load((Run.load(run),)).frozen
    calibrate(run, log=quiet)
    after = load((Run.load(run),)).frozen
    assert after.temperature == pytest.approx(before.temperature, rel=1e-4)
    assert after.limits.pixels == pytest.approx(before.limits.pixels, rel=1e-4)


def test_a_run_is_not_calibrated_on_what_it_is_tested_or_trained_on(world):
    with pytest.raises(SettingError, match="not calibrated on test: thresholds must be fixed before the test is seen"):
        calibrate(world[0] / "run", "test", log=quiet)
    with pytest.raises(SettingError, match="not calibrated on train"):
        calibrate(world[0] / "run", "train", log=quiet)


def test_linked_patient_ids_count_as_one_patient(world):
    run = Run.load(world[0] / "run")
    target = resolve_target((run,), "val")
    scans = load((run,)).scans
    predictions = predict_split(run.load_model(), target.manifest, target.shards, "val", target.rows, scans=scans)
    linked = dataclasses.replace(predictions, groups=[f"group {i % 7}" for i in range(len(predictions.paths))])
    digests = dict.fromkeys(("model_sha256", "features_sha256", "features"), "")
    frozen, _, notes = choose(linked, target, CalibrationConfig(), **digests)
    assert frozen.referral_threshold is frozen.abstention_threshold is None
    assert notes["referral"].startswith("7 patients with CNV or DME cannot assure")
    assert notes["abstention"].endswith("here are 7")


def test_evaluation_applies_it_and_shows_before_and_after(world, tmp_path):
    folder, _ = world
    lines = []
    evaluate(folder / "run", out=tmp_path / "with", log=lines.append)
    evaluate(folder / "plain", out=tmp_path / "without", log=quiet)
    after, before = (json.loads((tmp_path / name / "evaluate-test.json").read_text()) for name in ("with", "without"))
    assert "calibration" not in before
    block = after["calibration"]
    calibration = load((Run.load(folder / "run"),))
    assert block["sha256"] == calibration.sha256
    assert block["referral"]["threshold"] == calibration.frozen.referral_threshold
    assert sum(part["count"] for part in block["after"]["bins"]) == 40
    assert after["confusion"] == before["confusion"]
    raw, scaled = (table(tmp_path / name / "predictions-test.csv") for name in ("without", "with"))
    np.testing.assert_allclose(scaled, calibration.probabilities(raw), atol=2e-6)
    assert block["before"]["brier"] == pytest.approx(brier(tmp_path / "without" / "predictions-test.csv"), abs=1e-5)
    assert block["after"]["brier"] == pytest.approx(brier(tmp_path / "with" / "predictions-test.csv"), abs=1e-5)
    assert sum("calibration" in line for line in lines) == 1
    evaluate(folder / "run", "val", out=tmp_path / "val", log=lines.append)
    assert "the calibration was chosen on val, so its results here are a little too good" in lines


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(path):
    return np.array([[float(row[name]) for name in CLASSES] for row in rows_of(path)], np.float32)


def brier(path):
    truth = [CLASSES.index(row["truth"]) for row in rows_of(path)]
    return ((table(path) - np.eye(4)[truth]) ** 2).sum(axis=1).mean()


def test_a_changed_model_or_an_edited_file_is_refused(run, world, tmp_path):
    content = (run / CALIBRATION_NAME).read_text()
    (run / CALIBRATION_NAME).write_text(content.replace('"sensitivity": 0.95', '"sensitivity": 0.99', 1))
    with pytest.raises(ManifestError, match=r"so it was edited.*octtrain calibrate"):
        evaluate(run, log=quiet)
    (run / CALIBRATION_NAME).write_text(content)
    (run / CALIBRATION_NAME).write_text(content.replace('"calibration_version": 2', '"calibration_version": 1', 1))
    with pytest.raises(ManifestError, match=r"is of calibration version 1, .* version 2.*octtrain calibrate .* again"):
        load_run(run)
    (run / CALIBRATION_NAME).write_text(content)
    features = (run / FEATURES_NAME).read_bytes()
    (run / FEATURES_NAME).write_bytes(features[:-1] + b"x")
    with pytest.raises(ManifestError, match=r"features\.npz is not the one"):
        load_run(run)
    (run / FEATURES_NAME).write_bytes(features)
    assert load_run(run).calibration
    changed = tiny(32, 32, 4)
    RunFolder(Run.load(run)).save_model(changed, run / "model.keras")
    for use in (evaluate, load_run):
        with pytest.raises(ManifestError, match=r"is of another model than .*octtrain calibrate .* again, or remove"):
            use(run)
    (run / CALIBRATION_NAME).unlink()
    assert load_run(run).calibration is None


def test_prediction_marks_scans_and_the_table_holds_the_marks(run, tmp_path):
    folder = scans(tmp_path / "in")
    lines = []
    results = predict(run, [folder], tmp_path / "out.csv", log=lines.append)
    rows = {path.rpartition("/")[2]: row for path, row in read_rows(tmp_path / "out.csv").items()}
    frozen = load((Run.load(run),)).frozen
    assert rows["noise.jpeg"]["unfamiliar"] == "yes"
    assert [rows[f"{name}-{i}-1.jpeg"]["unfamiliar"] for i, name in enumerate(CLASSES)] == ["no"] * 4
    for result in results:
        row = rows[result.path.name]
        score = float(row["CNV"]) + float(row["DME"])
        assert row["referral"] == ("yes" if score >= frozen.referral_threshold else "no")
        assert row["uncertain"] == ("yes" if result.probabilities.max() < frozen.abstention_threshold else "no")
        assert result.marks == {name: row[name] for name in ("referral", "uncertain", "unfamiliar")}
    assert any(line.startswith(f"calibration {load((Run.load(run),)).sha256[:12]}: ") for line in lines)
    assert sum("  unfamiliar" in line and "noise.jpeg" in line for line in lines) == 1
    again = predict(run, [folder], tmp_path / "out.csv", log=lines.append)
    assert any("already holds 5 of the 5 files" in line for line in lines)
    assert [result.marks for result in again] == [result.marks for result in results]


def test_strict_withholds_the_verdict_on_unfamiliar_scans(run, world, tmp_path):
    folder = scans(tmp_path / "in")
    lines = []
    results = predict(run, [folder], tmp_path / "out.csv", strict=True, log=lines.append, warn=quiet)
    withheld = [result for result in results if isinstance(result, Exclusion)]
    assert [(result.path.name, result.reason) for result in withheld] == [("noise.jpeg", WITHHELD)]
    row = read_rows(tmp_path / "out.csv")[f"{folder}/noise.jpeg"]
    assert (row["prediction"], row["CNV"], row["referral"], row["unfamiliar"]) == ("", "", "", "yes")
    assert any("1 unfamiliar" in line for line in lines)
    with pytest.raises(SettingError, match="--strict needs the limits of a run, or an ensemble, that was calibrated"):
        predict(world[0] / "plain", [folder], strict=True, log=quiet)


def test_without_a_calibration_nothing_changes(world, tmp_path):
    predict(world[0] / "plain", [scan_file(tmp_path / "a.jpeg")], tmp_path / "out.csv", log=quiet)
    (row,) = read_rows(tmp_path / "out.csv").values()
    assert list(row) == ["path", "prediction", *CLASSES, "flags", "exclusion_reason", "bytes", "modified_ns", "model"]


@pytest.fixture
def members(world, run, tmp_path):
    """Two runs on the same shards, whose models differ; the first is calibrated alone."""
    shutil.copytree(world[0] / "plain", tmp_path / "other")
    keras.utils.set_random_seed(5)
    RunFolder(Run.load(tmp_path / "other")).save_model(tiny(32, 32, 4), tmp_path / "other" / "model.keras")
    return [run, tmp_path / "other"]


def test_calibrations_of_members_are_not_those_of_the_ensemble(members, tmp_path):
    lines = []
    evaluate(members, out=tmp_path / "out", log=lines.append)
    assert sum("no calibration is of this ensemble" in line for line in lines) == 1
    assert "calibration" not in json.loads((tmp_path / "out" / "evaluate-test-ensemble.json").read_text())


def test_an_ensemble_is_calibrated_and_its_calibration_is_used_in_any_order_until_a_member_changes(members, tmp_path):
    alone = (members[0] / CALIBRATION_NAME).read_bytes()
    frozen = calibrate(members, log=quiet).frozen
    assert (members[0] / CALIBRATION_NAME).read_bytes() == alone
    assert frozen.features == POOLED
    lines = []
    evaluate(members[::-1], out=tmp_path / "with", log=lines.append)
    assert not any("no calibration" in line for line in lines)
    content = json.loads((tmp_path / "with" / "evaluate-test-ensemble.json").read_text())
    assert content["calibration"]["temperature"] == frozen.temperature
    assert content["calibration"]["unfamiliar"]["images"]["value"] < 0.2
    results = predict(members, [scans(tmp_path / "in")], strict=True, log=quiet, warn=quiet)
    assert [result.path.name for result in results if isinstance(result, Exclusion)] == ["noise.jpeg"]

    RunFolder(Run.load(members[1])).save_model(tiny(32, 32, 4), members[1] / "model.keras")
    evaluate(members, out=tmp_path / "changed", log=lines.append)
    assert sum("no calibration is of this ensemble" in line for line in lines) == 1


def test_features_of_an_ensemble_are_those_of_its_members(world):
    models = [tiny(32, 32, 4), build_model("octnet-s", (32, 32, 1), 4)]
    apart = [predict_with_features(with_features(model)[0], IMAGES, 4, 5) for model in models]
    together, kind = with_features(mean_of(models))
    probabilities, features = predict_with_features(together, IMAGES, 4, 5)
    assert kind == POOLED
    np.testing.assert_allclose(probabilities, np.mean([part for part, _ in apart], axis=0), atol=1e-6)
    np.testing.assert_allclose(features, np.concatenate([part for _, part in apart], axis=1), atol=1e-5)


def test_members_of_other_datasets_are_not_calibrated_together(world, trained):
    with pytest.raises(SettingError, match="was trained on another dataset"):
        calibrate([world[0] / "run", trained[0]], log=quiet)


def test_evaluation_uses_the_aggregation_that_was_frozen(run, tmp_path):
    content = json.loads((run / CALIBRATION_NAME).read_text())
    assert content["frozen"]["aggregation"] == MEAN_LOG
    assert {*content["chosen_on"]["aggregations"]} == {*AGGREGATIONS}
    calibration = load((Run.load(run),))
    save(
        (Run.load(run),),
        dataclasses.replace(calibration.frozen, aggregation=LARGEST),
        (run / FEATURES_NAME).read_bytes(),
        content["chosen_on"],
    )
    lines = []
    evaluate(run, log=lines.append)
    assert any("PER PATIENT" in line and "(largest probability)" in line for line in lines)
    assert json.loads((run / "evaluate-test.json").read_text())["per_patient"]["aggregation"] == LARGEST
    assert read_evaluated(run, "test").predictions.aggregation == LARGEST


def test_the_command_says_why_too_few_patients_assure_nothing(trained, tmp_path, capsys):
    run = trained[0]
    shutil.copytree(run.folder, tmp_path / "run")
    code, out, err = program(capsys, "calibrate", tmp_path / "run", "--shards", run.shards)
    assert code == 0, err
    assert "6 patients with CNV or DME cannot assure a sensitivity of 0.95" in out
    assert "needs 59 patients" in out
    assert "can be shown with 59 patients or more, and here are 6" in out
    assert "each limit is the largest value of 6 patients" in out
    assert load((Run.load(tmp_path / "run"),)).frozen.referral_threshold is None
    code, _, err = program(capsys, "calibrate", tmp_path / "run", "--split", "test")
    assert (code, "not calibrated on test" in err) == (2, True)


def test_features_are_what_the_last_dense_layer_takes_and_probabilities_stay_the_same():
    no_dense = tiny(32, 32, 4)
    no_dense = keras.Model(no_dense.input, keras.layers.Identity()(no_dense.output))
    for model, expected in (
        (build_model("octnet-s", (32, 32, 1), 4), POOLED),
        (tiny(32, 32, 4), POOLED),
        (no_dense, LOGITS),
    ):
        both, kind = with_features(model)
        assert kind == expected
        probabilities, features = predict_with_features(both, IMAGES, 4, 5)
        np.testing.assert_allclose(probabilities, predict_probabilities(model, IMAGES, 4, 5), atol=1e-6)
        if kind == POOLED:
            dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)][-1]
            logits = features @ np.asarray(dense.kernel) + np.asarray(dense.bias)
        else:
            logits = features
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(exponentials / exponentials.sum(axis=1, keepdims=True), probabilities, atol=1e-5)
