"""Train a model on a folder of shards."""

from __future__ import annotations

import dataclasses
import math
import shlex
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
from keras import ops

from octprep.format.errors import OutputError, SettingError, StoppedError
from octprep.format.manifest import Manifest
from octprep.format.seeding import derived_seed
from octtrain import interrupts
from octtrain.data import stream
from octtrain.models import build_model, check_name, first_line, with_augmentation
from octtrain.runs import exposure
from octtrain.runs.folder import (
    FitConfig,
    Row,
    Run,
    best_epoch,
    choose_splits,
    held,
    is_vacant,
    new_run,
    nothing_to_resume,
)
from octtrain.runtime import describe_device, prepare_keras, versions

# Patients of a class under which the choice of the best epoch, or what is learnt of the class, rests on very little.
FEW_PATIENTS = 5


def fit(
    shards: Path, folder: Path | None, config: FitConfig, *, resume: bool = False, say: Callable[[str], None] = print
) -> Run:
    """Train, keeping the best epoch by balanced accuracy on val; with `resume` go on after the last finished epoch.

    folder: of the run; None: a new one in the folder `runs`, see `octtrain.runs.folder.new_run`.

    Raises ManifestError for shards that are missing, damaged or without a validation split, and for a run whose files
    are not those that were written; SettingError for settings that do not fit the shards; OutputError if the run
    folder is taken, in use or of another training; SourceError if there is no run to resume; StoppedError if the disk
    does not take what is to be kept.
    """
    manifest = Manifest.load(shards)
    train, val = choose_splits(manifest, config.fold)
    check_name(config.model)  # before a folder is named after it
    if resume and (folder is None or is_vacant(folder)):
        raise nothing_to_resume(folder)
    if _is_file(config.weights):  # a resumed run is to find it from another folder as well
        config = dataclasses.replace(config, weights=str(Path(config.weights).absolute()))
    fresh = folder is None
    folder = folder or new_run(shards, config.model)
    try:
        with held(folder, fresh=fresh):
            return _fit(Run(folder=folder, config=config, manifest=manifest, shards=shards), train, val, resume, say)
    except BrokenPipeError:  # of what is said, not of a file
        raise
    except OSError as error:
        where = error.filename or folder
        raise StoppedError(
            f"{where} cannot be used ({error.strerror or error}); see to that, then give the same command again, with "
            "--resume if the run was begun."
        ) from None


def _fit(run: Run, train: tuple[str, ...], val: tuple[str, ...], resume: bool, say: Callable[[str], None]) -> Run:
    """Train in a folder that is held."""
    folder, shards, manifest, config = run.folder, run.shards, run.manifest, run.config
    history = run.claim(resume)
    before = Run.load(folder) if resume else run
    if why := ended(history, config):
        run.publish(history)
        say(f"Nothing left to do: {folder} has finished {len(history)} epochs{why}. {_verdict(history, val)}")
        return before
    manifest.check_files(shards, (*train, *val))

    steps = stream.steps(manifest, train, config.batch_size)
    # A checkpoint holds all weights, so the file that the training was begun from is no longer needed
    model, training = compile_model(manifest, dataclasses.replace(config, weights="none") if history else config, steps)
    if history:
        _restore(training, run.checkpoint(len(history)))

    with stream.readable(shards):
        images = stream.training_batches(
            shards, manifest, train, config.batch_size, config.seed, range(len(history), config.epochs)
        )
        held_out = stream.batches(shards, manifest, val, config.batch_size)
        run.begin(history)
        command = f"octtrain fit {shlex.quote(str(shards))} --run {shlex.quote(str(folder))} --resume"
        interrupts.advise(f"go on after the last finished epoch with `{command}`")
        for line in _opening(run, before, train, val, steps, history):
            say(line)
        training.fit(
            images,
            validation_data=held_out,
            steps_per_epoch=steps,
            epochs=config.epochs,
            initial_epoch=len(history),
            class_weight=class_weights(manifest, train),
            callbacks=[EpochRecorder(run, model, history, steps, say), *_tensorboard(run, say)],
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
    if (why := ended(history, config)) and len(history) < config.epochs:
        say(f"Ended early{why}.")
    say(_verdict(history, val))
    for line in chance_remarks(run, val, history):
        say(line)
    if "test" in manifest.splits and manifest.records("test"):
        say(f"Measure it on patients it has not seen: `octtrain evaluate {shlex.quote(str(folder))}`")
    return run


def compile_model(manifest: Manifest, config: FitConfig, steps: int) -> tuple[keras.Model, keras.Model]:
    """The model to keep, and the same one behind its augmentation, ready to be trained for so many steps an epoch."""
    prepare_keras()
    keras.utils.set_random_seed(derived_seed(config.seed, "weights"))
    recipe = manifest.recipe
    model = build_model(config.model, (recipe.height, recipe.width, 1), len(manifest.class_names), config.weights)
    training = with_augmentation(model, config.seed)  # what it draws is set again before each epoch
    training.compile(
        _optimizer(config, steps),
        loss="sparse_categorical_crossentropy",
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            BalancedAccuracy(len(manifest.class_names)),
        ],
        # XLA's convolutions are slower than TensorFlow's own on a CPU
        jit_compile=keras.backend.backend() != "tensorflow" or bool(keras.distribution.list_devices("gpu")),
    )
    # TensorFlow traces a step twice if it makes variables the first time.
    training.optimizer.build(training.trainable_variables)
    return model, training


