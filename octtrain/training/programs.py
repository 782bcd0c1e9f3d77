"""What a training runs on the device: many steps in one call, the same on TensorFlow and JAX.

    Chunk ──train──▶ Totals        `steps` training steps, one after the other
    Chunk ──evaluate──▶ Totals     the same batches through the model that is kept

A chunk has room for a fixed number of steps, and how many of them are done is a number of its own, so that each program
is compiled once in a training, whatever remains at the end of an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from octtrain.data.chunks import Chunk
from octtrain.training.objective import Objective


class Totals(NamedTuple):
    """Sums over the images of some steps, on the device until they are read."""

    loss: Any  # sum of the images' losses, float32
    confusion: Any  # (classes, classes) int32: true class in rows, predicted in columns


@dataclass(frozen=True, kw_only=True)
class Networks:
    """What is trained and what is kept.

    trained: from pixels, and with MixUp also from shares, (n, 1) float32, to logits; augmentation included.  optimizer:
    with its variables.  kept: from pixels to logits, in float32.  teacher: from pixels to probabilities, or None.
    """

    trained: keras.Model
    optimizer: keras.optimizers.Optimizer
    kept: keras.Model
    image_shape: tuple[int, int, int]
    mixup: bool
    teacher: keras.Model | None = None


class Programs(Protocol):
    """The compiled programs of one training, on one backend."""

    def place(self, images: NDArray[Any]) -> Any:
        """Images as an array of the device, which `Chunk` takes; copies, and may return before the copy is done."""

    def train(self, chunk: Chunk, mix: NDArray[np.float32], totals: Totals) -> Totals:
        """Do the steps of a chunk, and add to the totals. mix: (room,) MixUp's share of each step, 0.5 to 1."""

    def evaluate(self, chunk: Chunk, totals: Totals) -> Totals:
        """Classify the batches of a chunk with the model that is kept, and add to the totals."""

    def zeros(self) -> Totals:
        """Totals of no images."""

    def update_variables(self) -> None:
        """Write the state of the training into the variables of networks and optimizer, from where `train` goes on."""

    def compilations(self) -> int:
        """How many programs were compiled for `train` so far."""


def make_programs(
    networks: Networks, objective: Objective, *, jit: bool, devices: int = 1, loop_on_device: bool | None = None
) -> Programs:
    """The programs for the backend that Keras runs on.

    jit: compile with XLA on TensorFlow; on JAX all is.  devices: GPUs that share every batch.  loop_on_device: whether
    the steps of a chunk are a loop in the compiled program, on JAX; None: on a GPU. On a CPU, XLA runs convolutions in
    a loop on one core, and ten times slower.
    """
    if keras.backend.backend() == "jax":
        from octtrain.training.jax_programs import JaxPrograms

        return JaxPrograms(networks, objective, devices=devices, loop_on_device=loop_on_device)
    from octtrain.training.tensorflow_programs import TensorFlowPrograms

    return TensorFlowPrograms(networks, objective, jit=jit)


def pixels_of(rows: Any, image_shape: tuple[int, int, int]) -> Any:
    """The reverse of `octtrain.data.chunks.words`, on the device: (n, words) uint32 to (n, height, width, 1) uint8."""
    height, width, channels = image_shape
    size = height * width * channels
    if keras.backend.backend() == "jax":
        from jax import lax, numpy

        flat = lax.bitcast_convert_type(rows, numpy.uint8)
    else:
        import tensorflow as tf

        flat = tf.bitcast(rows, tf.uint8)
    flat = ops.reshape(flat, (-1, rows.shape[1] * 4))[:, :size]
    return ops.reshape(flat, (-1, height, width, channels))


def inputs_of(networks: Networks, pixels: Any, mix: Any) -> Any:
    """What the trained network takes: pixels, and with MixUp a share for each image."""
    if not networks.mixup:
        return pixels
    return [pixels, ops.ones((ops.shape(pixels)[0], 1), dtype="float32") * mix]


def targets_of(networks: Networks, objective: Objective, labels: Any, mix: Any) -> Any:
    """(n, classes) targets of labels; with MixUp each mixed with that of its partner, as the images are."""
    return _mixed(networks, objective.targets(labels), mix)


def teaching_of(networks: Networks, probabilities: Any, mix: Any) -> Any:
    """(n, classes) probabilities that a student is to come near: the teacher's; with MixUp mixed as the labels are."""
    return _mixed(networks, probabilities, mix)


def _mixed(networks: Networks, values: Any, mix: Any) -> Any:
    """Values of images; with MixUp each mixed with that of its partner."""
    return mix * values + (1 - mix) * ops.flip(values, axis=0) if networks.mixup else values
