"""duplicates.json: the pairs of scans by which a build merged patient ids, and how far apart scans are in general."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from octprep.duplicates.distances import Distances, is_number
from octprep.duplicates.exact import (
    NEAR_IDENTICAL,
    SAME_BYTES,
    SAME_PIXELS,
    DuplicatePair,
    exact_duplicate_pairs,
)
from octprep.duplicates.registration import MIN_CORRELATION
from octprep.format.json_types import read_json
from octprep.source.files import Scan

REASONS = (SAME_BYTES, SAME_PIXELS, NEAR_IDENTICAL)


@dataclass(frozen=True)
class DuplicatesFile:
    """Why scans under different ids count as one patient's, and how far apart scans are in general.

    Validates on construction; raises ValueError if a pair or the threshold is not one that a build can write.
    """

    pairs: tuple[DuplicatePair, ...]
    distances: Distances | None  # None where near-duplicates were not searched for
    threshold: float = MIN_CORRELATION  # correlation from which two scans were near-identical

    def __post_init__(self) -> None:
        for pair in self.pairs:
            if not (isinstance(pair.first, str) and isinstance(pair.second, str) and pair.reason in REASONS):
                raise ValueError(f"a pair must have two paths and one of the reasons {', '.join(REASONS)}")
            if not is_number(pair.correlation, -1, 1):
                raise ValueError("the correlation of a pair must be a number from -1 to 1")
        if not is_number(self.threshold, 0, 1):
            raise ValueError("the threshold must be a number from 0 to 1")

    def to_json(self) -> bytes:
        """The bytes of duplicates.json."""
        text = json.dumps(
            {
                "threshold": self.threshold,
                "pairs": [dataclasses.asdict(pair) for pair in self.pairs],
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
            pairs = tuple(DuplicatePair(**pair) for pair in raw["pairs"])
            distances = None if raw["distances"] is None else _distances(raw["distances"])
            return cls(pairs, distances, raw["threshold"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


def _distances(raw: Any) -> Distances:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return Distances(**fields)


def collect(
    scans: Sequence[Scan], near_duplicates: Iterable[DuplicatePair], distances: Distances | None
) -> DuplicatesFile:
    """Collect what duplicates.json holds; distances are None where near-duplicates were not searched for.

    A pair with the same content is not listed again as near-identical, also where a chain links them by another scan.
    """
    near_duplicates = list(near_duplicates)
    named = {path for pair in near_duplicates for path in (pair.first, pair.second)}
    by_path = {scan.path: scan for scan in scans if scan.path in named}
    near_pairs = [pair for pair in near_duplicates if not _same_content(by_path[pair.first], by_path[pair.second])]
    return DuplicatesFile(tuple(sorted([*exact_duplicate_pairs(scans), *near_pairs])), distances)


def _same_content(first: Scan, second: Scan) -> bool:
    """Whether two scans are of the same bytes, or of the same stored pixels."""
    return first.file_digest == second.file_digest or b"" != first.pixel_digest == second.pixel_digest
