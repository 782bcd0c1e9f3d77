"""The charts of the report, which `octtrain figures` writes as files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from octprep.html import charts, page
from octprep.html.charts import Curve, Interval, Scale
from octtrain.evaluation.estimates import format_value
from octtrain.evaluation.metrics import urgent_classes
from octtrain.evaluation.patients import urgent_scores
from octtrain.report import points
from octtrain.report.evaluation import Evaluation
from octtrain.runs.history import best_epoch
from octtrain.runtime import MissingPackage

_URGENT_COLOUR = 6  # beyond those of the four classes of OCT2017
_DIAGONAL = ((0.0, 0.0), (1.0, 1.0))
_TICKS = 4  # of an axis whose end depends on the data
_FONTS = 'Arial, "Liberation Sans", "DejaVu Sans", sans-serif'  # by name: not all programs know a general "sans-serif"
# A page as large as the chart. Without a date the same chart gives the same bytes.
_PDF_PAGE = b"""
#set document(title: sys.inputs.title, date: none)
#set page(width: auto, height: auto, margin: 0pt)
#image(bytes(sys.inputs.svg), format: "svg", alt: sys.inputs.title)
"""


@dataclass(frozen=True)
class Figure:
    """A chart, and what it shows in a sentence or two."""

    key: str  # its file's name without .svg or .pdf
    title: str
    how: str
    drawing: Markup


def draw_figures(evaluation: Evaluation) -> tuple[Figure, ...]:
    """The charts that the results have values for, in the order of the report."""
    drawn = (
        _overview(evaluation),
        _roc(evaluation),
        _referral(evaluation),
        _precision_recall(evaluation),
        _reliability(evaluation),
        _risk_coverage(evaluation),
        _loss(evaluation),
        _accuracy(evaluation),
    )
    return tuple(figure for figure in drawn if figure)


def standalone(figure: Figure) -> bytes:
    """A chart as an SVG file of its own, with the colours of the printed page."""
    css = page.asset("page.css")
    colours = dict(re.findall(r"--([\w-]+): ([^;]+);", css.rpartition("@media print")[2]))
    rules = " ".join(re.findall(r"(?:svg \.?[\w.-]+,? )+\{[^}]*\}", css))
    style = re.sub(r"var\(--([\w-]+)\)", lambda match: colours[match[1]], rules)
    style = re.sub(r"font-family: [^;]*;", f"font-family: {_FONTS};", style)
    width, height = re.findall(r'viewBox="0 0 (\S+) (\S+)"', figure.drawing)[0]
    start = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    drawing = str(figure.drawing).replace("<svg ", start, 1).replace("</title>", f"</title><style>{style}</style>", 1)
    return ('<?xml version="1.0" encoding="UTF-8"?>\n' + drawing + "\n").encode()


def as_pdf(figure: Figure) -> bytes:
    """The chart of `standalone` as a PDF of the same size, with its lines as lines and its fonts embedded.

    Raises MissingPackage without typst, which converts it.
    """
    try:
        import typst
    except ModuleNotFoundError:
        raise MissingPackage(
            'a PDF needs typst, which is not installed; run `pip install "octprep[figures]"`, or give --format svg.'
        ) from None
    inputs = {"svg": standalone(figure).decode(), "title": figure.title}
    return bytes(typst.compile(_PDF_PAGE, sys_inputs=inputs, format="pdf"))


def _overview(evaluation: Evaluation) -> Figure | None:
    content, rows = evaluation.content, []
    for suffix, part in (("per image", content), ("per patient", content["per_patient"])):
        for name, raw in _headline(part):
            if raw["interval"]:
                low, high = raw["interval"]
                rows.append(Interval(f"{name}, {suffix}", low, raw["value"], high, stands_out=False))
    if not rows:
        return None
    title = "Main results with 95 % intervals"
    how = "Dots: the value; lines: where it may lie for other patients of this kind. What has no interval is not drawn."
    return Figure("main-results", title, how, charts.intervals("main-results", title, "percent", rows))


def _headline(part: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    urgent = part["urgent_referral"] or {}
    return [
        ("balanced accuracy", part["balanced_accuracy"]),
        ("accuracy", part["accuracy"]),
        *((f"referral {name}", urgent[name]) for name in ("sensitivity", "specificity") if urgent),
    ]


def _roc(evaluation: Evaluation) -> Figure | None:
    rows = _of_classes(evaluation, points.roc, "auc", "AUC")
    if not rows:
        return None
    title = "ROC curves, each class against the rest"
    drawing = charts.curves("roc", title, _named(rows), Scale("1 - specificity"), Scale("sensitivity"), rows, _DIAGONAL)
    return Figure("roc", title, "Per image. Dashed: guessing.", drawing)


def _of_classes(evaluation: Evaluation, curve_of: Callable[..., points.Points], area: str, shown: str) -> list[Curve]:
    """The curve of each class against the rest, with its area. area: the metric's name in the JSON."""
    rows, found = [], evaluation.predictions
    for label, name in enumerate(evaluation.class_names):
        if curve := curve_of(found.truth == label, found.probabilities[:, label]):
            value = format_value(evaluation.content["per_class"][name][area]["value"])
            rows.append(Curve(f"{name}, {shown} {value}", points.thinned(curve), label))
    return rows


