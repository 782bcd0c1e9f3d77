"""The evidence for each class at each place of the last feature map: a class activation map (Zhou et al. 2016).

A built-in model pools its last feature map f, (rows, columns, channels), and gives the result to one dense layer:

    logit = bias + sum over channels of weight_mean * mean of f + weight_max * maximum of f

A mean is a sum over places, and a maximum stands at a place, or is shared by several that reach it. So the logit is the
bias and a sum over places, which is exact, needs no gradient, and is computed here by NumPy for every backend. Dropout
before the dense layer changes nothing at inference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from octtrain.models.parts import last_dense_layer, layer_of, softmax_layer

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """How a model comes from its last feature map to its logits."""

    feature_map: Any  # Keras' tensor, (n, rows, columns, channels)
    mean: Float64  # (channels, classes), weights of the means over all places
    maximum: Float64  # (channels, classes), weights of the maxima
    bias: Float64  # (classes,)


def find_head(model: keras.Model) -> Head | None:
    """The head of a model that ends in global pooling, one dense layer and a softmax; None if it ends otherwise.

    Looked for by the layers themselves and not by their names, so that a model of the user's own has one too.
    """
    dense = last_dense_layer(model)
    if softmax_layer(model) is None or dense is None or dense.activation is not keras.activations.linear:
        return None
    pooled = _skip_identities(model, dense.input)
    joined = layer_of(model, pooled)
    parts = list(joined.input) if type(joined) is layers.Concatenate else [pooled]
    poolings = [layer_of(model, part) for part in parts]
    kinds = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
    if any(type(pooling) not in kinds or pooling.data_format != "channels_last" for pooling in poolings):
        return None
    feature_map = poolings[0].input
    if any(pooling.input is not feature_map or pooling.keepdims for pooling in poolings):
        return None
    kernel = np.asarray(dense.kernel, np.float64)
    weights = {kind: np.zeros((feature_map.shape[-1], kernel.shape[1])) for kind in kinds}
    for pooling, part in zip(poolings, np.split(kernel, len(poolings)), strict=True):
        weights[type(pooling)] += part
    bias = np.asarray(dense.bias, np.float64) if dense.use_bias else np.zeros(kernel.shape[1])
    return Head(feature_map, weights[kinds[0]], weights[kinds[1]], bias)


def evidence(feature_map: NDArray[np.float32], head: Head) -> Float64:
    """What each place adds to each logit: (n, rows, columns, classes). Its sum over places and the bias is the logit.

    feature_map: (n, rows, columns, channels), what the model computes as `head.feature_map`.
    """
    f = feature_map.astype(np.float64)
    _, rows, columns, _ = f.shape
    is_maximum = f == f.max(axis=(1, 2), keepdims=True)
    shared = f * is_maximum / is_maximum.sum(axis=(1, 2), keepdims=True)
    return np.asarray(f @ (head.mean / (rows * columns)) + shared @ head.maximum)


def _skip_identities(model: keras.Model, tensor: Any) -> Any:
    """What a tensor was before layers that change nothing at inference."""
    while type(layer := layer_of(model, tensor)) in (layers.Dropout, layers.Identity, layers.GaussianNoise):
        tensor = layer.input
    return tensor
