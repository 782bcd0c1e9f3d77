"""The model card of a run: Markdown with the YAML header that Hugging Face reads.

Values in the header are written as JSON, which is YAML too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from octprep.html.text import visible
from octtrain.evaluation.estimates import Estimate
from octtrain.report import facts
from octtrain.report.checklists import FILL, Item, claim, tripod_ai
from octtrain.report.evaluation import Evaluation
from octtrain.runs.run import Run

TAGS = ("medical", "ophthalmology", "oct", "retina", "octprep")
_METRICS = (  # place in the JSON, Hugging Face's name of the metric, name
    ("balanced_accuracy", "balanced_accuracy", "Balanced accuracy"),
    ("accuracy", "accuracy", "Accuracy"),
    ("macro_f1", "f1", "Macro F1"),
    ("macro_auc", "roc_auc", "Macro AUC"),
    ("mcc", "matthews_correlation", "Matthews' correlation"),
)
_URGENT = (
    ("sensitivity", "recall", "Urgent referral: sensitivity"),
    ("specificity", "specificity", "Urgent referral: specificity"),
    ("auc", "roc_auc", "Urgent referral: AUC"),
)


def write(evaluation: Evaluation) -> bytes:
    """The card in UTF-8. It names no patient and no file of one."""
    content = evaluation.content
    mean = f"Mean of {len(evaluation.runs)} runs of " if evaluation.is_ensemble else ""
    name = f"{mean}{facts.models(evaluation)} on OCT B-scans ({evaluation.run.manifest.digest[:8]})"
    units = (("image", content), ("patient", content["per_patient"]))
    rows = [(f"{title}, per {unit}", _estimate(raw)) for unit, part in units for _, title, raw in _metrics(part)]
    parts = [
        _header(evaluation, name),
        f"# {_text(name)}\n\nWritten by `octtrain evaluate`. What it cannot know says *{FILL}*.",
        f"## Intended use\n\n{FILL}. Research software, not a medical device: nothing it gives is a diagnosis.",
        f"## Results\n\nOn {facts.amount(content)}: {facts.dataset(evaluation)}. 95 % intervals are for other patients "
        "of this kind, from a bootstrap of patients.\n\n" + _table(("metric", "value (95 % interval)"), rows),
        "## What was checked\n\n"
        + _table(("check", "state", ""), [(each.name, each.state, each.sentence) for each in facts.checks(evaluation)]),
        "## Training\n\n" + "\n\n".join(_training(run) for run in evaluation.runs),
        "## How the dataset was prepared and split\n\n" + _table(("", ""), facts.preparation(evaluation)),
        "## What is not known\n\n" + "\n".join(f"- {_text(line)}" for line in facts.unknown(evaluation)),
        "## TRIPOD+AI\n\nItems of Collins et al., BMJ 2024;385:e078378, shortened; hand in the original "
        "checklist.\n\n" + _items(tripod_ai(evaluation)),
        "## CLAIM\n\nItems of Mongan et al., Radiol. Artif. Intell. 2020;2(2):e200029, shortened likewise. The update "
        "of 2024 (Tejani et al., Radiol. Artif. Intell. 2024;6(4):e240300) has other wording and numbers.\n\n"
        + _items(claim(evaluation)),
    ]
    return ("\n\n".join(parts) + "\n").encode()


def _training(run: Run) -> str:
    return _table(("", ""), facts.training(run)) + f"\n\n```\n{facts.command(run)}\n```"


def _header(evaluation: Evaluation, name: str) -> str:
    content = evaluation.content
    results = []
    for unit, part in (("image", content), ("patient", content["per_patient"])):
        results += [
            {"type": kind, "name": f"{title}, per {unit}", "value": raw["value"]}
            for kind, title, raw in _metrics(part)
            if raw["value"] is not None
        ]
    source = {
        "name": f"OCT B-scans, octprep dataset {content['digest'][:12]}",
        "type": "octprep",
        "split": content["split"],
        "revision": content["digest"],
    }
    values: dict[str, Any] = {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": [*TAGS, *dict.fromkeys(run.config.model for run in evaluation.runs)],
        "metrics": [kind for _, kind, _ in _METRICS],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "OCT B-scan classification"},
                        "dataset": source,
                        "metrics": results,
                    }
                ],
            }
        ],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["---", f"# license: {FILL}; add a line such as `license: apache-2.0`", *lines, "---"])


def _metrics(part: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Hugging Face's name, the name, and the value with its interval."""
    urgent = part["urgent_referral"]
    return [
        *((kind, title, part[key]) for key, kind, title in _METRICS),
        *((kind, title, urgent[key]) for key, kind, title in _URGENT if urgent),
    ]


def _estimate(raw: Mapping[str, Any]) -> str:
    low_high = raw["interval"]
    text = Estimate(raw["value"], low_high and (low_high[0], low_high[1]), is_exact="method" in raw).text()
    return f"{text} {raw['count']:,}/{raw['total']:,}" if "count" in raw else text


def _items(items: Sequence[Item]) -> str:
    return _table(("item", "asked for", "this run"), items)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(text: str) -> str:
    """Text without hidden characters and without what Markdown or HTML would read as its own."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", visible(text))
