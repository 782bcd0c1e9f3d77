"""What a training minimises and counts, from logits, in Keras' backend-neutral operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops

DISTILLATION_TEMPERATURE = 4.0  # at which teacher and student are compared (Hinton et al. 2015, arXiv:1503.02531)
DISTILLATION_SHARE = 0.7  # of the loss; the labels have the rest


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of a training.

    class_weights: of every class.  label_smoothing: share of a label's probability that is spread over all classes
    (Szegedy et al. 2016, arXiv:1512.00567).
    """

    class_weights: Sequence[float]
    label_smoothing: float = 0.0

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_weights)

    def targets(self, labels: Any) -> Any:
        """(n,) class index to (n, classes) float32: smoothed probabilities times the class weights.

        A label of -1, which fills a batch, gives zeros, and so no loss.
        """
        hard = ops.one_hot(labels, self.classes, dtype="float32")
        smooth = hard * (1 - self.label_smoothing)
        smooth = smooth + ops.sum(hard, axis=-1, keepdims=True) * (self.label_smoothing / self.classes)
        return smooth * ops.reshape(ops.convert_to_tensor(self.class_weights, "float32"), (1, self.classes))

    def losses(self, logits: Any, targets: Any, teacher_probabilities: Any = None) -> Any:
        """The loss of every image: (n,) float32.

        The cross-entropy of logits, (n, classes), and targets. With a teacher's probabilities, (n, classes), mixed with
        the Kullback-Leibler divergence between the softened predictions, times the squared temperature.
        """
        loss = -ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1)
        if teacher_probabilities is None:
            return loss
        temperature = DISTILLATION_TEMPERATURE
        log_teacher = ops.log(ops.clip(teacher_probabilities, 1e-7, 1.0))
        log_teacher = ops.log_softmax(log_teacher / temperature, axis=-1)
        difference = log_teacher - ops.log_softmax(logits / temperature, axis=-1)
        divergence = ops.sum(ops.exp(log_teacher) * difference, axis=-1) * temperature**2
        return (1 - DISTILLATION_SHARE) * loss + DISTILLATION_SHARE * divergence


def confusion(labels: Any, logits: Any, classes: int) -> Any:
    """How many images of each class, in rows, were predicted to be of each, in columns: (classes, classes) int32.

    labels: (n,) class index, or -1 for an image that does not count.
    """
    truth = ops.one_hot(labels, classes, dtype="float32")
    predicted = ops.one_hot(ops.argmax(logits, axis=-1), classes, dtype="float32")
    return ops.cast(ops.matmul(ops.transpose(truth), predicted), "int32")  # exact: a batch has less than 2**24 images
