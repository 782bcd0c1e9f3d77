"""Every figure in the report is the one in evaluate's JSON, and nothing that is in the JSON is missing."""

import base64
import csv
import hashlib
import json
import re
import shutil
from html import unescape

import cv2
import numpy as np
import pytest

pytest.importorskip("tensorflow")

from octprep.format.errors import ManifestError, SettingError, SourceError
from octprep.format.manifest import Manifest
from octtrain.data.passes import one_pass
from octtrain.evaluation.estimates import format_interval, format_value
from octtrain.evaluation.evaluate import evaluate
from octtrain.explain.explainer import Explainer
from octtrain.report import points
from octtrain.report.evaluation import load_evaluation
from octtrain.report.evidence import SHOWN_MAPS
from octtrain.report.facts import worst_errors
from octtrain.report.write import report, write_pages
from octtrain.runs.folder import RunFolder
from octtrain.runs.run import Run
from tests.worlds.runs import quiet

pytestmark = pytest.mark.slow

DIGITS = {"threshold": 6, "ece": 4, "brier": 4, "nll": 4, "nll_of_patients": 4}


@pytest.fixture(params=["reported", "uncertain"])
def run(request):
    return request.getfixturevalue(request.param)


def metrics_in(content, path=()):
    """The path of every metric with an interval, and its part of the JSON."""
    if isinstance(content, list):
        content = {str(i): part for i, part in enumerate(content)}
    if not isinstance(content, dict):
        return
    if "interval" in content and "value" in content:
        yield ".".join(path), content
        return
    for name, part in content.items():
        yield from metrics_in(part, (*path, name))


def at(content, path):
    """The part of the JSON at a path. Names of classes hold no dot here."""
    for name in path.split("."):
        content = content[int(name)] if isinstance(content, list) else content[name]
    return content


def shown_in(html):
    """Path of a metric -> (value, what is beside it), of every place where the page shows it."""
    found = re.findall(r'<span data-metric="([^"]+)">([^<]*)</span>(?: <span class="faint">([^<]*)</span>)?', html)
    return [(unescape(path), value, rest) for path, value, rest in found]


def test_every_metric_of_the_json_is_in_the_page_with_its_interval(run):
    html, content = (run / "report.html").read_text(), json.loads((run / "evaluate-test.json").read_text())
    shown = shown_in(html)
    named = {path for path, *_ in shown}
    expected = {path for path, _ in metrics_in(content)}
    assert {path for path in expected if not path.startswith("slices.")} <= named
    assert {path.removesuffix(".accuracy") for path in expected if path.endswith(".accuracy")} <= {
        path.removesuffix(".accuracy") for path in named
    }
    for path, value, rest in shown:
        raw = at(content, path)
        digits = 1 if path.endswith("weighted_error_percent") else DIGITS.get(path.rpartition(".")[2], 3)
        if not isinstance(raw, dict):
            assert value == format_value(raw, digits), path
            continue
        assert value == format_value(raw["value"], digits), path
        if raw["value"] is not None:
            interval = raw["interval"] and tuple(raw["interval"])
            assert format_interval(interval, digits, is_exact="method" in raw) in rest, path
        if "count" in raw:
            assert rest.endswith(f"{raw['count']:,}/{raw['total']:,}"), path


def test_confusion_matrices_are_those_of_the_json(run):
    html, content = (run / "report.html").read_text(), json.loads((run / "evaluate-test.json").read_text())
    cells = dict(re.findall(r'data-count="([^"]+)">([\d,]+)<', html))
    for prefix, part in (("", content), ("per_patient.", content["per_patient"])):
        for i, row in enumerate(part["confusion"]["counts"]):
            assert [cells[f"{prefix}{i}.{j}"] for j in range(len(row))] == [f"{count:,}" for count in row]


def test_areas_under_the_drawn_curves_are_those_of_the_json(run):
    found = load_evaluation(Run.load(run), "test")
    for label, name in enumerate(found.class_names):
        truth, score = found.predictions.truth == label, found.predictions.probabilities[:, label]
        x, y = np.array(points.roc(truth, score)).T
        assert np.trapezoid(y, x) == pytest.approx(found.content["per_class"][name]["auc"]["value"], abs=1e-9)
        recall, precision = np.array(points.precision_recall(truth, score)).T
        area = np.trapezoid(precision, recall)
        assert area == pytest.approx(found.content["per_class"][name]["pr_auc"]["value"], abs=1e-6)