def reseed(training: keras.Model, seed: int, epoch: int) -> None:
    """Let what a model draws at random from here on, in augmentation and dropout, depend on these two alone."""
    states = [variable for variable in training.variables if "seed_generator" in variable.path]
    for i, state in enumerate(states):
        # key, and where the counter begins: half of its range is left to count in
        state.assign([derived_seed(seed, "noise", epoch, i), derived_seed(seed, "noise counter", epoch, i) // 2])


def class_weights(manifest: Manifest, train: tuple[str, ...]) -> dict[int, float] | None:
    """Weights by which every class counts the same, or None where the shards are balanced already.

    Balanced by the shards or by weights, never both.
    """
    if manifest.config.balance != "none":
        return None
    return balanced_class_weights(
        [sum(manifest.per_class(split)[name] for split in train) for name in manifest.class_names]
    )


def balanced_class_weights(counts: Sequence[int]) -> dict[int, float]:
    """Weights by which every class counts the same, from its number of images; their mean over the images is 1."""
    present = sum(count > 0 for count in counts)
    return {i: sum(counts) / (present * count) if count else 1.0 for i, count in enumerate(counts)}


def ended(history: Sequence[Row], config: FitConfig) -> str:
    """Why the training is over, to follow "ended": all epochs are done, or none of the last `patience` was better than
    one before. Empty if it is not over.
    """
    if not history:
        return ""
    waited = len(history) - best_epoch(history)
    if len(history) >= config.epochs:
        return f", and --epochs is {config.epochs}"
    if 0 < config.patience <= waited:
        return f": no better balanced accuracy for {waited} epochs (--patience {config.patience})"
    return ""


class BalancedAccuracy(keras.metrics.Metric):  # type: ignore[misc]
    """The mean sensitivity over the classes that occur, 0..1."""

    def __init__(self, classes: int, name: str = "balanced_accuracy") -> None:
        super().__init__(name=name)
        self.classes = classes
        self.hits = self.add_weight(shape=(classes,), initializer="zeros", name="hits")
        self.images = self.add_weight(shape=(classes,), initializer="zeros", name="images")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch: y_true (n,) class index, y_pred (n, classes). Every image counts once, whatever its weight."""
        truth = ops.one_hot(ops.cast(ops.reshape(y_true, (-1,)), "int32"), self.classes, dtype="float32")
        decided = ops.one_hot(ops.argmax(y_pred, axis=-1), self.classes, dtype="float32")
        self.hits.assign(self.hits + ops.sum(truth * decided, axis=0))
        self.images.assign(self.images + ops.sum(truth, axis=0))

    def result(self) -> Any:
        """The value so far."""
        rates = self.hits / ops.maximum(self.images, 1.0)
        return ops.sum(rates) / ops.maximum(ops.sum(ops.cast(self.images > 0, "float32")), 1.0)


class EpochRecorder(keras.callbacks.Callback):  # type: ignore[misc]
    """After every epoch: keep it, print a line, and end the training when patience has run out."""

    def __init__(self, run: Run, kept: keras.Model, history: list[Row], steps: int, say: Callable[[str], None]) -> None:
        super().__init__()
        self.run, self.kept, self.history, self.say = run, kept, history, say
        train, _ = choose_splits(run.manifest, run.config.fold)
        images = sum(run.manifest.records(split) for split in train)
        self.batch = min(run.config.batch_size, images)
        self.steps = steps
        self.start = self.trained = 0.0
        self.counted = 0  # steps between the two
        self.compile_model = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock, and this epoch's random numbers: a resumed run draws what an unbroken one would have."""
        reseed(self.model, self.run.config.seed, epoch)
        self.start = self.trained = time.monotonic()
        self.counted = self.steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Take the time: validation comes after the last step and does not count, nor does the first step of all, in
        which the model is compiled, if there are others.
        """
        self.trained = time.monotonic()
        if not self.compile_model and self.steps > 1:
            self.start, self.counted = self.trained, self.steps - 1
        self.compile_model = True

    def on_test_begin(self, logs: Any = None) -> None:
        """Take the time once more: on a GPU the last step's numbers are only here by now."""
        self.trained = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the epoch."""
        measured = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(measured["loss"]):
            raise SettingError(
                f"the loss is no longer a number in epoch {epoch + 1}; try a lower --lr than {self.run.config.lr:g}"
            )
        rate = self.counted * self.batch / max(self.trained - self.start, 1e-9)
        self.history.append({"epoch": epoch + 1, **measured, "images_per_second": round(rate, 1)})
        self.run.keep(self.history, self.model, self.kept)
        self.say(
            f"epoch {epoch + 1:3}/{self.run.config.epochs}  loss {measured['loss']:.4f}  "
            f"val loss {measured['val_loss']:.4f}  val balanced accuracy {measured['val_balanced_accuracy']:.4f}"
            f"{' *' if best_epoch(self.history) == epoch + 1 else '  '}  {rate:,.0f} images/s"
        )
        self.model.stop_training = bool(ended(self.history, self.run.config))


class Logs(keras.callbacks.TensorBoard):  # type: ignore[misc]
    """TensorBoard's curves. Where they cannot be written the training goes on without them, and says so once."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        super().__init__(folder, write_graph=False)
        self.tell, self.failed = say, False

    def _try(self, write: Callable[..., None], *arguments: Any) -> None:
        if self.failed:
            return
        try:
            write(*arguments)
        except Exception as error:  # whatever TensorFlow's writer raises
            self.failed = True
            self.tell(f"WARNING: TensorBoard's curves are not written ({first_line(error)})")

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the log."""
        self._try(super().on_train_begin, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        """Open the log of the validation."""
        self._try(super().on_test_begin, logs)

    def on_test_end(self, logs: Any = None) -> None:
        """Write what was measured by steps."""
        self._try(super().on_test_end, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write what was measured by epochs."""
        self._try(super().on_epoch_end, epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Close the log."""
        self._try(super().on_train_end, logs)


def _optimizer(config: FitConfig, steps: int) -> keras.optimizers.Optimizer:
    return keras.optimizers.AdamW(_schedule(config, steps), weight_decay=1e-2, clipnorm=1.0)


def _schedule(config: FitConfig, steps: int) -> Any:
    """The learning rate by the number of steps done."""
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=config.lr / 25,
        warmup_target=config.lr,
        warmup_steps=steps,
        decay_steps=max(1, steps * (config.epochs - 1)),
    )


def _restore(training: keras.Model, checkpoint: Path) -> None:
    """Weights, optimizer and random states of the last finished epoch."""
    try:
        training.load_weights(checkpoint)
    except Exception as error:  # Keras raises whatever h5py and its layers happen to raise
        raise OutputError(
            f"{checkpoint} cannot be loaded ({first_line(error)}); begin again with another --run."
        ) from None


def _tensorboard(run: Run, say: Callable[[str], None]) -> list[keras.callbacks.Callback]:
    return [Logs(run.folder / "logs", say)] if find_spec("tensorboard") else []


def _opening(
    run: Run, before: Run, train: tuple[str, ...], val: tuple[str, ...], steps: int, history: list[Row]
) -> list[str]:
    """What is said before the first epoch. before: the run as it was begun, if it is resumed."""
    manifest, config = run.manifest, run.config
    counts = [sum(manifest.records(split) for split in side) for side in (train, val)]
    lines = [
        f"run: {run.folder}",
        *describe_device(),
        f"{config.model}: {counts[0]:,} images a training epoch ({', '.join(train)}), "
        f"{counts[1]:,} to validate ({', '.join(val)}), {steps:,} steps of {min(config.batch_size, counts[0])}",
    ]
    if manifest.leaks:
        lines.append(
            f"WARNING: {len(manifest.leaks.patients):,} patients and {len(manifest.leaks.contents):,} images stand on "
            "two sides of these shards' splits; what is measured on them is too good."
        )
    lines += _doubts(run, train)
    lines += few_remarks(run, (*train, *val), val)
    weights = class_weights(manifest, train)
    if weights is None:
        lines.append(f"classes balanced by the shards ({manifest.config.balance}), so not weighted")
    else:
        shown = ", ".join(f"{name} {weights[i]:.3f}" for i, name in enumerate(manifest.class_names))
        lines.append(f"class weights: {shown}")
    if history:
        lines.append(f"going on after epoch {len(history)}")
        lines += _resumed(run, before, steps * len(history), steps)
    return lines


def _resumed(run: Run, before: Run, done: int, steps: int) -> list[str]:
    """What is no longer as it was when the run was begun. done: steps so far."""
    lines = []
    if before.config.epochs != run.config.epochs:
        old, new = (float(ops.convert_to_numpy(_schedule(each.config, steps)(done))) for each in (before, run))
        lines.append(
            f"--epochs was {before.config.epochs} and is {run.config.epochs}: the learning rate follows the cosine of "
            f"{run.config.epochs} epochs from here on, so it is now {new:.2g} instead of {old:.2g}"
        )
    now = versions()
    changed = [
        f"{name} {version} then, {now.get(name, 'none')} now"
        for name, version in before.libraries.items()
        if now.get(name) != version
    ]
    if changed:
        lines.append(f"WARNING: the run was begun with other versions ({'; '.join(changed)}); numbers may differ.")
    return lines


def few_remarks(run: Run, splits: Sequence[str], val: Sequence[str]) -> list[str]:
    """Classes with so few patients, in training or where the best epoch is chosen, that little can be said of them."""
    rows = exposure.images(run.shards, run.manifest)
    lines = []
    for name, part in (("training", [s for s in splits if s not in val]), (", ".join(val), list(val))):
        counts = {
            label: len({row.patient_group for row in rows if row.split in part and row.label == label})
            for label in run.manifest.class_names
        }
        few = [f"{count or 'no'} patient{'s' * (count != 1)} of {label}" for label, count in counts.items()
               if count < FEW_PATIENTS]  # fmt: skip
        if few:
            what = "little can be learnt of it" if name == "training" else "the best epoch is chosen on very little"
            lines.append(f"WARNING: {name} has {', '.join(few)}: {what}.")
        if sum(count > 0 for count in counts.values()) == 1:
            lines.append(f"WARNING: {name} has images of one class only, so no model can be told from a guess there.")
    return lines


def chance_remarks(run: Run, val: Sequence[str], history: Sequence[Row]) -> list[str]:
    """A warning if the best epoch is no better than guessing, as far as the number of patients lets one see."""
    rows = exposure.images(run.shards, run.manifest)
    patients = [
        len({row.patient_group for row in rows if row.split in val and row.label == label})
        for label in run.manifest.class_names
    ]
    present = [count for count in patients if count]
    if len(present) < 2:
        return []
    chance = 1 / len(present)
    # Twice the standard error of a guess, each patient taken for one answer, as the scans of one agree
    margin = 2 * math.sqrt(sum(chance * (1 - chance) / count for count in present)) / len(present)
    best = history[best_epoch(history) - 1]["val_balanced_accuracy"]
    if best > chance + margin:
        return []
    return [
        f"WARNING: that is not above chance: guessing among {len(present)} classes gives {chance:.4f}, and on "
        f"{sum(present):,} patients up to {chance + margin:.4f} by luck. The model has learnt nothing that shows; try "
        "more --epochs, another --lr, or more patients."
    ]


def _doubts(run: Run, train: tuple[str, ...]) -> list[str]:
    """What the weights to start from may have seen of the images to validate or to test on."""
    sights, complete = run.seen()
    if not complete:
        return [
            f"WARNING: nothing says whom {run.config.weights} has seen, so `octtrain evaluate` cannot tell whether the "
            "model knows patients that it is tested on; weights in the folder of their run would say."
        ]
    before = [sight for sight in sights if sight.split == exposure.INHERITED]
    if not before:
        return []
    held_out = [name for name in run.manifest.splits if name not in train]
    known = exposure.overlap(before, exposure.sights(exposure.images(run.shards, run.manifest), held_out)).patients
    if not known:
        return []
    return [
        f"WARNING: {run.config.weights} has seen {len(known):,} of the patients held out here "
        f"({', '.join(held_out)}); what is measured on them is too good."
    ]


def _verdict(history: Sequence[Row], val: Sequence[str]) -> str:
    best = best_epoch(history)
    value = history[best - 1]["val_balanced_accuracy"]
    return f"Best epoch {best}: balanced accuracy {value:.4f} on {', '.join(val)}."


def _is_file(weights: str) -> bool:
    """Whether --weights names a file rather than a word that octtrain knows."""
    return weights not in ("none", "imagenet")
