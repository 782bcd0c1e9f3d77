"""Descriptors of stored images, and how far apart two of them are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float32, Gray, Int64
from octprep.duplicates.registration import without_bars

SIDE = 16  # the descriptor holds the coefficients of so many frequencies along each axis
DESCRIPTOR = SIDE * SIDE  # bytes
_THUMBNAIL = 32  # pixels a side to which an image is reduced before its frequencies are taken
STEPS = 22.0  # a coefficient c is stored as sign(c) * 22 * sqrt(|c|); |c| is below 32, so it fits in an int8

# `distance` beyond which scans are not compared on pixels. Copies: 0.19 for all but 0.5 %; straightened ones 0.29.
# Different patients: none of 700,000 pairs of one archive of 100 patients is nearer than 0.32.
NEAR = 0.30
# The same before a shift and a stretch are fitted, beyond which they are not. Copies: 0.56 for all but 0.5 %.
FAR = 0.65

_FITTED = 1 << 12  # pairs worked on at a time


@dataclass(frozen=True)
class Distances:
    """How far apart the descriptors of scans are: counts of pairs, each taken once."""

    edges: tuple[float, ...]  # of the bins; the last holds everything above its lower edge
    same: tuple[int, ...]  # pairs of one patient, for each bin
    different: tuple[int, ...]  # pairs of two patients
    # How many pairs there are of one patient and of two: more than were counted where a part was drawn at random. -1
    # in files of earlier versions, which drew pairs with repetition.
    same_of: int = -1
    different_of: int = -1


def describe(pixels: Gray) -> bytes:
    """The lowest spatial frequencies of a stored image, DESCRIPTOR bytes: int8, row by row.

    pixels: (rows, columns) uint8, at least 16 a side; black bars of equal width at opposite sides, as `fit pad` leaves,
    are cut off first. Mean and contrast are taken out, so brightness does not count; a constant image gives zeros.
    """
    small = cv2.resize(without_bars(pixels), (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    small = small.astype(np.float32)
    small -= small.mean()
    deviation = float(small.std())
    if deviation < 1e-3:
        return bytes(DESCRIPTOR)
    low = cv2.dct(small / np.float32(deviation))[:SIDE, :SIDE]
    stored = np.sign(low) * np.sqrt(np.abs(low)) * np.float32(STEPS)
    return np.clip(np.rint(stored), -127, 127).astype(np.int8).tobytes()


def distances(
    descriptors: Gray, patients: Sequence[str] | NDArray[np.integer], seed: int = 0, draws: int = 20_000
) -> Distances:
    """How far apart scans of one patient and of two are: all pairs of each, or so many drawn at random, none twice.

    descriptors, patients: as for `near_identical`. The distance is the part of two descriptors that differs once a
    shift and a stretch are fitted: 0 for equal ones, towards 2 for scans that have nothing in common.
    """
    edges = np.linspace(0, 2, 41)
    counts: list[tuple[int, ...]] = []
    totals: list[int] = []
    for (one, other), total in _drawn(np.asarray(patients), np.random.default_rng(seed), draws):
        apart = np.minimum(distance(descriptors, one, other), edges[-1])
        counts.append(tuple(int(count) for count in np.histogram(apart, edges)[0]))
        totals.append(total)
    return Distances(tuple(round(float(edge), 2) for edge in edges), counts[0], counts[1], totals[0], totals[1])


def _drawn(patients: NDArray[Any], rng: np.random.Generator, draws: int) -> Iterator[tuple[tuple[Int64, Int64], int]]:
    """Different pairs of scans of one patient, then of two: (pairs,) first and second scans, and how many there are."""
    owners = np.unique(patients, return_inverse=True)[1]
    order = np.argsort(owners, kind="stable")
    place = np.arange(owners.size)
    ends = np.searchsorted(owners[order], owners[order], side="right")  # where the next patient's scans begin
    for first_mate, last in ((place + 1, ends), (ends, np.full(owners.size, owners.size))):
        behind = np.cumsum(last - first_mate)  # pairs of the scans up to each, with those behind them in the order
        total = int(behind[-1]) if behind.size else 0
        number = np.arange(total) if total <= draws else np.sort(rng.choice(total, draws, replace=False))
        one = np.searchsorted(behind, number, side="right")
        other = last[one] - (behind[one] - number)
        yield (order[one], order[other]), total


def distance(descriptors: Gray, one: Int64, other: Int64) -> Float32:
    """What differs between descriptors beyond contrast, a shift and a stretch along both axes.

    one, other: (pairs,) scans. Returns (pairs,): the root of the energy of what is left, as a part of their mean's.
    The fit is linear, by least squares on the 16x16 pixels that the descriptors stand for, about the mean of the two,
    so that it is the same both ways.
    """
    parts = [np.zeros(0, np.float32)]
    for start in range(0, one.size, _FITTED):
        pair = slice(start, start + _FITTED)
        parts.append(left_over(frequencies(descriptors[one[pair]]), frequencies(descriptors[other[pair]])))
    return np.concatenate(parts)


def frequencies(descriptors: Gray) -> Float32:
    """(n, DESCRIPTOR) uint8 -> (n, 16, 16) coefficients."""
    return _coefficients().take(descriptors).reshape(-1, SIDE, SIDE)


@lru_cache(maxsize=1)
def _coefficients() -> Float32:
    """The coefficient that each byte of a descriptor stands for, (256,)."""
    stored = np.arange(256, dtype=np.uint8).view(np.int8) / STEPS
    return np.asarray(np.sign(stored) * stored**2, np.float32)


def unlike(one: Float32, other: Float32) -> Float32:
    """`left_over` where nothing is fitted."""
    one, other = one.reshape(-1, DESCRIPTOR), other.reshape(-1, DESCRIPTOR)
    squares = np.einsum("np,np->n", one, one) + np.einsum("np,np->n", other, other)
    both = 2 * np.einsum("np,np->n", one, other)
    return np.asarray(2 * np.sqrt(np.maximum(squares - both, 0) / np.maximum(squares + both, 1e-6)), np.float32)


def left_over(one: Float32, other: Float32) -> Float32:
    """`distance` of coefficients (n, 16, 16).

    The waves are orthonormal, so slopes and places are taken as they act on coefficients, and nothing is transformed.
    """
    slope, stretch = _motions()
    middle = (one + other) / 2
    # Matrix by matrix: as one long product BLAS would start its threads for it, at many times the cost.
    causes = np.stack([middle, slope.T @ middle, stretch.T @ middle, middle @ slope, middle @ stretch], axis=1)
    causes = causes.reshape(len(one), 5, DESCRIPTOR)
    products = np.einsum("nip,njp->nij", causes, causes)
    change = (other - one).reshape(len(one), DESCRIPTOR, 1)
    moments = causes @ change
    energy = np.einsum("nii->ni", products)
    products = products + (1e-5 * energy.mean(axis=1) + 1e-9)[:, None, None] * np.eye(5, dtype=np.float32)
    explained = (np.linalg.solve(products, moments) * moments).sum(axis=(1, 2))
    left = np.maximum(np.einsum("npi,npi->n", change, change) - explained, 0)
    return np.asarray(np.sqrt(left / np.maximum(energy[:, 0], 1e-6)), np.float32)


@lru_cache(maxsize=1)
def _motions() -> tuple[Float32, Float32]:
    """What a small shift and a small stretch about the middle do to coefficients, (16, 16) each: rows @ matrix."""
    frequency = np.arange(SIDE)[:, None]
    place = (np.arange(SIDE) + 0.5) / SIDE
    scale = np.asarray(np.where(frequency == 0, np.sqrt(1 / SIDE), np.sqrt(2 / SIDE)))
    waves = scale * np.cos(np.pi * frequency * place)
    slopes = -scale * np.pi * frequency * np.sin(np.pi * frequency * place)
    return (slopes @ waves.T).astype(np.float32), ((slopes * (place - 0.5)) @ waves.T).astype(np.float32)
