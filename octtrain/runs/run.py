"""A run as its folder describes it: settings, dataset, history, model and exposure. Reads only.

config.json     settings, start time, device, path or URL of the shards, library versions; written last: makes it a run
config.toml     the settings again, with their descriptions, for `octtrain fit --config`; it is not read here
manifest.json   a copy of the shards' manifest: class names, recipe, digest of the dataset
exposure.csv    patient, patient group, SHA-256 and split of every image that the model was trained or selected on
history.csv     one row per finished epoch; an epoch counts once its row is here
model.keras     the best epoch's model: raw pixels to probabilities; octtrain.json in it is its provenance
calibration.json, features.npz   what `octtrain calibrate` chose for that model (see `octtrain.calibration.frozen`)
checkpoints/    weights and optimizer of the last finished epoch, and the checksums of the files that belong to it
logs/           for TensorBoard, where it is installed
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import keras

from octprep.format.errors import ManifestError, SettingError, SourceError
from octprep.format.files import NotReadable, read_bytes
from octprep.format.manifest import MANIFEST_NAME, Manifest, read_folder_file
from octprep.format.paths import is_url
from octprep.storage.remote import Location, location
from octtrain import pretrained, runtime
from octtrain.config import FitConfig, is_own_model
from octtrain.model_files import check_weights, keras_version
from octtrain.runs import exposure
from octtrain.runs.exposure import EXPOSED_PATIENTS, EXPOSURE_NAME, Exposure
from octtrain.runs.history import HISTORY_NAME, MAX_BYTES, Row, read_history
from octtrain.runs.provenance import ModelProvenance, read_provenance

RUN_VERSION = 3
CONFIG_NAME = "config.json"
SETTINGS_NAME = "config.toml"
MODEL_NAME = "model.keras"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run: its settings and dataset, and the folder with its files, which need not exist yet."""

    folder: Path
    config: FitConfig
    manifest: Manifest
    shards: Location  # where the dataset was when the run started
    libraries: Mapping[str, str] = field(default_factory=dict)  # name -> version, when the run started
    device: str = ""  # what it was computed on when it started; "" if that is not known
    started: str = ""  # when it started, ISO 8601; "" if that is not known

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read config.json and manifest.json of a run folder, or of the packaged run that the word `synthetic` names.

        Raises SourceError if it is not a run folder, ManifestError if it is of another version or was edited.
        """
        folder = pretrained.run_folder(folder)
        raw = read_config(folder)
        try:
            if raw["run_version"] != RUN_VERSION:
                raise ManifestError(
                    f"{folder / CONFIG_NAME} is of version {raw['run_version']}, but this program reads version "
                    f"{RUN_VERSION}. Train again with `octtrain fit`."
                )
            config = FitConfig(**raw["config"])
            named = _require_text(raw["shards"])
            shards = location(named if is_url(named) else Path(os.path.normpath(folder.resolve() / named)))
            digest = _require_text(raw["digest"])
            device, started = (_require_text(raw.get(name, "")) for name in ("device", "started"))
            libraries = {_require_text(key): _require_text(value) for key, value in raw["libraries"].items()}
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise _invalid_config(folder, error) from None
        try:
            manifest = Manifest.load(folder)
        except ManifestError as error:
            reason = str(error).split(". ")[0]
            raise ManifestError(f"{reason}. Copy it from the shards into the run again, or train again.") from None
        if manifest.digest != digest:
            raise ManifestError(
                f"{folder / MANIFEST_NAME} is of the dataset {manifest.digest[:12]}, but {CONFIG_NAME} says that the "
                f"run is of {digest[:12]}. Copy it from the shards into the run again, or train again."
            )
        return cls(
            folder=folder,
            config=config,
            manifest=manifest,
            shards=shards,
            libraries=libraries,
            device=device,
            started=started,
        )

    @property
    def provenance(self) -> ModelProvenance:
        """What this run's model is trained on."""
        trained_on, selected_on = choose_splits(self.manifest, self.config.fold, self.config.test_fold)
        return ModelProvenance(
            digest=self.manifest.digest,
            class_names=self.manifest.class_names,
            recipe=self.manifest.recipe,
            trained_on=trained_on,
            selected_on=selected_on,
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the model's input."""
        return self.manifest.recipe.height, self.manifest.recipe.width, 1

    @property
    def sources_of_exposure(self) -> str:
        """What the model may have patients from besides its own dataset, as words: its initial weights, its teacher."""
        initial = () if self.config.weights in ("none", "imagenet") else (self.config.weights,)
        return " and ".join((*initial, *((self.config.teacher,) if self.config.teacher else ()))) or "its weights"

    def history(self) -> list[Row]:
        """The finished epochs, first to last. Raises ManifestError if history.csv was edited or damaged."""
        return read_history(self.folder / HISTORY_NAME)

    def exposure(self) -> Exposure:
        """What the model was exposed to. Raises ManifestError if exposure.csv is missing, edited or damaged."""
        path = self.folder / EXPOSURE_NAME
        raw = read_config(self.folder)
        try:
            content = read_folder_file(path)
            if hashlib.sha256(content).hexdigest() != raw["exposure_sha256"]:
                raise ValueError(f"its SHA-256 is not the one in {CONFIG_NAME}")
            return Exposure(exposure.decode(content), bool(raw["exposure_complete"]))
        except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
            raise ManifestError(
                f"{path} is not what `octtrain fit` wrote ({error}), so the model's training patients are unknown. "
                "Restore it or train again."
            ) from None

    def exposed_patients(self) -> dict[str, int]:
        """The number of patient groups in each split, or in place of it, that the model was exposed to.

        Of a packed run, whose exposure.csv lists some of them, as its config.json says. Raises ManifestError as
        `exposure` does.
        """
        images = self.exposure().images
        stated = read_config(self.folder).get(EXPOSED_PATIENTS)
        if isinstance(stated, dict) and all(type(count) is int for count in stated.values()):
            return {_require_text(split): count for split, count in stated.items()}
        return exposure.patients_per_split(images)

    def load_model(self) -> keras.Model:
        """The best epoch's model: (n, height, width, 1) uint8 in 0..255 to (n, classes) float32 probabilities.

        Raises SourceError if no epoch was finished, ManifestError if the file is damaged, is another run's, or has
        layers that Keras does not know.
        """
        path = self.folder / MODEL_NAME
        if not path.is_file():
            raise SourceError(f"{self.folder} has no {MODEL_NAME} yet; finish it with `octtrain fit --resume`.")
        provenance = read_provenance(path)
        try:
            check_weights(path)
        except (OSError, ValueError) as error:
            raise ManifestError(f"{path} cannot be loaded ({error}). Restore it or train again.") from None
        if provenance != self.provenance:
            raise ManifestError(
                f"{path} is of another run ({provenance}) than the one that {self.folder} describes "
                f"({self.provenance}). Put the run's own model back, or train again."
            )
        runtime.prepare_keras()
        try:
            return keras.saving.load_model(path, compile=False)
        except Exception as error:  # Keras raises whatever zipfile, h5py, json and its layers happen to raise
            raise self._unloadable(path, error) from None

    def _unloadable(self, path: Path, error: Exception) -> ManifestError:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        writer = keras_version(path)
        if writer != keras.__version__:
            return ManifestError(
                f"{path} was written by Keras {writer} and cannot be loaded by Keras {keras.__version__}, which is "
                f"installed here ({reason}). Install Keras {writer}, or train again."
            )
        if is_own_model(self.config.model):
            module = self.config.model.partition(":")[0]
            return ManifestError(
                f"{path} was built by {self.config.model} and cannot be loaded ({reason}). If it has layers of your "
                "own, decorate them with @keras.saving.register_keras_serializable() and train again; then "
                f"`import {module}` in Python before octtrain.evaluate or octtrain.load_run."
            )
        return ManifestError(f"{path} cannot be loaded ({reason}). Restore it or train again.")


def fold_names(manifest: Manifest) -> tuple[str, ...]:
    """The folds of shards that were built with --split kfold: fold0 and so on."""
    return tuple(name for name in manifest.splits if name.startswith("fold"))


def choose_splits(
    manifest: Manifest, fold: int | None, test_fold: int | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The splits to train on and to validate on: train and val, or the other folds and `fold`.

    test_fold: a fold for neither.

    Raises SettingError if a fold is missing, superfluous or unknown, ManifestError if one of the splits has no images.
    """
    if manifest.config.is_test_only:
        raise ManifestError(
            "these shards hold a test split alone (--fractions 0,0,1), so no model can be trained on them. Evaluate "
            "one that was trained on others: `octtrain evaluate RUN --dataset DIR`."
        )
    folds = fold_names(manifest)
    if folds and fold is None:
        raise SettingError(
            f"these shards are in {len(folds)} folds; choose the one to validate on by --fold 0 and so on"
        )
    for flag, value in (("fold", fold), ("test-fold", test_fold)):
        if value is not None and not folds:
            raise SettingError(f"these shards have no folds but {', '.join(manifest.splits)}; omit --{flag}")
        if value is not None and value >= len(folds):
            raise SettingError(f"{flag} must be between 0 and {len(folds) - 1}; got {value}")
    if fold is not None and fold == test_fold:
        raise SettingError(f"fold and test-fold must be two folds; got {fold} for both")
    if test_fold is not None and len(folds) < 3:
        raise SettingError("test-fold needs shards of at least 3 folds, for one of them to be left to train on")
    val = (f"fold{fold}",) if folds else ("val",)
    train = tuple(name for name in folds if name not in (*val, f"fold{test_fold}")) if folds else ("train",)
    for name in (*train, *val):
        if name not in manifest.splits or not manifest.records(name):
            raise ManifestError(
                f"The shards have no images in split {name!r}, so no model can be trained and selected on them. "
                "Build them with `octprep build --split by-patient` or from more patients."
            )
    return train, val


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config.json as it is. Raises SourceError if there is none, ManifestError if it is not a JSON object."""
    if not (folder / CONFIG_NAME).is_file() or not (folder / MANIFEST_NAME).is_file():
        state = "is not a run folder" if folder.exists() else "does not exist"
        raise SourceError(f"{folder} {state}; make one with `octtrain fit SHARDS --run {folder}`.")
    try:
        raw = json.loads(read_bytes(folder / CONFIG_NAME, MAX_BYTES)[0])
        if not isinstance(raw, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, NotReadable, ValueError, RecursionError) as error:
        raise _invalid_config(folder, error) from None
    return raw


def _require_text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{value!r} is not text")
    return value


def _invalid_config(folder: Path, error: Exception) -> ManifestError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else error
    return ManifestError(
        f"{folder / CONFIG_NAME} is not what `octtrain fit` wrote ({reason}). Restore it or train again."
    )
