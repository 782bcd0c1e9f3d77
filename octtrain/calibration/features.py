"""What a model is asked besides probabilities: its pooled features, and how unlike the training's scans an image is."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from octtrain.calibration.pixel_statistics import pixel_statistics
from octtrain.calibration.unfamiliar import Distances, TrainingScans
from octtrain.inference import predict_with_features
from octtrain.models.parts import last_dense_layer, logits_model

POOLED, LOGITS = "pooled features", "logits"
MAX_FEATURES = 4096  # whose covariances take 2 * 64 MB as float32; of more the logits are used


def pooled_features(model: keras.Model) -> Any:
    """The tensor that the last dense layer of a model takes, (n, features); None if it does not end in one."""
    dense = last_dense_layer(model)
    return dense.input if dense is not None and len(dense.input.shape) == 2 else None


def with_features(model: keras.Model) -> tuple[keras.Model, str]:
    """A model that gives probabilities, (n, classes), and features, (n, features); and which features these are.

    They are the pooled features, or the logits of a model of the user's own that does not end in a dense layer, or in
    one of more than MAX_FEATURES. All layers are shared with `model`.
    """
    features, kind = pooled_features(model), POOLED
    if features is None or features.shape[1] > MAX_FEATURES:
        features, kind = logits_model(model).outputs[0], LOGITS
    return keras.Model(model.inputs[0], [model.outputs[0], features], name=f"{model.name}-features"), kind


def predict_with_distances(
    model: keras.Model, scans: TrainingScans, images: NDArray[np.uint8], classes: int, batch_size: int
) -> tuple[NDArray[np.float32], Distances]:
    """Probabilities, (n, classes), and distances from the training's scans. model: of `with_features`.

    images: (n, height, width, 1) uint8 in 0..255, at most `batch_size`. Raises what `predict_with_features` raises.
    """
    probabilities, features = predict_with_features(model, images, classes, batch_size)
    return probabilities, scans.distances(features, pixel_statistics(images[..., 0]))
