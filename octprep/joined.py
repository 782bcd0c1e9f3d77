"""Which scans of a build are joined across patient ids, and the file that says so: joins.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep import likeness, patients
from octprep.likeness import Distances
from octprep.patients import NEAR_IDENTICAL, Join
from octprep.scan import Scan

Gray = NDArray[np.uint8]


@dataclass(frozen=True)
class Joins:
    """Why scans under different ids count as one patient's, and how far apart scans are in general."""

    joins: tuple[Join, ...]
    distances: Distances | None  # None where near-identical scans were not looked for

    def to_json(self) -> bytes:
        """The bytes of joins.json."""
        text = json.dumps(
            {
                "threshold": likeness.THRESHOLD,
                "joins": [dataclasses.asdict(join) for join in self.joins],
                "distances": dataclasses.asdict(self.distances) if self.distances else None,
            },
            indent=1,
        )
        return (text + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Joins:
        """What `to_json` wrote. Raises ValueError if data are something else."""
        try:
            raw: Any = json.loads(data)
            found = raw["distances"]
            distances = Distances(**{key: tuple(value) for key, value in found.items()}) if found else None
            return cls(tuple(Join(**join) for join in raw["joins"]), distances)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


def find_near(
    scans: Sequence[Scan],
    descriptors: Sequence[bytes],
    pixels: Callable[[int], Gray],
    *,
    listed: float = likeness.THRESHOLD,
    workers: int | None = None,
) -> list[Join]:
    """Joins between near-identical scans under different ids, sorted; arguments as for `likeness.near_identical`."""
    owners = [scan.patient for scan in scans]
    found = []
    for pair in likeness.near_identical(stacked(descriptors), owners, pixels, listed=listed, workers=workers):
        first, second = sorted((scans[pair.first].path, scans[pair.second].path))
        found.append(Join(first, second, NEAR_IDENTICAL, pair.correlation))
    return sorted(found)


def all_joins(scans: Sequence[Scan], near: Iterable[Join], descriptors: Sequence[bytes] | None, seed: int) -> Joins:
    """Everything for joins.json; descriptors are None where near-identical scans were not looked for.

    What is joined by equal contents is not listed again as near-identical.
    """
    same = patients.joins(scans)
    pairs = {(join.first, join.second) for join in same}
    found = [*same, *(join for join in near if (join.first, join.second) not in pairs)]
    owners = [scan.patient for scan in scans]
    distances = None if descriptors is None else likeness.distances(stacked(descriptors), owners, seed)
    return Joins(tuple(sorted(found)), distances)


def stacked(descriptors: Sequence[bytes]) -> Gray:
    """(scans, likeness.DESCRIPTOR) uint8."""
    return np.frombuffer(b"".join(descriptors), np.uint8).reshape(len(descriptors), likeness.DESCRIPTOR)
