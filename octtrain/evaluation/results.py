"""The files that an evaluation leaves: evaluate-SPLIT.json, predictions-SPLIT.csv and patients-SPLIT.csv.

Those of several runs end in -SPLIT-ensemble.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from octprep.format.errors import OutputError
from octprep.format.files import atomic_write
from octprep.format.paths import path_to_text, require_path
from octprep.wording import listed
from octtrain.evaluation.intervals import DESCRIPTION
from octtrain.evaluation.patients import cases_of, patients_csv
from octtrain.evaluation.predictions import SplitPredictions, images_sha256, predictions_csv
from octtrain.evaluation.report import Report
from octtrain.evaluation.slices import Slice
from octtrain.evaluation.target import EvaluationTarget
from octtrain.json_output import encode


def result_paths(target: EvaluationTarget, folder: Path) -> tuple[Path, Path, Path]:
    """The JSON file with metrics and the CSV files with predictions, for images and for patients."""
    return (
        folder / f"evaluate-{target.name}.json",
        folder / f"predictions-{target.name}.csv",
        folder / f"patients-{target.name}.csv",
    )


def prepare_folder(target: EvaluationTarget, out: Path | None) -> Path:
    """The folder for the results, made if need be. Raises OutputError if they cannot be written there."""
    folder = out or target.runs[0].folder
    require_path(folder)
    try:
        if out:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        destination = f"--out {folder}" if out else f"the run {folder}"
        raise OutputError(
            f"{destination} cannot be written to ({error.strerror or error}); name {'another' if out else 'a'} folder "
            "for the results by --out DIR."
        ) from None
    json_path = result_paths(target, folder)[0]
    for path in result_paths(target, folder):
        if path.is_dir():
            raise OutputError(f"{path} is a folder, but a result file must be written there; remove it or give --out.")
    if not out and len(target.runs) == 1:
        return folder
    if json_path.exists() and (others := _runs_of(json_path)) != _run_names(target):
        raise OutputError(
            f"{json_path} holds the results of {listed(others) or 'something else'}; give another --out to keep them."
        )
    return folder


def as_json(
    target: EvaluationTarget,
    predictions: SplitPredictions,
    report: Report,
    caveats: Sequence[str],
    slices: Sequence[Slice],
) -> dict[str, Any]:
    """The content of evaluate-SPLIT.json, for json.dumps."""
    return {
        "split": target.split,
        **({"run": _run_names(target)[0]} if len(target.runs) == 1 else {"runs": _run_names(target)}),
        "digest": target.manifest.digest,
        "trained_on": target.run_digest,
        "images_sha256": images_sha256(predictions.paths, target.rows),
        "leak_warning": target.leak_warning,
        "exposed": {"patients": len(target.exposed.patients), "images": len(target.exposed.contents)},
        "caveats": list(caveats),
        "intervals": DESCRIPTION,
        **_classes(target),
        **report.as_json(),
        "slices": [part.as_json() for part in slices],
    }


def write_results(
    target: EvaluationTarget, folder: Path, predictions: SplitPredictions, content: dict[str, Any]
) -> tuple[Path, Path, Path]:
    """Write all files and return their paths. Raises OutputError if that fails."""
    paths = json_path, images_path, patients_path = result_paths(target, folder)
    class_names = target.class_names
    try:
        atomic_write(json_path, encode(content))
        atomic_write(images_path, predictions_csv(class_names, predictions))
        atomic_write(patients_path, patients_csv(class_names, cases_of(predictions, class_names)))
    except OSError as error:
        raise OutputError(
            f"the results cannot be written to {folder} ({error.strerror or error}); correct that, or name another "
            "folder by --out DIR, and run the command again."
        ) from None
    return paths


def _classes(target: EvaluationTarget) -> dict[str, Any]:
    """How classes were mapped, and the numbers of images of classes that the model does not know, if they were."""
    if not target.class_map:
        return {}
    names = target.runs[0].manifest.class_names, target.manifest.class_names
    return {"classes": target.class_map.as_json(*names), "left_out": dict(target.left_out)}


def _run_names(target: EvaluationTarget) -> list[str]:
    """The run, or the members of the ensemble, as they are named in the results."""
    return [path_to_text(run.folder.resolve().as_posix()) for run in target.runs]


def _runs_of(path: Path) -> list[str]:
    """The runs that a result file is of; none if it does not name any."""
    try:
        raw = json.loads(path.read_bytes())
        return [str(name) for name in (raw["runs"] if "runs" in raw else [raw["run"]])]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
