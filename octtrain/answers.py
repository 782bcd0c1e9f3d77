"""What a model says of a batch of images, and a plain reason where that is nothing to go by."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from octprep.format.errors import ManifestError, StoppedError


def answer(model: keras.Model, images: NDArray[np.uint8], classes: int) -> NDArray[np.float32]:
    """The probabilities that a model gives: (n, classes) float32, 0..1.

    images: (n, height, width, 1) uint8 in 0..255. Raises ManifestError if the model is not made for such images or so
    many classes, or gives what is no number; StoppedError if the memory, of the machine or of its GPU, is too small.
    """
    takes, gives = tuple(model.input_shape), tuple(model.output_shape)
    if takes[1:] != images.shape[1:] or gives[1:] != (classes,):
        raise ManifestError(
            f"the model takes images of shape {takes[1:]} and gives {gives[1:]} numbers, but its run says "
            f"{images.shape[1:]} and {classes} classes, so it is not the run's. Put back the model that belongs there."
        )
    try:
        found = np.asarray(model.predict_on_batch(images), dtype=np.float32)
    except Exception as error:  # every backend has its own for this
        if not _is_memory(error):
            raise
        raise StoppedError(
            f"there is not enough memory to run the model on {len(images)} images at a time; end other programs that "
            "use this machine's memory or its GPU, then run the same command again."
        ) from None
    if not np.isfinite(found).all():
        raise ManifestError(
            "the model's answers are no numbers (nan), so nothing can be said with it: its training went astray or its "
            "file was damaged. Train again with a lower --lr."
        )
    return found


def _is_memory(error: Any) -> bool:
    name = type(error).__name__
    return isinstance(error, MemoryError) or name == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)