def test_the_page_states_where_it_comes_from(reported):
    html, run = (reported / "report.html").read_text(), Run.load(reported)
    text = unescape(re.sub(r"<[^>]*>", "", html))
    for part in (run.manifest.digest, run.device, run.started, *run.libraries.values(), "octtrain fit SHARDS"):
        assert part and part in text, part
    assert "--epochs 3" in text and "--seed 2" in text
    assert json.loads((reported / "calibration.json").read_text())["frozen"]["temperature"] == pytest.approx(
        json.loads((reported / "evaluate-test.json").read_text())["calibration"]["temperature"]
    )


def test_the_headline_is_red_unless_the_model_is_better_than_guessing(run):
    html, content = (run / "report.html").read_text(), json.loads((run / "evaluate-test.json").read_text())
    interval = content["balanced_accuracy"]["interval"]
    is_better = interval is not None and interval[0] > 0.25
    assert ('<h1 class="bad">' in html) != is_better


def test_another_dataset_has_a_report_of_its_own_with_its_caveats_at_the_top(uncertain, tmp_path):
    shutil.copytree(uncertain.parent, tmp_path / "world")
    run, others = tmp_path / "world" / "run", tmp_path / "world" / "others"
    before = (run / "report.html").read_bytes()
    evaluate(run, dataset=others, write_pages=write_pages, log=quiet)
    assert (run / "report.html").read_bytes() == before
    digest = Manifest.load(others).digest
    html = (run / f"report-test-{digest[:8]}.html").read_text()
    top = unescape(html.partition("</header>")[0])
    content = json.loads((run / f"evaluate-test-{digest[:8]}.json").read_text())
    assert any("few patients" in caveat for caveat in content["caveats"])
    assert all(caveat[1:] in top for caveat in content["caveats"])
    assert "another dataset than the run's" in top
    assert "was not calibrated" in html
    assert (run / f"model-card-test-{digest[:8]}.md").is_file()

    evaluate(run, dataset=others, classes={"SICK": ("CNV", "DME", "DRUSEN")}, write_pages=write_pages, log=quiet)
    html = (run / f"report-test-{digest[:8]}-mapped.html").read_text()
    assert "<bdi>SICK</bdi>" in html and "<bdi>CNV</bdi>" not in html
    assert "Urgent referral" not in html


def test_worst_errors_are_shown_with_the_pixels_that_the_model_saw(uncertain):
    html = (uncertain / "report.html").read_text()
    content = json.loads((uncertain / "evaluate-test.json").read_text())
    wrong = content["accuracy"]["total"] - content["accuracy"]["count"]
    with (uncertain / "predictions-test.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["prediction"] != row["truth"]]
    patients = {row["patient_group"] for row in rows}
    assert html.count('alt="Stored pixels of ') == len(patients) > 1
    surest = max(rows, key=lambda row: float(row[row["prediction"]]))
    assert f'alt="Stored pixels of {surest["path"]}"' in html
    assert f"{wrong} of {content['images']} images are misclassified" in html


def test_evidence_is_drawn_on_the_worst_errors_red_where_it_speaks_for_the_prediction(uncertain):
    html, found = (uncertain / "report.html").read_text(), load_evaluation(Run.load(uncertain), "test")
    errors, _ = worst_errors(found, SHOWN_MAPS)
    assert re.findall(r'alt="Evidence for (\w+) on ([^"]+)"', html) == [(e.prediction, e.path) for e in errors]
    assert 1 < len(errors) == SHOWN_MAPS
    explainer = Explainer(found.run.load_model())
    manifest, pixels = Manifest.load(found.run.shards), {}
    for batch in one_pass(found.run.shards, ("test",), batch_size=64, manifest=manifest):
        pixels |= dict(zip(batch.paths, batch.pixels[..., 0], strict=True))
    for error in errors:
        stored, drawn = (
            cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR).astype(int)
            for data in re.findall(rf'base64,([^"]+)" width="32" height="32" alt="[^"]+ {re.escape(error.path)}"', html)
        )
        assert np.ptp(stored, axis=2).max() == 0  # gray
        evidence = explainer.explain(pixels[error.path]).evidence.places[..., found.class_names.index(error.prediction)]
        assert evidence.size == 1  # of so small an image, so all of it has one colour
        red_minus_blue = (drawn[..., 2] - drawn[..., 0]).mean()
        assert red_minus_blue > 20 if evidence.sum() > 0 else red_minus_blue < -20


