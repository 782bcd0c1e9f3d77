"""Smooth random functions of a place on the retina, so that neighbouring B-scans of a volume resemble each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from octprep.arrays import Float32
from octprep.synthetic.difficulty import Rng

_WAVES = 9  # cosines that a field is the sum of
_COLUMN_MM = 0.013  # of a drawing of 512 columns over 5.8 to 8.7 mm
SEED_OFFSET = 1 << 20  # added to a number of a plane, which may be negative, as no seed may be


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


def pattern(
    seed: tuple[int, ...], y: float, cell: tuple[float, float], shape: tuple[int, int], *, length: float = 1
) -> Float32:
    """A smooth random picture, (rows, columns), of mean 0 and standard deviation about 0.6.

    cell: rows and columns over which it changes. With y, the B-scan's place in millimetres, it changes over about as
    many millimetres as along a row, times `length`.
    """
    grid = tuple(max(math.ceil(side / size) + 1, 2) for side, size in zip(shape, cell, strict=True))
    before, share = divmod(y / (_COLUMN_MM * cell[1] * length), 1)
    first, second = (
        np.random.default_rng((*seed, int(before) + turn + SEED_OFFSET)).standard_normal(grid, dtype=np.float32)
        for turn in (0, 1)
    )
    angle = share * math.pi / 2  # so that the standard deviation is the same everywhere
    coarse = np.float32(math.cos(angle)) * first + np.float32(math.sin(angle)) * second
    return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
