"""What a build finds by comparing scans, kept in the cache, so that a build that is resumed does not compare again.

A result is kept under a digest of all that it follows from (`StoredScans.sha256`). The file, SEARCHES_NAME, has the
form of a receipt (`octprep.shards.cache`), with a checksum and the versions of octprep and the libraries, and is not
used after one of them has changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from octprep.arrays import Gray
from octprep.duplicates import search
from octprep.duplicates.descriptors import as_matrix
from octprep.duplicates.distances import Distances, measure_distances
from octprep.duplicates.exact import NEAR_IDENTICAL, DuplicatePair
from octprep.duplicates.registration import detail_correlation
from octprep.format.config import BuildConfig, Preprocessing
from octprep.shards import cache
from octprep.shards.cache import CachedScan
from octprep.shards.stored_files import StoredScans
from octprep.workers import Pool

SEARCHES_NAME = "searches.json"  # in the cache's folder
_TASK_PAIRS = 32  # pairs that a process compares at a time, in about a tenth of a second
_WORTH_STARTING = 128  # pairs from which comparing them takes longer than starting processes


@dataclass(frozen=True)
class _CompareTask:
    """Some pairs of scans in a cache to compare on their pixels."""

    number: int
    pairs: tuple[tuple[CachedScan, CachedScan], ...]  # the first is registered to the second
    folder: Path  # of the cache
    recipe: Preprocessing
    encoding: str  # raw or png

    @classmethod
    def of(
        cls, number: int, indices: Sequence[search.Pair], items: Sequence[CachedScan], *settings: Any
    ) -> _CompareTask:
        """A task for the pairs of items with these indices. settings: the last fields."""
        pairs = (tuple(dataclasses.replace(items[index], details=b"") for index in pair) for pair in indices)
        return cls(number, tuple((first, second) for first, second in pairs), *settings)


def _compare(task: _CompareTask) -> tuple[int, list[float]]:
    """The number of a task, and the correlation of each pair. Raises StoppedError if pixels were damaged."""
    pixels = {
        item: cache.read_pixels(task.folder, item, task.recipe, task.encoding)
        for item in dict.fromkeys(chain(*task.pairs))
    }
    return task.number, [detail_correlation(pixels[first], pixels[second]) for first, second in task.pairs]


class Searches:
    """Compares the scans in a cache, or knows the results from an interrupted build."""

    def __init__(self, folder: Path, config: BuildConfig, correlations: search.Correlations) -> None:
        """folder: of the cache. correlations: those that are known; the searches add those that they use."""
        self._folder = folder
        self._config = config
        self._correlations = correlations
        self._key = cache.preparation_key(config.recipe, config.encoding)
        self._known: dict[str, Any] = dict(cache.read_rows(folder / SEARCHES_NAME, self._key))
        self._used: dict[str, Any] = {}  # of this build, which are those that are kept

    def near_duplicates(self, items: StoredScans, pool: Pool) -> list[DuplicatePair]:
        """The near-duplicate pairs among scans, sorted. The correlations that are measured are kept as well.

        items: sorted by path. pool: compares their pixels.
        """
        found = self._kept(f"near-duplicates {items.sha256}", lambda: self._search(items, pool))
        self._correlations.used.update(cache.from_correlation_rows(found["correlations"]))
        return [
            DuplicatePair(first, second, NEAR_IDENTICAL, correlation) for first, second, correlation in found["pairs"]
        ]

    def distances(self, items: StoredScans) -> Distances:
        """How far apart the descriptors of scans are. items: sorted by path."""
        seed = self._config.seed

        def measure() -> dict[str, Any]:
            descriptors = as_matrix(item.descriptor for item in items)
            return dataclasses.asdict(measure_distances(descriptors, [item.scan.patient for item in items], seed))

        found = self._kept(f"distances {seed} {items.sha256}", measure)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
        }
        return Distances(**values)

    def _search(self, items: Sequence[CachedScan], pool: Pool) -> dict[str, Any]:
        recipe, encoding = self._config.recipe, self._config.encoding
        measured = search.Correlations({**self._correlations.known, **self._correlations.used})

        def pixels(index: int) -> Gray:
            return cache.read_pixels(self._folder, items[index], recipe, encoding)

        in_threads = search.compare_in_threads(pixels, pool.workers)

        def compare(indices: Sequence[search.Pair]) -> Sequence[float]:
            if pool.would_start and len(indices) < _WORTH_STARTING:
                return in_threads(indices)
            tasks = [
                _CompareTask.of(start, indices[start : start + _TASK_PAIRS], items, self._folder, recipe, encoding)
                for start in range(0, len(indices), _TASK_PAIRS)
            ]
            return [value for _, values in sorted(pool.run(_compare, tasks)) for value in values]

        pairs = search.near_duplicate_pairs(
            [item.scan for item in items],
            (item.descriptor for item in items),
            pixels,
            workers=pool.workers,
            correlations=measured,
            compare=compare,
        )
        cache.write_correlations(self._folder, self._key, {**self._correlations.used, **measured.used})
        return {
            "pairs": [(pair.first, pair.second, pair.correlation) for pair in pairs],
            "correlations": cache.correlation_rows(measured.used),
        }

    def _kept(self, name: str, compare: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result under a name, as JSON has it; one that is not known is found by compare() and kept."""
        if name not in self._used:
            known = self._known.get(name)
            self._used[name] = compare() if known is None else known
            if known is None:
                cache.write_rows(self._folder / SEARCHES_NAME, self._key, list(self._used.items()))
        return dict(self._used[name])
