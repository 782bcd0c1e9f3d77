"""Shortcut features stand out, and features that only identify a patient do not."""

import dataclasses
import re
import sys

import numpy as np
import pytest

from octprep import console
from octprep.inspection import inspect, page, shortcuts
from octprep.inspection import sentences as sentences
from octprep.inspection.features import ScanFeatures
from octprep.source.files import Scan
from tests.inspection.planted import write_class_folders

pytestmark = pytest.mark.slow


def random_features(change, patients=24, scans=4, seed=0):
    """Features of scans of two classes, and their patients; `change` gives some by the class and a generator."""
    rng = np.random.default_rng(seed)
    features, groups = [], []
    for label in ("CNV", "NORMAL"):
        for patient in range(patients):
            for number in range(scans):
                name = f"{label}-{patient if label == 'CNV' else patient + 1000}-{number}.jpeg"
                values = {
                    "bytes": 50_000 + int(rng.normal(0, 9000)),
                    "fill_fraction": 0.1,
                    "decoded_mean": rng.normal(50, 9),
                } | change(label, rng)
                scan = Scan(
                    f"{label}/{name}", label, str(patient), number, "", values.pop("bytes"), name.encode(), 496, 512
                )
                features.append(ScanFeatures(scan, b"", decoded_std=30.0, stored_mean=60.0, stored_std=40.0, **values))
                groups.append(name.split("-")[1])
    return features, groups


def measured(features, groups):
    test = shortcuts.measure_shortcuts(features, groups, seed=0, progress=lambda *_: None)
    return test, {accuracy.feature: accuracy for accuracy in test.accuracies}


def test_a_shortcut_has_an_interval_and_a_sentence():
    test, by_name = measured(
        *random_features(lambda label, rng: {"bytes": 50_000 + 30_000 * (label == "CNV") + int(rng.normal(0, 5000))})
    )
    assert by_name["file bytes"].balanced_accuracy > 0.95
    assert by_name["file bytes"].is_shortcut(test.chance)
    assert by_name["all together"].is_shortcut(test.chance)
    assert not by_name["mean of the decoded scan"].is_shortcut(test.chance)
    lines = sentences.shortcut_sentences(test)
    assert re.match(
        r"File bytes alone predict the class with a balanced accuracy of \d+ %, where 50 % would be chance "
        r"\(95 % interval \d+ to \d+ %\): a network may learn them instead of the retina\. Stored images have no ",
        lines[0],
    )
    assert "may be the disease itself" in lines[-1]


def test_the_source_of_a_scan_is_a_shortcut_where_sources_differ_in_their_classes():
    features, groups = random_features(lambda label, rng: {})
    named = {"CNV": "clinic", "NORMAL": "archive"}
    of_sources = [
        dataclasses.replace(item, scan=dataclasses.replace(item.scan, source=named[item.scan.label]))
        for item in features
    ]
    test, by_name = measured(of_sources, groups)
    assert by_name["source"].balanced_accuracy == 1
    assert any("tell the sources apart" in line for line in sentences.shortcut_sentences(test))
    assert "source" not in measured(features, groups)[1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_features_without_information_are_no_shortcuts(seed):
    test, by_name = measured(*random_features(lambda label, rng: {}, patients=40, seed=seed))
    assert not any(accuracy.is_shortcut(test.chance) for accuracy in test.accuracies)
    assert all(accuracy.low <= test.chance + shortcuts.MARGIN for accuracy in by_name.values())
    assert "points better than chance" in sentences.shortcut_sentences(test)[0]


def test_a_feature_that_identifies_the_patient_is_no_shortcut():
    """Every patient has another brightness, so that folds that split patients would make it look informative."""
    of_patient = {}
    features, groups = random_features(lambda label, rng: {})
    rng = np.random.default_rng(3)
    for index, (item, group) in enumerate(zip(features, groups, strict=True)):
        of_patient.setdefault(group, rng.uniform(20, 90))
        features[index] = ScanFeatures(**vars(item) | {"decoded_mean": of_patient[group]})
    test, by_name = measured(features, groups)
    assert by_name["mean of the decoded scan"].low < test.chance


def test_too_few_patients_or_classes_are_a_reason_not_to_run():
    features, groups = random_features(lambda label, rng: {}, patients=2)
    test, _ = measured(features, groups)
    assert test.not_run == "class CNV has 2 patients, and at least 3 of each class are needed"
    of_one_class = [item for item in features if item.scan.label == "CNV"]
    assert "only one class" in measured(of_one_class, groups[: len(of_one_class)])[0].not_run


def test_without_scikit_learn_everything_else_is_reported(tmp_path, monkeypatch):
    src = write_class_folders(tmp_path / "src", {"CNV": 80, "NORMAL": 80})
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    inspection = inspect(src, workers=0)
    printed = console.inspection_summary(src, inspection)
    reason = "scikit-learn is not installed; install it with: pip install 'octprep[audit]'"
    assert f"The shortcut test did not run: {reason}" in printed
    assert "48 scans of 16 patient ids" in printed
    assert "pip install &#39;octprep[audit]&#39;" in page.render(src, inspection).decode()
