"""What the built-in networks have in common: a smallest image, the pooling of their last feature map, and the head.

All of them end in

    features        (n, rows, columns, channels) float32, the last feature map
    pooling         (n, channels), or (n, 2 * channels): means, and for some networks maxima
    logits          (n, classes) float32, the only dense layer
    probabilities   (n, classes) float32, their softmax

so a logit is a bias and a sum over channels and places of the last feature map.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from octprep.format.errors import SettingError

FEATURES, LOGITS, PROBABILITIES = "features", "logits", "probabilities"  # names of layers
_FLOAT32 = "float32"  # of all that follows the last feature map, also where the network computes in half precision
_MIN_PROBABILITY = 1e-7  # whose logarithm stands for all smaller ones


def require_side(name: str, pixels: Any, side: int) -> None:
    """Raise SettingError unless images, (n, height, width, 1), have at least `side` pixels in height and width."""
    height, width = pixels.shape[1:3]
    if min(height, width) < side:
        raise SettingError(f"{name} needs images of at least {side}x{side}; these are {height}x{width}")


def pool(feature_map: Any, *, maximum: bool = False) -> Any:
    """Means over the places of a feature map, (n, channels); with `maximum` also its maxima, (n, 2 * channels)."""
    feature_map = layers.Identity(dtype=_FLOAT32, name=FEATURES)(feature_map)
    means = layers.GlobalAveragePooling2D(dtype=_FLOAT32, name="mean")(feature_map)
    if not maximum:
        return means
    maxima = layers.GlobalMaxPooling2D(dtype=_FLOAT32, name="maximum")(feature_map)
    return layers.Concatenate(dtype=_FLOAT32)([means, maxima])


def classify(pooled: Any, class_count: int) -> Any:
    """Probabilities, (n, class_count), from what `pool` gives."""
    pooled = layers.Dropout(0.2, dtype=_FLOAT32)(pooled)
    logits = layers.Dense(class_count, dtype=_FLOAT32, name=LOGITS)(pooled)
    return layers.Activation("softmax", dtype=_FLOAT32, name=PROBABILITIES)(logits)


def last_feature_map(model: keras.Model) -> Any:
    """The tensor before the global pooling of a built-in network, (n, rows, columns, channels) float32.

    Raises SettingError if the model has none by that name: it is the user's own.
    """
    try:
        return model.get_layer(FEATURES).output
    except ValueError:
        raise SettingError(
            f"the model {model.name} has no layer called {FEATURES!r}, which all built-in models have: the last "
            "feature map, before the global pooling"
        ) from None


def logits_model(model: keras.Model) -> keras.Model:
    """A model from the same pixels to logits, (n, classes) float32. It shares all layers of `model`.

    model: one that gives probabilities, of `octtrain.models.build_model` or a saved one. If it does not end in a
    softmax layer, its logits are the logarithms of its probabilities, of at least 1e-7: their softmax is the same.
    """
    softmax = softmax_layer(model)
    if softmax is not None:
        logits = softmax.input
    else:
        logits = ops.log(ops.clip(ops.cast(model.outputs[0], _FLOAT32), _MIN_PROBABILITY, 1.0))
    if logits.dtype != _FLOAT32:
        logits = ops.cast(logits, _FLOAT32)
    return keras.Model(model.inputs[0], logits, name=f"{model.name}-logits")


def softmax_layer(model: keras.Model) -> Any:
    """The layer that gives a model's output, if it is nothing but a softmax over the classes; otherwise None."""
    layer = output_layer(model)
    if type(layer) is layers.Activation and layer.activation is keras.activations.softmax:
        return layer
    return layer if type(layer) is layers.Softmax and layer.axis == -1 else None


def last_dense_layer(model: keras.Model) -> Any:
    """The dense layer that a model ends in, with nothing but a softmax over the classes after it; otherwise None."""
    softmax = softmax_layer(model)
    layer = output_layer(model) if softmax is None else layer_of(model, softmax.input)
    return layer if type(layer) is layers.Dense else None


def output_layer(model: keras.Model) -> Any:
    """The layer that gives a model's only output; None if that is an operation, or a layer that is used twice."""
    return layer_of(model, model.outputs[0])


def layer_of(model: keras.Model, tensor: Any) -> Any:
    """The layer of a model that gives a tensor; None if that is an operation, or a layer that is used twice."""
    for layer in reversed(model.layers):
        try:
            if layer.output is tensor:
                return layer
        except (AttributeError, ValueError):  # Keras: it was called several times, so it has several outputs
            continue
    return None
