"""The compiled programs of a training on TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from octtrain.data.chunks import Chunk
from octtrain.training.objective import Objective, confusion
from octtrain.training.programs import Networks, Totals, inputs_of, pixels_of, targets_of, teaching_of


class TensorFlowPrograms:
    """See `octtrain.training.programs.Programs`.

    Made inside the scope of a distribution strategy, every batch is shared among its replicas, each of which has its
    own batch normalisation.
    """

    def __init__(self, networks: Networks, objective: Objective, *, jit: bool) -> None:
        self.networks, self.objective = networks, objective
        self.strategy = tf.distribute.get_strategy()
        self._train = tf.function(self._train_steps, jit_compile=jit)
        self._evaluate = tf.function(self._evaluate_steps, jit_compile=jit)

    def place(self, images: NDArray[Any]) -> Any:
        """Images as a tensor of the device."""
        return tf.convert_to_tensor(images)

    def train(self, chunk: Chunk, mix: NDArray[np.float32], totals: Totals) -> Totals:
        """Do the steps of a chunk, and add to the totals."""
        return Totals(*self._train(*_tensors(chunk), tf.constant(mix), *totals))

    def evaluate(self, chunk: Chunk, totals: Totals) -> Totals:
        """Classify the batches of a chunk with the model that is kept, and add to the totals."""
        return Totals(*self._evaluate(*_tensors(chunk), *totals))

    def zeros(self) -> Totals:
        """Totals of no images."""
        classes = self.objective.classes
        return Totals(tf.zeros(()), tf.zeros((classes, classes), tf.int32))

    def update_variables(self) -> None:
        """Nothing to do: the programs read and change the variables themselves."""

    def compilations(self) -> int:
        """How many programs were compiled for `train` so far."""
        return int(self._train.experimental_get_tracing_count())

    def _train_steps(
        self, images: Any, order: Any, labels: Any, steps: Any, mix: Any, loss: Any, counts: Any
    ) -> tuple[Any, Any]:
        def step(i: Any) -> tuple[Any, Any]:
            return self._train_step(*self._batch(images, order, labels, i), mix[i], order.shape[1])

        for i in tf.range(steps):
            step_loss, step_counts = self.strategy.run(step, args=(i,))
            loss += self.strategy.reduce("SUM", step_loss, axis=None)
            counts += self.strategy.reduce("SUM", step_counts, axis=None)
        return loss, counts

    def _train_step(self, pixels: Any, labels: Any, mix: Any, batch_size: int) -> tuple[Any, Any]:
        networks = self.networks
        variables = networks.trained.trainable_variables
        targets = targets_of(networks, self.objective, labels, mix)
        teacher = None
        if networks.teacher is not None:
            teacher = teaching_of(networks, networks.teacher(pixels, training=False), mix)
        with tf.GradientTape() as tape:
            logits = networks.trained(inputs_of(networks, pixels, mix), training=True)
            loss = tf.reduce_sum(self.objective.losses(logits, targets, teacher))
            penalty = sum(networks.trained.losses) / self.strategy.num_replicas_in_sync
            minimised = loss / batch_size + penalty  # of the whole batch: replicas add up their gradients
        networks.optimizer.apply(tape.gradient(minimised, variables), variables)
        return loss, confusion(labels, logits, self.objective.classes)

    def _evaluate_steps(
        self, images: Any, order: Any, labels: Any, steps: Any, loss: Any, counts: Any
    ) -> tuple[Any, Any]:
        plain = Objective(class_weights=[1.0] * self.objective.classes)
        for i in tf.range(steps):
            pixels, truth = _batch(images, order, labels, i, 0, 1, self.networks.image_shape)
            logits = self.networks.kept(pixels, training=False)
            loss += tf.reduce_sum(plain.losses(logits, plain.targets(truth)))
            counts += confusion(truth, logits, plain.classes)
        return loss, counts

    def _batch(self, images: Any, order: Any, labels: Any, i: Any) -> tuple[Any, Any]:
        """Pixels and labels of this replica's part of step i."""
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group
        return _batch(images, order, labels, i, replica, context.num_replicas_in_sync, self.networks.image_shape)


def _batch(
    images: Any, order: Any, labels: Any, i: Any, part: Any, parts: int, image_shape: tuple[int, int, int]
) -> tuple[Any, Any]:
    size = order.shape[1] // parts
    start = part * size
    truth = labels[i][start : start + size] if parts > 1 else labels[i]
    if images.dtype == tf.uint32:
        rows = order[i][start : start + size] if parts > 1 else order[i]
        pixels = pixels_of(tf.gather(images, rows), image_shape)
    else:
        pixels = images[i][start : start + size] if parts > 1 else images[i]
    return tf.ensure_shape(pixels, (size, *image_shape)), tf.ensure_shape(truth, (size,))


def _tensors(chunk: Chunk) -> tuple[Any, ...]:
    order, labels = (tf.convert_to_tensor(array, tf.int32) for array in (chunk.order, chunk.labels))
    return tf.convert_to_tensor(chunk.images), order, labels, tf.constant(chunk.steps, tf.int32)
