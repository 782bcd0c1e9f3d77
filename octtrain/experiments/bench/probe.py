"""A network that hardly computes anything, to measure what happens to the images before a network gets them."""

from __future__ import annotations

import keras
from keras import layers


def mean_brightness(height: int, width: int, classes: int) -> keras.Model:
    """Classify images, (n, height, width, 1) uint8, by their mean alone."""
    pixels = keras.Input((height, width, 1), dtype="uint8")
    mean = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(pixels))
    return keras.Model(pixels, layers.Dense(classes, activation="softmax", dtype="float32")(mean))
