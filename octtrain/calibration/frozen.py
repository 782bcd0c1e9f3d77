"""calibration.json and features.npz of a run: what `octtrain calibrate` chose on val, frozen for whatever comes after.

Those of an ensemble lie in the folder of one member; their names end in the first digits of the ensemble's SHA-256.

calibration.json holds the numbers that are applied (`frozen`), how they did on the split that they were chosen on
(`chosen_on`), the SHA-256 of the model and of features.npz that they belong to, and its own. features.npz holds what
distances are measured from. Neither holds code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from octprep.format.errors import ManifestError, OutputError
from octprep.format.files import NotReadable, atomic_write, read_bytes
from octprep.format.json_types import check_type, read_json
from octprep.format.paths import path_to_text
from octtrain.calibration.temperature import scale
from octtrain.calibration.unfamiliar import Distances, Limits, TrainingScans
from octtrain.runs.ensemble import model_digests
from octtrain.runs.run import MODEL_NAME, Run

CALIBRATION_NAME = "calibration.json"
FEATURES_NAME = "features.npz"
CALIBRATION_VERSION = 2
_MAX_BYTES = 1_000_000_000  # of either file; larger ones are not read


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The numbers that are applied to every prediction."""

    model_sha256: str  # of an ensemble: that of its members' digests
    features_sha256: str  # of features.npz
    dataset: str  # digest of the dataset
    split: str  # that they were chosen on
    class_names: tuple[str, ...]
    urgent: tuple[str, ...]  # classes whose probabilities add up to the score of referral; () where there are none
    features: str  # which of the model: pooled features or logits
    confidence: float  # of the bounds, 0..1
    temperature: float
    sensitivity: float  # that the lower bound of the referral threshold reaches, 0..1
    referral_threshold: float | None  # 0..1; None if none could be chosen
    error: float  # that the answers keep, 0..1
    abstention_threshold: float | None  # 0..1; None if none could be chosen
    aggregation: str  # how the images of a case make one prediction
    limits: Limits

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """What `asdict` and JSON made `raw` of. Raises ValueError for anything else."""
        check_type(raw, cls, "frozen")
        names = {name: tuple(raw[name]) for name in ("class_names", "urgent")}
        return cls(**{**raw, **names, "limits": Limits(**raw["limits"])})


@dataclass(frozen=True)
class Marks:
    """What the frozen numbers say about some predictions; None where none could be chosen."""

    refer: NDArray[np.bool_] | None  # (n,)
    uncertain: NDArray[np.bool_] | None  # (n,) whether the model should not answer
    unfamiliar: Mapping[str, NDArray[np.bool_]]  # signal -> (n,)

    @property
    def is_unfamiliar(self) -> NDArray[np.bool_]:
        """(n,) whether at least one signal says so."""
        return np.asarray(np.any(list(self.unfamiliar.values()), axis=0))


