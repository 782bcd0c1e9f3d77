"""Running a model on a batch of images, with a plain reason where its output is unusable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    _require_shapes(model.input_shape, model.output_shape, images, classes)
    return _require_numbers(_run(model, images, batch_size), "probabilities")


def predict_with_features(
    model: keras.Model, images: NDArray[np.uint8], classes: int, batch_size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The probabilities, (n, classes), and the features, (n, features), of a model that gives both.

    Arguments and errors as `predict_probabilities`.
    """
    _require_shapes(model.input_shape, model.output_shape[0], images, classes)
    probabilities, features = _run(model, images, batch_size)
    return _require_numbers(probabilities, "probabilities"), _require_numbers(features, "features")


def _require_shapes(
    input_shape: Sequence[int | None], output_shape: Sequence[int | None], images: NDArray[np.uint8], classes: int
) -> None:
    if tuple(input_shape[1:]) != images.shape[1:] or tuple(output_shape[1:]) != (classes,):
        raise ManifestError(
            f"the model takes images of shape {tuple(input_shape[1:])} and gives {tuple(output_shape[1:])} numbers, "
            f"but its run says {images.shape[1:]} and {classes} classes, so it is not this run's model. Put the run's "
            "own model back."
        )


def _run(model: keras.Model, images: NDArray[np.uint8], batch_size: int) -> Any:
    """What a model gives for images, which are filled up to a batch: one array, or several."""
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
    first = slice(len(images))
    return [np.asarray(part)[first] for part in outputs] if isinstance(outputs, list) else np.asarray(outputs)[first]


def _require_numbers(values: Any, what: str) -> NDArray[np.float32]:
    numbers = np.asarray(values, dtype=np.float32)
    if not np.isfinite(numbers).all():
        raise ManifestError(
            f"the model's {what} are not numbers (nan): its training diverged or its file was damaged. Train again "
            "with a lower --lr."
        )
    return numbers


def _is_out_of_memory(error: Exception) -> bool:
    name = type(error).__name__
    return isinstance(error, MemoryError) or name == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)
