"""One run folder: everything a training leaves behind, and all that evaluation and prediction need.

config.json     settings, when the run was begun, where the shards were, library versions; written last: it makes a run
manifest.json   a copy of the shards' manifest: class names, recipe, digest of the dataset
exposure.csv        whom the model has seen: patient, group, SHA-256 and split of every image trained on or validated on
history.csv     one row per finished epoch; an epoch counts once its row is here
model.keras     the best epoch's model: raw pixels to probabilities; octtrain.json in it says what it was trained on
checkpoints/    weights and optimizer of the last finished epoch, and the checksums of what belongs to it
logs/           for TensorBoard, where it is installed
"""

from __future__ import annotations

import csv
import dataclasses
import glob
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import keras

from octprep.format.errors import ManifestError, OctError, OutputError, SettingError, SourceError, StoppedError
from octprep.format.files import OWNER_NAME, NotReadable, atomic_write, clear_parts, locked, read_bytes, sync
from octprep.format.manifest import MANIFEST_NAME, Manifest, read_part
from octtrain import runtime
from octtrain.runs import exposure, provenance
from octtrain.runs.exposure import EXPOSURE_NAME, Exposure
from octtrain.runs.provenance import ModelProvenance

RUN_VERSION = 2
CONFIG_NAME = "config.json"
HISTORY_NAME = "history.csv"
MODEL_NAME = "model.keras"
RUNS = Path("runs")  # in the working folder: where runs are made that are given no place of their own
MOST_EPOCHS = 100_000  # of one run
LIMIT = 64_000_000  # bytes of a config or a history that are read at most

# Of history.csv, besides what Keras may have measured more: an epoch and what is measured in it.
COLUMNS = ("epoch", "loss", "val_loss", "val_balanced_accuracy")
RESUMABLE = ("epochs", "patience")  # settings that may change when a run is resumed: they only say when it ends

Row = Mapping[str, float]  # of history.csv: what was measured in one epoch

