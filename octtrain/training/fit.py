"""Train a model on a folder of shards."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
from keras import ops

from octprep.format import images_csv
from octprep.format.errors import OutputError, StoppedError
from octprep.format.images_csv import ImageRow
from octprep.format.manifest import Manifest
from octprep.terminal import interrupts
from octprep.wording import number
from octtrain.config import FitConfig, merge_settings
from octtrain.data import stream
from octtrain.models.weights import first_line
from octtrain.runs.folder import RunFolder
from octtrain.runs.history import Row, best_epoch
from octtrain.runs.locations import is_vacant, latest_run, lock_run, new_run, nothing_to_resume
from octtrain.runs.run import MODEL_NAME, Run, choose_splits
from octtrain.runtime import describe_device, library_versions
from octtrain.training.callbacks import EpochRecorder, TensorBoardLogs
from octtrain.training.caveats import chance_warnings, exposure_warnings, few_patients_warnings, leak_warnings
from octtrain.training.compilation import class_weights, compile_model
from octtrain.training.schedule import finish_reason, learning_rate


def fit(
    shards: Path | str,
    run: Path | str | None = None,
    config: FitConfig | None = None,
    *,
    resume: bool = False,
    log: Callable[[str], None] = print,
    **settings: Any,
) -> Run:
    """Train a model, keeping the epoch with the best balanced accuracy on val.

    shards: folder made by `octprep build`.  run: folder for the run; None: a new one in the folder `runs`, or with
    `resume` the latest run on these shards there.  config, settings: a FitConfig, or its fields as keywords such as
    `epochs=3`; the rest are defaults, or with `resume` the run's own settings.  resume: continue after the last
    finished epoch; only `epochs` and `patience` may change.  log: takes lines of progress.

    Returns the run: `run.folder`, `run.history()` and `run.load_model()`; give it to `octtrain.evaluate`.

    Raises ManifestError for shards that are missing, damaged or without a validation split, and for a run whose files
    were edited or damaged; SettingError for settings out of range or that do not fit the shards; OutputError if the run
    folder holds another run or other files, or is in use; SourceError if there is no run to resume; StoppedError
    if the disk does not take what is to be saved.
    """
    shards = Path(shards)
    manifest = Manifest.load(shards)
    folder = Path(run) if run is not None else None
    base = config or FitConfig()
    if resume:
        if folder is None:
            folder = latest_run(digest=manifest.digest)
            log(f"resuming {folder}, the latest run on these shards")
        if is_vacant(folder):
            raise nothing_to_resume(folder)
        base = config or Run.load(folder).config
    config = merge_settings(base, settings)
    train, val = choose_splits(manifest, config.fold)
    if config.weights not in ("none", "imagenet"):  # a file, which a resumed run must find from another folder as well
        config = dataclasses.replace(config, weights=str(Path(config.weights).absolute()))
    is_new = folder is None
    folder = folder or new_run(shards, config.model)
    try:
        with lock_run(folder, is_new=is_new):
            return _fit(Run(folder=folder, config=config, manifest=manifest, shards=shards), train, val, resume, log)
    except BrokenPipeError:  # of what is printed, not of a file
        raise
    except OSError as error:
        path = error.filename or folder
        raise StoppedError(
            f"{path} cannot be used ({error.strerror or error}); correct that, then run the same command again, with "
            "--resume if the run was started."
        ) from None


def _fit(run: Run, train: tuple[str, ...], val: tuple[str, ...], resume: bool, log: Callable[[str], None]) -> Run:
    """Train in a folder that is locked."""
    shards, manifest, config = run.shards, run.manifest, run.config
    folder = RunFolder(run)
    history = folder.resumable_history(resume)
    stored = Run.load(run.folder) if resume else run
    if reason := finish_reason(history, config):
        folder.promote_best(history)
        finished = f"{run.folder} has finished {number(len(history), 'epoch')}{reason}."
        log(f"Nothing left to do: {finished} {_result_line(history, val)}")
        log(_next_line(run))
        return stored
    manifest.check_files(shards, (*train, *val))

    steps = stream.steps(manifest, train, config.batch_size)
    # A checkpoint holds all weights, so the file with the initial ones is no longer needed.
    model, training = compile_model(manifest, dataclasses.replace(config, weights="none") if history else config, steps)
    if history:
        restore(training, folder.checkpoint(len(history)))

    rows = images_csv.read_checked(shards, manifest).rows
    with stream.data_errors_as_manifest_errors(shards):
        images = stream.training_batches(
            shards,
            train,
            batch_size=config.batch_size,
            seed=config.seed,
            epochs=range(len(history), config.epochs),
            manifest=manifest,
        )
        folder.initialise(history, rows)
        command = f"octtrain fit {shlex.quote(str(shards))} --run {shlex.quote(str(run.folder))} --resume"
        interrupts.advise(f"resume after the last finished epoch by `{command}`")
        for line in _header(run, stored, rows, train, val, steps, history):
            log(line)
        recorder = EpochRecorder(
            folder,
            model,
            history,
            steps=steps,
            batch_size=min(config.batch_size, stream.record_count(manifest, train)),
            log=log,
        )
        logs = [TensorBoardLogs(run.folder / "logs", log)] if find_spec("tensorboard") else []
        training.fit(
            images,
            validation_data=stream.batches(shards, val, batch_size=config.batch_size, manifest=manifest),
            steps_per_epoch=steps,
            epochs=config.epochs,
            initial_epoch=len(history),
            class_weight=class_weights(manifest, train),
            callbacks=[recorder, *logs],
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
    if (reason := finish_reason(history, config)) and len(history) < config.epochs:
        log(f"Ended early{reason}.")
    log(_result_line(history, val))
    for line in chance_warnings(rows, manifest.class_names, val, history):
        log(line)
    log(f"wrote {run.folder / MODEL_NAME} (epoch {best_epoch(history)} of {len(history)}) and the run's history")
    log(_next_line(run))
    return run


def restore(training: keras.Model, checkpoint: Path) -> None:
    """Load weights, optimizer and random states of a finished epoch. Raises OutputError if that fails."""
    try:
        training.load_weights(checkpoint)
    except Exception as error:  # Keras raises whatever h5py and its layers happen to raise
        raise OutputError(
            f"{checkpoint} cannot be loaded ({first_line(error)}); start again with another --run."
        ) from None


def _header(
    run: Run,
    stored: Run,
    rows: Sequence[ImageRow],
    train: tuple[str, ...],
    val: tuple[str, ...],
    steps: int,
    history: Sequence[Row],
) -> list[str]:
    """The lines before the first epoch. stored: the run as it was started, if it is resumed."""
    manifest, config = run.manifest, run.config
    images, val_images = stream.record_count(manifest, train), stream.record_count(manifest, val)
    lines = [
        f"run: {run.folder}",
        *describe_device(),
        f"{config.model}: {images:,} images a training epoch ({', '.join(train)}), "
        f"{val_images:,} to validate ({', '.join(val)}), {number(steps, 'step')} of {min(config.batch_size, images)}",
        *leak_warnings(run),
        *exposure_warnings(run, rows, train),
        *few_patients_warnings(rows, manifest.class_names, train, val),
    ]
    weights = class_weights(manifest, train)
    if weights is None:
        lines.append(f"classes balanced by the shards ({manifest.config.balance}), so not weighted")
    else:
        per_class = ", ".join(f"{name} {weights[i]:.3f}" for i, name in enumerate(manifest.class_names))
        lines.append(f"class weights: {per_class}")
    if history:
        lines.append(f"resuming after epoch {len(history)}")
        lines += _changes(run, stored, steps * len(history), steps)
    return lines


def _changes(run: Run, stored: Run, done: int, steps: int) -> list[str]:
    """Lines about what differs from when the run was started. done: steps so far; steps: of an epoch."""
    lines = []
    if stored.config.epochs != run.config.epochs:
        old, new = (
            float(ops.convert_to_numpy(learning_rate(config, steps)(done))) for config in (stored.config, run.config)
        )
        lines.append(
            f"--epochs was {stored.config.epochs} and is {run.config.epochs}: the learning rate follows the cosine of "
            f"{run.config.epochs} epochs from here on, so it is now {new:.2g} instead of {old:.2g}"
        )
    installed = library_versions()
    changed = [
        f"{name} {version} then, {installed.get(name, 'none')} now"
        for name, version in stored.libraries.items()
        if installed.get(name) != version
    ]
    if changed:
        lines.append(f"WARNING: the run was started with other versions ({'; '.join(changed)}); numbers may differ.")
    return lines


def _result_line(history: Sequence[Row], val: Sequence[str]) -> str:
    best = best_epoch(history)
    value = history[best - 1]["val_balanced_accuracy"]
    return f"Best epoch {best}: balanced accuracy {value:.4f} on {', '.join(val)}."


def _next_line(run: Run) -> str:
    """The command to run after a training."""
    folder = shlex.quote(str(run.folder))
    if run.manifest.splits.get("test") and run.manifest.records("test"):
        return f"next: `octtrain evaluate {folder}` evaluates it on patients it was not trained on"
    return f"next: `octtrain predict {folder} IMAGE...` classifies B-scans"
