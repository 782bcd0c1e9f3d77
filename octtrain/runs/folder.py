"""A run folder as a training writes it: an interruption at any moment leaves a state from which it can be resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np

from octprep.format import images_csv
from octprep.format.errors import ManifestError, OctError, OutputError, SourceError, StoppedError
from octprep.format.files import NotReadable, atomic_write, read_bytes, remove_partial_files, sync
from octprep.format.images_csv import ImageRow
from octprep.storage.cache import open_dataset
from octprep.storage.remote import Location
from octtrain import runtime
from octtrain.config import FitConfig
from octtrain.model_files import MODEL_SUFFIXES
from octtrain.runs import exposure, history
from octtrain.runs.exposure import EXPOSURE_NAME, INITIAL_WEIGHTS, TEACHER, Exposure
from octtrain.runs.history import HISTORY_NAME, MAX_BYTES, Row, best_epoch
from octtrain.runs.locations import is_vacant, not_vacant, nothing_to_resume
from octtrain.runs.provenance import read_provenance, write_provenance
from octtrain.runs.run import CONFIG_NAME, MODEL_NAME, RUN_VERSION, SETTINGS_NAME, Run, read_config
from octtrain.settings_file import write_settings

# Settings that may change when a run is resumed: they only decide when it ends, or how fast it is.
RESUMABLE = ("epochs", "patience", "jit")
_SAME_ORDER = ("mapped", "resident")  # feeds that meet the same images in the same order

_CHECKPOINT_FILE = re.compile(r"(?:(?:epoch|steps)-(\d{4,})\.(?:weights\.h5|json)|best-(\d{4,})\.keras)")


class RunFolder:
    """The files of a run, written in an order that makes every interruption harmless.

    All methods but `resumable_history` write, and are called while holding the folder's lock (`lock_run`).

        vacant ──initialise──▶ initialised ──save_epoch──▶ 1 epoch ──save_epoch──▶ 2 epochs ──▶ ...
                               config.json                 history.csv has 1 row   2 rows

    initialise writes exposure.csv, manifest.json, config.toml, config.json: without the last one the folder is still
    vacant.
    save_epoch writes for epoch n, each file whole or not at all:

        checkpoints/epoch-n.weights.h5   weights, optimizer, random states  ┐
        checkpoints/best-n.keras         only if n is the best epoch so far │ interrupted here: the run has n-1
        checkpoints/epoch-n.json         SHA-256 of checkpoint, history,    │ epochs, and these files are overwritten
                                         and the best epoch's model         ┘
        history.csv                      with row n                         ┐ interrupted here: the run has n epochs,
        model.keras                      best-n.keras takes this name       │ and initialise does the rest on resume
        checkpoints/                     files of earlier epochs removed    ┘ (promote_best)

    save_steps writes, inside epoch n, checkpoints/steps-n.weights.h5, then steps-n.json with its SHA-256: if they do
    not fit each other, the epoch is started again.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.path = run, run.folder

    def resumable_history(self, resume: bool) -> list[Row]:
        """The epochs already finished: none in a new run. Writes nothing.

        Raises SourceError if there is no run to resume; OutputError if the folder holds a run that is not to be
        resumed, is not a run, or is to be resumed with other settings or on other shards; ManifestError if a file that
        the resumed training needs is damaged or missing.
        """
        if is_vacant(self.path):
            if resume:
                raise nothing_to_resume(self.path)
            return []
        if not (self.path / CONFIG_NAME).is_file():
            raise not_vacant(self.path, "a run folder")
        if not resume:
            raise OutputError(f"{self.path} already holds a run; continue it by --resume, or give another --run.")
        stored = Run.load(self.path)
        changes = changed_settings(stored.config, self.run.config, "in the run")
        if changes:
            raise OutputError(
                f"{self.path} was started with other settings ({'; '.join(changes)}); "
                "resume it without these options, or give another --run."
            )
        if stored.manifest.digest != self.run.manifest.digest:
            raise OutputError(
                f"{self.path} was started on other shards (digest {stored.manifest.digest[:12]} in the run, "
                f"{self.run.manifest.digest[:12]} in {self.run.shards}); give those, or another --run."
            )
        epochs = stored.history()
        self._check_last_epoch(epochs)
        return epochs

    def initialise(self, epochs: Sequence[Row] = (), images: Sequence[ImageRow] | None = None) -> None:
        """Make a new run; in one that already has these epochs, finish what an interrupted `save_epoch` left undone.

        images: of the dataset's images.csv, for a caller that has read it; None: it is read if it is needed.

        Raises ManifestError if the shards do not say which patients are in them, OutputError if a run without a
        finished epoch would now start from other weights than before, StoppedError if the disk does not take it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.path / "checkpoints"):
            remove_partial_files(folder)
        if not (self.path / CONFIG_NAME).exists():
            own_exposure = exposure_of_training(self.run, images)
            try:
                self._write_description(own_exposure)
            except OSError as error:
                raise StoppedError(
                    f"no run can be started in {self.path} ({error.strerror or error}); make room there, or give "
                    "another --run."
                ) from None
            return
        raw = read_config(self.path)
        if raw.get("teacher_sha256") != _teacher_sha256(self.run.config):
            raise OutputError(
                f"{self.path} was started with another teacher than {self.run.config.teacher} holds now; "
                "put that model back, or give another --run."
            )
        if not epochs and exposure_of_training(self.run, images) != self.run.exposure():
            raise OutputError(
                f"{self.path} was started from other weights than {self.run.config.weights} holds now; "
                "give another --run."
            )
        settings = dataclasses.asdict(self.run.config)
        if raw["config"] != settings:
            self._write_config({**raw, "config": settings})
        self.promote_best(epochs)

    def save_epoch(self, epochs: Sequence[Row], training: keras.Model, model: keras.Model) -> None:
        """Store the last of these epochs. training: the model as it is trained, with its optimizer; model: without.

        Raises StoppedError if the disk does not take it.
        """
        epoch = len(epochs)
        rows = history.encode(epochs)
        try:
            self.checkpoint(1).parent.mkdir(exist_ok=True)
            weights = _in_memory(training.save_weights, ".weights.h5")
            atomic_write(self.checkpoint(epoch), weights)
            if best_epoch(epochs) == epoch:
                model_sha256 = self.save_model(model, self._candidate(epoch))
            else:
                model_sha256 = self._checksums(epoch - 1)["model"]
            checksums = {
                "checkpoint": hashlib.sha256(weights).hexdigest(),
                "history": hashlib.sha256(rows).hexdigest(),
                "model": model_sha256,
            }
            atomic_write(self._checksum_file(epoch), (json.dumps(checksums, indent=1) + "\n").encode())
            atomic_write(self.path / HISTORY_NAME, rows)  # from here on the epoch counts
            self.promote_best(epochs)
        except OSError as error:
            raise StoppedError(
                f"epoch {epoch} cannot be saved in {self.path} ({error.strerror or error}). The epochs before it are "
                "safe: make room there, and resume by the same command with --resume."
            ) from None

    def save_steps(self, training: keras.Model, state: Mapping[str, Any]) -> None:
        """Store an unfinished epoch, from which a resumed training goes on. training: as for `save_epoch`.

        state: an `octtrain.training.epochs.EpochState` as a dictionary, whose `epoch` counts from 0, and the trainer's
        `random_states`. Raises StoppedError if the disk does not take it.
        """
        number = state["epoch"] + 1
        weights = _in_memory(training.save_weights, ".weights.h5")
        content = {**state, "confusion": np.asarray(state["confusion"]).tolist()}
        content["checkpoint"] = hashlib.sha256(weights).hexdigest()
        path, description = self._steps_files(number)
        try:
            path.parent.mkdir(exist_ok=True)
            atomic_write(path, weights)
            atomic_write(description, (json.dumps(content) + "\n").encode())
        except OSError as error:
            raise StoppedError(
                f"the {state['steps']:,} steps of epoch {number} cannot be saved in {self.path} "
                f"({error.strerror or error}). The epochs before it are safe: make room there, and resume by the same "
                "command with --resume."
            ) from None

    def load_steps(self, epoch: int) -> dict[str, Any] | None:
        """The state that `save_steps` stored of an epoch, from 1, whose weights are in `steps_checkpoint`.

        None if there is none that is whole: then the epoch is started again.
        """
        path, description = self._steps_files(epoch)
        try:
            raw = json.loads(read_bytes(description, MAX_BYTES)[0])
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != raw["checkpoint"]:
                    return None
            return {
                "confusion": np.array(raw["confusion"], np.int64),
                "loss": float(raw["loss"]),
                "steps": int(raw["steps"]),
                "random_states": [[int(word) for word in state] for state in raw["random_states"]],
            }
        except (OSError, NotReadable, KeyError, TypeError, ValueError, RecursionError):
            return None

    def steps_checkpoint(self, epoch: int) -> Path:
        """Weights and optimizer inside an epoch, from 1."""
        return self._steps_files(epoch)[0]

    def save_model(self, model: keras.Model, path: Path) -> str:
        """Write a model with this run's provenance into a .keras file, whole or not at all; returns its SHA-256."""
        memory = _MemoryFile(_in_memory(model.save, ".keras"))
        write_provenance(memory, self.run.provenance)
        data = memory.getvalue()
        atomic_write(path, data)
        return hashlib.sha256(data).hexdigest()

    def promote_best(self, epochs: Sequence[Row]) -> None:
        """Give the best epoch's model the name model.keras, and remove the checkpoints that no resumed run needs."""
        if not epochs:
            return
        if (candidate := self._candidate(best_epoch(epochs))).exists():
            candidate.replace(self.path / MODEL_NAME)
            sync(self.path)
        done = len(epochs)
        needed = (self.checkpoint(done), self._checksum_file(done), *self._steps_files(done + 1))
        for path in self._checkpoint_files():
            if path not in needed:
                path.unlink()

    def checkpoint(self, epoch: int) -> Path:
        """Weights and optimizer after an epoch, from 1."""
        return self.path / "checkpoints" / f"epoch-{epoch:04d}.weights.h5"

    def _steps_files(self, epoch: int) -> tuple[Path, Path]:
        stem = self.path / "checkpoints" / f"steps-{epoch:04d}"
        return stem.with_suffix(".weights.h5"), stem.with_suffix(".json")

    def _candidate(self, epoch: int) -> Path:
        return self.path / "checkpoints" / f"best-{epoch:04d}.keras"

    def _checksum_file(self, epoch: int) -> Path:
        return self.path / "checkpoints" / f"epoch-{epoch:04d}.json"

    def _checksums(self, epoch: int) -> dict[str, str]:
        """The checksums of the files of an epoch. Raises ManifestError if they are missing or damaged."""
        path = self._checksum_file(epoch)
        try:
            raw = json.loads(read_bytes(path, MAX_BYTES)[0])
            checksums = {name: raw[name] for name in ("checkpoint", "history", "model")}
            if not all(isinstance(value, str) for value in checksums.values()):
                raise ValueError("a checksum is not text")
            return checksums
        except (OSError, NotReadable, KeyError, TypeError, ValueError, RecursionError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise ManifestError(
                f"{path} cannot be read ({reason}), which holds the checksums of epoch {epoch}; put it back to resume, "
                "or give another --run to start again."
            ) from None

    def _checkpoint_files(self) -> list[Path]:
        """The files in checkpoints/ with names that this class gives."""
        folder = self.path / "checkpoints"
        if not folder.is_dir():
            return []
        return [path for path in sorted(folder.iterdir()) if _CHECKPOINT_FILE.fullmatch(path.name)]

    def _check_last_epoch(self, epochs: Sequence[Row]) -> None:
        """Raise ManifestError unless the last finished epoch's files are those that were written with it."""
        advice = "give another --run to start again"
        if not epochs:
            numbers = [_epoch_of(path) for path in self._checkpoint_files()]
            # The first epoch's files may exist before its row, if it was killed in between.
            if (self.path / MODEL_NAME).exists() or any(number > 1 for number in numbers):
                raise ManifestError(
                    f"{self.path / HISTORY_NAME} is missing, but epochs were finished here; "
                    f"put it back to resume, or {advice}."
                )
            return
        checksums = self._checksums(len(epochs))
        candidate = self._candidate(best_epoch(epochs))
        for path, name in (
            (self.path / HISTORY_NAME, "history"),
            (self.checkpoint(len(epochs)), "checkpoint"),
            (candidate if candidate.exists() else self.path / MODEL_NAME, "model"),
        ):
            try:
                with path.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                problem = None if sha256 == checksums[name] else "is damaged: it is not what was written after"
            except OSError as error:
                problem = f"cannot be read ({error.strerror or error}), which was written after"
            if problem:
                raise ManifestError(f"{path} {problem} epoch {len(epochs)}; put it back to resume, or {advice}.")

    def _write_description(self, own_exposure: Exposure) -> None:
        table = exposure.encode(own_exposure.images)
        atomic_write(self.path / EXPOSURE_NAME, table)
        self.run.manifest.save(self.path)
        self._write_config(
            {
                "run_version": RUN_VERSION,
                "started": datetime.now(UTC).isoformat(timespec="microseconds"),
                "shards": _relative_to(self.run.shards, self.path),
                "digest": self.run.manifest.digest,
                "dataset_leaks": bool(self.run.manifest.leaks),
                "exposure_sha256": hashlib.sha256(table).hexdigest(),
                "exposure_complete": own_exposure.complete,
                "teacher_sha256": _teacher_sha256(self.run.config),
                "config": dataclasses.asdict(self.run.config),
                "backend": keras.backend.backend(),
                "device": runtime.device_name(),
                "libraries": runtime.library_versions(),
            }
        )

    def _write_config(self, raw: Mapping[str, Any]) -> None:
        write_settings(self.path / SETTINGS_NAME, self.run.config)
        atomic_write(self.path / CONFIG_NAME, (json.dumps(raw, indent=1) + "\n").encode())


def changed_settings(before: FitConfig, now: FitConfig, where: str) -> list[str]:
    """The settings that keep a training from going on as it was started, in words. where: what `before` is of."""
    return [
        f"{name.replace('_', '-')} {value} {where}, {getattr(now, name)} now"
        for name, value in dataclasses.asdict(before).items()
        if name not in RESUMABLE and not _is_same(name, value, getattr(now, name))
    ]


def _is_same(name: str, before: object, now: object) -> bool:
    """Whether two values of a setting give the same training."""
    if name == "feed":  # with auto, that of the run is used
        return now in ("auto", before) or (before in _SAME_ORDER and now in _SAME_ORDER)
    return before == now


def exposure_of_training(run: Run, images: Sequence[ImageRow] | None = None) -> Exposure:
    """What the model of a training will be exposed to, including what its initial weights and its teacher were.

    images: of the dataset's images.csv; None: it is read. Raises SourceError or ManifestError if there is no such
    teacher.
    """
    if images is None:
        images = images_csv.read_checked(open_dataset(run.shards), run.manifest).rows
    splits = (*run.provenance.trained_on, *run.provenance.selected_on)
    own = Exposure(exposure.images_of(images, splits), complete=True)
    return exposure.union([own, exposure_of_weights(run.config.weights), _exposure_of_teacher(run.config)])


def _exposure_of_teacher(config: FitConfig) -> Exposure:
    if config.teacher is None:
        return Exposure((), complete=True)
    images, complete = Run.load(Path(config.teacher)).exposure()
    return Exposure(tuple(image._replace(split=TEACHER) for image in images), complete)


def _teacher_sha256(config: FitConfig) -> str | None:
    """The SHA-256 of the teacher's model. Raises SourceError if it has none."""
    if config.teacher is None:
        return None
    path = Path(config.teacher) / MODEL_NAME
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"the teacher's {path} cannot be read ({error.strerror or error}); put it back.") from None


