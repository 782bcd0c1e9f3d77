"""Which scans of a build are joined across patient ids, and the file that says so: duplicates.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from octprep import duplicates
from octprep.arrays import Gray
from octprep.duplicates import Distances
from octprep.duplicates.exact import NEAR_IDENTICAL, SAME_BYTES, SAME_PIXELS, DuplicatePair, joins
from octprep.format.json_types import read_json
from octprep.source.files import Scan

REASONS = (SAME_BYTES, SAME_PIXELS, NEAR_IDENTICAL)


@dataclass(frozen=True)
class DuplicatesFile:
    """Why scans under different ids count as one patient's, and how far apart scans are in general."""

    joins: tuple[DuplicatePair, ...]
    distances: Distances | None  # None where near-identical scans were not looked for
    threshold: float = duplicates.THRESHOLD  # correlation from which two scans were taken for one

    def to_json(self) -> bytes:
        """The bytes of duplicates.json."""
        text = json.dumps(
            {
                "threshold": self.threshold,
                "joins": [dataclasses.asdict(join) for join in self.joins],
                "distances": dataclasses.asdict(self.distances) if self.distances else None,
            },
            indent=1,
        )
        return (text + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> DuplicatesFile:
        """What `to_json` wrote. Raises ValueError if it cannot have written the data."""
        raw = read_json(data)
        try:
            found = raw["distances"]
            joins = tuple(DuplicatePair(**join) for join in raw["joins"])
            distances = None if found is None else _distances(found)
            threshold = raw["threshold"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if not all(map(_can_be, joins)):
            raise ValueError("it has a join that cannot be")
        if distances is not None and not _counts(distances):
            raise ValueError("it has distances that cannot be")
        if not _number(threshold, 0, 1):
            raise ValueError("it has a threshold that cannot be")
        return cls(joins, distances, threshold)


def _distances(found: Any) -> Distances:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    return Distances(**fields)


def _can_be(join: DuplicatePair) -> bool:
    """Whether a build can have written this."""
    paths = isinstance(join.first, str) and isinstance(join.second, str)
    return paths and isinstance(join.reason, str) and join.reason in REASONS and _number(join.correlation, -1, 1)


def _counts(found: Distances) -> bool:
    """Whether these are edges that rise, and a count for each bin between them, of no more pairs than there are."""
    if not all(isinstance(part, tuple) for part in (found.edges, found.same, found.different)):
        return False
    edges: Sequence[float] = found.edges
    bins = len(edges) - 1
    return (
        bins > 0
        and all(_number(edge, 0, 1e6) for edge in edges)
        and all(low < high for low, high in pairwise(edges))
        and len(found.same) == len(found.different) == bins
        and all(type(count) is int and 0 <= count < 2**53 for count in (*found.same, *found.different))
        and all(
            type(total) is int and (total == -1 or sum(part) <= total < 2**53)
            for part, total in ((found.same, found.same_of), (found.different, found.different_of))
        )
    )


def _number(value: object, low: float, high: float) -> bool:
    """Whether it is a number in this range; JSON may hold anything, but NaN is in no range."""
    return type(value) in (int, float) and isinstance(value, int | float) and low <= value <= high


def near_duplicate_pairs(
    scans: Sequence[Scan],
    descriptors: Sequence[bytes],
    pixels: Callable[[int], Gray],
    *,
    listed: float = duplicates.THRESHOLD,
    workers: int | None = None,
) -> list[DuplicatePair]:
    """DuplicatesFile between near-identical scans under different ids, sorted; arguments as for `likeness.near_identical`."""
    owners = [scan.patient for scan in scans]
    found = []
    for pair in duplicates.near_identical(as_matrix(descriptors), owners, pixels, listed=listed, workers=workers):
        first, second = sorted((scans[pair.first].path, scans[pair.second].path))
        found.append(DuplicatePair(first, second, NEAR_IDENTICAL, pair.correlation))
    return sorted(found)


def collect(
    scans: Sequence[Scan], near: Iterable[DuplicatePair], descriptors: Sequence[bytes] | None, seed: int
) -> DuplicatesFile:
    """Everything for duplicates.json; descriptors are None where near-identical scans were not looked for.

    What is joined by equal contents is not listed again as near-identical.
    """
    same = joins(scans)
    pairs = {(join.first, join.second) for join in same}
    found = [*same, *(join for join in near if (join.first, join.second) not in pairs)]
    owners = [scan.patient for scan in scans]
    distances = None if descriptors is None else duplicates.distances(as_matrix(descriptors), owners, seed)
    return DuplicatesFile(tuple(sorted(found)), distances)


def as_matrix(descriptors: Sequence[bytes]) -> Gray:
    """(scans, likeness.DESCRIPTOR) uint8."""
    return np.frombuffer(b"".join(descriptors), np.uint8).reshape(len(descriptors), duplicates.DESCRIPTOR)
