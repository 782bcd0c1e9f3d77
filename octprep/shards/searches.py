"""What a build finds by comparing scans, kept in the cache, so that a build that is resumed does not compare again.

A result is kept under a digest of all that it follows from (`StoredScans.sha256`). The file, SEARCHES_NAME, has the
form of a receipt (`octprep.shards.cache`), with a checksum and the versions of octprep and the libraries, and is not
used after one of them has changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from octprep.duplicates import search
from octprep.duplicates.descriptors import as_matrix
from octprep.duplicates.distances import Distances, measure_distances
from octprep.duplicates.exact import NEAR_IDENTICAL, DuplicatePair
from octprep.duplicates.near_rows import NearRows, NearRowsMemory
from octprep.duplicates.pixel_comparison import compare_in_pool
from octprep.format.config import BuildConfig
from octprep.shards import cache
from octprep.shards.cache import CachedScan
from octprep.shards.stored_files import StoredScans
from octprep.workers import Pool

SEARCHES_NAME = "searches.json"  # in the cache's folder


def from_found(found: dict[str, Any]) -> tuple[dict[search.PixelPair, float], list[NearRows]]:
    """The correlations and near rows of `Searches.found`. Raises KeyError, TypeError or ValueError for other values."""
    return (
        cache.from_correlation_rows(found["correlations"]),
        [NearRows.from_json(near_rows) for near_rows in found["near_rows"]],
    )


class Searches:
    """Compares the scans in a cache, or knows the results from an interrupted build."""

    def __init__(
        self,
        folder: Path,
        config: BuildConfig,
        correlations: search.Correlations,
        near_rows: Sequence[NearRows] = (),
    ) -> None:
        """folder: of the cache. correlations: those that are known; the searches add those that they use.

        near_rows: of earlier searches.
        """
        self._folder = folder
        self._config = config
        self._correlations = correlations
        self._near_rows = near_rows
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

    @property
    def found(self) -> dict[str, Any]:
        """What a later build can use: the correlations, and the near rows of each search; for `from_found`."""
        near_rows = [result["near_rows"] for result in self._used.values() if result.get("near_rows")]
        return {"correlations": cache.correlation_rows(self._correlations.used), "near_rows": near_rows}

    def distances(self, items: StoredScans) -> Distances:
        """How far apart the descriptors of scans are. items: sorted by path."""
        seed = self._config.seed

        def measure() -> dict[str, Any]:
            descriptors = as_matrix(item.descriptor for item in items)
            return dataclasses.asdict(measure_distances(descriptors, [scan.patient for scan in items.scans], seed))

        found = self._kept(f"distances {seed} {items.sha256}", measure)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
        }
        return Distances(**values)

    def _search(self, items: StoredScans, pool: Pool) -> dict[str, Any]:
        recipe, encoding = self._config.recipe, self._config.encoding
        measured = search.Correlations({**self._correlations.known, **self._correlations.used})
        memory = NearRowsMemory(self._near_rows)

        read = partial(cache.read_pixels, self._folder, recipe=recipe, encoding=encoding)

        def place(index: int) -> CachedScan:
            return dataclasses.replace(items[index], details=b"")  # which reading does not need

        pairs = search.near_duplicate_pairs(
            items.scans,
            (item.descriptor for item in items),
            lambda index: read(items[index]),
            workers=pool.workers,
            correlations=measured,
            compare=compare_in_pool(pool, place, read),
            memory=memory,
        )
        cache.write_correlations(self._folder, self._key, {**self._correlations.used, **measured.used})
        return {
            "pairs": [(pair.first, pair.second, pair.correlation) for pair in pairs],
            "correlations": cache.correlation_rows(measured.used),
            "near_rows": memory.used[0].to_json() if memory.used else None,
        }

    def _kept(self, name: str, compare: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result under a name, as JSON has it; one that is not known is found by compare() and kept."""
        if name not in self._used:
            known = self._known.get(name)
            self._used[name] = compare() if known is None else known
            if known is None:
                cache.write_rows(self._folder / SEARCHES_NAME, self._key, list(self._used.items()))
        return dict(self._used[name])
