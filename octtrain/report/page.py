"""The report of a run as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from octprep.html import page
from octprep.html.pictures import Picture
from octtrain.evaluation.estimates import EXACT, format_interval, format_value
from octtrain.evaluation.metrics import MIN_PATIENTS
from octtrain.evaluation.report import NOTE
from octtrain.report import facts
from octtrain.report.evaluation import Evaluation
from octtrain.report.figures import draw_figures

METRICS = (
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
    ("precision", "precision"),
    ("F1", "f1"),
    ("AUC", "auc"),
    ("PR-AUC", "pr_auc"),
)
_METRIC = Markup('<td class="metric"><span data-metric="{key}">{value}</span> <span class="faint">{rest}</span></td>')


def render(evaluation: Evaluation, pictures: Mapping[str, Picture], evidence: Mapping[str, Picture]) -> bytes:
    """The page in UTF-8. It depends on its arguments alone: no clock.

    pictures: path of an image -> the pixels that the model saw.  evidence: path -> what it found on them.
    """
    content, calibration = evaluation.content, evaluation.calibration
    style, script = page.asset("page.css") + page.asset("report.css", "octtrain.report"), page.asset("page.js")
    errors, error_count = facts.worst_errors(evaluation)
    environment = page.environment("octtrain.report")
    environment.globals["metric"] = _metric
    environment.globals["plain"] = _plain
    text = environment.get_template("report.html").render(
        style=Markup(style),
        script=Markup(script),
        policy=Markup(page.policy(style, script)),
        headline=_headline(evaluation),
        state=_state(evaluation),
        warning=content["leak_warning"],
        lead=f"{facts.amount(content)}: {facts.dataset(evaluation)}.",
        checks=facts.checks(evaluation),
        caveats=content["caveats"],
        content=content,
        cases=content["per_patient"],
        labels=evaluation.class_names,
        rows=facts.results_rows(content),
        metrics=METRICS,
        urgent=content["urgent_referral"] is not None,
        calibration=calibration,
        figures={figure.key: figure for figure in draw_figures(evaluation)},
        confusions=_confusions(content),
        trainings=[(facts.folder_name(run), facts.training(run), facts.command(run)) for run in evaluation.runs],
        preparation=facts.preparation(evaluation),
        slices=sorted(enumerate(content["slices"]), key=lambda numbered: numbered[1]["patients"] < MIN_PATIENTS),
        min_patients=MIN_PATIENTS,
        worse_slices=facts.worse_slices(evaluation),
        errors=errors,
        error_count=error_count,
        pictures=pictures,
        evidence=evidence,
        unknown=facts.unknown(evaluation),
        note=NOTE[:1].upper() + NOTE[1:] + ".",
    )
    return text.encode()


def _headline(evaluation: Evaluation) -> str:
    raw = evaluation.content["balanced_accuracy"]
    if raw["value"] is None:
        return "Balanced accuracy is undefined"
    interval = f"95 % interval {format_interval(tuple(raw['interval']))}" if raw["interval"] else "no interval"
    return f"Balanced accuracy {format_value(raw['value'])} ({interval})"


def _state(evaluation: Evaluation) -> str:
    """The colour of the headline."""
    return "bad" if evaluation.content["leak_warning"] or not facts.is_above_chance(evaluation) else ""


def _metric(part: Mapping[str, Any], path: str, prefix: str = "", digits: int = 3) -> Markup:
    """A cell with a metric, its interval and its counts. path: of the metric in `part`, with dots."""
    raw: Any = part
    for name in path.split("."):
        raw = raw[name]
    rest = ""
    if raw["value"] is not None:
        interval = raw["interval"] and tuple(raw["interval"])
        rest = f"({format_interval(interval, digits, is_exact=raw.get('method') == EXACT)})"
    if "count" in raw:
        rest += f" {raw['count']:,}/{raw['total']:,}"
    return _METRIC.format(key=prefix + path, value=format_value(raw["value"], digits), rest=rest)


def _plain(value: float | None, path: str, digits: int = 3) -> Markup:
    """A number without an interval."""
    return Markup('<span data-metric="{key}">{value}</span>').format(key=path, value=format_value(value, digits))


def _confusions(content: Mapping[str, Any]) -> list[tuple[str, str, list[tuple[list[tuple[int, float]], int]]]]:
    """For images and for cases: name, place in the JSON, and each row's counts with their shares, and its sum."""
    return [
        (
            name,
            prefix,
            [
                ([(count, count / sum(counts) if sum(counts) else 0.0) for count in counts], sum(counts))
                for counts in part["confusion"]["counts"]
            ],
        )
        for name, prefix, part in (("images", "", content), ("cases", "per_patient.", content["per_patient"]))
    ]
