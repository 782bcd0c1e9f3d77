"""Train a model on a folder of shards."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from octprep.format import images_csv
from octprep.format.errors import OutputError, StoppedError
from octprep.format.images_csv import ImageRow
from octprep.format.manifest import Manifest
from octprep.format.paths import path_to_text, quoted
from octprep.storage.cache import fetch_or_stream, holding, open_dataset
from octprep.storage.remote import Location, location
from octprep.terminal import interrupts
from octprep.wording import number
from octtrain import devices, pretrained
from octtrain.config import FitConfig, merge_settings
from octtrain.data.order import PARALLEL_SHARDS
from octtrain.models.weights import first_line
from octtrain.runs.folder import RunFolder
from octtrain.runs.history import Row, best_epoch
from octtrain.runs.locations import is_vacant, latest_run, lock_run, new_run, nothing_to_resume
from octtrain.runs.run import MODEL_NAME, Run, choose_splits
from octtrain.runtime import prepare_keras
from octtrain.training.balance import class_weights
from octtrain.training.caveats import chance_warnings
from octtrain.training.epochs import Clock, EpochState, train_epoch, validate
from octtrain.training.opening import opening_lines
from octtrain.training.packaged_start import require_packaged_start
from octtrain.training.progress import Progress
from octtrain.training.resolve import FeedChoice, resolve
from octtrain.training.schedule import finish_reason, is_finished
from octtrain.training.teacher import load_teacher_run
from octtrain.training.tensorboard_logs import TensorBoardLogs
from octtrain.training.trainer import Trainer

SHOWN_IMAGES = 8  # in TensorBoard
SAVE_SECONDS = 600  # an epoch that takes longer is saved in between


@holding()
def fit(
    shards: Location | str,
    run: Path | str | None = None,
    config: FitConfig | None = None,
    *,
    resume: bool = False,
    log: Callable[[str], None] = print,
    show_progress: bool = True,
    **settings: Any,
) -> Run:
    """Train a model, keeping the epoch with the best balanced accuracy on val.

    shards: folder made by `octprep build`, or its URL, which is read through the cache (`octprep.storage.cache`).  run:
    folder for the run; None: a new one in the folder `runs`, or with `resume` the latest run on these shards there.
    config, settings: a FitConfig, or its fields as keywords such as `epochs=3`; the rest are defaults, or with `resume`
    the run's own settings.  resume: continue after the last finished epoch, or after the steps that an interruption
    saved; only `epochs` and `patience` may change, and what does not change the result (`feed`, `jit`).  log: takes
    lines of progress.  show_progress: inside an epoch, as a bar on a terminal, or else as lines.

    Returns the run: `run.folder`, `run.history()` and `run.load_model()`; give it to `octtrain.evaluate`.

    Raises ManifestError for shards that are missing, damaged or without a validation split, and for a run whose files
    were edited or damaged; SettingError for settings out of range or that do not fit the shards; OutputError if the run
    folder holds another run or other files, or is in use; SourceError if there is no run to resume; StoppedError
    if the disk does not take what is to be saved.
    """
    shards = location(shards)
    data = open_dataset(shards)
    manifest = Manifest.load(data)
    folder = Path(run) if run is not None else None
    base = config or FitConfig()
    if resume:
        if folder is None:
            folder = latest_run(digest=manifest.digest)
            log(f"resuming {path_to_text(str(folder))}, the latest run on these shards")
        if is_vacant(folder):
            raise nothing_to_resume(folder)
        base = config or Run.load(folder).config
    config = merge_settings(base, settings)
    train, val = choose_splits(manifest, config.fold, config.test_fold)
    if config.weights == pretrained.NAME:
        require_packaged_start(config, manifest)
    config = with_absolute_paths(config)
    if config.teacher and not resume:
        load_teacher_run(config.teacher, manifest)
    is_new = folder is None
    folder = folder or new_run(shards, config.model)
    try:
        with lock_run(folder, is_new=is_new):
            new = Run(folder=folder, config=config, manifest=manifest, shards=shards)
            return _fit(new, data, train, val, resume, log, show_progress)
    except BrokenPipeError:  # of what is printed, not of a file
        raise
    except OSError as error:
        path = error.filename or folder
        raise StoppedError(
            f"{path} cannot be used ({error.strerror or error}); correct that, then run the same command again, with "
            "--resume if the run was started."
        ) from None


def with_absolute_paths(config: FitConfig) -> FitConfig:
    """Settings whose files a resumed run finds from another folder as well; `synthetic` becomes the packaged run's.

    Raises SourceError if there is no packaged run.
    """
    if config.weights == pretrained.NAME:
        config = dataclasses.replace(config, weights=str(pretrained.packaged_folder() / MODEL_NAME))
    if config.weights not in ("none", "imagenet"):
        config = dataclasses.replace(config, weights=str(Path(config.weights).absolute()))
    if config.teacher:
        config = dataclasses.replace(config, teacher=str(pretrained.run_folder(Path(config.teacher)).absolute()))
    return config


def _fit(
    run: Run,
    data: Path,
    train: tuple[str, ...],
    val: tuple[str, ...],
    resume: bool,
    log: Callable[[str], None],
    show_progress: bool,
) -> Run:
    """Train in a folder that is locked. data: the folder that the shards are read from."""
    manifest = run.manifest
    prepare_keras()
    if run.config.deterministic:
        devices.make_deterministic()
    config = resolve(run.config, manifest.records(*train))
    run = dataclasses.replace(run, config=config)
    folder = RunFolder(run)
    history = folder.resumable_history(resume)
    stored = Run.load(run.folder) if resume else run
    if resume and config.feed == "auto":
        config = dataclasses.replace(config, feed=stored.config.feed)
    if reason := finish_reason(history, config):
        folder.promote_best(history)
        finished = f"{run.folder} has finished {number(len(history), 'epoch')}{reason}."
        log(f"Nothing left to do: {finished} {_result_line(history, val)}")
        log(_next_line(run))
        return stored
    whole, streaming = fetch_or_stream(run.shards, data, manifest, (*train, *val), PARALLEL_SHARDS, log)
    manifest.check_files(data, whole)
    rows = images_csv.read_checked(data, manifest).rows
    choice = FeedChoice(config, data, manifest, train, val, rows, streaming)
    run = dataclasses.replace(run, config=dataclasses.replace(config, feed=choice.name))
    training = Training(run, train, val, choice, history, rows, log, show_progress)
    training.prepare(stored)
    training.run_epochs()
    if (reason := finish_reason(history, config)) and len(history) < config.epochs:
        log(f"Ended early{reason}.")
    log(_result_line(history, val))
    for line in chance_warnings(rows, manifest.class_names, val, history):
        log(line)
    written = path_to_text(str(run.folder / MODEL_NAME))
    log(f"wrote {written} (epoch {best_epoch(history)} of {len(history)}) and the run's history")
    log(_next_line(run))
    return run


class Training:
    """One training, from its state in the run folder to its end. history: the finished epochs; rows are added to it."""

    def __init__(
        self,
        run: Run,
        train: tuple[str, ...],
        val: tuple[str, ...],
        choice: FeedChoice,
        history: list[Row],
        rows: Sequence[ImageRow],
        log: Callable[[str], None],
        show_progress: bool,
    ) -> None:
        self.run, self.config, self.train, self.val = run, run.config, train, val
        self.choice, self.history, self.rows, self.log = choice, history, rows, log
        self.folder = RunFolder(run)
        self.progress = Progress(log, quiet=not show_progress)
        self.curves = TensorBoardLogs(run.folder / "logs", log)
        self.steps = max(1, run.manifest.records(*train) // int(self.config.batch_size))
        self.weights = class_weights(run.manifest, train)
        self.teacher = self._load_teacher()
        # A checkpoint after the last epoch of the head alone has the optimizer of the head.
        self.trainer = self._make_trainer(head_only=0 < self.config.fine_tune >= len(history))
        self.saved = time.monotonic()

    def prepare(self, stored: Run) -> None:
        """Restore the state of a resumed run, make the folder of a new one, and log the lines before the epochs."""
        epochs = len(self.history)
        if epochs:
            restore(self.trainer.trained, self.folder.checkpoint(epochs))
            self._unfreeze_after_head()
        self.state = self._begin(epochs)
        if partial := self.folder.load_steps(epochs + 1):
            restore(self.trainer.trained, self.folder.steps_checkpoint(epochs + 1))
            self.trainer.set_random_states(partial.pop("random_states"))
            self.state = EpochState(epoch=epochs, **partial)
        self.feed = self.choice.open(self.trainer.programs.place)
        self.folder.initialise(self.history, self.rows)
        shards, folder = quoted(self.run.shards), quoted(self.run.folder)
        interrupts.advise(f"resume by `octtrain fit {shards} --run {folder} --resume`")
        for line in opening_lines(
            self.run,
            stored,
            self.rows,
            (self.train, self.val),
            feed=f"{self.feed.name}, {self.choice.reason}",
            batch_size=self.feed.batch_size,
            steps_done=self.state.steps,
            history=self.history,
        ):
            self.log(line)

    def run_epochs(self) -> None:
        """Train until all epochs are done or patience has run out."""
        is_compiled = False
        if not self.history and not self.state.steps:
            chunks = self.feed.training(0)
            self.curves.images(0, "as the network sees them", self.trainer.augment(next(chunks), SHOWN_IMAGES))
            chunks.close()
        while not is_finished(self.history, self.config):
            epoch = len(self.history)
            is_compiled = is_compiled and not self._unfreeze_after_head()
            with interrupts.deferred():
                if not self.state.steps:
                    self.trainer.reseed(self.config.seed, epoch)
                with self.progress.epoch(epoch + 1, self.config.epochs, self.feed.steps, self.feed.batch_size):
                    clock = train_epoch(self.trainer, self.feed, self.state, self._after_chunk, is_compiled=is_compiled)
                is_compiled = True
                if interrupts.signal_caught() or self.state.steps < self.feed.steps:
                    self._save_steps()
                    continue  # or end, if it was a signal
                self._end_epoch(clock)
            self.state = self._begin(len(self.history))

    def _unfreeze_after_head(self) -> bool:
        """After the epochs in which only the head was trained, go on with all layers; whether that was now."""
        if not self.trainer.head_only or len(self.history) < self.config.fine_tune:
            return False
        self.trainer = self._make_trainer(head_only=False, before=self.trainer)
        return True

    def _make_trainer(self, *, head_only: bool, before: Trainer | None = None) -> Trainer:
        """The trainer of the next epochs. before: that of the epochs in which only the head was trained."""
        config, manifest = self.config, self.run.manifest
        if self.history and before is None:  # a checkpoint holds all weights
            config = dataclasses.replace(config, weights="none")
        lr = float(config.lr)
        return Trainer(
            config,
            (manifest.recipe.height, manifest.recipe.width, 1),
            [1.0 if self.weights is None else self.weights[i] for i in range(len(manifest.class_names))],
            self.steps,
            epochs=config.fine_tune if head_only else config.epochs - config.fine_tune,
            start=before.network.get_weights() if before else None,
            head_only=head_only,
            peak=lr / 10 if config.fine_tune and not head_only else lr,
            teacher=self.teacher,
        )

    def _load_teacher(self) -> keras.Model | None:
        """The teacher's model, on the devices of the training."""
        if self.config.teacher is None:
            return None
        run = load_teacher_run(self.config.teacher, self.run.manifest)
        with devices.shared_by(self.config.devices):
            return run.load_model()

    def _begin(self, epoch: int) -> EpochState:
        return EpochState.begin(epoch, len(self.run.manifest.class_names))

    def _after_chunk(self, state: EpochState, clock: Clock) -> bool:
        """Show progress, save now and then; True if a signal asks to end."""
        self.progress.update(state.steps, state.metrics()["loss"], clock.rate(self.feed.batch_size))
        if interrupts.signal_caught():
            return True
        return time.monotonic() - self.saved > SAVE_SECONDS and state.steps < self.feed.steps

    def _save_steps(self) -> None:
        """Save an unfinished epoch."""
        self.trainer.programs.update_variables()
        state = {**dataclasses.asdict(self.state), "random_states": self.trainer.random_states()}
        self.folder.save_steps(self.trainer.trained, state)
        self.saved = time.monotonic()

    def _end_epoch(self, clock: Clock) -> None:
        """Validate, save and log an epoch whose steps are done."""
        epoch = len(self.history)
        self.trainer.update_model()
        metrics = {**self.state.metrics(), **validate(self.trainer, self.feed)}
        rate = clock.rate(self.feed.batch_size)
        self.history.append({"epoch": epoch + 1, **metrics, "images_per_second": round(rate, 1)})
        self.folder.save_epoch(self.history, self.trainer.trained, self.trainer.model)
        self.saved = time.monotonic()
        self.curves.scalars(epoch + 1, metrics)
        best = " *" if best_epoch(self.history) == epoch + 1 else "  "
        self.log(
            f"epoch {epoch + 1:3}/{self.config.epochs}  loss {metrics['loss']:.4f}  "
            f"val loss {metrics['val_loss']:.4f}  val balanced accuracy {metrics['val_balanced_accuracy']:.4f}"
            f"{best}  {rate:,.0f} images/s{' with compiling' if clock.has_compiled else ''}"
        )


def restore(trained: keras.Model, checkpoint: Path) -> None:
    """Load weights and optimizer of a checkpoint. Raises OutputError if that fails."""
    try:
        trained.load_weights(checkpoint)
    except Exception as error:  # Keras raises whatever h5py and its layers happen to raise
        raise OutputError(
            f"{checkpoint} cannot be loaded ({first_line(error)}); start again with another --run."
        ) from None


def _result_line(history: Sequence[Row], val: Sequence[str]) -> str:
    best = best_epoch(history)
    value = history[best - 1]["val_balanced_accuracy"]
    return f"Best epoch {best}: balanced accuracy {value:.4f} on {', '.join(val)}."


def _next_line(run: Run) -> str:
    """The command to run after a training."""
    folder = quoted(run.folder)
    if run.manifest.splits.get("test") and run.manifest.records("test"):
        return f"next: `octtrain evaluate {folder}` evaluates it on patients it was not trained on"
    return f"next: `octtrain predict {folder} IMAGE...` classifies B-scans"
