"""How many pixels a place of the last feature map sees: its receptive field, measured by a probe.

Arithmetic over the layers would need to know every kind of layer, and a squeeze-and-excitation block makes it the whole
image in any case. The probe knows none: it replaces all pixels beyond a line by noise, and finds the outermost line at
each side beyond which the features in the middle of the map do not change.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from octtrain.inference import run_batch

TOLERANCE = 1e-5  # of the largest feature at the place: less than that is rounding
SEEDS = (0, 1)  # of images of noise; the field is all that one of them shows


@dataclass(frozen=True)
class ReceptiveField:
    """Pixels of a stored image that change the middle place of the last feature map, as a rectangle, half open."""

    top: int
    bottom: int
    left: int
    right: int
    image: tuple[int, int]  # height and width of the stored image, pixels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, stored pixels."""
        return self.bottom - self.top, self.right - self.left

    @property
    def is_whole_image(self) -> bool:
        """Whether the place sees all of the stored image."""
        return self.size == self.image


def measure_field(model: keras.Model) -> ReceptiveField:
    """The receptive field of the middle place of a model's output.

    model: (n, height, width, 1) uint8 in 0..255 to a feature map, (n, rows, columns, channels).
    """
    height, width = model.input_shape[1:3]
    fields = np.array([_field(model, height, width, seed) for seed in SEEDS])
    outermost = np.minimum(*fields[:, ::2]), np.maximum(*fields[:, 1::2])
    (top, left), (bottom, right) = (side.tolist() for side in outermost)
    return ReceptiveField(top, bottom, left, right, (height, width))


def _field(model: keras.Model, height: int, width: int, seed: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right, by bisection of all four sides at once."""
    rng = np.random.default_rng(seed)
    image, noise = rng.integers(0, 256, (2, height, width, 1), dtype=np.uint8)
    sides = (height, height, width, width)
    # How many pixels can be replaced from each side without a change: `low` can be, `high` can not.
    low, high = np.zeros(4, int), np.array([side + 1 for side in sides])
    while (high - low > 1).any():
        middle = (low + high) // 2
        images = np.stack([image] * 5)
        for k, replaced in enumerate(middle.tolist()):
            axis, at_end = k // 2, k % 2
            region = [slice(None)] * 3
            region[axis] = slice(sides[k] - replaced, None) if at_end else slice(replaced)
            images[k][tuple(region)] = noise[tuple(region)]
        (features,) = run_batch(model, images, len(images))
        place = features[:, features.shape[1] // 2, features.shape[2] // 2]
        limit = TOLERANCE * max(float(np.abs(place[-1]).max()), 1e-30)
        is_changed = (np.abs(place[:4] - place[-1]) > limit).any(axis=1)
        low, high = np.where(is_changed, low, middle), np.where(is_changed, middle, high)
        low = np.minimum(low, sides)
    top, bottom, left, right = low.tolist()
    return top, max(height - bottom, top), left, max(width - right, left)
