"""Comparisons: a run with itself, with another, with one that was evaluated on something else."""

import json
import math
import statistics
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import octtrain
from benchmarks.coverage import World, draw
from octprep.format.errors import ManifestError, SettingError, SourceError
from octtrain.evaluation.compare import Evaluated, compare, compare_two
from octtrain.evaluation.predictions import SplitPredictions, predictions_csv
from octtrain.evaluation.report import report_of
from tests.worlds.runs import ROOT, quiet

CLASSES = ("AMD", "NORMAL")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Fewer than users get, as what is tested here does not depend on their number."""
    monkeypatch.setattr("octtrain.evaluation.intervals.RESAMPLES", 200)


def predictions_of(model):
    scans = draw(World(40, 0.5, 2.6), 40, np.random.default_rng(0))
    ids = [str(i) for i in scans.patients]
    probabilities = scans.probabilities[model].astype(np.float32)
    return SplitPredictions([f"test/{i}.jpeg" for i in range(len(ids))], ids, ids, scans.truth, probabilities)


def changed(predictions, truth=None, probabilities=None):
    return SplitPredictions(
        predictions.paths,
        predictions.patients,
        predictions.groups,
        predictions.truth if truth is None else truth,
        predictions.probabilities if probabilities is None else probabilities,
    )


def write(folder, predictions, classes=CLASSES, **content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions-test.csv").write_bytes(predictions_csv(classes, predictions))
    (folder / "evaluate-test.json").write_text(json.dumps(content))
    return folder


def evaluated(predictions, name="a", trainings=None, ratio=math.nan):
    return Evaluated(name, CLASSES, predictions, None, None, trainings or {}, ratio)


@pytest.fixture
def runs(tmp_path):
    return [write(tmp_path / name, predictions_of(model)) for model, name in enumerate("ab")]


def test_a_run_differs_from_itself_by_exactly_nothing(runs):
    (comparison,) = octtrain.compare([runs[0], runs[0]], log=quiet)
    for difference in (*comparison.images, *comparison.per_patient):
        assert (difference.value, difference.interval) == (0, (0, 0))


def test_the_command_needs_no_keras(runs):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['keras', 'tensorflow', 'jax'])); "
        f"from octtrain.cli import main; main(['compare', {str(runs[0])!r}, {str(runs[1])!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{runs[1]} minus {runs[0]}" in done.stdout
    assert "balanced accuracy" in done.stdout


def test_differences_are_of_what_evaluate_reports(runs, tmp_path):
    lines = []
    (comparison,) = compare(runs, json_file=tmp_path / "out.json", log=lines.append)
    reports = [report_of(predictions_of(model), CLASSES) for model in (0, 1)]
    found = {difference.key: difference for difference in comparison.images}
    balanced = found["balanced_accuracy",]
    assert (balanced.first, balanced.second) == tuple(report.balanced_accuracy for report in reports)
    assert balanced.value == balanced.second.value - balanced.first.value
    auc = found["per_class", "AMD", "auc"]
    assert (auc.first, auc.second) == tuple(report.per_class["AMD"].auc for report in reports)
    of_cases = {difference.key: difference for difference in comparison.per_patient}
    assert of_cases["mcc",].second == reports[1].per_patient.mcc
    stored = json.loads((tmp_path / "out.json").read_text())
    row = next(row for row in stored["comparisons"][0]["images"] if row["metric"] == ["balanced_accuracy"])
    assert row["difference"] == {"value": balanced.value, "interval": list(balanced.interval)}
    low, high = balanced.interval
    assert low < balanced.value < high
    assert f"{balanced.value:+.3f} ({low:+.3f} to {high:+.3f})" in "\n".join(lines)


def test_a_model_that_is_clearly_worse_has_an_interval_below_zero(runs, tmp_path):
    predictions = predictions_of(0)
    shuffled = np.random.default_rng(0).permutation(predictions.probabilities)
    worse = write(tmp_path / "worse", changed(predictions, probabilities=shuffled))
    (comparison,) = compare([runs[0], worse], log=quiet)
    difference = next(difference for difference in comparison.images if difference.key == ("balanced_accuracy",))
    assert difference.interval[1] < 0


def test_the_order_of_images_and_classes_does_not_matter(runs, tmp_path):
    predictions = predictions_of(1)
    mixed = predictions.chosen(np.random.default_rng(0).permutation(len(predictions.paths)).tolist())
    mixed = changed(mixed, 1 - mixed.truth, mixed.probabilities[:, ::-1])
    (expected,) = compare(runs, log=quiet)
    (found,) = compare([runs[0], write(tmp_path / "mixed", mixed, CLASSES[::-1])], log=quiet)
    assert found.images == expected.images


def test_other_images_classes_or_contents_are_an_error_that_names_them(runs, tmp_path):
    first, predictions = runs[0], predictions_of(0)
    fewer = write(tmp_path / "fewer", predictions.chosen(range(1, len(predictions.paths))))
    with pytest.raises(SettingError, match=r"/a and .*/fewer were not .* same images: 1 image, such as test/0\.jpeg"):
        compare([first, fewer], log=quiet)
    with pytest.raises(SettingError, match=r"has the classes AMD and NORMAL, but .*/names has AMD and NO;"):
        compare([first, write(tmp_path / "names", predictions, ("AMD", "NO"))], log=quiet)
    with pytest.raises(SettingError, match=r"differ in the class of test/0\.jpeg"):
        compare([first, write(tmp_path / "flipped", changed(predictions, 1 - predictions.truth))], log=quiet)
    contents = [write(tmp_path / name, predictions, images_sha256=name) for name in ("x", "y")]
    with pytest.raises(SettingError, match="the same names, but of other contents"):
        compare(contents, log=quiet)


def test_missing_or_damaged_results_are_an_error(runs):
    with pytest.raises(SettingError, match="two runs at least; got 1"):
        compare(runs[:1], log=quiet)
    with pytest.raises(SourceError, match=r"has no predictions-val\.csv; make it with `octtrain evaluate"):
        compare(runs, "val", log=quiet)
    (runs[1] / "evaluate-test.json").write_text("[1]")
    with pytest.raises(ManifestError, match=r"evaluate-test\.json is not what octtrain wrote"):
        compare(runs, log=quiet)
    (runs[1] / "predictions-test.csv").write_text("path,truth\n")
    with pytest.raises(ManifestError, match=r"predictions-test\.csv is not what .* wrote \(its columns are not"):
        compare(runs, log=quiet)


def test_leaks_are_said_again_and_files_can_be_named(runs, tmp_path):
    leaky = write(tmp_path / "leaky", predictions_of(1), leak_warning="LEAKY: too good")
    lines = []
    compare([runs[0] / "predictions-test.csv", leaky, leaky / "predictions-test.csv"], log=lines.append)
    assert f"{leaky}: LEAKY: too good" in lines
    assert f"{leaky}/predictions-test.csv: LEAKY: too good" in lines
    assert lines[-1] == "2 runs are compared with the first, without a correction for that"


def test_where_both_are_perfect_the_bound_is_exact_unless_they_are_the_same():
    predictions = predictions_of(0)
    right = np.eye(2, dtype=np.float32)[predictions.truth]
    first, second = (
        evaluated(changed(predictions, probabilities=np.abs(right - doubt))) for doubt in np.float32([0, 0.25])
    )
    found = {difference.key: difference for difference in compare_two(first, second).images}
    accuracy = found["accuracy",]
    assert (accuracy.value, accuracy.is_exact) == (0, True)
    margin = 1 - 0.025 ** (1 / 40)
    assert accuracy.interval == pytest.approx((-margin, margin))


def test_trainings_of_cross_validations_are_paired_by_fold_and_seed():
    names = [f"fold{fold}-seed{seed}" for fold in range(3) for seed in range(2)]
    values = np.random.default_rng(0).random((2, 6))
    first, second = (
        evaluated(predictions_of(0), trainings=dict(zip(names, row.tolist(), strict=True)), ratio=0.5) for row in values
    )
    mean, (low, high), pairs = compare_two(first, second).trainings
    differences = (values[1] - values[0]).tolist()
    error = math.sqrt((1 / 6 + 0.5) * statistics.variance(differences))
    assert (mean, pairs) == (pytest.approx(statistics.fmean(differences)), 6)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 5) * error)