@dataclass(frozen=True)
class Calibration:
    """What was frozen for a run's model."""

    frozen: Frozen
    scans: TrainingScans
    sha256: str  # of calibration.json, as it says itself

    def probabilities(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's probabilities after the temperature, (n, classes) to the same."""
        return scale(raw, self.frozen.temperature).astype(np.float32)

    def referral_score(self, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n,) sums of the probabilities of the urgent classes, 0..1."""
        return urgent_score(probabilities, self.frozen.class_names, self.frozen.urgent)

    def marks(
        self, probabilities: NDArray[np.float32], distances: Distances, crop_confidence: NDArray[np.float64]
    ) -> Marks:
        """Apply the thresholds. probabilities: (n, classes), after the temperature.  crop_confidence: (n,) 0..1."""
        frozen = self.frozen
        refer, uncertain = frozen.referral_threshold, frozen.abstention_threshold
        return Marks(
            refer=None if refer is None else self.referral_score(probabilities) >= refer,
            uncertain=None if uncertain is None else probabilities.max(axis=1) < uncertain,
            unfamiliar=frozen.limits.exceeded(distances, crop_confidence),
        )


def urgent_score(
    probabilities: NDArray[np.float32], class_names: tuple[str, ...], urgent: tuple[str, ...]
) -> NDArray[np.float64]:
    """(n,) sums of the probabilities of some classes, 0..1. probabilities: (n, classes)."""
    columns = [class_names.index(name) for name in urgent]
    return np.asarray(probabilities[:, columns].sum(axis=1, dtype=np.float64))


def model_sha256(runs: Sequence[Run]) -> str:
    """The SHA-256 of a run's model, hex; of several that of their digests, in whatever order. Raises OSError."""
    digests = model_digests(runs)
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def file_names(runs: Sequence[Run]) -> tuple[str, str]:
    """The names of the two files for a run, or for an ensemble. Raises OSError."""
    if len(runs) == 1:
        return CALIBRATION_NAME, FEATURES_NAME
    digits = model_sha256(runs)[:8]
    return f"calibration-ensemble-{digits}.json", f"features-ensemble-{digits}.npz"


def save(runs: Sequence[Run], frozen: Frozen, scans: bytes, chosen_on: Mapping[str, Any]) -> dict[str, Any]:
    """Write features.npz, then calibration.json, each whole or not at all; returns the content of the second.

    runs: the run, or the members of an ensemble, whose files lie in the folder of the first.

    Interrupted in between, the new features.npz is not that of the old calibration.json, which `load` finds. Raises
    OutputError if they cannot be written.
    """
    content = {"calibration_version": CALIBRATION_VERSION, "frozen": asdict(frozen), "chosen_on": chosen_on}
    content["sha256"] = _digest(content)
    folder = runs[0].folder
    try:
        calibration_name, features_name = file_names(runs)
        atomic_write(folder / features_name, scans)
        atomic_write(folder / calibration_name, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise OutputError(
            f"the calibration cannot be written to {path_to_text(folder.as_posix())} ({error.strerror or error}); "
            "correct that, and run the same command again."
        ) from None
    return content


def load(runs: Sequence[Run]) -> Calibration | None:
    """What was frozen for a run's model, or for an ensemble; None if `octtrain calibrate` has not been run for it.

    Raises ManifestError if the model is another one by now, or a file is damaged or was edited.
    """
    try:
        calibration_name, features_name = file_names(runs)
    except OSError:
        return None  # a model is missing, which is reported where it is loaded
    path = next((path for run in runs if (path := run.folder / calibration_name).exists()), None)
    if path is None:
        return None
    folders = " ".join(path_to_text(run.folder.as_posix()) for run in runs)
    advice = f"Run `octtrain calibrate {folders}` again, or remove {calibration_name}."
    try:
        raw = read_json(read_bytes(path, _MAX_BYTES)[0])
        if not isinstance(raw, dict) or not isinstance(version := raw.get("calibration_version"), int):
            raise ValueError("it names no version")
        if version != CALIBRATION_VERSION:
            raise ManifestError(
                f"{path} is of calibration version {version}, and this octtrain uses version {CALIBRATION_VERSION}, "
                f"which freezes other numbers. {advice}"
            )
        if raw.pop("sha256", None) != _digest(raw):
            raise ValueError("its SHA-256 is not the one that it names, so it was edited")
        frozen = Frozen.from_json(raw["frozen"])
        if frozen.model_sha256 == model_sha256(runs):
            data = read_bytes(path.with_name(features_name), _MAX_BYTES)[0]
            if hashlib.sha256(data).hexdigest() != frozen.features_sha256:
                raise ValueError(f"{features_name} is not the one that was written with it")
            return Calibration(frozen, TrainingScans.from_bytes(data), _digest(raw))
    except (OSError, NotReadable, ValueError, KeyError, TypeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ManifestError(f"{path} is not what `octtrain calibrate` wrote ({reason}). {advice}") from None
    raise ManifestError(
        f"{path} is of another model than {path.with_name(MODEL_NAME)}, which was changed since, so its thresholds say "
        f"nothing about it. {advice}"
    )


def load_calibration(runs: Sequence[Run], log: Callable[[str], None]) -> Calibration | None:
    """The same, and for an ensemble that has none a line if there are others in its members' folders.

    log: takes the line. A calibration of a member does not apply to the mean of the probabilities, nor one of an
    ensemble whose models were changed.
    """
    found = load(runs)
    if found is None and len(runs) > 1 and any(True for run in runs for _ in run.folder.glob("calibration*.json")):
        log(
            "no calibration is of this ensemble: those of its members, or of other models, are not applied to the mean "
            "of their probabilities; `octtrain calibrate RUN RUN...` chooses one"
        )
    return found


def _digest(content: Mapping[str, Any]) -> str:
    """The SHA-256 of a JSON object, however it is written."""
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
