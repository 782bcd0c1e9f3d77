"""Datasets of other classes: which are the same, what is left out, and whose probabilities are added up."""

import json
import shutil

import numpy as np
import pytest

from octprep.format.class_map import parse_class_map
from octprep.format.errors import LeakError, ManifestError, SettingError
from octtrain.evaluation.class_map import make_class_map
from octtrain.evaluation.predictions import SplitPredictions
from tests.worlds.runs import quiet
from tests.worlds.shards import CLASSES, write_shards

AMD = {"AMD": ("CNV", "DRUSEN"), "NO": ("NORMAL",)}


def test_the_text_of_a_map_is_read_or_an_error():
    assert parse_class_map("AMD=CNV+DRUSEN, NO=NORMAL") == AMD
    for text in ("", "AMD", "AMD=", "AMD=CNV+", "=CNV", "A=B,A=C"):
        with pytest.raises(SettingError, match="such as AMD=CNV"):
            parse_class_map(text)
    with pytest.raises(SettingError, match="names CNV more than once"):
        parse_class_map("A=CNV,B=CNV")


def test_classes_are_shared_by_member_or_by_name_and_others_are_unknown():
    found = make_class_map(AMD, CLASSES, ("AMD", "DME", "NO", "RVO"))
    assert found.shared == ("AMD", "DME", "NO")
    assert found.of_model == (0, 1, 0, 2)
    assert found.of_dataset == (0, 1, 2, None)
    with pytest.raises(SettingError, match="names DRUSE, but the model's classes are CNV"):
        make_class_map({"AMD": ("CNV", "DRUSE")}, CLASSES, ("AMD", "NO"))
    for given, dataset in (({"all": CLASSES}, ("all",)), (AMD, ("ERM", "RVO"))):
        with pytest.raises(SettingError, match="two classes at least"):
            make_class_map(given, CLASSES, dataset)


def test_probabilities_of_the_members_are_added_and_unknown_images_left_out():
    class_map = make_class_map(AMD, CLASSES, ("RVO", "NO", "AMD"))
    probabilities = np.array([[0.1, 0.2, 0.3, 0.4], [0.3, 0.1, 0.35, 0.25], [1, 0, 0, 0]], np.float32)
    given = SplitPredictions([*"abc"], [*"123"], [*"113"], np.array([1, 2, 0]), probabilities)
    mapped = class_map.apply(given)
    assert (mapped.paths, mapped.patients, mapped.groups) == (["a", "b"], ["1", "2"], ["1", "1"])
    assert mapped.truth.tolist() == [2, 0]  # NO, AMD
    np.testing.assert_allclose(mapped.probabilities, [[0.4, 0.2, 0.4], [0.65, 0.1, 0.25]], atol=1e-6)


@pytest.mark.slow
def test_a_dataset_of_other_classes_is_evaluated_and_its_exposure_checked(untrained, tmp_path):
    pytest.importorskip("tensorflow")
    from octtrain.evaluation.evaluate import evaluate

    shutil.copytree(untrained / "run", tmp_path / "run")
    classes = ("AMD", "DME", "NO", "RVO")
    other, _ = write_shards(tmp_path / "other", {"test": 3}, classes=classes, seed=1, first_patient=70_000)
    with pytest.raises(ManifestError, match="which classes are the same by --classes"):
        evaluate(tmp_path / "run", dataset=tmp_path / "other", log=quiet)
    lines = []
    report = evaluate(tmp_path / "run", dataset=tmp_path / "other", classes=AMD, log=lines.append)
    assert report.class_names == ("AMD", "DME", "NO")
    assert report.accuracy.total == 9
    assert "left out, as the model does not know the class: 3 images of RVO" in lines
    stored = json.loads((tmp_path / "run" / f"evaluate-test-{other.digest[:8]}-mapped.json").read_text())
    assert stored["left_out"] == {"RVO": 3}
    assert stored["classes"]["AMD"] == {"model": ["CNV", "DRUSEN"], "dataset": ["AMD"]}
    assert stored["urgent_referral"] is None
    header = (tmp_path / "run" / f"predictions-test-{other.digest[:8]}-mapped.csv").read_text().splitlines()[0]
    assert header == "path,patient,patient_group,truth,prediction,AMD,DME,NO"

    write_shards(tmp_path / "exposed", {"test": 1}, classes=classes, seed=1, first_patient=0)  # a patient of the run's
    with pytest.raises(LeakError, match="1 of the 1 patient"):
        evaluate(tmp_path / "run", dataset=tmp_path / "exposed", classes=AMD, log=quiet)