_OWN = re.compile(r"(?:epoch-(\d{4,})\.(?:weights\.h5|json)|best-(\d{4,})\.keras)")  # the files in checkpoints/
_BEGUN = {EXPOSURE_NAME, MANIFEST_NAME, OWNER_NAME, "lost+found"}  # all that a folder holds before its config.json


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
        for name, kind in (
            ("model", str), ("weights", str), ("epochs", int), ("batch_size", int), ("seed", int), ("patience", int)
        ):  # fmt: skip
            if type(getattr(self, name)) is not kind:
                what = "a whole number" if kind is int else "a name"
                raise SettingError(f"{name.replace('_', '-')} must be {what}; got {getattr(self, name)!r}")
        if isinstance(self.lr, bool) or not isinstance(self.lr, int | float):
            raise SettingError(f"lr must be a number such as 0.001; got {self.lr!r}")
        if self.fold is not None and type(self.fold) is not int:
            raise SettingError(f"fold must be a whole number; got {self.fold!r}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0)):
            if getattr(self, name) < least:
                raise SettingError(f"{name.replace('_', '-')} must be at least {least}; got {getattr(self, name)}")
        if self.epochs > MOST_EPOCHS:
            raise SettingError(f"epochs must be at most {MOST_EPOCHS:,}; got {self.epochs:,}")
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
    libraries: Mapping[str, str] = field(default_factory=dict)  # name -> version, of those that the run began with

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What a run folder says of itself.

        Raises SourceError if it is no run folder, ManifestError if it is of another version or was edited.
        """
        raw = _read_config(folder)
        try:
            if raw["run_version"] == 1:
                raise ManifestError(
                    f"{folder} is a run of version 1, which did not keep whom its model has seen, so no test with it "
                    "can be trusted. Train again with `octtrain fit`."
                )
            if raw["run_version"] != RUN_VERSION:
                raise ManifestError(
                    f"{folder / CONFIG_NAME} is of version {raw['run_version']}, but this program reads version "
                    f"{RUN_VERSION}. Train again with `octtrain fit`."
                )
            config = FitConfig(**raw["config"])
            shards = Path(os.path.normpath(folder.resolve() / _text(raw["shards"])))
            digest = _text(raw["digest"])
            libraries = {_text(key): _text(value) for key, value in raw["libraries"].items()}
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise _odd_config(folder, error) from None
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
        return cls(folder=folder, config=config, manifest=manifest, shards=shards, libraries=libraries)

    def history(self) -> list[Row]:
        """The finished epochs, first to last; none if there is no such file yet.

        Raises ManifestError if the file is not what was written.
        """
        path = self.folder / HISTORY_NAME
        if not path.exists():
            return []
        try:
            text = read_bytes(path, LIMIT)[0].decode()
            history: list[Row] = [
                {key: int(value) if key == "epoch" else float(value) for key, value in row.items()}
                for row in csv.DictReader(io.StringIO(text, newline=""), strict=True)
            ]
            _check_history(history)
        except (OSError, NotReadable, TypeError, ValueError, csv.Error) as error:
            raise ManifestError(
                f"{path} is not what `octtrain fit` wrote ({error}). Restore it or train again."
            ) from None
        return history

    @property
    def origin(self) -> ModelProvenance:
        """What this run's model is made of."""
        trained_on, chosen_by = choose_splits(self.manifest, self.config.fold)
        return ModelProvenance(
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
        found = provenance.read(path)
        try:
            provenance.check_weights(path)
        except (OSError, ValueError) as error:
            raise ManifestError(f"{path} cannot be loaded ({error}). Restore it or train again.") from None
        if found != self.origin:
            raise ManifestError(
                f"{path} is of another run ({found}) than the one that {self.folder} describes ({self.origin}). "
                "Put back the model that belongs there, or train again."
            )
        runtime.prepare_keras()
        try:
            return keras.saving.load_model(path, compile=False)
        except Exception as error:  # Keras raises whatever zipfile, h5py, json and its layers happen to raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            writer = provenance.keras_version(path)
            if writer != keras.__version__:
                raise ManifestError(
                    f"{path} was written by Keras {writer} and cannot be loaded by Keras {keras.__version__}, which is "
                    f"installed here ({reason}). Install Keras {writer}, or train again."
                ) from None
            raise ManifestError(f"{path} cannot be loaded ({reason}). Restore it or train again.") from None

    def seen(self) -> Exposure:
        """Whom the model has seen. Raises ManifestError if exposure.csv is missing or not what was written."""
        path = self.folder / EXPOSURE_NAME
        raw = _read_config(self.folder)
        try:
            content = read_part(path)
            if hashlib.sha256(content).hexdigest() != raw["seen_sha256"]:
                raise ValueError(f"its SHA-256 is not the one in {CONFIG_NAME}")
            return Exposure(exposure.decode(content), bool(raw["seen_complete"]))
        except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
            raise ManifestError(
                f"{path} is not what `octtrain fit` wrote ({error}), so nobody knows whom the model has seen. "
                "Restore it or train again."
            ) from None

    def claim(self, resume: bool) -> list[Row]:
        """The epochs already finished: none in a new run. Writes nothing; call it while holding the folder's lock.

        Raises OutputError if the folder is taken, is no run, or is to be resumed with other settings or on other
        shards; ManifestError if what is to be resumed from is damaged or missing.
        """
        if is_vacant(self.folder):
            if resume:
                raise nothing_to_resume(self.folder)
            return []
        if not (self.folder / CONFIG_NAME).is_file():
            raise OutputError(f"{self.folder} exists and is no run folder; give another --run.")
        if not resume:
            raise OutputError(f"{self.folder} holds a run already; go on with it by --resume, or give another --run.")
        old = Run.load(self.folder)
        changes = [
            f"{name.replace('_', '-')} {before} there, {getattr(self.config, name)} now"
            for name, before in dataclasses.asdict(old.config).items()
            if name not in RESUMABLE and getattr(self.config, name) != before
        ]
        if changes:
            raise OutputError(
                f"{self.folder} was begun with other settings ({'; '.join(changes)}); "
                "resume it without these options, or give another --run."
            )
        if old.manifest.digest != self.manifest.digest:
            raise OutputError(
                f"{self.folder} was begun on other shards (digest {old.manifest.digest[:12]} there, "
                f"{self.manifest.digest[:12]} in {self.shards}); give those, or another --run."
            )
        history = old.history()
        self._check_epoch(history)
        return history

    def _check_epoch(self, history: Sequence[Row]) -> None:
        """Raise ManifestError unless the last finished epoch's files are those that were written with it."""
        other = "give another --run to begin again"
        if not history:
            numbers = [_number(path) for path in self._own_files()]
            # The first epoch's files may be there before its row, if it was killed in between.
            if (self.folder / MODEL_NAME).exists() or any(number > 1 for number in numbers):
                raise ManifestError(
                    f"{self.folder / HISTORY_NAME} is missing, but epochs were finished here; "
                    f"put it back to go on, or {other}."
                )
            return
        state = self._state(len(history))
        best = self._candidate(best_epoch(history))
        for path, name in (
            (self.folder / HISTORY_NAME, "history"),
            (self.checkpoint(len(history)), "checkpoint"),
            (best if best.exists() else self.folder / MODEL_NAME, "model"),
        ):
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                fault = None if found == state[name] else "is damaged: it is not what was written after"
            except OSError as error:
                fault = f"cannot be read ({error.strerror or error}), which was written after"
            if fault:
                raise ManifestError(f"{path} {fault} epoch {len(history)}; put it back to go on, or {other}.")

    def begin(self, history: Sequence[Row] = ()) -> None:
        """Make the run: config, manifest and whom the model will see. In one that is there already put the last
        finished epoch's files in their places. Call it while holding the folder's lock.

        Raises ManifestError if the shards do not say who is in them, OutputError if a run that was only begun would
        now be begun from weights that have seen others.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, self.folder / "checkpoints"):
            clear_parts(folder)
        if not (self.folder / CONFIG_NAME).exists():
            to_see = self._to_see()
            try:
                self._describe(to_see)
            except OSError as error:
                raise StoppedError(
                    f"no run can be begun in {self.folder} ({error.strerror or error}); make room there, or give "
                    "another --run."
                ) from None
            return
        if not history and self._to_see() != self.seen():
            raise OutputError(
                f"{self.folder} was begun from other weights than {self.config.weights} holds now; give another --run."
            )
        raw = _read_config(self.folder)
        if raw["config"] != dataclasses.asdict(self.config):
            self._write_config({**raw, "config": dataclasses.asdict(self.config)})
        self.publish(history)

    def _to_see(self) -> Exposure:
        """Whom this training's model will have seen, those that its first weights have seen included."""
        own = exposure.sights(
            exposure.images(self.shards, self.manifest), (*self.origin.trained_on, *self.origin.chosen_by)
        )
        before = inherited(self.config.weights)
        return Exposure((*own, *before.sights), before.complete)

    def _describe(self, to_see: Exposure) -> None:
        sights = exposure.encode(to_see.sights)
        atomic_write(self.folder / EXPOSURE_NAME, sights)
        self.manifest.save(self.folder)
        self._write_config(
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
                "libraries": runtime.versions(),
            }
        )

    def _write_config(self, raw: Mapping[str, Any]) -> None:
        atomic_write(self.folder / CONFIG_NAME, (json.dumps(raw, indent=1) + "\n").encode())

    def keep(self, history: Sequence[Row], training: keras.Model, model: keras.Model) -> None:
        """Store a finished epoch, the last row of history. Whenever this is interrupted, a resumed run finds either
        the state before or all of the state after. Raises StoppedError if the disk does not take it.
        """
        epoch = len(history)
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        rows = out.getvalue().encode()
        try:
            self.checkpoint(1).parent.mkdir(exist_ok=True)
            weights = _in_memory(training.save_weights, ".weights.h5")
            atomic_write(self.checkpoint(epoch), weights)
            if best_epoch(history) == epoch:
                model_sha256 = self.save_model(model, self._candidate(epoch))
            else:
                model_sha256 = self._state(epoch - 1)["model"]
            state = {
                "checkpoint": hashlib.sha256(weights).hexdigest(),
                "history": hashlib.sha256(rows).hexdigest(),
                "model": model_sha256,
            }
            atomic_write(self._state_file(epoch), (json.dumps(state, indent=1) + "\n").encode())
            atomic_write(self.folder / HISTORY_NAME, rows)  # from here on the epoch counts
            self.publish(history)
        except OSError as error:
            raise StoppedError(
                f"epoch {epoch} cannot be kept in {self.folder} ({error.strerror or error}). What was finished before "
                "is safe: make room there, and the same command with --resume goes on."
            ) from None

    def save_model(self, model: keras.Model, path: Path) -> str:
        """Write a model of this run and what it was trained on into one file, whole or not at all; its SHA-256."""
        memory = _Memory(_in_memory(model.save, ".keras"))
        provenance.stamp(memory, self.origin)
        data = memory.getvalue()
        atomic_write(path, data)
        return hashlib.sha256(data).hexdigest()

    def checkpoint(self, epoch: int) -> Path:
        """Weights and optimizer after an epoch, the first being 1."""
        return self.folder / "checkpoints" / f"epoch-{epoch:04d}.weights.h5"

    def _candidate(self, epoch: int) -> Path:
        return self.folder / "checkpoints" / f"best-{epoch:04d}.keras"

    def _state_file(self, epoch: int) -> Path:
        return self.folder / "checkpoints" / f"epoch-{epoch:04d}.json"

    def _state(self, epoch: int) -> dict[str, str]:
        """The checksums of what was written after an epoch. Raises ManifestError if they are not there."""
        path = self._state_file(epoch)
        try:
            raw = json.loads(read_bytes(path, LIMIT)[0])
            return {name: _text(raw[name]) for name in ("checkpoint", "history", "model")}
        except (OSError, NotReadable, KeyError, TypeError, ValueError, RecursionError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise ManifestError(
                f"{path} cannot be read ({reason}), which holds the checksums of epoch {epoch}; put it back to go on, "
                "or give another --run to begin again."
            ) from None

    def _own_files(self) -> list[Path]:
        """The files in checkpoints/ that this program names."""
        folder = self.folder / "checkpoints"
        return [path for path in sorted(folder.iterdir()) if _OWN.fullmatch(path.name)] if folder.is_dir() else []

    def publish(self, history: Sequence[Row]) -> None:
        """Put the best epoch's model in its place and drop what no resumed run will ask for."""
        if not history:
            return
        if (candidate := self._candidate(best_epoch(history))).exists():
            candidate.replace(self.folder / MODEL_NAME)
            sync(self.folder)
        for path in self._own_files():
            if path not in (self.checkpoint(len(history)), self._state_file(len(history))):
                path.unlink()


class _Memory(io.BytesIO):
    """A file in memory with an ending, by which Keras knows what to write. HDF5 on a full disk ends the process."""

    ending = ".keras"

    def __str__(self) -> str:
        return f"memory{self.ending}"


def _in_memory(save: Callable[[Any], None], ending: str) -> bytes:
    """What Keras writes into a file."""
    memory = _Memory()
    memory.ending = ending
    save(memory)
    return memory.getvalue()


def _number(path: Path) -> int:
    """The epoch that a file in checkpoints/ is of."""
    found = _OWN.fullmatch(path.name)
    assert found
    return int(found[1] or found[2])


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{value!r} is no text")
    return value


def _read_config(folder: Path) -> dict[str, Any]:
    """A run's config.json as it is. Raises SourceError if there is none, ManifestError if it is no JSON object."""
    if not (folder / CONFIG_NAME).is_file() or not (folder / MANIFEST_NAME).is_file():
        what = "is no run folder" if folder.exists() else "does not exist"
        raise SourceError(f"{folder} {what}; make one with `octtrain fit SHARDS --run {folder}`.")
    try:
        raw = json.loads(read_bytes(folder / CONFIG_NAME, LIMIT)[0])
        if not isinstance(raw, dict):
            raise ValueError("it is no JSON object")
    except (OSError, NotReadable, ValueError, RecursionError) as error:
        raise _odd_config(folder, error) from None
    return raw


def _odd_config(folder: Path, error: Exception) -> ManifestError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else error
    return ManifestError(
        f"{folder / CONFIG_NAME} is not what `octtrain fit` wrote ({reason}). Restore it or train again."
    )


def _check_history(history: Sequence[Row]) -> None:
    """Raise ValueError for rows that no training writes."""
    if not history:
        raise ValueError("it holds no epoch")
    if missing := [name for name in COLUMNS if name not in history[0]]:
        raise ValueError(f"it has no column {missing[0]}")
    for number, row in enumerate(history, start=1):
        if row["epoch"] != number:
            raise ValueError(f"epoch {row['epoch']} stands where {number} belongs")
        if not 0 <= row["val_balanced_accuracy"] <= 1 or not math.isfinite(row["loss"]):
            raise ValueError(f"the numbers of epoch {number} are none that can be measured")


def nothing_to_resume(folder: Path | None) -> SourceError:
    """The error of a folder that is to be resumed and holds no run."""
    if folder is None:
        return SourceError("name the run to resume by --run DIR.")
    what = "holds no run" if folder.exists() else "does not exist"
    return SourceError(
        f"{folder} {what}, so there is nothing to resume; look at the name given as --run, or leave --resume out to "
        "begin a run there."
    )


def is_vacant(folder: Path) -> bool:
    """Whether a run may be made in a folder: one that is not there, is empty, or holds what a killed start left."""
    if not folder.is_dir():
        return not folder.exists() and not folder.is_symlink()
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".part-")}
    return names <= _BEGUN and (EXPOSURE_NAME in names or MANIFEST_NAME not in names)


