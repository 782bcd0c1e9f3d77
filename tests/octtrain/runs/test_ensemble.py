"""Several runs as one model: the mean of their probabilities, and the exposure of all."""

import csv
import json
import shutil

import pytest

pytest.importorskip("tensorflow")
import numpy as np

import octtrain
from octprep.format.errors import LeakError, ManifestError, OutputError, SettingError, SourceError
from octtrain.evaluation.evaluate import evaluate
from octtrain.prediction.classify import load_run
from octtrain.runs.ensemble import load_runs
from tests.worlds.networks import tiny_run
from tests.worlds.runs import program, quiet, read_rows, scan_file
from tests.worlds.shards import CLASSES, write_shards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two runs on the same shards, and one on shards of other patients."""
    folder = tmp_path_factory.mktemp("ensemble")
    write_shards(folder / "shards", {"train": 2, "val": 1, "test": 3})
    write_shards(folder / "others", {"train": 2, "val": 1, "test": 2}, seed=1, first_patient=50_000)
    for name, shards, seed in (("a", "shards", 1), ("b", "shards", 2), ("c", "others", 3)):
        tiny_run(folder / name, folder / shards, seed)
    return folder


def probabilities(path):
    with path.open(newline="") as file:
        return {row["path"]: np.array([float(row[name]) for name in CLASSES]) for row in csv.DictReader(file)}


def test_an_ensemble_gives_the_mean_of_its_members(world, tmp_path):
    for name in "abc":
        evaluate(world / name, shards=world / ("others" if name == "c" else "shards"), dataset=None, log=quiet)
    lines = []
    report = octtrain.evaluate([world / "a", world / "b"], out=tmp_path, log=lines.append)
    assert report.accuracy.total == 12
    members = [probabilities(world / name / "predictions-test.csv") for name in "ab"]
    mean = probabilities(tmp_path / "predictions-test-ensemble.csv")
    assert mean.keys() == members[0].keys()
    assert np.abs(members[0]["test/CNV/CNV-2000-1.jpeg"] - members[1]["test/CNV/CNV-2000-1.jpeg"]).max() > 1e-3
    for path, values in mean.items():
        np.testing.assert_allclose(values, (members[0][path] + members[1][path]) / 2, atol=2e-6)
    stored = json.loads((tmp_path / "evaluate-test-ensemble.json").read_text())
    assert stored["runs"] == [str(world / "a"), str(world / "b")]
    assert "run" not in stored
    assert lines[0].startswith(f"the ensemble of {world}/a and {world}/b on test of ")


def test_results_of_another_ensemble_are_not_replaced(world, tmp_path):
    for name in "abc":
        shutil.copytree(world / name, tmp_path / name)
    shards = world / "shards"
    runs = [tmp_path / name for name in "abc"]
    for _ in range(2):
        evaluate(runs[:2], shards=shards, log=quiet)
    assert (runs[0] / "evaluate-test-ensemble.json").is_file()
    with pytest.raises(OutputError, match=f"holds the results of {tmp_path}/a and {tmp_path}/b; give another --out"):
        evaluate(runs, shards=shards, log=quiet)


def test_one_exposed_member_is_a_leak(world, tmp_path):
    """The first member was not exposed to the patients of the evaluated split, the second one was."""
    runs = [world / "a", world / "c"]
    assert evaluate(runs, out=tmp_path / "unexposed", log=quiet).accuracy.total == 12
    with pytest.raises(LeakError, match=r"a model in the ensemble of .* 2 of the 2 patients .*: patients 50000 and"):
        evaluate(runs, "train", dataset=world / "others", out=tmp_path / "leaky", log=quiet)
    assert not (tmp_path / "leaky").exists()
    evaluate(runs, "train", dataset=world / "others", out=tmp_path / "leaky", allow_leaks=True, log=quiet)
    [file] = (tmp_path / "leaky").glob("*.json")
    assert json.loads(file.read_text())["leak_warning"].startswith("LEAKY")


def test_scans_are_classified_by_the_mean(world, tmp_path, capsys):
    image = scan_file(tmp_path / "CNV-7-1.jpeg")
    members = [load_run(world / name).predict([image])[0].probabilities for name in "ab"]
    [prediction] = octtrain.load_run([world / "a", world / "b"]).predict([image])
    np.testing.assert_allclose(prediction.probabilities, np.mean(members, axis=0), atol=1e-6)
    file = tmp_path / "predictions.csv"
    code, out, _ = program(capsys, "predict", world / "a", world / "b", image, "--csv", file)
    assert (code, out.splitlines()[-1].split("`")[1]) == (0, f"octtrain evaluate {world}/a {world}/b")
    row = read_rows(file)[str(image)]
    np.testing.assert_allclose([float(row[name]) for name in CLASSES], prediction.probabilities, atol=1e-6)
    first, _, second = row["model"].partition("+")
    assert len(first) == len(second) == 16
    code, out, _ = program(capsys, "predict", world / "b", world / "a", image, "--csv", file)
    assert (code, "already holds 1 of the 1 files" in out) == (0, True)
    code, _, err = program(capsys, "predict", world / "a", image, "--csv", file)
    assert (code, "holds predictions of another model" in err) == (2, True)


def test_members_that_do_not_go_together_are_an_error_with_the_difference(world, tmp_path):
    write_shards(tmp_path / "size", {"train": 1, "val": 1}, height=40)
    write_shards(tmp_path / "names", {"train": 1, "val": 1}, classes=CLASSES[::-1])
    for name, message in (
        ("size", "in one ensemble with .*: height 32 in .*a, 40 here"),
        ("names", "class names CNV, DME, DRUSEN, NORMAL in .*a, NORMAL, DRUSEN, DME, CNV here"),
    ):
        tiny_run(tmp_path / f"run-{name}", tmp_path / name)
        with pytest.raises(ManifestError, match=message):
            evaluate([world / "a", tmp_path / f"run-{name}"], log=quiet)
    for runs, error, message in (
        ([], SettingError, "at least one run"),
        ([world / "a", world / "b", world / "a"], SettingError, "a is named twice"),
        ([world / "a", world / "none"], SourceError, "none does not exist"),
    ):
        with pytest.raises(error, match=message):
            load_runs(runs)
