"""Locality-sensitive hashing of descriptors, with multiprobe: which pairs are worth a closer look.

The hash of a descriptor has one bit for each of its lowest frequencies but the mean,

    bit_k = (c_k > median of c_k over all rows),

as all retinas look similar, so that the plain signs would mostly agree. The 96 bits are cut into 48 bands of 22 bits
(every bit is in 11 bands). Two rows are candidates if they agree in all bits of one band, where the 4 bits of the first
row that are nearest to the median, in units of the mean absolute deviation (of equally near ones the first), may be
flipped (query-directed multiprobe: Lv et al., Multi-Probe LSH, VLDB 2007), and if they differ in at most 26 of all 96
bits (Hamming distance).

Banding: Indyk and Motwani, Approximate Nearest Neighbors, STOC 1998.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float32, Int64
from octprep.duplicates.descriptors import SIDE
from octprep.duplicates.unique_rows import UniqueDescriptors

_BITS = 96
# In near-duplicates 5 % of the bits differ, 18 % at most in all but 0.5 % of them; in scans of different patients half.
_MAX_DIFFERENT_BITS = 26  # near-duplicates turned by 2 degrees have 24 and fewer but for 1 %
# With these bands and flips, of 742 turned near-duplicates of 96 real scans that are near enough (`descriptors`) 737
# are found among 2,700 scans, and of 382 others all. Of the pairs of 20,000 scans in what benchmarks/near_duplicates.py
# takes for the archive 0.40 % pass. Bands of 24 bits let 0.27 % pass and miss one of 60 synthetic near-duplicates.
_BANDS, _BAND_BITS, _FLIPPED_BITS = 48, 22, 4
_MAX_BUCKET = 1024  # rows of one bucket that are paired with each probe: those nearest to it in the order of the rows

_CHUNK = 1 << 13  # rows worked on at a time
_MAX_HELD = 1 << 22  # pairs that are given at a time
_PAIRS_AT_ONCE = 1 << 19  # of one band

Int8 = NDArray[np.int8]
Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]


def lsh_candidates(unique: UniqueDescriptors) -> Iterator[tuple[Int64, Int64]]:
    """Pairs of rows of two patients that agree in a band of hash bits and in most bits; (pairs,), first < second.

    They come some at a time, at most about _MAX_HELD, sorted: among similar scans their number grows with the square of
    that of the scans. A pair is among these once; it may come twice in all, as either row may be the one that probes.
    """
    count = len(unique)
    median, scale = medians_and_deviations(unique)
    words = _hashes(unique, median)
    waiting = [(0, count)]  # rows that are still to probe: first and stop
    while waiting:
        start, stop = waiting.pop()
        numbers = _probed(unique, words, median, scale, start, stop)
        if numbers is None:
            middle = (start + stop) // 2
            waiting += [(middle, stop), (start, middle)]
        else:
            yield numbers // count, numbers % count


def candidates_with(unique: UniqueDescriptors, rows: Int64, median: Int16, scale: Float32) -> Int64 | None:
    """The pairs of `lsh_candidates` that have one of some rows, as numbers first * count + second, sorted, each once.

    rows: a few, ascending. median, scale: as `medians_and_deviations` gives them. None where a bucket has so many rows
    that not all of them are paired.
    """
    count = len(unique)
    words = _hashes(unique, median)
    found = [np.zeros(0, np.int64)]
    for band in _bands():
        low = _band_frequencies(unique, band)
        keys = _keys(low, median[band])
        buckets = _Buckets.of(keys)
        if buckets.sizes.max() > _MAX_BUCKET:
            return None
        probed = _Buckets.of(keys[rows])
        near = _perhaps_probing(keys, probed.keys)
        for probing, in_buckets, of_rows in ((rows, buckets, np.arange(count)), (near, probed, rows)):
            place, bucket = in_buckets.occupied(
                _multiprobe_keys(low[probing], keys[probing], median[band], scale[band])
            )
            starts, sizes = in_buckets.starts[bucket], in_buckets.sizes[bucket]
            for prober, hit in _expanded(of_rows[in_buckets.rows], probing[place], starts, sizes):
                found.append(_useful(unique, words, prober, hit))
    return _sorted_unique(np.concatenate(found))


def _perhaps_probing(keys: Int32, probed: Int32) -> Int64:
    """The rows that differ from one of some keys in no more bits than are flipped: others cannot probe one of them."""
    near = []
    for rows in _chunks(0, len(keys)):
        different = (keys[rows, None] ^ probed).view(np.uint16)
        bits = _popcount_table()[different].reshape(-1, probed.size, 2).sum(axis=2)
        near.append(np.flatnonzero(bits.min(axis=1) <= _FLIPPED_BITS) + rows.start)
    return np.concatenate(near)


def _useful(unique: UniqueDescriptors, words: NDArray[np.uint16], probing: Int64, probed: Int64) -> Int64:
    """Of pairs of rows those of two patients that agree in most bits, as numbers first * count + second."""
    first, second = np.minimum(probing, probed), np.maximum(probing, probed)
    useful = (first != second) & unique.different_patients(first, second)
    first, second = first[useful], second[useful]
    similar = _hamming_distances(words[first], words[second]) <= _MAX_DIFFERENT_BITS
    return np.asarray(first[similar] * len(unique) + second[similar], np.int64)


def _hashes(unique: UniqueDescriptors, median: Int16) -> NDArray[np.uint16]:
    """The bits of each row, (rows, _BITS / 16)."""
    words = np.empty((len(unique), _BITS // 16), np.uint16)
    for rows in _chunks(0, len(unique)):
        words[rows] = np.packbits(_frequencies(unique, rows, _lowest()) > median, axis=1).view(np.uint16)
    return words


def _probed(
    unique: UniqueDescriptors, words: NDArray[np.uint16], median: Int16, scale: Float32, start: int, stop: int
) -> Int64 | None:
    """The pairs that some rows find when they probe, as numbers first * count + second, sorted; None if too many.

    words: the hash of each row, (rows, _BITS / 16). start, stop: of the rows that probe; of one row they are never too
    many.
    """
    kept = np.zeros(0, np.int64)
    fresh: list[Int64] = []  # more of them, in which some may come twice
    fresh_count = 0
    for band in _bands():
        low = _band_frequencies(unique, band)
        for probing, probed in _bucket_pairs(low, median[band], scale[band], start, stop):
            fresh.append(_useful(unique, words, probing, probed))
            fresh_count += fresh[-1].size
            if fresh_count > _MAX_HELD // 4:
                kept, fresh, fresh_count = _sorted_unique(np.concatenate([kept, *fresh])), [], 0
                if kept.size > _MAX_HELD and stop - start > 1:
                    return None
    return _sorted_unique(np.concatenate([kept, *fresh]))


def _sorted_unique(numbers: Int64) -> Int64:
    """Sorted, each once; np.unique hashes them instead, at five times the cost of sorting so many."""
    numbers = np.sort(numbers)
    return numbers[np.append(True, numbers[1:] != numbers[:-1])] if numbers.size else numbers


def _chunks(start: int, stop: int) -> Iterator[slice]:
    """The rows from start to stop, _CHUNK at a time."""
    return (slice(first, min(first + _CHUNK, stop)) for first in range(start, stop, _CHUNK))


@lru_cache(maxsize=1)
def _lowest() -> Int64:
    """Where a descriptor has its _BITS lowest frequencies, without the mean."""
    down, across = np.mgrid[:SIDE, :SIDE]
    order = np.lexsort((down.ravel(), np.maximum(down, across).ravel(), (down + across).ravel()))
    return np.asarray(order[1 : _BITS + 1], np.int64)


def _frequencies(unique: UniqueDescriptors, rows: slice, places: Int64) -> Int8:
    """Some frequencies of some rows, (rows, places); they are not kept for all rows, which may be millions."""
    return unique.descriptors.view(np.int8).take(unique.scan[rows], axis=0).take(places, axis=1)


def _band_frequencies(unique: UniqueDescriptors, band: Int64) -> Int8:
    """The frequencies of a band, (rows, _BAND_BITS)."""
    low = np.empty((len(unique), _BAND_BITS), np.int8)
    for rows in _chunks(0, len(unique)):
        low[rows] = _frequencies(unique, rows, _lowest()[band])
    return low


def medians_and_deviations(unique: UniqueDescriptors) -> tuple[Int16, Float32]:
    """The median of each of the _BITS lowest frequencies over all rows, and the mean absolute deviation from it.

    The deviations are rounded to a quarter of a power of two, so that a few more rows mostly give the same.
    """
    counts = np.zeros(_BITS << 8, np.int64)  # of rows, by frequency and value
    for rows in _chunks(0, len(unique)):
        bins = _frequencies(unique, rows, _lowest()) + (np.arange(_BITS) * 256 + 128)
        counts += np.bincount(bins.ravel(), minlength=counts.size)
    of_value, value = counts.reshape(_BITS, 256), np.arange(-128, 128)
    median = (of_value.cumsum(axis=1) > len(unique) // 2).argmax(axis=1) - 128
    deviation = (of_value * np.abs(value - median[:, None])).sum(axis=1) / len(unique)
    return median.astype(np.int16), np.exp2(np.rint(4 * np.log2(deviation + 1e-3)) / 4).astype(np.float32)


def _bands() -> list[Int64]:
    """Which bits each band holds: _BITS shuffled and cut, over and over; always the same."""
    rng = np.random.default_rng(3)
    shuffled = [rng.permutation(_BITS) for _ in range(-(-_BANDS * _BAND_BITS // _BITS))]
    return list(np.concatenate(shuffled)[: _BANDS * _BAND_BITS].reshape(_BANDS, _BAND_BITS))


def _bucket_pairs(low: Int8, median: Int16, scale: Float32, start: int, stop: int) -> Iterator[tuple[Int64, Int64]]:
    """Pairs of rows that one band puts in a bucket, the probing row and the probed one; (pairs,), some at a time.

    low: (rows, _BAND_BITS), the band's frequencies. start, stop: of the rows that probe. A row meets itself, and pairs
    may come twice.
    """
    keys = _keys(low, median)
    buckets = _Buckets.of(keys)
    for rows in _chunks(start, stop):
        row, bucket = buckets.occupied(_multiprobe_keys(low[rows], keys[rows], median, scale))
        row += rows.start
        yield from _expanded(buckets.rows, row, *_capped(buckets, row, bucket))


def _weights() -> Int32:
    """What each bit of a band counts in its key."""
    return np.asarray(np.int32(1) << np.arange(_BAND_BITS, dtype=np.int32), np.int32)


def _keys(low: Int8, median: Int16) -> Int32:
    """The key of each row in a band, (rows,)."""
    weights = _weights()
    return np.concatenate([(low[rows] > median) @ weights for rows in _chunks(0, len(low))])


@dataclass(frozen=True)
class _Buckets:
    """Rows by the key of one band."""

    rows: Int64  # (rows,) sorted by their key, and ascending within a key
    keys: Int32  # (buckets,) ascending
    starts: Int64  # (buckets,) where the rows of each begin
    sizes: Int64  # (buckets,)
    is_taken: NDArray[np.bool_]  # whether a key with this fold may have a bucket

    @classmethod
    def of(cls, row_keys: Int32) -> _Buckets:
        """Sort rows into buckets. row_keys: (rows,)."""
        rows = np.argsort(row_keys, kind="stable")
        keys, starts, sizes = np.unique(row_keys[rows], return_index=True, return_counts=True)
        # Few rows get a small table, which stays in the processor's cache.
        is_taken = np.zeros(1 << min(_BAND_BITS, (64 * keys.size).bit_length()), bool)
        is_taken[_folds(keys, is_taken.size)] = True
        return cls(rows, keys, starts, sizes, is_taken)

    def occupied(self, probes: Int32) -> tuple[Int64, Int64]:
        """Of the keys that each row probes, (rows, probes): the row and the bucket of each that has one; (hits,)."""
        perhaps = np.flatnonzero(self.is_taken[_folds(probes, self.is_taken.size)])
        key = probes.ravel()[perhaps]
        bucket = np.minimum(np.searchsorted(self.keys, key), self.keys.size - 1)
        has_bucket = self.keys[bucket] == key
        return perhaps[has_bucket] // probes.shape[1], bucket[has_bucket]


def _folds(keys: Int32, size: int) -> NDArray[np.uint32]:
    """A number below `size`, a power of two, for each key, by multiplicative hashing (Knuth, TAOCP 3, 6.4)."""
    return np.asarray((keys.astype(np.uint32) * np.uint32(0x9E3779B1)) >> np.uint32(33 - size.bit_length()), np.uint32)


def _multiprobe_keys(low: Int8, keys: Int32, median: Int16, scale: Float32) -> Int32:
    """The keys of each row with its _FLIPPED_BITS least certain bits both ways: (rows, 2 ** _FLIPPED_BITS)."""
    certainty = np.abs(low - median) / scale
    # Floats from 0 on are in the order of their bits. With the bit's number for the last five, no two are equal, so
    # the order of equal ones does not depend on how NumPy sorts on a processor.
    numbered = certainty.astype(np.float32, copy=False).view(np.int32) & ~31 | np.arange(_BAND_BITS, dtype=np.int32)
    uncertain = _weights()[np.sort(numbered, axis=1)[:, :_FLIPPED_BITS] & 31]
    probes = keys[:, None]
    for bit in uncertain.T:
        probes = np.concatenate([probes, probes ^ bit[:, None]], axis=1)
    return probes


def _capped(buckets: _Buckets, row: Int64, bucket: Int64) -> tuple[Int64, Int64]:
    """Where the rows that each hit is paired with begin, and how many they are; (hits,) each.

    Of a bucket with more than _MAX_BUCKET rows, those around the probing row in the order of the descriptors' bytes.
    """
    start, size = buckets.starts[bucket], buckets.sizes[bucket]
    crowded = np.flatnonzero(size > _MAX_BUCKET)
    if crowded.size:
        rank = np.array(
            [
                np.searchsorted(buckets.rows[first : first + count], probing)
                for first, count, probing in zip(start[crowded], size[crowded], row[crowded], strict=True)
            ]
        )
        start[crowded] += np.clip(rank - _MAX_BUCKET // 2, 0, size[crowded] - _MAX_BUCKET)
        size[crowded] = _MAX_BUCKET
    return start, size


def _expanded(bucket_rows: Int64, row: Int64, start: Int64, size: Int64) -> Iterator[tuple[Int64, Int64]]:
    """Each hit's row with each of its rows bucket_rows[start : start + size], about _PAIRS_AT_ONCE at a time."""
    total = np.cumsum(size)
    cuts = np.searchsorted(total, np.arange(_PAIRS_AT_ONCE, int(total[-1]), _PAIRS_AT_ONCE))
    for hits in np.split(np.arange(row.size), cuts):
        lengths = size[hits]
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        yield np.repeat(row[hits], lengths), bucket_rows[np.repeat(start[hits], lengths) + offsets]


@lru_cache(maxsize=1)
def _popcount_table() -> NDArray[np.uint8]:
    """How many bits of each number of 16 bits are set."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    return np.asarray(np.unpackbits(numbers, axis=1).sum(axis=1), np.uint8)


def _hamming_distances(first: NDArray[np.uint16], second: NDArray[np.uint16]) -> Int64:
    """How many bits differ; (pairs, words) each -> (pairs,)."""
    return np.asarray(_popcount_table()[first ^ second].sum(axis=1, dtype=np.int64))
