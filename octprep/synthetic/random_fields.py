"""Smooth random functions of a place on the retina, so that neighbouring B-scans of a volume resemble each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from octprep.arrays import Float32
from octprep.synthetic.difficulty import Rng

_WAVES = 9  # cosines that a field is the sum of


@dataclass(frozen=True)
class RandomField:
    """A stationary Gaussian random field of mean 0 and standard deviation 1 over the plane of the retina.

    A sum of cosines of random direction, wave length and phase (Shinozuka and Deodatis, Appl Mech Rev 44:191, 1991).
    """

    across: Float32  # (waves,) radians per millimetre along a B-scan
    along: Float32  # (waves,) and from one B-scan to the next
    phase: Float32  # (waves,) radians

    @classmethod
    def draw(cls, scale: float, rng: Rng) -> RandomField:
        """A field whose correlation falls to 0.6 over `scale` millimetres."""
        across, along = rng.normal(0, 1 / scale, (2, _WAVES)).astype(np.float32)
        return cls(across, along, rng.uniform(0, 2 * math.pi, _WAVES).astype(np.float32))

    def at(self, x: Float32, y: float) -> Float32:
        """The values at the positions x, (n,) millimetres, of the B-scan at y millimetres: (n,)."""
        angles = np.multiply.outer(self.across, x) + (self.along * np.float32(y) + self.phase)[:, None]
        return np.asarray(math.sqrt(2 / _WAVES) * np.cos(angles).sum(axis=0), np.float32)


def pattern(seed: tuple[int, ...], y: float, cell: tuple[float, float], shape: tuple[int, int]) -> Float32:
    """A smooth random picture, (rows, columns), of mean 0 and standard deviation about 0.6.

    It changes slowly with y, in millimetres, of the B-scan. cell: rows and columns over which it changes.
    """
    rng = np.random.default_rng(seed)
    grid = tuple(max(math.ceil(side / size) + 1, 2) for side, size in zip(shape, cell, strict=True))
    first, second = rng.standard_normal((2, *grid), dtype=np.float32)
    coarse = np.float32(math.cos(1.6 * y)) * first + np.float32(math.sin(1.6 * y)) * second
    return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