def exposure_of_weights(weights: str) -> Exposure:
    """What initial weights were exposed to: nothing for `none` and `imagenet`, for a run's model.keras what its run
    folder says, and incomplete for any other file.
    """
    if not weights.endswith(MODEL_SUFFIXES):
        return Exposure((), complete=True)
    path = Path(weights)
    try:
        run = Run.load(path.parent)
        if read_provenance(path) != run.provenance:
            return Exposure((), complete=False)
        images, complete = run.exposure()
    except OctError:
        return Exposure((), complete=False)
    return Exposure(tuple(image._replace(split=INITIAL_WEIGHTS) for image in images), complete)


class _MemoryFile(io.BytesIO):
    """A file in memory, whose suffix selects the format that Keras writes.

    Written to memory first because HDF5 ends the process if the disk is full.
    """

    suffix = ".keras"

    def __str__(self) -> str:
        return f"memory{self.suffix}"


def _in_memory(save: Callable[[Any], None], suffix: str) -> bytes:
    """The bytes that a method of Keras writes into a file."""
    memory = _MemoryFile()
    memory.suffix = suffix
    save(memory)
    return memory.getvalue()


def _epoch_of(path: Path) -> int:
    """The epoch in the name of a file in checkpoints/."""
    match = _CHECKPOINT_FILE.fullmatch(path.name)
    assert match
    return int(match[1] or match[2])


def _relative_to(shards: Location, folder: Path) -> str:
    """The path of the shards relative to the run folder, so that both can be moved together; or their URL."""
    if not isinstance(shards, Path):
        return str(shards)
    try:
        return Path(os.path.relpath(shards.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return str(shards.resolve())
