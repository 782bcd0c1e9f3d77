"""OctNet: small residual networks that train on a CPU (He et al. 2016, with strided convolutions between stages).

`benchmarks/octnet_designs.py` measures stems and stages beside each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import layers

from octprep.format.errors import SettingError
from octtrain.models.parts import pool, require_side
from octtrain.models.weights import require_weights_file

# Batch statistics are averaged over about the last ten steps: a small dataset has few more in an epoch.
_MOMENTUM = 0.9


def octnet(pixels: Any, weights: str, *, widths: Sequence[int], blocks: Sequence[int], stem: int, stride: int) -> Any:
    """Features of a small residual network, (n, 2 * widths[-1]): means and maxima over the last stage.

    pixels: (n, height, width, 1) uint8 in 0..255, at least 16x16.  weights: none or a file of this model.  widths:
    channels of each stage; between two of them a strided convolution halves the sides.  blocks: residual blocks of each
    stage.  stem, stride: side and stride of the first convolution, pixels.  Raises SettingError for smaller images or
    other weights.
    """
    if weights == "imagenet":
        raise SettingError("there are no imagenet weights for the octnets; use --weights none or a file of this model")
    require_weights_file(weights)
    require_side("an octnet", pixels, 16)
    x = layers.Rescaling(1 / 127.5, offset=-1, dtype="float32")(pixels)  # -1..1
    for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        x = _conv(x, width, stem, stride) if i == 0 else _conv(x, width, 3, 2)
        for _ in range(count):
            x = _residual(x, width)
    # the mean shows what is everywhere, the maximum what is at a single location, such as one druse
    return pool(x, maximum=True)


def _conv(x: Any, width: int, size: int = 3, stride: int = 1) -> Any:
    x = layers.Conv2D(width, size, stride, padding="same", use_bias=False)(x)
    return layers.Activation("relu")(layers.BatchNormalization(momentum=_MOMENTUM)(x))


def _residual(x: Any, width: int) -> Any:
    y = layers.Conv2D(width, 3, padding="same", use_bias=False)(_conv(x, width))
    # gamma starts at zero, so that every block starts as the identity
    y = layers.BatchNormalization(momentum=_MOMENTUM, gamma_initializer="zeros")(y)
    return layers.Activation("relu")(layers.Add()([x, y]))
