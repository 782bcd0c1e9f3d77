"""Comparing many pairs of scans on their pixels: in the processes of a pool, or in threads of this one.

NumPy and OpenCV release the interpreter's lock while they work, but much of what a pair takes, a millisecond or two, is
Python, so many threads wait for one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Generic, TypeVar

from octprep.arrays import Gray
from octprep.duplicates.registration import detail_correlation
from octprep.workers import Pool, default_workers

_CACHED_IMAGES = 256
_TASK_PAIRS = 32  # pairs that a process compares at a time, in about a twentieth of a second
_WORTH_STARTING = 128  # pairs from which comparing them takes longer than starting processes

Pair = tuple[int, int]  # indices of two scans
# The correlation of the fine detail of each pair, of which the first scan is registered to the second.
Compare = Callable[[Sequence[Pair]], Sequence[float]]
Place = TypeVar("Place")  # where the pixels of a scan are


def compare_in_threads(pixels: Callable[[int], Gray], workers: int | None = None) -> Compare:
    """A function that gives the `detail_correlation` of pairs of scans.

    pixels: the stored image of a scan by its index, called by several threads at once. workers: threads; None or 0
    means one for each core.
    """
    cached = lru_cache(_CACHED_IMAGES)(pixels)

    def correlation(pair: Pair) -> float:
        return detail_correlation(cached(pair[0]), cached(pair[1]))

    def compare(pairs: Sequence[Pair]) -> list[float]:
        with ThreadPoolExecutor(workers or default_workers()) as threads:
            return list(threads.map(correlation, pairs))

    return compare


def compare_in_pool(pool: Pool, place: Callable[[int], Place], read: Callable[[Place], Gray]) -> Compare:
    """The same in the processes of a pool; in threads if they would have to be started for a few pairs.

    place: gives where the pixels of a scan are, by its index, as something that can be hashed and pickled. read: gives
    the pixels that are there; a function that another process can import.
    """
    in_threads = compare_in_threads(lambda index: read(place(index)), pool.workers)

    def compare(pairs: Sequence[Pair]) -> Sequence[float]:
        if pool.would_start and len(pairs) < _WORTH_STARTING:
            return in_threads(pairs)
        tasks = [
            _Task(
                start,
                tuple((place(first), place(second)) for first, second in pairs[start : start + _TASK_PAIRS]),
                read,
            )
            for start in range(0, len(pairs), _TASK_PAIRS)
        ]
        return [value for _, values in sorted(pool.run(_compare, tasks)) for value in values]

    return compare


@dataclass(frozen=True)
class _Task(Generic[Place]):
    """Some pairs of scans to compare."""

    number: int
    pairs: tuple[tuple[Place, Place], ...]
    read: Callable[[Place], Gray]


def _compare(task: _Task[Place]) -> tuple[int, list[float]]:
    """The number of a task, and the correlation of each pair. Raises as its `read` does."""
    pixels = {place: task.read(place) for place in dict.fromkeys(chain(*task.pairs))}
    return task.number, [detail_correlation(pixels[first], pixels[second]) for first, second in task.pairs]
