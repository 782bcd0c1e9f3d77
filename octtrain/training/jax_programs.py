"""The compiled programs of a training on JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from octtrain.data.chunks import Chunk
from octtrain.training.objective import Objective, confusion
from octtrain.training.programs import Networks, Totals, inputs_of, pixels_of, targets_of, teaching_of

_BATCH = "batch"  # the axis along which several devices share a batch


class JaxPrograms:
    """See `octtrain.training.programs.Programs`.

    The state of the training is passed from call to call, and the memory of the old one reused for the new one.
    """

    def __init__(
        self, networks: Networks, objective: Objective, *, devices: int = 1, loop_on_device: bool | None = None
    ) -> None:
        self.networks, self.objective = networks, objective
        self.loop_on_device = jax.default_backend() != "cpu" if loop_on_device is None else loop_on_device
        self.mesh = Mesh(np.array(jax.devices()[:devices]), (_BATCH,)) if devices > 1 else None
        self.state: Any = None
        self._train = jax.jit(self._many_steps if self.loop_on_device else self._train_step, donate_argnums=0)
        self._evaluate = jax.jit(self._evaluate_many if self.loop_on_device else self._evaluate_step)

    def place(self, images: NDArray[Any]) -> Any:
        """Images as an array of the device, or shared among the devices by batch."""
        return self._put(images, None, _BATCH) if images.dtype == np.uint8 else self._put(images)

    def train(self, chunk: Chunk, mix: NDArray[np.float32], totals: Totals) -> Totals:
        """Do the steps of a chunk, and add to the totals."""
        if self.state is None:
            self._read_variables()
        rest = (self._teacher(), chunk.images, *self._indices(chunk), self._put(mix))
        sums = tuple(totals)
        for steps in self._calls(chunk):
            self.state, sums = self._train(self.state, sums, *rest, steps)
        return Totals(*sums)

    def evaluate(self, chunk: Chunk, totals: Totals) -> Totals:
        """Classify the batches of a chunk with the model that is kept, and add to the totals."""
        kept = self.networks.kept
        weights = tuple(_values(part) for part in (kept.trainable_variables, kept.non_trainable_variables))
        rest = (self._put_all(weights), chunk.images, *self._indices(chunk))
        sums = tuple(totals)
        for steps in self._calls(chunk):
            sums = self._evaluate(sums, *rest, steps)
        return Totals(*sums)

    def zeros(self) -> Totals:
        """Totals of no images."""
        classes = self.objective.classes
        return Totals(*self._put_all((jnp.zeros(()), jnp.zeros((classes, classes), jnp.int32))))

    def update_variables(self) -> None:
        """Write the state of the training into the variables of networks and optimizer."""
        if self.state is None:
            return
        for variables, values in zip(self._variables(), self.state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        self.state = None

    def _read_variables(self) -> None:
        """Take over the state of the training from these variables."""
        # Copies: the programs give the memory of their state away, and that of the variables may be shared.
        self.state = self._put_all(tuple([jnp.copy(v) for v in _values(part)] for part in self._variables()))

    def compilations(self) -> int:
        """How many programs were compiled for `train` so far."""
        return int(self._train._cache_size())  # type: ignore[attr-defined]

    def _calls(self, chunk: Chunk) -> list[np.int32]:
        """The last argument of every call that does a chunk: how many steps, or which step."""
        return [np.int32(chunk.steps)] if self.loop_on_device else [np.int32(i) for i in range(chunk.steps)]

    def _many_steps(self, state: Any, sums: Any, *rest_and_steps: Any) -> Any:
        *rest, steps = rest_and_steps
        return lax.fori_loop(0, steps, lambda i, carry: self._train_step(carry[0], carry[1], *rest, i), (state, sums))  # type: ignore[call-arg]

    def _train_step(
        self, state: Any, sums: Any, teacher_values: Any, images: Any, order: Any, labels: Any, mix: Any, i: Any
    ) -> Any:
        networks, objective = self.networks, self.objective
        (trainable, others, optimizer), (loss_sum, counts) = state, sums
        pixels, truth = self._batch(images, order, labels, i)
        targets = targets_of(networks, objective, truth, mix[i])
        teacher = None
        if networks.teacher is not None:
            taught, _ = networks.teacher.stateless_call(*teacher_values, pixels, training=False)
            teacher = teaching_of(networks, taught, mix[i])

        def minimised(trainable: Any) -> Any:
            logits, changed, penalties = networks.trained.stateless_call(
                trainable, others, inputs_of(networks, pixels, mix[i]), training=True, return_losses=True
            )
            loss = jnp.sum(objective.losses(logits, targets, teacher))
            return loss / len(truth) + sum(penalties), (loss, logits, changed)

        gradients, (loss, logits, others) = jax.grad(minimised, has_aux=True)(trainable)
        trainable, optimizer = networks.optimizer.stateless_apply(optimizer, gradients, trainable)
        counts = counts + confusion(truth, logits, objective.classes)
        return (trainable, others, optimizer), (loss_sum + loss, counts)

    def _evaluate_many(self, totals: Any, *rest_and_steps: Any) -> Any:
        *rest, steps = rest_and_steps
        return lax.fori_loop(0, steps, lambda i, sums: self._evaluate_step(sums, *rest, i), totals)  # type: ignore[call-arg]

    def _evaluate_step(self, totals: Any, weights: Any, images: Any, order: Any, labels: Any, i: Any) -> Any:
        plain = Objective(class_weights=[1.0] * self.objective.classes)
        pixels, truth = self._batch(images, order, labels, i)
        logits, _ = self.networks.kept.stateless_call(*weights, pixels, training=False)
        loss = jnp.sum(plain.losses(logits, plain.targets(truth)))
        return totals[0] + loss, totals[1] + confusion(truth, logits, plain.classes)

    def _batch(self, images: Any, order: Any, labels: Any, i: Any) -> tuple[Any, Any]:
        """Pixels and labels of step i."""
        if images.dtype != jnp.uint32:
            return images[i], labels[i]
        pixels = pixels_of(images[order[i]], self.networks.image_shape)
        if self.mesh is not None:
            pixels = lax.with_sharding_constraint(pixels, self._sharding(_BATCH))  # type: ignore[no-untyped-call]
        return pixels, labels[i]

    def _variables(self) -> tuple[Any, ...]:
        trained = self.networks.trained
        return trained.trainable_variables, trained.non_trainable_variables, self.networks.optimizer.variables

    def _teacher(self) -> Any:
        teacher = self.networks.teacher
        if teacher is None:
            return None
        return self._put_all(tuple(map(_values, (teacher.trainable_variables, teacher.non_trainable_variables))))

    def _indices(self, chunk: Chunk) -> tuple[Any, Any]:
        return self._put(chunk.order, None, _BATCH), self._put(chunk.labels, None, _BATCH)

    def _put(self, array: Any, *axes: str | None) -> Any:
        """An array on the device, or on all devices; axes: that several devices share."""
        if self.mesh is None:
            return jax.device_put(array)
        if isinstance(array, jax.Array) and not array.is_fully_addressable:  # on the devices of all processes already
            return array
        values = np.asarray(array)
        return jax.make_array_from_callback(values.shape, self._sharding(*axes), lambda part: values[part])

    def _sharding(self, *axes: str | None) -> NamedSharding:
        """How an array lies on several devices, by the names of the axes that they share."""
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]

    def _put_all(self, arrays: Any) -> Any:
        return jax.tree.map(self._put, arrays)


def _values(variables: Sequence[Any]) -> list[Any]:
    return [variable.value for variable in variables]
