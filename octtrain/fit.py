"""Train a model on a folder of shards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
from keras import ops

from octprep.schema import Manifest, OutputError, SettingError
from octtrain import data, seen
from octtrain.models import build_model, for_training
from octtrain.run import FitConfig, Row, Run, best_epoch, choose_splits


def fit(
    shards: Path, folder: Path, config: FitConfig, *, resume: bool = False, say: Callable[[str], None] = print
) -> Run:
    """Train, keeping the best epoch by balanced accuracy on val; with `resume` go on after the last finished epoch.

    Raises ManifestError for shards that are missing, damaged or without a validation split, SettingError for settings
    that do not fit them, OutputError if the run folder is taken or of another training.
    """
    manifest = Manifest.load(shards)
    train, val = choose_splits(manifest, config.fold)
    run = Run(folder=folder, config=config, manifest=manifest, shards=shards)
    history = run.claim(resume)
    if ended(history, config):
        say(f"Nothing left to do: {folder} has finished {len(history)} epochs. {_verdict(history)}")
        return run
    manifest.check_files(shards, (*train, *val))

    steps = data.steps(manifest, train, config.batch_size)
    model, training = compiled(manifest, config, steps)
    if history:
        _restore(training, run.checkpoint(len(history)))

    with data.readable(shards):
        images = data.training_batches(
            shards, manifest, train, config.batch_size, config.seed, range(len(history), config.epochs)
        )
        held_out = data.batches(shards, manifest, val, config.batch_size)
        run.begin()
        for line in _opening(run, train, val, steps, history):
            say(line)
        training.fit(
            images,
            validation_data=held_out,
            steps_per_epoch=steps,
            epochs=config.epochs,
            initial_epoch=len(history),
            class_weight=class_weights(manifest, train),
            callbacks=[Journal(run, model, history, steps, say), *_tensorboard(run)],
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
    say(_verdict(history))
    return run


def compiled(manifest: Manifest, config: FitConfig, steps: int) -> tuple[keras.Model, keras.Model]:
    """The model to keep, and the same one behind its augmentation, ready to be trained for so many steps an epoch."""
    keras.utils.set_random_seed(config.seed)
    recipe = manifest.recipe
    model = build_model(config.model, (recipe.height, recipe.width, 1), len(manifest.class_names), config.weights)
    training = for_training(model, config.seed)
    training.compile(
        _optimizer(config, steps),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy", BalancedAccuracy(len(manifest.class_names))],
        # XLA's convolutions are slower than TensorFlow's own on a CPU
        jit_compile=keras.backend.backend() != "tensorflow" or bool(keras.distribution.list_devices("gpu")),
    )
    return model, training


def seed_noise(training: keras.Model, seed: int, epoch: int) -> None:
    """Let what a model draws at random from here on, in augmentation and dropout, depend on these two alone."""
    states = [variable for variable in training.variables if "seed_generator" in variable.path]
    for i, state in enumerate(states):
        state.assign([(seed + i) % 2**32, (epoch << 20) % 2**32])  # key, counter


def class_weights(manifest: Manifest, train: tuple[str, ...]) -> dict[int, float] | None:
    """Weights by which every class counts the same, or None where the shards are balanced already.

    Balanced by the shards or by weights, never both.
    """
    if manifest.config.balance != "none":
        return None
    return even_weights([sum(manifest.per_class(split)[name] for split in train) for name in manifest.class_names])


def even_weights(counts: Sequence[int]) -> dict[int, float]:
    """Weights by which every class counts the same, from its number of images; their mean over the images is 1."""
    present = sum(count > 0 for count in counts)
    return {i: sum(counts) / (present * count) if count else 1.0 for i, count in enumerate(counts)}


def ended(history: list[Row], config: FitConfig) -> bool:
    """Whether all epochs are done, or none of the last `patience` was better than one before."""
    if not history:
        return False
    waited = len(history) - best_epoch(history)
    return len(history) >= config.epochs or 0 < config.patience <= waited


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


class Journal(keras.callbacks.Callback):  # type: ignore[misc]
    """After every epoch: keep it, print a line, and end the training when patience has run out."""

    def __init__(self, run: Run, kept: keras.Model, history: list[Row], steps: int, say: Callable[[str], None]) -> None:
        super().__init__()
        self.run, self.kept, self.history, self.steps, self.say = run, kept, history, steps, say
        self.start = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock, and this epoch's random numbers: a resumed run draws what an unbroken one would have."""
        seed_noise(self.model, self.run.config.seed, epoch)
        self.start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the epoch."""
        measured = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(measured["loss"]):
            raise SettingError(
                f"the loss is no longer a number in epoch {epoch + 1}; try a lower --lr than {self.run.config.lr:g}"
            )
        images = self.steps * self.run.config.batch_size
        rate = images / max(time.monotonic() - self.start, 1e-9)  # validation included
        self.history.append({"epoch": epoch + 1, **measured, "images_per_second": round(rate, 1)})
        self.run.keep(self.history, self.model, self.kept)
        self.say(
            f"epoch {epoch + 1:3}/{self.run.config.epochs}  loss {measured['loss']:.4f}  "
            f"val loss {measured['val_loss']:.4f}  val balanced accuracy {measured['val_balanced_accuracy']:.4f}"
            f"{' *' if best_epoch(self.history) == epoch + 1 else '  '}  {rate:,.0f} images/s"
        )
        self.model.stop_training = ended(self.history, self.run.config)


def _optimizer(config: FitConfig, steps: int) -> keras.optimizers.Optimizer:
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=config.lr / 25,
        warmup_target=config.lr,
        warmup_steps=steps,
        decay_steps=max(1, steps * (config.epochs - 1)),
    )
    return keras.optimizers.AdamW(rate, weight_decay=1e-2, clipnorm=1.0)


def _restore(training: keras.Model, checkpoint: Path) -> None:
    """Weights, optimizer and random states of the last finished epoch."""
    training.optimizer.build(training.trainable_variables)
    try:
        training.load_weights(checkpoint)
    except Exception as error:  # Keras raises whatever h5py and its layers happen to raise
        raise OutputError(
            f"{checkpoint} cannot be loaded ({str(error).splitlines()[0]}); begin again with another --run."
        ) from None


def _tensorboard(run: Run) -> list[keras.callbacks.Callback]:
    if find_spec("tensorboard") is None or keras.backend.backend() == "torch":
        return []
    return [keras.callbacks.TensorBoard(run.folder / "logs", write_graph=False)]


def _opening(run: Run, train: tuple[str, ...], val: tuple[str, ...], steps: int, history: list[Row]) -> list[str]:
    manifest, config = run.manifest, run.config
    counts = [sum(manifest.records(split) for split in side) for side in (train, val)]
    lines = [
        f"{config.model}: {counts[0]:,} images a training epoch ({', '.join(train)}), "
        f"{counts[1]:,} to validate ({', '.join(val)}), {steps:,} steps of {min(config.batch_size, counts[0])}"
    ]
    if manifest.leaks:
        lines.append(
            f"WARNING: {len(manifest.leaks.patients):,} patients and {len(manifest.leaks.contents):,} images stand on "
            "two sides of these shards' splits; what is measured on them is too good."
        )
    lines += _doubts(run, train)
    weights = class_weights(manifest, train)
    if weights is None:
        lines.append(f"classes balanced by the shards ({manifest.config.balance}), so not weighted")
    else:
        shown = ", ".join(f"{name} {weights[i]:.3f}" for i, name in enumerate(manifest.class_names))
        lines.append(f"class weights: {shown}")
    if history:
        lines.append(f"going on after epoch {len(history)}")
    return lines


def _doubts(run: Run, train: tuple[str, ...]) -> list[str]:
    """What the weights to start from may have seen of the images to validate or to test on."""
    sights, complete = run.seen()
    if not complete:
        return [
            f"WARNING: nothing says whom {run.config.weights} has seen, so `octtrain evaluate` cannot tell whether the "
            "model knows patients that it is tested on; weights in the folder of their run would say."
        ]
    before = [sight for sight in sights if sight.split == seen.INHERITED]
    if not before:
        return []
    held_out = [name for name in run.manifest.splits if name not in train]
    known = seen.overlap(before, seen.sights(seen.images(run.shards, run.manifest), held_out)).patients
    if not known:
        return []
    return [
        f"WARNING: {run.config.weights} has seen {len(known):,} of the patients held out here "
        f"({', '.join(held_out)}); what is measured on them is too good."
    ]


def _verdict(history: list[Row]) -> str:
    best = best_epoch(history)
    return f"Best epoch {best}: balanced accuracy {history[best - 1]['val_balanced_accuracy']:.4f} on val."
