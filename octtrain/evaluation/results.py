"""The files that an evaluation leaves: evaluate-SPLIT.json and predictions-SPLIT.csv, or -SPLIT-ensemble of several."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.format.errors import OutputError
from octprep.format.files import atomic_write
from octprep.format.paths import path_to_text, require_path
from octprep.wording import listed
from octtrain.evaluation.metrics import Report
from octtrain.evaluation.target import EvaluationTarget
from octtrain.json_output import encode


@dataclass(frozen=True)
class SplitPredictions:
    """A model's probabilities for every image of a split, in the order of the shards."""

    paths: list[str]  # relative to the source folder
    patients: list[str]
    truth: NDArray[np.int64]  # (n,) index into the class names
    probabilities: NDArray[np.float32]  # (n, classes), 0..1


def result_paths(target: EvaluationTarget, folder: Path) -> tuple[Path, Path]:
    """The JSON file with metrics and the CSV file with predictions."""
    return folder / f"evaluate-{target.name}.json", folder / f"predictions-{target.name}.csv"


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
    json_path, csv_path = result_paths(target, folder)
    for path in (json_path, csv_path):
        if path.is_dir():
            raise OutputError(f"{path} is a folder, but a result file must be written there; remove it or give --out.")
    if not out and len(target.runs) == 1:
        return folder
    if json_path.exists() and (others := _runs_of(json_path)) != _run_names(target):
        raise OutputError(
            f"{json_path} holds the results of {listed(others) or 'something else'}; give another --out to keep them."
        )
    return folder


def as_json(target: EvaluationTarget, report: Report, caveats: Sequence[str], patients: int) -> dict[str, Any]:
    """The content of evaluate-SPLIT.json, for json.dumps."""
    return {
        "split": target.split,
        **({"run": _run_names(target)[0]} if len(target.runs) == 1 else {"runs": _run_names(target)}),
        "digest": target.manifest.digest,
        "trained_on": target.run_digest,
        "leak_warning": target.leak_warning,
        "exposed": {"patients": len(target.exposed.patients), "images": len(target.exposed.contents)},
        "caveats": list(caveats),
        "patients": patients,
        **report.as_json(),
    }


def write_results(
    target: EvaluationTarget, folder: Path, predictions: SplitPredictions, content: dict[str, Any]
) -> tuple[Path, Path]:
    """Write both files and return their paths. Raises OutputError if that fails."""
    json_path, csv_path = result_paths(target, folder)
    try:
        atomic_write(json_path, encode(content))
        atomic_write(csv_path, predictions_csv(target.manifest.class_names, predictions))
    except OSError as error:
        raise OutputError(
            f"the results cannot be written to {folder} ({error.strerror or error}); correct that, or name another "
            "folder by --out DIR, and run the command again."
        ) from None
    return json_path, csv_path


def predictions_csv(class_names: Sequence[str], predictions: SplitPredictions) -> bytes:
    """The bytes of predictions-SPLIT.csv."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "patient", "truth", "prediction", *class_names])
    rows = zip(predictions.paths, predictions.patients, predictions.truth, predictions.probabilities, strict=True)
    for path, patient, truth, probabilities in rows:
        cells = [f"{probability:.6f}" for probability in probabilities]
        writer.writerow([path, patient, class_names[truth], class_names[int(probabilities.argmax())], *cells])
    return out.getvalue().encode(errors="backslashreplace")


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
