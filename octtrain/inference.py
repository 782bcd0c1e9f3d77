"""Running a model on a batch of images, with a plain reason where its output is unusable."""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray

from octprep.format.errors import ManifestError, StoppedError


def predict_probabilities(
    model: keras.Model, images: NDArray[np.uint8], classes: int, batch_size: int
) -> NDArray[np.float32]:
    """The class probabilities of a model: (n, classes) float32, 0..1.

    images: (n, height, width, 1) uint8 in 0..255, at most `batch_size`. Fewer are filled up with black ones, so that
    the model is compiled once for all calls.

    Raises ManifestError if the model is not made for such images or so
    many classes, or its output is not finite; StoppedError if the memory, of the machine or of its GPU, is too small.
    """
    require_shapes(model, images.shape[1:], classes)
    probabilities = run_batch(model, images, batch_size)[0]
    require_finite(probabilities)
    return probabilities


def predict_with_features(
    model: keras.Model, images: NDArray[np.uint8], classes: int, batch_size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The probabilities, (n, classes), and the features, (n, features), of a model that gives both.

    Arguments and errors as `predict_probabilities`.
    """
    require_shapes(model, images.shape[1:], classes)
    probabilities, features = run_batch(model, images, batch_size)
    require_finite(probabilities)
    require_finite(features, "features")
    return probabilities, features


def require_shapes(model: keras.Model, image_shape: tuple[int, ...], classes: int) -> None:
    """Raise ManifestError if a model is not made for images of a shape, (height, width, 1), and so many classes.

    Of a model with several outputs, the probabilities are the first.
    """
    outputs = model.output_shape
    input_shape, output_shape = tuple(model.input_shape), tuple(outputs[0] if isinstance(outputs, list) else outputs)
    if input_shape[1:] != image_shape or output_shape[1:] != (classes,):
        raise ManifestError(
            f"the model takes images of shape {input_shape[1:]} and gives {output_shape[1:]} numbers, but its run says "
            f"{image_shape} and {classes} classes, so it is not this run's model. Put the run's own model back."
        )


def require_finite(values: NDArray[np.float32], what: str = "probabilities") -> None:
    """Raise ManifestError if a model's probabilities, or what else it gives, are not numbers."""
    if not np.isfinite(values).all():
        raise ManifestError(
            f"the model's {what} are not numbers (nan): its training diverged or its file was damaged. Train again "
            "with a lower --lr."
        )


def run_batch(model: keras.Model, images: NDArray[np.uint8], batch_size: int) -> list[NDArray[np.float32]]:
    """Every output of a model: (n, ...) float32 each.

    images: (n, height, width, 1) uint8 in 0..255, at most `batch_size`, to which black ones are added. Raises
    StoppedError if the memory is too small.
    """
    batch = np.pad(images, [(0, batch_size - len(images)), (0, 0), (0, 0), (0, 0)])
    try:
        outputs = model.predict_on_batch(batch)
    except Exception as error:  # every backend has its own type for this
        if not _is_out_of_memory(error):
            raise
        raise StoppedError(
            f"there is not enough memory to run the model on {batch_size} images at a time; end other programs that "
            "use this machine's memory or its GPU, then run the same command again."
        ) from None
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [np.asarray(output, dtype=np.float32)[: len(images)] for output in outputs]


def _is_out_of_memory(error: Exception) -> bool:
    name = type(error).__name__
    return isinstance(error, MemoryError) or name == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)
