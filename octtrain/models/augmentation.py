"""Augmentation of training images, as a layer in front of the model that is trained."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
from keras import layers, ops


def with_augmentation(model: keras.Model, seed: int) -> keras.Model:
    """A model with an `Augment` in front. It shares the weights of `model`: train this one, and save `model`."""
    pixels = keras.Input(model.input_shape[1:], name="pixels", dtype="uint8")
    return keras.Model(pixels, model(Augment(seed)(pixels)), name=f"{model.name}-augmented")


class Augment(layers.Layer):  # type: ignore[misc]
    """Random changes that another B-scan of the same retina might show: shift, tilt, mirroring, brightness, speckle.

    (n, h, w, 1) uint8 in 0..255 to the same shape, type and range; at inference nothing is changed. One gather an
    image: columns slide up and down by a whole number of pixels, which both shifts and tilts the retina. It is never
    turned upside down. Above and below, the outermost row is repeated; at the sides the image is mirrored.
    """

    def __init__(
        self,
        seed: int,
        *,
        shift: float = 0.08,  # at most, as a fraction of the side, in either direction
        tilt: float = 0.12,  # at most, rows per column: 0.12 is 7 degrees
        gain: float = 0.2,  # brightness times 1 - gain to 1 + gain
        speckle: float = 0.12,  # largest standard deviation of the multiplicative noise
    ) -> None:
        super().__init__()
        self.shift, self.tilt, self.gain, self.speckle = shift, tilt, gain, speckle
        self.random = keras.random.SeedGenerator(seed)

    def call(self, pixels: Any, training: bool = False) -> Any:
        """Pixels, changed at random if training."""
        if not training:
            return pixels
        _, height, width, _ = pixels.shape
        n = ops.shape(pixels)[0]
        draw = partial(keras.random.uniform, (n, 1, 1), dtype="float32", seed=self.random)

        columns = ops.reshape(ops.arange(width, dtype="float32"), (1, 1, width))
        rows = ops.reshape(ops.arange(height, dtype="float32"), (1, height, 1))
        rows = rows + draw(-self.shift * height, self.shift * height)
        rows = rows + draw(-self.tilt, self.tilt) * (columns - (width - 1) / 2)  # (n, h, w)
        rows = ops.clip(ops.round(rows), 0, height - 1)
        columns = columns + ops.round(draw(-self.shift * width, self.shift * width))  # (n, 1, w)
        columns = (width - 1) - ops.abs((width - 1) - ops.abs(columns))  # mirrored at both sides
        columns = ops.where(draw(0, 1) < 0.5, columns, (width - 1) - columns)
        source = ops.cast(rows, "int32") * width + ops.cast(columns, "int32")  # (n, h, w), index into an image
        flat = ops.reshape(pixels, (n, height * width))
        moved = ops.take_along_axis(flat, ops.reshape(source, (n, height * width)), axis=1)

        noise = keras.random.normal((n, height * width), dtype="float32", seed=self.random)
        factor = draw(1 - self.gain, 1 + self.gain)[:, 0] * (1 + draw(0, self.speckle)[:, 0] * noise)
        changed = ops.clip(ops.round(ops.cast(moved, "float32") * factor), 0, 255)
        return ops.reshape(ops.cast(changed, "uint8"), (n, height, width, 1))
