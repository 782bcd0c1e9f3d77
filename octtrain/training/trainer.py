"""A model ready to be trained: its networks, optimizer, random states and compiled programs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from octprep.format.errors import SettingError
from octprep.format.seeding import derived_seed
from octtrain import devices, runtime
from octtrain.config import FitConfig
from octtrain.data.chunks import Chunk
from octtrain.models import Precision, build_model, logits_model
from octtrain.models.augmentation import Augment, augmented
from octtrain.training import schedule
from octtrain.training.divergence import divergence
from octtrain.training.objective import Objective
from octtrain.training.programs import Networks, Totals, make_programs, pixels_of


class Trainer:
    """Trains one model: it owns the weights, the optimizer and the random states, and knows nothing of shards.

    config: without `auto`.  class_weights: of every class.  steps: of an epoch.  epochs: that the learning rate falls
    over.  start: weights to start from, in the order of `weights()`; None: those that the config names.  head_only:
    train only the last layer that has weights, all others as they are at inference.  peak: learning rate, instead of
    the config's.
    """

    def __init__(
        self,
        config: FitConfig,
        image_shape: tuple[int, int, int],
        class_weights: Sequence[float],
        steps: int,
        *,
        epochs: int | None = None,
        start: Sequence[NDArray[Any]] | None = None,
        head_only: bool = False,
        peak: float | None = None,
        teacher: keras.Model | None = None,
        loop_on_device: bool | None = None,
    ) -> None:
        runtime.prepare_keras()
        self.config, self.image_shape, self.steps, self.head_only = config, image_shape, steps, head_only
        classes = len(class_weights)
        precision: Precision = "bfloat16" if config.precision == "bfloat16" else "float32"
        self.is_twin = precision != "float32" or config.ema > 0  # whether the kept model has weights of its own
        with devices.shared_by(config.devices):
            keras.utils.set_random_seed(derived_seed(config.seed, "weights"))
            weights = "none" if start else config.weights
            network = build_model(config.model, image_shape, classes, weights, precision=precision)
            self.model = build_model(config.model, image_shape, classes) if self.is_twin else network
            if start:
                network.set_weights(start)
            self.network = network
            if head_only:
                freeze_all_but_head(network)
            trained = augmented(
                logits_model(network), config.seed, strength=config.augmentation, mixup=config.mixup > 0
            )
            optimizer = schedule.optimizer(config, steps, epochs or config.epochs, peak)
            optimizer.build(trained.trainable_variables)  # TensorFlow compiles a step twice if it makes variables first
            trained.compile(optimizer)  # so that the optimizer is saved with the weights
            self.networks = Networks(
                trained=trained,
                optimizer=optimizer,
                kept=logits_model(self.model),
                image_shape=image_shape,
                mixup=config.mixup > 0,
                teacher=teacher,
            )
            self.programs = make_programs(
                self.networks,
                Objective(class_weights=class_weights, label_smoothing=config.label_smoothing),
                jit=bool(runtime.gpus()) if config.jit == "auto" else config.jit == "on",
                devices=config.devices,
                loop_on_device=loop_on_device,
            )

    @property
    def trained(self) -> keras.Model:
        """The network that is trained, with its optimizer: what a checkpoint holds."""
        return self.networks.trained

    def train(self, chunk: Chunk, totals: Totals, epoch: int, first_step: int) -> Totals:
        """Do the steps of a chunk, the first of which is `first_step` of the epoch, and add to the totals."""
        return self.programs.train(chunk, self.mix(epoch, first_step, len(chunk.order)), totals)

    def augment(self, chunk: Chunk, count: int) -> NDArray[np.uint8]:
        """The first images of a chunk as the network is given them: (count, height, width, 1) uint8, changed at random.

        The random state moves on, so `reseed` belongs after it.
        """
        self.programs.update_variables()
        images = chunk.images
        if not getattr(images, "is_fully_addressable", True):  # on JAX, the part of this process
            images = images.addressable_data(0)
        if len(images.shape) == 2:  # resident
            pixels = pixels_of(ops.take(images, chunk.order[0][:count], axis=0), self.image_shape)
        else:
            pixels = images[0][:count]
        layer = next(layer for layer in self.trained.layers if isinstance(layer, Augment))
        return np.asarray(ops.convert_to_numpy(layer(pixels, training=True)))

    def mix(self, epoch: int, first_step: int, count: int) -> NDArray[np.float32]:
        """MixUp's share of the first image in each of some steps of an epoch, 0.5 to 1: (count,) float32."""
        if not self.config.mixup:
            return np.ones(count, np.float32)
        draws = np.random.default_rng(derived_seed(self.config.seed, "mixup", epoch))
        shares = draws.beta(self.config.mixup, self.config.mixup, first_step + count)[first_step:]
        return np.maximum(shares, 1 - shares).astype(np.float32)

    def evaluate(self, chunk: Chunk, totals: Totals) -> Totals:
        """Classify the batches of a chunk with the kept model, as of `update_model`, and add to the totals."""
        return self.programs.evaluate(chunk, totals)

    def update_model(self) -> None:
        """Give the kept model the weights of the trained one, or with EMA their moving average."""
        self.programs.update_variables()
        if not self.is_twin:
            return
        self.model.set_weights(self.network.get_weights())
        if self.config.ema:
            trainable = {variable.path for variable in self.trained.trainable_variables}
            pairs = zip(self.network.variables, self.model.variables, strict=True)
            kept = [twin for variable, twin in pairs if variable.path in trainable]
            self.networks.optimizer.finalize_variable_values(kept)

    def divergence(self, epoch: int, step: int) -> SettingError:
        """The error for a loss that is no longer a number after so many steps of an epoch, counted from 0."""
        self.programs.update_variables()
        rate = self.networks.optimizer.learning_rate
        return divergence(self.config, epoch=epoch + 1, step=step, learning_rate=float(ops.convert_to_numpy(rate)))

    def reseed(self, seed: int, epoch: int) -> None:
        """Make all random numbers of augmentation and dropout from here on depend on seed and epoch alone."""
        self.programs.update_variables()
        reseed(self.trained, seed, epoch)

    def random_states(self) -> list[list[int]]:
        """The random states of augmentation and dropout, two numbers each, which `save_weights` of Keras leaves out."""
        self.programs.update_variables()
        return [[int(word) for word in np.asarray(ops.convert_to_numpy(state))] for state in _states(self.trained)]

    def set_random_states(self, values: Sequence[Sequence[int]]) -> None:
        """Go on with these random states."""
        self.programs.update_variables()
        for state, value in zip(_states(self.trained), values, strict=True):
            state.assign(np.array(value, np.uint32))

    def reset(self, seed: int) -> None:
        """Start again: other initial weights, and an optimizer that has done no steps."""
        self.programs.update_variables()
        # Keras' initializers get their seeds from here. keras.utils.set_random_seed sets this too, but makes TensorFlow
        # drop what it has compiled.
        random.seed(derived_seed(seed, "weights"))
        initial = build_model(self.config.model, self.image_shape, self.model.output_shape[-1])
        self.network.set_weights(initial.get_weights())
        for variable in self.networks.optimizer.variables:
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))


def freeze_all_but_head(model: keras.Model) -> None:
    """Make the last layer with weights the only one that is trained; batch normalisation uses its stored statistics."""
    head = next(layer for layer in reversed(model.layers) if layer.weights)
    for layer in model.layers:
        layer.trainable = layer is head


def reseed(trained: keras.Model, seed: int, epoch: int) -> None:
    """Set every random state in a model to one that depends on seed and epoch alone."""
    for i, state in enumerate(_states(trained)):
        # A key, and where its counter starts: half of the counter's range remains to count in.
        state.assign([derived_seed(seed, "noise", epoch, i), derived_seed(seed, "noise counter", epoch, i) // 2])


def _states(trained: keras.Model) -> list[keras.Variable]:
    return [variable for variable in trained.variables if "seed_generator" in variable.path]
