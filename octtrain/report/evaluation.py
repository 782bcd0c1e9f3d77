"""What an evaluation left in a run's folder, read again: the one source of every figure of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octprep.format.errors import ManifestError, SettingError, SourceError
from octprep.format.files import NotReadable, read_bytes
from octprep.format.paths import path_to_text
from octtrain.evaluation.metrics import confusion
from octtrain.evaluation.predictions import SplitPredictions, read_predictions
from octtrain.runs.history import Row
from octtrain.runs.run import Run

MAX_BYTES = 100_000_000  # of evaluate-SPLIT.json or predictions-SPLIT.csv; larger files are not read
_REQUIRED = ("split", "digest", "caveats", "exposed", "images", "patients", "per_class", "per_patient", "slices")
_FILES = (("evaluate", "json"), ("predictions", "csv"))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results of a run on one split."""

    run: Run
    name: str  # of the results, as in their files' names, such as `test`
    content: Mapping[str, Any]  # of evaluate-NAME.json
    class_names: tuple[str, ...]
    predictions: SplitPredictions  # of predictions-NAME.csv
    history: Sequence[Row]

    @property
    def is_own_dataset(self) -> bool:
        """Whether the run was trained on this dataset."""
        return bool(self.content["digest"] == self.run.manifest.digest)

    @property
    def calibration(self) -> Mapping[str, Any] | None:
        """What the frozen calibration did on the split; None if the run had none when it was evaluated."""
        found: Mapping[str, Any] | None = self.content.get("calibration")
        return found


def load_evaluation(run: Run, name: str) -> Evaluation:
    """Read the results of a run.

    Raises SourceError if there are none of this name, SettingError if they are of several runs, ManifestError if a file
    was edited or damaged, or the two are not of the same evaluation.
    """
    json_path, csv_path = (run.folder / f"{kind}-{name}.{suffix}" for kind, suffix in _FILES)
    folder = path_to_text(run.folder.as_posix())
    advice = f"Run `octtrain evaluate {folder}` again."
    if not json_path.is_file():
        raise SourceError(
            f"{folder} has no results of {name} ({json_path.name}). Evaluate it first, by `octtrain evaluate {folder}`."
        )
    try:
        content = json.loads(read_bytes(json_path, MAX_BYTES)[0])
        if "runs" in content:
            raise SettingError(f"{json_path} is of several runs; a report is of one. Evaluate each run alone.")
        if missing := [key for key in _REQUIRED if key not in content]:
            raise ValueError(f"it has no {missing[0]}")
        counts = np.array(content["confusion"]["counts"], np.int64)
        labels = tuple(content["confusion"]["truth down, prediction across"])
    except (OSError, NotReadable, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ManifestError(f"{json_path} is not what `octtrain evaluate` wrote ({error}). {advice}") from None
    try:
        class_names, predictions = read_predictions(read_bytes(csv_path, MAX_BYTES)[0])
    except (OSError, NotReadable, ValueError) as error:
        raise ManifestError(f"{csv_path} is not what `octtrain evaluate` wrote ({error}). {advice}") from None
    found = confusion(predictions.truth, predictions.probabilities.argmax(axis=1), len(class_names))
    if class_names != labels or not np.array_equal(found, counts):
        raise ManifestError(f"{csv_path.name} and {json_path.name} of {folder} are of two evaluations. {advice}")
    return Evaluation(
        run=run,
        name=name,
        content=content,
        class_names=class_names,
        predictions=predictions,
        history=run.history(),
    )
