"""OctNet: small residual networks that train on a CPU (He et al. 2016, with strided convolutions between stages)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import layers

from octprep.format.errors import SettingError
from octtrain.models.weights import require_weights_file

# Batch statistics are averaged over the last few tens of steps: a small dataset has not many more in an epoch.
_MOMENTUM = 0.9


def octnet(pixels: Any, weights: str, *, widths: Sequence[int], blocks: int) -> Any:
    """Features of a small residual network. Each stage halves the sides by a strided convolution of every pixel."""
    if weights == "imagenet":
        raise SettingError("there are no imagenet weights for the octnets; use --weights none or a file of this model")
    require_weights_file(weights)
    x = layers.Rescaling(1 / 127.5, offset=-1)(pixels)  # -1..1
    for i, width in enumerate(widths):
        x = _conv(x, width, size=5 if i == 0 else 3, stride=2)
        for _ in range(
            blocks if i >= 2 else 0
        ):  # at full resolution a block costs most and has the smallest field of view
            x = _residual(x, width)
    # the mean reacts to what is everywhere, the maximum to what is at one location only, such as a single druse
    return layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])


def _conv(x: Any, width: int, size: int = 3, stride: int = 1) -> Any:
    x = layers.Conv2D(width, size, stride, padding="same", use_bias=False)(x)
    return layers.Activation("relu")(layers.BatchNormalization(momentum=_MOMENTUM)(x))


def _residual(x: Any, width: int) -> Any:
    y = layers.Conv2D(width, 3, padding="same", use_bias=False)(_conv(x, width))
    # gamma starts at zero, so that every block starts as the identity
    y = layers.BatchNormalization(momentum=_MOMENTUM, gamma_initializer="zeros")(y)
    return layers.Activation("relu")(layers.Add()([x, y]))
