"""The octnets of before their redesign, for comparison: `octtrain fit SHARDS --model benchmarks.old_octnet:octnet_s`.

Five stages, each of which begins with a strided convolution, the first at full resolution.
"""

from __future__ import annotations

import keras
from keras import layers


def octnet_s(height: int, width: int, classes: int) -> keras.Model:
    """The former octnet-s: 60 million multiplications for an image of 224x224."""
    return _old(height, width, classes, (8, 16, 32, 64, 128), 1)


def octnet_m(height: int, width: int, classes: int) -> keras.Model:
    """The former octnet-m: 410 million multiplications for an image of 224x224."""
    return _old(height, width, classes, (16, 32, 64, 128, 256), 2)


def _old(height: int, width: int, classes: int, widths: tuple[int, ...], blocks: int) -> keras.Model:
    pixels = keras.Input((height, width, 1), dtype="uint8")
    x = layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    for i, channels in enumerate(widths):
        x = _conv(x, channels, 5 if i == 0 else 3, 2)
        for _ in range(blocks if i >= 2 else 0):
            y = layers.Conv2D(channels, 3, padding="same", use_bias=False)(_conv(x, channels))
            y = layers.BatchNormalization(momentum=0.9, gamma_initializer="zeros")(y)
            x = layers.Activation("relu")(layers.Add()([x, y]))
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
    return keras.Model(pixels, layers.Dense(classes, activation="softmax")(layers.Dropout(0.2)(x)))


def _conv(x, channels: int, size: int = 3, stride: int = 1):
    x = layers.Conv2D(channels, size, stride, padding="same", use_bias=False)(x)
    return layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))
