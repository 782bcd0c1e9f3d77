"""OctNet: small residual networks that train on a CPU (He et al. 2016, with strided convolutions between stages)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import layers

from octprep.format.errors import SettingError
from octtrain.models.weights import require_weights_file

# Batch statistics are averaged over about the last ten steps: a small dataset has few more in an epoch.
_MOMENTUM = 0.9


def octnet(pixels: Any, weights: str, *, widths: Sequence[int], blocks: int) -> Any:
    """Features of a small residual network, (n, 2 * widths[-1]): means and maxima over the last stage.

    pixels: (n, height, width, 1) uint8 in 0..255.  weights: none or a file of this model.  widths: channels of each
    stage, which halves the sides by a strided convolution.  blocks: residual blocks in a stage. Raises SettingError for
    other weights.
    """
    if weights == "imagenet":
        raise SettingError("there are no imagenet weights for the octnets; use --weights none or a file of this model")
    require_weights_file(weights)
    x = layers.Rescaling(1 / 127.5, offset=-1)(pixels)  # -1..1
    for i, width in enumerate(widths):
        x = _conv(x, width, size=5 if i == 0 else 3, stride=2)
        # none in the first two stages: at high resolution a block costs most and sees least of the image
        for _ in range(blocks if i >= 2 else 0):
            x = _residual(x, width)
    # the mean shows what is everywhere, the maximum what is at a single location, such as one druse
    return layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])


def _conv(x: Any, width: int, size: int = 3, stride: int = 1) -> Any:
    x = layers.Conv2D(width, size, stride, padding="same", use_bias=False)(x)
    return layers.Activation("relu")(layers.BatchNormalization(momentum=_MOMENTUM)(x))


def _residual(x: Any, width: int) -> Any:
    y = layers.Conv2D(width, 3, padding="same", use_bias=False)(_conv(x, width))
    # gamma starts at zero, so that every block starts as the identity
    y = layers.BatchNormalization(momentum=_MOMENTUM, gamma_initializer="zeros")(y)
    return layers.Activation("relu")(layers.Add()([x, y]))
