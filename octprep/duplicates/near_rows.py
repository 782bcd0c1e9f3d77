"""What a search for near-duplicates found by descriptors, so that a search among a few more scans need not repeat it.

A row is a different descriptor (`octprep.duplicates.unique_rows`). Whether two rows are compared depends on them and on
the medians and deviations of all rows, by which they are hashed (`octprep.duplicates.lsh`). While these are the same,
and no bucket holds too many rows, the pairs of the former rows are the former ones.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float32, Int64
from octprep.duplicates.lsh import Int16
from octprep.duplicates.unique_rows import SEVERAL, UniqueDescriptors

_MAX_PAIRS = 1 << 21  # that are kept for the next search; of more, which many similar scans give, none are
_ID_BYTES = 8


class RowPairs(NamedTuple):
    """Pairs of rows, first <= second, and their aligned distance; (pairs,) each."""

    first: Int64
    second: Int64
    distance: Float32


@dataclass(frozen=True)
class NearRows:
    """The rows of a search, and which pairs of them are near."""

    ids: NDArray[np.uint64]  # (rows,) as `row_ids` gives them
    median: Int16  # by which the rows were hashed, as `lsh.medians_and_deviations` gives them
    deviation: Float32
    pairs: RowPairs  # of two rows, by their places in `ids`

    def to_json(self) -> dict[str, str] | None:
        """For `from_json`; None if there are too many pairs to be kept."""
        if self.pairs.first.size > _MAX_PAIRS:
            return None
        arrays = {
            "ids": self.ids.astype("<u8"),
            "median": self.median.astype("<i2"),
            "deviation": self.deviation.astype("<f4"),
            "first": self.pairs.first.astype("<u4"),
            "second": self.pairs.second.astype("<u4"),
            "distance": self.pairs.distance.astype("<f4"),
        }
        return {name: base64.b64encode(array.tobytes()).decode() for name, array in arrays.items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NearRows:
        """The reverse of `to_json`. Raises ValueError, KeyError or TypeError for anything else."""

        def array(name: str, kind: str) -> NDArray[Any]:
            return np.frombuffer(base64.b64decode(data[name], validate=True), kind)

        ids, first, second = array("ids", "<u8"), array("first", "<u4"), array("second", "<u4")
        distance = array("distance", "<f4")
        highest = max(first.max(initial=0), second.max(initial=0))
        if not first.size == second.size == distance.size or (first.size and highest >= ids.size):
            raise ValueError("are not pairs of rows")
        pairs = RowPairs(first.astype(np.int64), second.astype(np.int64), distance.astype(np.float32))
        median, deviation = array("median", "<i2").astype(np.int16), array("deviation", "<f4").astype(np.float32)
        return cls(ids.astype(np.uint64), median, deviation, pairs)

    def places_in(self, ids: NDArray[np.uint64]) -> Int64:
        """Where each of the rows is among others, -1 if it is not; (rows,). ids: of the others."""
        order = np.argsort(ids)
        found = np.minimum(np.searchsorted(ids[order], self.ids), max(ids.size - 1, 0))
        return np.where(ids[order][found] == self.ids, order[found], -1)


@dataclass(frozen=True)
class NearRowsMemory:
    """What searches have found before, and what those that are given this find."""

    known: Sequence[NearRows] = ()
    used: list[NearRows] = field(default_factory=list)


def row_ids(unique: UniqueDescriptors, patients: Sequence[str]) -> NDArray[np.uint64]:
    """For each row a number that follows from its descriptor and its patient; (rows,).

    patients: the names of the patients by their indices.
    """
    names = [patient.encode() for patient in patients]
    joined = bytearray()
    for scan, patient in zip(unique.scan.tolist(), unique.patient.tolist(), strict=True):
        name = b"" if patient == SEVERAL else b"\0" + names[patient]
        joined += hashlib.blake2b(unique.descriptors[scan].tobytes() + name, digest_size=_ID_BYTES).digest()
    return np.frombuffer(joined, "<u8").astype(np.uint64)
