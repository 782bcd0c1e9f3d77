"""One run folder: everything a training leaves behind, and all that evaluation and prediction need.

config.json     settings, where the shards were, library versions
manifest.json   a copy of the shards' manifest: class names, recipe, digest of the dataset
seen.csv        whom the model has seen: patient, group, SHA-256 and split of every image trained on or validated on
history.csv     one row per finished epoch; an epoch counts once its row is here
model.keras     the best epoch's model: raw pixels to probabilities; octtrain.json in it says what it was trained on
checkpoints/    weights and optimizer of the last finished epoch
logs/           for TensorBoard, where it is installed
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import keras

from octprep.files import NotReadable, read_bytes
from octprep.schema import (
    MANIFEST_NAME,
    Manifest,
    ManifestError,
    OctError,
    OutputError,
    SettingError,
    SourceError,
    write_whole,
)
from octtrain import origin, seen
from octtrain.origin import Origin
from octtrain.seen import SEEN_NAME, Seen

RUN_VERSION = 2
CONFIG_NAME = "config.json"
HISTORY_NAME = "history.csv"
MODEL_NAME = "model.keras"
RUNS = Path("runs")  # in the working folder: where runs are made that are given no place of their own
LIMIT = 64_000_000  # bytes of a config or a history that are read at most

Row = Mapping[str, float]  # of history.csv: what was measured in one epoch


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a model is trained. Raises SettingError at birth if a value is outside its range."""

    model: str = "octnet-s"  # a key of octtrain.models.BUILDERS
    epochs: int = 12  # at most; see patience
    batch_size: int = 32  # images
    lr: float = 1e-3  # highest learning rate; it rises to this in the first epoch and then falls as a cosine to 0
    seed: int = 0  # of weights, order and augmentation
    weights: str = "none"  # to start from: none, imagenet or a file
    fold: int | None = None  # of a kfold dataset: the one to validate on
    patience: int = 6  # epochs without a better balanced accuracy on val before training ends; 0: never

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0)):
            if getattr(self, name) < least:
                raise SettingError(f"{name.replace('_', '-')} must be at least {least}; got {getattr(self, name)}")
        if not (math.isfinite(self.lr) and 0 < self.lr <= 10):
            raise SettingError(f"lr must be above 0 and at most 10, such as 0.001; got {self.lr:g}")
        if not 0 <= self.seed < 2**32:
            raise SettingError(f"seed must be between 0 and 2**32 - 1; got {self.seed}")
        if self.fold is not None and self.fold < 0:
            raise SettingError(f"fold must be 0 or more; got {self.fold}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder, existing or to be made."""

    folder: Path
    config: FitConfig
    manifest: Manifest
    shards: Path  # where the dataset was when the run began

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What a run folder says of itself.

        Raises SourceError if it is no run folder, ManifestError if it is of another version or was edited.
        """
        if not (folder / CONFIG_NAME).is_file() or not (folder / MANIFEST_NAME).is_file():
            what = "is no run folder" if folder.exists() else "does not exist"
            raise SourceError(f"{folder} {what}; make one with `octtrain fit SHARDS --run {folder}`.")
        try:
            raw = json.loads((folder / CONFIG_NAME).read_bytes())
            if raw["run_version"] == 1:
                raise ManifestError(
                    f"{folder} is a run of version 1, which did not keep whom its model has seen, so no test with it "
                    "can be trusted. Train anew with `octtrain fit`."
                )
            if raw["run_version"] != RUN_VERSION:
                raise ManifestError(
                    f"{folder / CONFIG_NAME} is of version {raw['run_version']}, but this program reads version "
                    f"{RUN_VERSION}. Train anew with `octtrain fit`."
                )
            config = FitConfig(**raw["config"])
            shards = Path(os.path.normpath(folder.resolve() / raw["shards"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(
                f"{folder / CONFIG_NAME} is not what `octtrain fit` wrote ({type(error).__name__}: {error}). "
                "Restore it or train anew."
            ) from None
        return cls(folder=folder, config=config, manifest=Manifest.load(folder), shards=shards)

    def history(self) -> list[Row]:
        """The finished epochs, first to last. Raises ManifestError if the file cannot be read."""
        path = self.folder / HISTORY_NAME
        if not path.exists():
            return []
        try:
            with path.open(newline="") as file:
                return [
                    {key: int(value) if key == "epoch" else float(value) for key, value in row.items()}
                    for row in csv.DictReader(file)
                ]
        except (OSError, TypeError, ValueError) as error:
            raise ManifestError(
                f"{path} is not what `octtrain fit` wrote ({error}). Restore it or train anew."
            ) from None

    @property
    def origin(self) -> Origin:
        """What this run's model is made of."""
        trained_on, chosen_by = choose_splits(self.manifest, self.config.fold)
        return Origin(
            digest=self.manifest.digest,
            class_names=self.manifest.class_names,
            recipe=self.manifest.recipe,
            trained_on=trained_on,
            chosen_by=chosen_by,
        )

    def model(self) -> keras.Model:
        """The best epoch's model.

        Raises SourceError if no epoch was finished, ManifestError if the file is damaged or another run's.
        """
        path = self.folder / MODEL_NAME
        if not path.is_file():
            raise SourceError(f"{self.folder} has no {MODEL_NAME} yet; finish it with `octtrain fit --resume`.")
        found = origin.read(path)
        if found != self.origin:
            raise ManifestError(
                f"{path} is of another run ({found}) than the one that {self.folder} describes ({self.origin}). "
                "Put back the model that belongs there, or train anew."
            )
        try:
            return keras.saving.load_model(path, compile=False)
        except Exception as error:  # Keras raises whatever zipfile, h5py, json and its layers happen to raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ManifestError(f"{path} cannot be loaded ({reason}). Restore it or train anew.") from None

    def seen(self) -> Seen:
        """Whom the model has seen. Raises ManifestError if seen.csv is missing or not what was written."""
        path = self.folder / SEEN_NAME
        try:
            raw = json.loads((self.folder / CONFIG_NAME).read_bytes())
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != raw["seen_sha256"]:
                raise ValueError(f"its SHA-256 is not the one in {CONFIG_NAME}")
            return Seen(seen.decode(content), bool(raw["seen_complete"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(
                f"{path} is not what `octtrain fit` wrote ({error}), so nobody knows whom the model has seen. "
                "Restore it or train anew."
            ) from None

    def claim(self, resume: bool) -> list[Row]:
        """The epochs already finished: none in a new run. Writes nothing.

        Raises OutputError if the folder is taken, or is to be resumed with other settings or on other shards.
        """
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return []
        if not self.folder.is_dir() or not (self.folder / CONFIG_NAME).exists():
            raise OutputError(f"{self.folder} exists and is no run folder; give another --run.")
        if not resume and (self.folder / HISTORY_NAME).exists():
            raise OutputError(f"{self.folder} holds a run already; go on with it by --resume, or give another --run.")
        if not (self.folder / HISTORY_NAME).exists():
            return []  # stopped before its first epoch was finished, so there is nothing to lose or to go on with
        old = Run.load(self.folder)
        if old.config != self.config:
            names = [field.name for field in dataclasses.fields(FitConfig)]
            changes = [
                f"{name.replace('_', '-')} {getattr(old.config, name)} there, {getattr(self.config, name)} now"
                for name in names
                if getattr(old.config, name) != getattr(self.config, name)
            ]
            raise OutputError(
                f"{self.folder} was begun with other settings ({'; '.join(changes)}); "
                "resume it without these options, or give another --run."
            )
        if old.manifest.digest != self.manifest.digest:
            raise OutputError(
                f"{self.folder} was begun on other shards (digest {old.manifest.digest[:12]} there, "
                f"{self.manifest.digest[:12]} in {self.shards}); give those, or another --run."
            )
        return old.history()

    def begin(self) -> None:
        """Make the folder in one step, with config, manifest and whom the model will see; finished epochs that are
        there stay. Raises ManifestError if the shards do not say who is in them.
        """
        if (self.folder / CONFIG_NAME).exists():
            history = self.history()
            if not history:  # begun, perhaps with other settings, and stopped before anything was learnt
                self._describe(self.folder, self._to_see())
            self._publish(history)
            return
        to_see = self._to_see()
        part = self.folder.with_name(f".{self.folder.name}.part-{os.getpid()}")
        part.mkdir(parents=True)
        try:
            self._describe(part, to_see)
            part.replace(self.folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def _to_see(self) -> Seen:
        """Whom this training's model will have seen, those that its first weights have seen included."""
        own = seen.sights(seen.images(self.shards, self.manifest), (*self.origin.trained_on, *self.origin.chosen_by))
        before = inherited(self.config.weights)
        return Seen((*own, *before.sights), before.complete)

    def _describe(self, folder: Path, to_see: Seen) -> None:
        self.manifest.save(folder)
        sights = seen.encode(to_see.sights)
        write_whole(folder / SEEN_NAME, sights)
        text = json.dumps(
            {
                "run_version": RUN_VERSION,
                "begun": datetime.now(UTC).isoformat(timespec="microseconds"),
                "shards": _relative(self.shards, self.folder),
                "digest": self.manifest.digest,
                "leaky": bool(self.manifest.leaks),
                "seen_sha256": hashlib.sha256(sights).hexdigest(),
                "seen_complete": to_see.complete,
                "config": dataclasses.asdict(self.config),
                "backend": keras.backend.backend(),
                "libraries": _versions("octprep", "keras", keras.backend.backend(), "numpy"),
            },
            indent=1,
        )
        write_whole(folder / CONFIG_NAME, (text + "\n").encode())

    def keep(self, history: Sequence[Row], training: keras.Model, model: keras.Model) -> None:
        """Store a finished epoch, the last row of history. Whenever this is interrupted, a resumed run finds either
        the state before or all of the state after.
        """
        folder = self.folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        epoch = len(history)
        _save(training.save_weights, self.checkpoint(epoch))
        if best_epoch(history) == epoch:
            self.save_model(model, self._candidate(epoch))
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_whole(self.folder / HISTORY_NAME, out.getvalue().encode())  # from here on the epoch counts
        self._publish(history)

    def save_model(self, model: keras.Model, path: Path) -> None:
        """Write a model of this run and what it was trained on into one file, whole or not at all."""

        def save(part: Path) -> None:
            model.save(part)
            origin.stamp(part, self.origin)

        _save(save, path)

    def checkpoint(self, epoch: int) -> Path:
        """Weights and optimizer after an epoch, the first being 1."""
        return self.folder / "checkpoints" / f"epoch-{epoch:04d}.weights.h5"

    def _candidate(self, epoch: int) -> Path:
        return self.folder / "checkpoints" / f"best-{epoch:04d}.keras"

    def _publish(self, history: Sequence[Row]) -> None:
        """Put the best epoch's model in its place and drop what no resumed run will ask for."""
        if history and (candidate := self._candidate(best_epoch(history))).exists():
            candidate.replace(self.folder / MODEL_NAME)
        for path in sorted((self.folder / "checkpoints").glob("*")):
            if path != self.checkpoint(len(history)):
                path.unlink()


def latest_run(runs: Path = RUNS, digest: str | None = None) -> Path:
    """The run in a folder of runs that was begun last; with a digest, of those trained on that dataset.

    Raises SourceError if there is none.
    """
    found: list[tuple[str, str, Path]] = []
    with suppress(OSError):
        for config in runs.glob(f"*/{CONFIG_NAME}"):
            with suppress(OSError, NotReadable, ValueError, TypeError, KeyError, RecursionError):
                raw = json.loads(read_bytes(config, LIMIT)[0])
                if digest is None or raw["digest"] == digest:
                    begun = raw.get("begun") or datetime.fromtimestamp(config.stat().st_mtime, UTC).isoformat()
                    found.append((str(begun), config.parent.name, config.parent))
    if not found:
        where = f"the folder {runs}" if runs.is_dir() else f"{runs}, which is no folder here,"
        raise SourceError(
            f"{where} holds no run{' on these shards' * (digest is not None)}; make one with `octtrain fit SHARDS`, "
            "or give the folder of one that lies elsewhere."
        )
    return max(found)[2]


def resolve(folder: Path, given: Mapping[str, Any], *, resume: bool) -> FitConfig:
    """The settings given, and for the rest the defaults, or with `resume` those that the run was begun with.

    Raises SettingError for values out of range, and what `Run.load` does.
    """
    begun = resume and (folder / HISTORY_NAME).exists()
    return dataclasses.replace(Run.load(folder).config if begun else FitConfig(), **given)


def choose_splits(manifest: Manifest, fold: int | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The splits to train on and to validate on: train and val, or all folds but one and that one.

    Raises SettingError if the fold is missing, superfluous or unknown, ManifestError if a side has no images.
    """
    folds = tuple(name for name in manifest.splits if name.startswith("fold"))
    if folds and fold is None:
        raise SettingError(f"these shards are in {len(folds)} folds; say which to validate on by --fold 0 and so on")
    if fold is not None and not folds:
        raise SettingError(f"these shards have no folds but {', '.join(manifest.splits)}; leave --fold out")
    if fold is not None and fold >= len(folds):
        raise SettingError(f"fold must be between 0 and {len(folds) - 1}; got {fold}")
    val = (f"fold{fold}",) if folds else ("val",)
    train = tuple(name for name in folds if name not in val) if folds else ("train",)
    for name in (*train, *val):
        if name not in manifest.splits or not manifest.records(name):
            raise ManifestError(
                f"The shards have no images in split {name!r}, so there is nothing to choose the best epoch by. "
                "Build them with `octprep build --split grouped` or more patients."
            )
    return train, val


def inherited(weights: str) -> Seen:
    """Whom the model to start from has seen: no patient if it is none or ImageNet's, else those its run folder names.

    Not complete for weights that no run folder belongs to: nobody knows whom those have seen.
    """
    if not weights.endswith((".keras", ".weights.h5")):
        return Seen((), complete=True)
    path = Path(weights)
    try:
        run = Run.load(path.parent)
        if origin.read(path) != run.origin:
            return Seen((), complete=False)
        sights, complete = run.seen()
    except OctError:
        return Seen((), complete=False)
    return Seen(tuple(sight._replace(split=seen.INHERITED) for sight in sights), complete)


def best_epoch(history: Sequence[Row]) -> int:
    """The epoch, the first being 1, with the highest balanced accuracy on val; among equals the lowest loss there."""
    ranks = [(row["val_balanced_accuracy"], -row["val_loss"]) for row in history]
    return 1 + max(range(len(ranks)), key=ranks.__getitem__)


def _save(save: Any, path: Path) -> None:
    """Have Keras write a file so that it is there whole or not at all."""
    part = path.with_name(f".part-{path.name}")
    save(part)
    part.replace(path)


def _relative(shards: Path, folder: Path) -> str:
    """Where the shards are, seen from the run folder, so that both can move together."""
    try:
        return Path(os.path.relpath(shards.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return str(shards.resolve())


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
