"""Augmentation of training images, as a layer in front of the model that is trained."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
from keras import layers, ops


def augmented(model: keras.Model, seed: int, *, strength: float = 1.0, mixup: bool = False) -> keras.Model:
    """A model with `Augment` of some strength, and perhaps `MixUp`, in front. It shares the weights of `model`.

    With mixup it takes [pixels, share], where share is (n, 1) float32.
    """
    pixels = keras.Input(model.input_shape[1:], name="pixels", dtype="uint8")
    changed = Augment(seed, strength=strength)(pixels)
    if not mixup:
        return keras.Model(pixels, model(changed), name=f"{model.name}-augmented")
    share = keras.Input((1,), name="share", dtype="float32")
    return keras.Model([pixels, share], model(MixUp()(changed, share)), name=f"{model.name}-augmented")


class MixUp(layers.Layer):  # type: ignore[misc]
    """Each image mixed with its partner, the image as far from the other end of the batch (Zhang et al. 2018,
    arXiv:1710.09412).

    (n, h, w, 1) uint8 and shares, (n, 1) float32 in 0..1, to the same shape and type: share * image + (1 - share) *
    partner, rounded.
    """

    def call(self, pixels: Any, share: Any) -> Any:
        """The mixed pixels."""
        share = ops.reshape(share, (-1, 1, 1, 1))
        image = ops.cast(pixels, "float32")
        return ops.cast(ops.round(share * image + (1 - share) * ops.flip(image, axis=0)), "uint8")


class Augment(layers.Layer):  # type: ignore[misc]
    """Random changes that another B-scan of the same retina might show: shift, tilt, mirroring, brightness, speckle.

    (n, h, w, 1) uint8 in 0..255 to the same shape, type and range; at inference nothing is changed. One gather an
    image: columns slide up and down by a whole number of pixels, which both shifts and tilts the retina. It is never
    turned upside down. Above and below, the outermost row is repeated; at the sides the image is mirrored.

    strength: multiplies shift, tilt, gain and speckle; with 0 nothing is changed.
    """

    def __init__(
        self,
        seed: int,
        *,
        shift: float = 0.08,  # at most, as a fraction of the side, in either direction
        tilt: float = 0.12,  # at most, rows per column: 0.12 is 7 degrees
        gain: float = 0.2,  # brightness times 1 - gain to 1 + gain
        speckle: float = 0.12,  # largest standard deviation of the multiplicative noise
        strength: float = 1.0,
    ) -> None:
        super().__init__()
        self.shift, self.tilt, self.gain, self.speckle = (strength * most for most in (shift, tilt, gain, speckle))
        self.strength = strength
        self.random = keras.random.SeedGenerator(seed)

    def call(self, pixels: Any, training: bool = False) -> Any:
        """Pixels, changed at random if training."""
        if not training or not self.strength:
            return pixels
        _, height, width, _ = pixels.shape
        n = ops.shape(pixels)[0]
        draw = partial(keras.random.uniform, (n, 1, 1), dtype="float32", seed=self.random)

        columns = ops.reshape(ops.arange(width, dtype="float32"), (1, 1, width))
        down = draw(-self.shift * height, self.shift * height)
        down = down + draw(-self.tilt, self.tilt) * (columns - (width - 1) / 2)  # (n, 1, w)
        rows = ops.reshape(ops.arange(height, dtype="int32"), (1, height, 1)) + ops.cast(ops.round(down), "int32")
        rows = ops.clip(rows, 0, height - 1)  # (n, h, w)
        columns = columns + ops.round(draw(-self.shift * width, self.shift * width))  # (n, 1, w)
        columns = (width - 1) - ops.abs((width - 1) - ops.abs(columns))  # mirrored at both sides
        columns = ops.where(draw(0, 1) < 0.5, columns, (width - 1) - columns)
        source = rows * width + ops.cast(columns, "int32")  # (n, h, w), index into an image
        moved = _take(ops.reshape(pixels, (n, height * width)), ops.reshape(source, (n, height * width)))

        # Of standard deviation 1. Normal numbers take three times as long, and rounded pixels do not show which it was.
        noise = keras.random.uniform((n, height * width), -(3**0.5), 3**0.5, dtype="float32", seed=self.random)
        factor = draw(1 - self.gain, 1 + self.gain)[:, 0] * (1 + draw(0, self.speckle)[:, 0] * noise)
        changed = ops.clip(ops.round(ops.cast(moved, "float32") * factor), 0, 255)
        return ops.reshape(ops.cast(changed, "uint8"), (n, height, width, 1))


def _take(flat: Any, source: Any) -> Any:
    """Of each image, (n, pixels), the pixels of these numbers: (n, pixels)."""
    if keras.backend.backend() == "jax":
        return ops.take_along_axis(flat, source, axis=1)  # which devices that share a batch do each for their part
    n, size = ops.shape(flat)[0], flat.shape[1]
    first = ops.reshape(ops.arange(n, dtype="int32") * size, (-1, 1))
    return ops.take(ops.reshape(flat, (-1,)), source + first)  # half the time of TensorFlow's batched gather on a CPU
