"""What an evaluation left in a run's folder, read again: the one source of every figure of the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from octprep.format.errors import ManifestError, SettingError, SourceError
from octprep.format.files import NotReadable, read_bytes
from octprep.format.paths import path_to_text
from octprep.wording import listed
from octtrain.evaluation.metrics import confusion
from octtrain.evaluation.predictions import SplitPredictions, read_predictions
from octtrain.evaluation.target import ENSEMBLE
from octtrain.runs.ensemble import Runs, load_runs
from octtrain.runs.history import Row
from octtrain.runs.run import Run

MAX_BYTES = 100_000_000  # of evaluate-SPLIT.json or predictions-SPLIT.csv; larger files are not read
_REQUIRED = ("split", "digest", "caveats", "exposed", "images", "patients", "per_class", "per_patient", "slices")
_FILES = (("evaluate", "json"), ("predictions", "csv"))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results of a run, or of an ensemble, on one split."""

    runs: tuple[Run, ...]  # the run, or the members
    name: str  # of the results, as in their files' names, such as `test`
    content: Mapping[str, Any]  # of evaluate-NAME.json
    class_names: tuple[str, ...]
    predictions: SplitPredictions  # of predictions-NAME.csv
    history: Sequence[Row]  # of a run; () for an ensemble

    @property
    def run(self) -> Run:
        """The run, or the first member: classes and preprocessing are those of all."""
        return self.runs[0]

    @property
    def is_ensemble(self) -> bool:
        """Whether the results are of the mean of several runs."""
        return len(self.runs) > 1

    @property
    def is_own_dataset(self) -> bool:
        """Whether the run, or the first member, was trained on this dataset."""
        return bool(self.content["digest"] == self.run.manifest.digest)

    @property
    def calibration(self) -> Mapping[str, Any] | None:
        """What the frozen calibration did on the split; None if the run had none when it was evaluated."""
        found: Mapping[str, Any] | None = self.content.get("calibration")
        return found


def load_evaluation(run: Runs, name: str) -> Evaluation:
    """Read the results of a run, or of several from the folder of the first.

    name: of the results, as in their files' names; -ensemble is added for several runs.

    Raises SourceError if there are none of this name, SettingError if they are of other runs, ManifestError if a file
    was edited or damaged, or the two are not of the same evaluation; and what `load_runs` raises.
    """
    runs = load_runs(run)
    name = name if len(runs) == 1 or name.endswith(ENSEMBLE) else f"{name}{ENSEMBLE}"
    json_path, csv_path = (runs[0].folder / f"{kind}-{name}.{suffix}" for kind, suffix in _FILES)
    folder = path_to_text(runs[0].folder.as_posix())
    command = f"`octtrain evaluate {' '.join(path_to_text(each.folder.as_posix()) for each in runs)}`"
    advice = f"Run {command} again."
    if not json_path.is_file():
        raise SourceError(f"{folder} has no results of {name} ({json_path.name}). Evaluate it first, by {command}.")
    try:
        content = json.loads(read_bytes(json_path, MAX_BYTES)[0])
        given = [str(folder) for folder in content.get("runs", [])]
        if missing := [key for key in _REQUIRED if key not in content]:
            raise ValueError(f"it has no {missing[0]}")
        counts = np.array(content["confusion"]["counts"], np.int64)
        labels = tuple(content["confusion"]["truth down, prediction across"])
    except (OSError, NotReadable, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ManifestError(f"{json_path} is not what `octtrain evaluate` wrote ({error}). {advice}") from None
    if bool(given) != (len(runs) > 1) or (given and _names(given) != _names(str(each.folder) for each in runs)):
        raise SettingError(
            f"{json_path} is of {listed(given) or 'a single run'}, and not of what is named; name the same runs, "
            f"or evaluate these first, by {command}."
        )
    try:
        class_names, predictions = read_predictions(read_bytes(csv_path, MAX_BYTES)[0])
    except (OSError, NotReadable, ValueError) as error:
        raise ManifestError(f"{csv_path} is not what `octtrain evaluate` wrote ({error}). {advice}") from None
    found = confusion(predictions.truth, predictions.probabilities.argmax(axis=1), len(class_names))
    if class_names != labels or not np.array_equal(found, counts):
        raise ManifestError(f"{csv_path.name} and {json_path.name} of {folder} are of two evaluations. {advice}")
    return Evaluation(
        runs=runs,
        name=name,
        content=content,
        class_names=class_names,
        predictions=predictions,
        history=runs[0].history() if len(runs) == 1 else (),
    )


def _names(folders: Iterable[str]) -> list[str]:
    """The names of the folders of runs, sorted; not where they are, as they may have been moved."""
    return sorted(path_to_text(Path(folder).resolve().name) for folder in folders)
