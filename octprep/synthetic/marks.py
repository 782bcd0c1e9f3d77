"""Lesions that are painted into the picture after its layers: cysts, bright spots, tubes, and what they shade."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float32, Gray
from octprep.synthetic.anatomy import COLUMNS, HEIGHT, Retina
from octprep.synthetic.random_fields import SEED_OFFSET


@dataclass(frozen=True)
class Canvas:
    """The picture of a B-scan while it is painted."""

    image: Float32  # (HEIGHT, COLUMNS) gray levels, 0..1
    edges: Float32  # (layers + 1, COLUMNS) rows, as `Retina.edges` gives them
    retina: Retina
    lesion: Gray  # (HEIGHT, COLUMNS), set to 1 where a mark is painted

    def column(self, x: float) -> float:
        """The column of a position in millimetres; it may lie outside the picture."""
        left, right = float(self.retina.x[0]), float(self.retina.x[-1])
        return (x - left) / (right - left) * (COLUMNS - 1)

    @property
    def columns_per_mm(self) -> float:
        """Columns a millimetre."""
        return (COLUMNS - 1) / float(self.retina.x[-1] - self.retina.x[0])


class Mark(Protocol):
    """What is painted into a B-scan."""

    def paint(self, canvas: Canvas) -> None:
        """Change the canvas in place."""


@dataclass(frozen=True, kw_only=True)
class Cysts:
    """A group of cysts in one layer, packed as cells with thin walls between them (septa)."""

    upper: int  # the first of the layers they lie in
    lower: int  # and the last
    centre: float  # millimetres
    width: float  # half of the group's
    cell: float  # width of one cyst, millimetres
    tallness: float  # rows of cells for one: 1 where a cyst is as high as the layer
    filled: float  # part of the cells that are cysts, 0..1
    wall: float  # of a cell's width that is wall, 0..1
    level: float  # gray level of their fluid, 0..1
    drift: float
    seed: int

    def paint(self, canvas: Canvas) -> None:
        """Paint it where it lies in the picture."""
        centre = canvas.column(self.centre + self.drift * canvas.retina.y)
        half = self.width * canvas.columns_per_mm
        first, last = max(int(centre - half), 0), min(int(centre + half) + 1, COLUMNS)
        if last - first < 4:
            return
        top, bottom = canvas.edges[self.upper, first:last], canvas.edges[self.lower + 1, first:last]
        upper, lower = max(int(top.min()), 0), min(int(bottom.max()) + 1, HEIGHT)
        height = float((bottom - top).mean())
        if lower - upper < 3 or height < 4:
            return
        rows = np.arange(upper, lower, dtype=np.float32)[:, None]
        depth = (rows - top) / np.maximum(bottom - top, 1)  # 0..1 in the layer
        across = (np.arange(first, last, dtype=np.float32) - centre) / np.float32(self.cell * canvas.columns_per_mm)
        cells = self._cells(across, depth, canvas.retina.y / self.cell)
        dome = 1 - (np.arange(first, last, dtype=np.float32) - centre) ** 2 / max(half * half, 1)
        reach = np.sqrt(np.maximum(dome, 0))
        inside = cells * np.clip((reach - np.abs(2 * depth - 1)) * height / 4, 0, 1)
        inside = cv2.GaussianBlur(np.asarray(inside, np.float32), (0, 0), 0.8)
        inside = np.clip(2 * inside - 0.4, 0, 1)
        area = canvas.image[upper:lower, first:last]
        area += inside * (self.level - area)
        canvas.lesion[upper:lower, first:last] |= np.asarray(inside > 0.5, np.uint8)

    def _cells(self, across: Float32, depth: Float32, y: float) -> Float32:
        """1 inside of a cyst, 0 in its wall: a section through a Voronoi diagram of jittered points; (rows, columns).

        across, y: in widths of a cell; depth: 0..1.
        """
        stacked = max(round(self.tallness), 1)
        reach = math.ceil(self.width / self.cell) + 1
        points = []
        for plane in (math.floor(y), math.floor(y) + 1):
            rng = np.random.default_rng((self.seed, plane + SEED_OFFSET))
            points += [
                (
                    place + rng.uniform(-0.35, 0.35),
                    (row + 0.5 + rng.uniform(-0.3, 0.3)) / stacked,
                    (y - plane - rng.uniform(-0.3, 0.3)) ** 2,
                    rng.random() < self.filled,
                )
                for place in range(-reach, reach + 1)
                for row in range(stacked)
            ]
        nearest = np.full(depth.shape, 9e9, np.float32)
        second = nearest.copy()
        is_cyst = np.zeros(depth.shape, bool)
        for u, v, off, filled in points:
            distance = (across[None] - np.float32(u)) ** 2 + ((depth - np.float32(v)) * np.float32(stacked)) ** 2
            distance += np.float32(off)
            closer = distance < nearest
            np.minimum(second, np.where(closer, nearest, distance), out=second)
            nearest[closer] = distance[closer]
            is_cyst[closer] = filled
        gap = np.sqrt(second) - np.sqrt(nearest)
        return np.asarray(is_cyst * np.clip((gap - self.wall) * 4, 0, 1), np.float32)


@dataclass(frozen=True, kw_only=True)
class Cavity:
    """One large cyst of smooth but irregular outline, such as in the centre of the fovea."""

    upper: int
    lower: int
    centre: float
    width: float  # half of it, millimetres
    filling: float  # of the layers' height, 0..1
    level: float
    seed: int  # of the outline

    def paint(self, canvas: Canvas) -> None:
        """Paint it where it lies in the picture."""
        column = int(np.clip(canvas.column(self.centre), 0, COLUMNS - 1))
        top, bottom = float(canvas.edges[self.upper, column]), float(canvas.edges[self.lower + 1, column])
        axes = max(self.width * canvas.columns_per_mm, 2), max(self.filling * (bottom - top) / 2, 1.5)
        outline = self._outline(canvas.retina.y) * axes + (column, (top + bottom) / 2)
        mask = np.zeros(canvas.image.shape, np.uint8)
        cv2.fillPoly(mask, [np.round(16 * outline).astype(np.int32)], [255], cv2.LINE_AA, 4)
        soft = mask * np.float32(1 / 255)
        canvas.image[:] += soft * (self.level - canvas.image)
        canvas.lesion[:] |= np.asarray(mask > 127, np.uint8)

    def _outline(self, y: float) -> NDArray[np.float64]:
        """(points, 2) columns and rows around the middle, for half axes of 1; it changes with y, in millimetres."""
        rng = np.random.default_rng(self.seed)
        angle = np.linspace(0, 2 * math.pi, 64, endpoint=False)
        radius = np.ones_like(angle)
        for waves in range(2, 6):
            amount, phase, turn = rng.uniform(0, 0.3 / waves), rng.uniform(0, 2 * math.pi), rng.uniform(-8, 8)
            radius += amount * np.cos(waves * angle + phase + turn * y)
        return np.stack((radius * np.cos(angle), np.minimum(radius, 1.1) * np.sin(angle)), axis=1)


@dataclass(frozen=True, kw_only=True)
class Foci:
    """Bright spots in the retina: migrated pigment, lipid exudates; large ones shade what lies below."""

    spots: tuple[tuple[float, float, float], ...]  # position, depth in the layers 0..1, half width in millimetres
    upper: int
    lower: int
    brightness: float  # 0..1
    shade: float  # of the light below that they take, 0..1

    def paint(self, canvas: Canvas) -> None:
        """Paint it where it lies in the picture."""
        for position, depth, width in self.spots:
            column = canvas.column(position + 0.05 * canvas.retina.y)
            if not 2 <= column < COLUMNS - 2:
                continue
            edges = canvas.edges[:, int(column)]
            row = edges[self.upper] + depth * (edges[self.lower + 1] - edges[self.upper])
            sides = max(width * canvas.columns_per_mm, 0.8)
            height = max(min(500 * width / canvas.retina.row_um, 5.0), 0.8)
            reach, rise = int(3 * sides) + 1, int(3 * height) + 1
            left, right = max(int(column) - reach, 0), min(int(column) + reach + 1, COLUMNS)
            top, bottom = max(int(row) - rise, 0), min(int(row) + rise + 1, HEIGHT)
            if bottom - top < 2:
                continue
            across = np.exp(-0.5 * ((np.arange(left, right, dtype=np.float32) - column) / sides) ** 2)
            down = np.exp(-0.5 * ((np.arange(top, bottom, dtype=np.float32)[:, None] - row) / height) ** 2)
            spot = np.minimum(1.4 * across * down, 1)
            area = canvas.image[top:bottom, left:right]
            area += spot * np.maximum(self.brightness - area, 0)
            if self.shade > 0.02 and sides > 1.5:
                canvas.image[bottom:, left:right] *= 1 - self.shade * across


@dataclass(frozen=True, kw_only=True)
class Tubes:
    """Outer retinal tubulation: rings with a bright rim and a dark lumen, in what is left of the outer layers."""

    places: tuple[tuple[float, float], ...]  # position and half width, millimetres
    layer: int

    def paint(self, canvas: Canvas) -> None:
        """Paint it where it lies in the picture."""
        for position, width in self.places:
            column = canvas.column(position)
            if not 2 <= column < COLUMNS - 2:
                continue
            row = float(canvas.edges[self.layer + 1, int(column)]) - 5
            centre = (round(16 * column), round(16 * row))
            axes = (round(16 * max(width * canvas.columns_per_mm, 3)), round(16 * 4.5))
            cv2.ellipse(canvas.image, centre, axes, 0, 0, 360, [0.16], -1, cv2.LINE_AA, 4)
            cv2.ellipse(canvas.image, centre, axes, 0, 0, 360, [0.5], 2, cv2.LINE_AA, 4)
