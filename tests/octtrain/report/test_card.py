"""The model card is read by Hugging Face's library, holds the values of evaluate's JSON, and names no patient."""

import csv
import json
import re

import pytest

pytest.importorskip("tensorflow")

from octtrain.report.checklists import FILL, claim, tripod_ai
from octtrain.report.evaluation import load_evaluation
from octtrain.runs.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture(params=["reported", "uncertain"])
def run(request):
    return request.getfixturevalue(request.param)


def test_the_header_is_read_by_hugging_face(run):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    content = json.loads((run / "evaluate-test.json").read_text())
    card = hub.ModelCard.load(run / "model-card.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("keras", "image-classification")
    assert "license" not in data
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    for unit, part in (("image", content), ("patient", content["per_patient"])):
        assert values[f"Balanced accuracy, per {unit}"] == part["balanced_accuracy"]["value"]
        assert values[f"Accuracy, per {unit}"] == part["accuracy"]["value"]
        assert values[f"Urgent referral: sensitivity, per {unit}"] == part["urgent_referral"]["sensitivity"]["value"]
    assert {result.dataset_revision for result in card.data.eval_results} == {content["digest"]}


def test_the_table_of_results_has_the_intervals(reported):
    text, content = (reported / "model-card.md").read_text(), json.loads((reported / "evaluate-test.json").read_text())
    raw = content["per_patient"]["accuracy"]
    [cell] = re.findall(r"^\| Accuracy, per patient \| (.*) \|$", text, re.MULTILINE)
    low, high = raw["interval"]
    assert cell.startswith(f"{raw['value']:.3f} ({low:.3f}-{high:.3f}")
    assert cell.endswith(f"{raw['count']}/{raw['total']}")


def test_no_patient_and_no_file_is_named(run):
    text = (run / "model-card.md").read_text()
    with (run / "predictions-test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert not [row["path"] for row in rows if row["path"] in text]
    assert not re.search(r"\b200\d\b", text)  # the ids of the test patients


def test_all_items_of_the_checklists_are_there_once(reported):
    found = load_evaluation(Run.load(reported), "test")
    numbers = [number for number, *_ in tripod_ai(found)]
    assert len(numbers) == len({*numbers}) == 52
    assert [int(re.match(r"\d+", number)[0]) for number in dict.fromkeys(numbers)][-1] == 27
    assert [number for number, *_ in claim(found)] == [str(i) for i in range(1, 43)]
    answers = [answer for *_, answer in (*tripod_ai(found), *claim(found))]
    assert all(answers) and FILL in answers
    assert all(f"| {number} | " in (reported / "model-card.md").read_text() for number in numbers)
