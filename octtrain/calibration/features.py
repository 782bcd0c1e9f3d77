"""What a model is asked besides probabilities: its pooled features, and how unlike the training's scans an image is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from octtrain.calibration.pixel_statistics import pixel_statistics, relative_noise
from octtrain.calibration.unfamiliar import Distances, TrainingScans
from octtrain.inference import predict_with_features
from octtrain.models.parts import last_dense_layer, logits_model, output_layer

POOLED, LOGITS = "pooled features", "logits"
MAX_FEATURES = 4096  # whose covariances take 2 * 64 MB as float32; of more the logits are used


def pooled_features(model: keras.Model) -> Any:
    """The tensor that the last dense layer of a model takes, (n, features); None if it does not end in one."""
    dense = last_dense_layer(model)
    return dense.input if dense is not None and len(dense.input.shape) == 2 else None


def with_features(model: keras.Model) -> tuple[keras.Model, str]:
    """A model that gives probabilities, (n, classes), and features, (n, features); and which features these are.

    They are the pooled features, or the logits of a model of the user's own that does not end in a dense layer, or in
    one of more than MAX_FEATURES. Those of an ensemble are the features of its members, one after the other. All layers
    are shared with `model`.
    """
    if members := _members(model):
        return _joined([with_features(member) for member in members])
    features, kind = pooled_features(model), POOLED
    if features is None or features.shape[1] > MAX_FEATURES:
        features, kind = logits_model(model).outputs[0], LOGITS
    return keras.Model(model.inputs[0], [model.outputs[0], features], name=f"{model.name}-features"), kind


def _members(model: keras.Model) -> list[keras.Model]:
    """The members of a model that `octtrain.runs.ensemble.mean_of` made; none of any other model."""
    average = output_layer(model)
    members = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return members if type(average) is layers.Average and len(average.input) == len(members) else []


def _joined(networks: Sequence[tuple[keras.Model, str]]) -> tuple[keras.Model, str]:
    """The same as `with_features`, for the mean of several of its results."""
    pixels = keras.Input(networks[0][0].input_shape[1:], dtype="uint8")
    outputs = [network(pixels, training=False) for network, _ in networks]
    mean = layers.Average(dtype="float32")([probabilities for probabilities, _ in outputs])
    features = layers.Concatenate(dtype="float32")([features for _, features in outputs])
    return keras.Model(pixels, [mean, features]), networks[0][1]


def predict_with_distances(
    model: keras.Model, scans: TrainingScans, images: NDArray[np.uint8], classes: int, batch_size: int
) -> tuple[NDArray[np.float32], Distances]:
    """Probabilities, (n, classes), and distances from the training's scans. model: of `with_features`.

    images: (n, height, width, 1) uint8 in 0..255, at most `batch_size`. Raises what `predict_with_features` raises.
    """
    probabilities, features = predict_with_features(model, images, classes, batch_size)
    pixels = images[..., 0]
    return probabilities, scans.distances(features, pixel_statistics(pixels), relative_noise(pixels))