def _referral(evaluation: Evaluation) -> Figure | None:
    found, content = evaluation.predictions, evaluation.content
    scores = urgent_scores(found.probabilities, evaluation.class_names)
    if scores is None:
        return None
    urgent = np.isin(found.truth, urgent_classes(evaluation.class_names))
    rows = []
    for name, part, colour, (truth, score) in (
        ("images", content, _URGENT_COLOUR, (urgent, scores)),
        ("patients", content["per_patient"], None, points.worst_of_patients(found.groups, urgent, scores)),
    ):
        if curve := points.roc(truth, score):
            value = format_value(part["urgent_referral"]["auc"]["value"])
            rows.append(Curve(f"{name}, AUC {value}", points.thinned(curve), colour))
    if not rows:
        return None
    how = "The score of an image is P(CNV) + P(DME), that of a patient the highest of their images."
    frozen = (evaluation.calibration or {}).get("referral")
    if frozen:
        referred, others = frozen["urgent_scans"], frozen["other_scans"]
        if referred["all"] and others["all"]:
            at = (1 - others["not_referred"] / others["all"], referred["referred"] / referred["all"])
            rows.append(Curve(f"frozen at {frozen['threshold']:g}", [at], 1, is_line=False))
            how += " Dot: the threshold that was frozen before this split was seen, over images."
    title = "ROC curve of urgent referral"
    drawing = charts.curves(
        "roc-referral", title, _named(rows), Scale("1 - specificity"), Scale("sensitivity"), rows, _DIAGONAL
    )
    return Figure("roc-referral", title, how, drawing)


def _precision_recall(evaluation: Evaluation) -> Figure | None:
    rows = _of_classes(evaluation, points.precision_recall, "pr_auc", "PR-AUC")
    if not rows:
        return None
    title = "Precision-recall curves, each class against the rest"
    drawing = charts.curves(
        "precision-recall", title, _named(rows), Scale("recall (sensitivity)"), Scale("precision"), rows
    )
    how = "Per image. Precision depends on how frequent a class is in this split; guessing has the share of the class."
    return Figure("precision-recall", title, how, drawing)


def _reliability(evaluation: Evaluation) -> Figure | None:
    calibration = evaluation.calibration
    if not calibration:
        return None
    rows = [
        Curve(
            f"{name}, ECE {format_value(part['ece'])}",
            [(each["confidence"], each["accuracy"]) for each in part["bins"]],
            colour,
            has_marks=True,
        )
        for name, part, colour in (("before", calibration["before"], None), ("after", calibration["after"], 0))
    ]
    title = "Reliability, before and after the temperature"
    how = "Each dot: images of similar confidence, in bins of equal counts. On the dashed line confidence is accuracy."
    across, up = Scale("mean probability of the predicted class"), Scale("share predicted correctly")
    return Figure(
        "reliability", title, how, charts.curves("reliability", title, _named(rows), across, up, rows, _DIAGONAL)
    )


def _risk_coverage(evaluation: Evaluation) -> Figure | None:
    calibration = evaluation.calibration
    if not calibration or not calibration["risk_coverage"]:
        return None
    curve = [(point["coverage"], point["risk"]) for point in calibration["risk_coverage"]]
    rows = [Curve("all thresholds", curve, 0)]
    answers = calibration["abstention"]
    how = "If only the most confident images are answered: the share answered, and the share of the answers wrong."
    if answers and answers["answered_scans"]["answered"]:
        answered = answers["answered_scans"]
        at = (answered["answered"] / answered["all"], answers["wrong_scans"] / answered["answered"])
        rows.append(Curve(f"frozen at {answers['threshold']:g}", [at], 1, is_line=False))
        how += " Dot: the threshold that was frozen before this split was seen."
    title = "Risk and coverage"
    up = _scale("share of the answers wrong", [risk for _, risk in curve])
    drawing = charts.curves("risk-coverage", title, _named(rows), Scale("share of images answered"), up, rows)
    return Figure("risk-coverage", title, how, drawing)


def _loss(evaluation: Evaluation) -> Figure | None:
    rows = _histories(evaluation, (("training", "loss", None), ("val", "val_loss", 0)))
    if not rows:
        return None
    up = _scale("loss", [value for row in rows for _, value in row.points])
    title = "Loss by epoch"
    drawing = charts.curves("loss", title, _named(rows), _epochs(evaluation), up, rows)
    return Figure("loss", title, _best(evaluation), drawing)


def _accuracy(evaluation: Evaluation) -> Figure | None:
    names = (("training", "balanced_accuracy", None), ("val", "val_balanced_accuracy", 0))
    rows = _histories(evaluation, names)
    if not rows:
        return None
    title = "Balanced accuracy by epoch"
    drawing = charts.curves("training", title, _named(rows), _epochs(evaluation), Scale("balanced accuracy"), rows)
    return Figure("training", title, _best(evaluation), drawing)


def _histories(evaluation: Evaluation, columns: Sequence[tuple[str, str, int | None]]) -> list[Curve]:
    rows = []
    for name, column, colour in columns:
        values = [(float(row["epoch"]), row[column]) for row in evaluation.history if column in row]
        if finite := [(epoch, value) for epoch, value in values if math.isfinite(value)]:
            rows.append(Curve(name, points.thinned(finite), colour))
    return rows


def _best(evaluation: Evaluation) -> str:
    best = best_epoch(evaluation.history)
    return f"The model is that of epoch {best} of {len(evaluation.history)}, the best on val."


def _epochs(evaluation: Evaluation) -> Scale:
    count = len(evaluation.history)
    step = max(1, math.ceil(count / 6))
    return Scale("epoch", 1, max(count, 2), tuple((epoch, str(epoch)) for epoch in range(1, max(count, 2) + 1, step)))


def _scale(title: str, values: Sequence[float]) -> Scale:
    """An axis from 0 to a round number that is not below any of the values."""
    highest = max([*values, 1e-6])
    unit = 10 ** math.floor(math.log10(highest / _TICKS))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit * _TICKS >= highest)
    return Scale(title, 0, step * _TICKS, tuple((step * i, f"{step * i:.3g}") for i in range(_TICKS + 1)))


def _named(rows: Sequence[Curve]) -> str:
    return "; ".join(row.name for row in rows)
