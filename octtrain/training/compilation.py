"""A model ready to be trained: augmentation, loss, metrics, class weights and random states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from octprep.format.errors import SettingError
from octprep.format.manifest import Manifest
from octprep.format.seeding import derived_seed
from octtrain.config import FitConfig
from octtrain.models import build_model
from octtrain.models.augmentation import with_augmentation
from octtrain.runtime import prepare_keras
from octtrain.training import schedule


def compile_model(manifest: Manifest, config: FitConfig, steps: int) -> tuple[keras.Model, keras.Model]:
    """The clean model, which is saved, and the same one behind its augmentation, compiled for so many steps an epoch.

    Both share their weights, so training the second one trains the first.
    """
    prepare_keras()
    keras.utils.set_random_seed(derived_seed(config.seed, "weights"))
    recipe = manifest.recipe
    model = build_model(config.model, (recipe.height, recipe.width, 1), len(manifest.class_names), config.weights)
    training = with_augmentation(model, config.seed)  # its random state is set again before each epoch
    training.compile(
        schedule.optimizer(config, steps),
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
    """Make all random numbers of augmentation and dropout from here on depend on seed and epoch alone."""
    states = [variable for variable in training.variables if "seed_generator" in variable.path]
    for i, state in enumerate(states):
        # A key, and where its counter starts: half of the counter's range remains to count in.
        state.assign([derived_seed(seed, "noise", epoch, i), derived_seed(seed, "noise counter", epoch, i) // 2])


def require_finite_loss(loss: float, epoch: int, config: FitConfig) -> None:
    """Raise SettingError, with advice, if the loss of an epoch, counted from 0, is infinite or not a number."""
    if not math.isfinite(loss):
        raise SettingError(f"the loss is no longer a number in epoch {epoch + 1}; try a lower --lr than {config.lr:g}")


def class_weights(manifest: Manifest, train: Sequence[str]) -> dict[int, float] | None:
    """Class index -> weight, by which every class counts the same; None if the shards are balanced already."""
    if manifest.config.balance != "none":
        return None
    return balanced_class_weights(
        [sum(manifest.per_class(split)[name] for split in train) for name in manifest.class_names]
    )


def balanced_class_weights(counts: Sequence[int]) -> dict[int, float]:
    """Class index -> n / (classes present * count): every class counts the same, and the mean over the images is 1."""
    present = sum(count > 0 for count in counts)
    return {i: sum(counts) / (present * count) if count else 1.0 for i, count in enumerate(counts)}


class BalancedAccuracy(keras.metrics.Metric):  # type: ignore[misc]
    """The mean sensitivity over the classes that occur, 0..1."""

    def __init__(self, classes: int, name: str = "balanced_accuracy") -> None:
        super().__init__(name=name)
        self.classes = classes
        self.correct = self.add_weight(shape=(classes,), initializer="zeros", name="correct")
        self.images = self.add_weight(shape=(classes,), initializer="zeros", name="images")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch: y_true (n,) class index, y_pred (n, classes). Every image counts once, whatever its weight."""
        truth = ops.one_hot(ops.cast(ops.reshape(y_true, (-1,)), "int32"), self.classes, dtype="float32")
        predicted = ops.one_hot(ops.argmax(y_pred, axis=-1), self.classes, dtype="float32")
        self.correct.assign(self.correct + ops.sum(truth * predicted, axis=0))
        self.images.assign(self.images + ops.sum(truth, axis=0))

    def result(self) -> Any:
        """The value so far."""
        sensitivities = self.correct / ops.maximum(self.images, 1.0)
        return ops.sum(sensitivities) / ops.maximum(ops.sum(ops.cast(self.images > 0, "float32")), 1.0)
