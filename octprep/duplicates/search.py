"""Pairs of scans of different patients whose stored pixels are near-identical."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float32, Gray, Int64
from octprep.duplicates.descriptors import DESCRIPTOR, FAR, NEAR, frequencies, left_over, unlike
from octprep.duplicates.lsh import in_one_band
from octprep.duplicates.registration import THRESHOLD, correlation
from octprep.duplicates.unique_rows import Rows, distinct
from octprep.workers import default_workers

# A crowd of scans that are alike must not cost its square. Each is compared on pixels with so many, the nearest; and,
# once it is paired with somebody's scan, with that patient's others only if each is among so few nearest of the other.
_COMPARED, _CLOSE = 16, 3

_ALL_PAIRS = 512  # descriptors up to which every pair is looked at: the median of a few is in the middle of nothing
_FITTED = 1 << 10  # pairs that a shift and a stretch are fitted to at a time
_AT_ONCE = 64  # pairs whose pixels are compared before it is asked which of the next need it


@dataclass(frozen=True, order=True)
class Pair:
    """Two scans of different patients with near-identical pixels."""

    first: int  # index of a scan
    second: int  # index of the other, larger
    correlation: float  # of their fine detail, to four places; THRESHOLD..1 unless others were asked for


def near_identical(
    descriptors: Gray,
    patients: Sequence[str] | NDArray[np.integer],
    pixels: Callable[[int], Gray],
    *,
    listed: float = THRESHOLD,
    workers: int | None = None,
) -> list[Pair]:
    """Pairs of scans of different patients whose stored pixels are near-identical, sorted.

    descriptors: (scans, DESCRIPTOR) uint8, a row as `describe` gives. patients: who owns each scan, ids of one kind.
    pixels: the stored image of a scan by its index, all from one recipe; it is asked only for the few that may be in a
    pair, by several threads at once. listed: pairs from this correlation on are returned, be they near-identical or
    not. workers: threads; None means one for each core. Which scans are paired depends neither on them nor on the order
    of the scans, where no two have equal descriptors.

    Not every pair of a crowd is listed: scans with equal descriptors are paired each with one of another patient; no
    scan is compared with more than its _COMPARED nearest, unless it is among theirs; and where two patients share a
    scan, others of theirs are compared only if they are about as near. The pairs are for joining patients, not for
    counting copies.

    Images of less than SMALLEST pixels hold too little to tell, and give no pair.
    """
    if descriptors.ndim != 2 or descriptors.shape != (len(patients), DESCRIPTOR):
        raise ValueError(
            f"descriptors must be ({len(patients)}, {DESCRIPTOR}), a row for each patient given; "
            f"got {descriptors.shape}"
        )
    if len(patients) < 2:
        return []
    owners = np.unique(np.asarray(patients), return_inverse=True)[1].astype(np.int64)
    rows = distinct(np.ascontiguousarray(descriptors), owners)
    look = lru_cache(maxsize=256)(pixels)

    def compare(first: int, second: int) -> float:
        # The scan with the smaller descriptor is laid on the other, so that their order does not count.
        lower, upper = sorted((first, second), key=lambda scan: (descriptors[scan].tobytes(), scan))
        return correlation(look(lower), look(upper))

    def ends(first: int, second: int) -> set[tuple[int, int]]:
        return {(first, int(owners[second])), (second, int(owners[first]))}

    found: list[Pair] = []
    paired: set[tuple[int, int]] = set()
    # Threads, as NumPy and OpenCV let others go on while they work.
    with ThreadPoolExecutor(workers or default_workers()) as threads:
        candidates = _scans(rows, *_nearest(*_near(rows, threads)))
        while block := list(islice(candidates, _AT_ONCE)):
            block = [(one, other, close) for one, other, close in block if close or not ends(one, other) & paired]
            correlations = threads.map(compare, *([pair[end] for pair in block] for end in (0, 1)))
            for (one, other, close), agreed in zip(block, correlations, strict=True):
                if not close and ends(one, other) & paired:  # since this block was begun
                    continue
                if agreed >= listed:
                    found.append(Pair(one, other, round(agreed, 4)))
                if agreed >= THRESHOLD:
                    paired |= ends(one, other)
    return sorted(found)


def _near(rows: Rows, threads: Executor) -> tuple[Int64, Int64, Float32]:
    """Pairs of rows that may be near-identical and of two patients, one <= other, and their distances; (pairs,)."""
    count = rows.scan.size
    shared = np.flatnonzero(rows.owner < 0)
    ones, others = np.triu_indices(count, 1) if count <= _ALL_PAIRS else in_one_band(rows)

    def near(start: int) -> tuple[Int64, Int64, Float32]:
        one, other = (np.asarray(end[start : start + _FITTED], np.int64) for end in (ones, others))
        apart = rows.strangers(one, other)
        one, other = one[apart], other[apart]
        left, right = (frequencies(rows.descriptors[rows.scan[end]]) for end in (one, other))
        hopeful = unlike(left, right) <= FAR
        distance = left_over(left[hopeful], right[hopeful])
        kept = distance <= NEAR
        return one[hopeful][kept], other[hopeful][kept], distance[kept]

    found = [(shared, shared, np.zeros(shared.size, np.float32)), *threads.map(near, range(0, ones.size, _FITTED))]
    one, other, distance = (np.concatenate(ends) for ends in zip(*found, strict=True))
    return one, other, distance


def _nearest(one: Int64, other: Int64, distance: Float32) -> tuple[Int64, Int64, NDArray[np.bool_]]:
    """Those of the pairs in which either is among the _COMPARED nearest of the other, the nearest pairs first.

    And whether each is among the _CLOSE nearest of the other.
    """
    ends, mates, apart = np.append(one, other), np.append(other, one), np.append(distance, distance)
    order = np.lexsort((mates, apart, ends))
    rank = np.empty(ends.size, np.int64)
    rank[order] = np.arange(ends.size) - np.searchsorted(ends[order], ends[order])
    ranks = rank.reshape(2, -1)
    kept = np.lexsort((other, one, distance))
    kept = kept[ranks.min(axis=0)[kept] < _COMPARED]
    return one[kept], other[kept], ranks.max(axis=0)[kept] < _CLOSE


def _scans(rows: Rows, ones: Int64, others: Int64, close: NDArray[np.bool_]) -> Iterator[tuple[int, int, bool]]:
    """Pairs of scans, the smaller index first, that pairs of rows stand for: each scan with one of another patient."""
    for one, other, both in zip(ones.tolist(), others.tolist(), close.tolist(), strict=True):
        found: set[tuple[int, int]] = set()
        for row, opposite in ((one, other), (other, one)):
            members = rows.members[rows.starts[row] : rows.starts[row + 1]]
            mates = rows.members[rows.starts[opposite] : rows.starts[opposite + 1]]
            # By owner: the last is a stranger to whoever owns the first, if anybody is.
            choice = np.where(rows.owners[members] != rows.owners[mates[0]], mates[0], mates[-1])
            apart = rows.owners[members] != rows.owners[choice]
            lower, upper = np.minimum(members, choice)[apart], np.maximum(members, choice)[apart]
            found.update(zip(lower.tolist(), upper.tolist(), strict=True))
        for first, second in sorted(found):
            yield first, second, both
