"""Hashes of descriptors, cut into bands: which pairs are worth a closer look."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float32, Int64
from octprep.duplicates.descriptors import SIDE
from octprep.duplicates.unique_rows import Rows

# The hash: the signs of the lowest frequencies, less the population's median, as all retinas look alike. In a copy 5 %
# of them differ, 18 % at most in all but 0.5 % of the copies; in scans of different patients half.
_BITS = 96
_DIFFERENT = 26  # bits, at most, between scans that are looked at further; 99.5 % of copies have 17, padded ones 21
# With 48 bands of 24 bits, and the 4 bits of each that are nearest to the median tried both ways, copies of scans
# of 700 phantoms agree in a band and in most bits in 99.7 % (not cropped 99.6, padded 99.4, straightened 99.3), and
# 0.12 % of the pairs of two patients in what benchmarks/likeness.py takes for the archive. 16 bands of 16 bits without
# the tries find 98 % (straightened 94) and let 0.2 % of the pairs through.
_BANDS, _BAND, _TRIED = 48, 24, 4
_CROWD = 1024  # of one band that are looked at with each, those whose descriptors follow each other

_CHUNK = 1 << 16  # rows worked on at a time
_MANY = 1 << 22  # pairs held before those found twice are dropped
_PART = 1 << 19  # pairs of one band looked at at a time


def in_one_band(rows: Rows) -> tuple[Int64, Int64]:
    """Pairs of rows of two patients that agree in a band of hash bits and in most bits; (pairs,), one < other."""
    count = rows.scan.size
    low = _low(rows)
    middle = np.partition(low, count // 2, axis=0)[count // 2].astype(np.int16)
    spread = np.array(
        [np.abs(column.astype(np.int16) - bit).mean() + 1e-3 for column, bit in zip(low.T, middle, strict=True)],
        np.float32,
    )
    bits = np.packbits(low > middle, axis=1).view(np.uint16)
    kept, held = np.zeros(0, np.int64), 0
    fresh = [kept]
    for band in _bands():
        for one, other in _collisions(low[:, band], middle[band], spread[band]):
            lower, upper = np.minimum(one, other), np.maximum(one, other)
            apart = (lower != upper) & rows.strangers(lower, upper)
            lower, upper = lower[apart], upper[apart]
            alike = _different_bits(bits[lower], bits[upper]) <= _DIFFERENT
            fresh.append(lower[alike] * count + upper[alike])
            held += fresh[-1].size
            if held > _MANY:
                kept, held = _once(np.concatenate([kept, *fresh])), 0
                fresh = []
    kept = _once(np.concatenate([kept, *fresh]))
    return kept // count, kept % count


def _once(numbers: Int64) -> Int64:
    """Sorted, each once; np.unique hashes them instead, at five times the cost of sorting so many."""
    numbers = np.sort(numbers)
    return numbers[np.append(True, numbers[1:] != numbers[:-1])] if numbers.size else numbers


def _low(rows: Rows) -> NDArray[np.int8]:
    """The lowest _BITS frequencies of each row, without the mean: (rows, _BITS)."""
    down, across = np.mgrid[:SIDE, :SIDE]
    order = np.lexsort((down.ravel(), np.maximum(down, across).ravel(), (down + across).ravel()))[1 : _BITS + 1]
    low = np.empty((rows.scan.size, _BITS), np.int8)
    for start in range(0, rows.scan.size, _CHUNK):
        part = rows.descriptors[rows.scan[start : start + _CHUNK]]
        low[start : start + _CHUNK] = part.view(np.int8)[:, order]
    return low


def _bands() -> list[Int64]:
    """Which bits each band holds: _BITS shuffled and cut, over and over; always the same."""
    rng = np.random.default_rng(3)
    shuffled = [rng.permutation(_BITS) for _ in range(-(-_BANDS * _BAND // _BITS))]
    return list(np.concatenate(shuffled)[: _BANDS * _BAND].reshape(_BANDS, _BAND))


def _collisions(low: NDArray[np.int8], middle: NDArray[np.int16], spread: Float32) -> Iterator[tuple[Int64, Int64]]:
    """Pairs of rows whose bits of one band agree, where the uncertain bits of the first may be either.

    low: (rows, _BAND). A row collides with itself, and pairs may come twice.
    """
    weights = 1 << np.arange(_BAND, dtype=np.int64)
    count = len(low)
    keys = np.concatenate([(low[at : at + _CHUNK] > middle) @ weights for at in range(0, count, _CHUNK)])
    order = np.argsort(keys, kind="stable")
    known, starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)
    taken = np.zeros(1 << _BAND, bool)
    taken[known] = True
    for begin in range(0, count, _CHUNK):
        tried = _tried(low[begin : begin + _CHUNK], keys[begin : begin + _CHUNK], middle, spread, weights)
        row, turn = np.nonzero(taken[tried])
        bucket = np.searchsorted(known, tried[row, turn])
        row += begin
        start, size = starts[bucket], sizes[bucket]
        crowded = np.flatnonzero(size > _CROWD)
        if crowded.size:  # those that follow each other by their bytes
            place = np.array(
                [
                    np.searchsorted(order[first : first + many], who)
                    for first, many, who in zip(start[crowded], size[crowded], row[crowded], strict=True)
                ]
            )
            start[crowded] += np.clip(place - _CROWD // 2, 0, size[crowded] - _CROWD)
            size[crowded] = _CROWD
        total = np.cumsum(size)
        cuts = np.searchsorted(total, np.arange(_PART, int(total[-1]), _PART))
        for part in np.split(np.arange(row.size), cuts):
            lengths = size[part]
            offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            yield np.repeat(row[part], lengths), order[np.repeat(start[part], lengths) + offsets]


def _tried(low: NDArray[np.int8], keys: Int64, middle: NDArray[np.int16], spread: Float32, weights: Int64) -> Int64:
    """The keys of each row with its _TRIED least certain bits both ways: (rows, 2 ** _TRIED)."""
    certain = np.abs(low - middle) / spread
    weak = weights[np.argpartition(certain, _TRIED, axis=1)[:, :_TRIED]]
    tried = keys[:, None]
    for bit in weak.T:
        tried = np.concatenate([tried, tried ^ bit[:, None]], axis=1)
    return tried


@lru_cache(maxsize=1)
def _ones() -> NDArray[np.uint8]:
    """How many bits of each number of 16 bits are set."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    return np.asarray(np.unpackbits(numbers, axis=1).sum(axis=1), np.uint8)


def _different_bits(one: NDArray[np.uint16], other: NDArray[np.uint16]) -> Int64:
    """How many bits differ; (pairs, words) -> (pairs,)."""
    return np.asarray(_ones()[one ^ other].sum(axis=1, dtype=np.int64))