@contextmanager
def held(folder: Path, *, fresh: bool = False) -> Iterator[None]:
    """Keep every other training out of a run folder, which is made if it is missing.

    One that was made here, or is `fresh` from `new_run`, is removed if it stays empty. Raises OutputError if it
    cannot be made, or another training has it.
    """
    made = [folder, folder.parent] if fresh else [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder, "octtrain fit"))
            except OSError as error:
                raise OutputError(
                    f"--run {folder} cannot be used as a folder to write to ({error.strerror or error}); give another."
                ) from None
            yield
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def new_run(shards: Path, model: str, runs: Path = RUNS) -> Path:
    """Make an empty folder for a run: NAME-MODEL-NUMBER in the folder of runs, by the shards' name and the next number.

    Two that ask at the same time get two folders. Raises OutputError if none can be made.
    """
    stem = f"{shards.resolve().name or 'shards'}-{model}"
    try:
        runs.mkdir(exist_ok=True)
        taken = [path.name.removeprefix(f"{stem}-") for path in runs.glob(f"{glob.escape(stem)}-*")]
        number = max((int(name) for name in taken if name.isascii() and name.isdigit()), default=0)
        while True:
            number += 1
            with suppress(FileExistsError):
                (runs / f"{stem}-{number}").mkdir()
                return runs / f"{stem}-{number}"
    except OSError as error:
        raise OutputError(
            f"no run can be made in the folder {runs.absolute()} ({error.strerror or error}); say where by --run DIR."
        ) from None


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