def test_the_report_is_written_without_evidence_if_the_model_is_gone(uncertain, tmp_path):
    shutil.copytree(uncertain, tmp_path / "run")
    (tmp_path / "run" / "model.keras").unlink()
    path, _ = report(tmp_path / "run", shards=uncertain.parent / "shards", log=quiet)
    html = path.read_text()
    assert "Stored pixels of" in html and "Evidence for" not in html


def test_the_report_is_the_same_when_it_is_written_again_and_lacks_pictures_without_the_shards(uncertain, tmp_path):
    shutil.copytree(uncertain, tmp_path / "deep" / "run")
    before = (uncertain / "report.html").read_bytes()
    run, shards = tmp_path / "deep" / "run", uncertain.parent / "shards"
    path, _ = report(run, shards=shards, log=quiet)
    assert path.read_bytes() == before
    report(run, log=quiet)
    assert b"data:image/jpeg" not in path.read_bytes()
    assert b"--shards DIR" in path.read_bytes()


def test_an_ensemble_has_a_report_and_a_card_that_name_all_members(uncertain, tmp_path):
    shutil.copytree(uncertain.parent, tmp_path / "world")
    first, second = tmp_path / "world" / "run", tmp_path / "world" / "second"
    shutil.copytree(first, second)
    model = Run.load(second).load_model()
    model.get_layer("logits").bias.assign([0.5, -0.5, 0.2, 0.1])
    RunFolder(Run.load(second)).save_model(model, second / "model.keras")
    before = (first / "report.html").read_bytes()
    evaluate([first, second], write_pages=write_pages, log=quiet)
    assert (first / "report.html").read_bytes() == before
    html, card = (first / "report-test-ensemble.html").read_text(), first / "model-card-test-ensemble.md"
    content = json.loads((first / "evaluate-test-ensemble.json").read_text())
    shown = {path: value for path, value, _ in shown_in(html)}
    for path in ("balanced_accuracy", "per_patient.balanced_accuracy", "urgent_referral.sensitivity"):
        assert shown[path] == format_value(at(content, path)["value"])
    assert "Member 1: run" in html and "Member 2: second" in html
    for run in (first, second):
        digest = hashlib.sha256((run / "model.keras").read_bytes()).hexdigest()
        assert digest in html and digest in card.read_text()
    assert "mean of the probabilities of 2 runs" in card.read_text()
    written = html
    report([first, second], log=quiet)
    assert (first / "report-test-ensemble.html").read_text() == written
    shutil.copytree(second, tmp_path / "world" / "third")
    with pytest.raises(SettingError, match=r"is of .*run and .*second, and not of what is named"):
        report([first, tmp_path / "world" / "third"], log=quiet)
    with pytest.raises(SettingError, match="name the same runs"):
        report(first, "test-ensemble", log=quiet)


def test_leaky_results_are_marked(untrained, tmp_path):
    shutil.copytree(untrained, tmp_path / "world")
    run = tmp_path / "world" / "run"
    evaluate(run, "train", allow_leaks=True, write_pages=write_pages, log=quiet)
    html = (run / "report-train.html").read_text()
    assert "LEAKY" in html.partition("</header>")[0]
    assert 'class="check violated"' in html
    assert not (run / "report.html").exists()


def test_results_are_kept_if_the_report_fails(untrained, tmp_path):
    shutil.copytree(untrained, tmp_path / "world")
    run, lines = tmp_path / "world" / "run", []
    (run / "report.html").mkdir()
    evaluate(run, write_pages=write_pages, log=lines.append)
    assert (run / "evaluate-test.json").is_file() and (run / "predictions-test.csv").is_file()
    [warning] = [line for line in lines if "WARNING" in line]
    assert "report.html" in warning
    assert lines[-1].startswith("next:")


def test_results_that_are_missing_or_do_not_fit_are_errors_that_say_what_to_do(untrained, uncertain, tmp_path):
    with pytest.raises(SourceError, match="octtrain evaluate"):
        report(untrained / "run", "val", log=quiet)
    shutil.copytree(uncertain, tmp_path / "run")
    table = tmp_path / "run" / "predictions-test.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ManifestError, match=r"two evaluations.*again"):
        report(tmp_path / "run", log=quiet)
    (tmp_path / "run" / "evaluate-test.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"not what `octtrain evaluate` wrote.*again"):
        report(tmp_path / "run", log=quiet)