def resolve(folder: Path | None, given: Mapping[str, Any], *, resume: bool) -> FitConfig:
    """The settings given, and for the rest the defaults, or with `resume` those that the run was begun with.

    Raises SettingError for values out of range, and what `Run.load` does.
    """
    if not resume:
        return FitConfig(**given)
    if folder is None or not (folder / CONFIG_NAME).exists():
        raise nothing_to_resume(folder)
    return dataclasses.replace(Run.load(folder).config, **given)


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
                "Build them with `octprep build --split by-patient` or more patients."
            )
    return train, val


def inherited(weights: str) -> Exposure:
    """Whom the model to start from has seen: no patient if it is none or ImageNet's, else those its run folder names.

    Not complete for weights that no run folder belongs to: nobody knows whom those have seen.
    """
    if not weights.endswith((".keras", ".weights.h5")):
        return Exposure((), complete=True)
    path = Path(weights)
    try:
        run = Run.load(path.parent)
        if provenance.read(path) != run.origin:
            return Exposure((), complete=False)
        sights, complete = run.seen()
    except OctError:
        return Exposure((), complete=False)
    return Exposure(tuple(sight._replace(split=exposure.INHERITED) for sight in sights), complete)


def best_epoch(history: Sequence[Row]) -> int:
    """The epoch, the first being 1, with the highest balanced accuracy on val; among equals the lowest loss there."""
    losses = [math.inf if math.isnan(row["val_loss"]) else row["val_loss"] for row in history]
    ranks = [(row["val_balanced_accuracy"], -loss) for row, loss in zip(history, losses, strict=True)]
    return 1 + max(range(len(ranks)), key=ranks.__getitem__)


def _relative(shards: Path, folder: Path) -> str:
    """Where the shards are, seen from the run folder, so that both can move together."""
    try:
        return Path(os.path.relpath(shards.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return str(shards.resolve())
