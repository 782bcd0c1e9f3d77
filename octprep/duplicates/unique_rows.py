"""Descriptors that differ, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray, Int64
from octprep.duplicates.descriptors import DESCRIPTOR

_CHUNK = 1 << 16  # rows worked on at a time


@dataclass(frozen=True)
class Rows:
    """Descriptors that differ, in the order of their bytes, and whose they are."""

    descriptors: Gray  # (scans, DESCRIPTOR), as given
    owners: Int64  # (scans,)
    scan: Int64  # (rows,) a scan that has the descriptor
    owner: Int64  # (rows,) whose all scans with it are, or -1 if several patients'
    members: Int64  # (scans,) the scans of one descriptor after those of the other; by owner, then by index
    starts: Int64  # (rows + 1,) where those of each begin

    def strangers(self, one: Int64, other: Int64) -> NDArray[np.bool_]:
        """Whether rows may hold scans of two patients."""
        return np.asarray((self.owner[one] != self.owner[other]) | (self.owner[one] < 0), bool)


def distinct(descriptors: Gray, owners: Int64) -> Rows:
    """Equal descriptors put together."""
    whole = descriptors.view(f"V{DESCRIPTOR}").ravel()
    order = np.argsort(whole, kind="stable")
    new = np.ones(order.size, bool)
    for start in range(1, order.size, _CHUNK):
        part = order[start - 1 : start + _CHUNK]
        new[start : start + _CHUNK] = (descriptors[part[1:]] != descriptors[part[:-1]]).any(axis=1)
    starts = np.append(np.flatnonzero(new), order.size)
    members = order[np.lexsort((order, owners[order], np.cumsum(new)))]
    lowest, highest = owners[members[starts[:-1]]], owners[members[starts[1:] - 1]]
    return Rows(
        descriptors=descriptors,
        owners=owners,
        scan=members[starts[:-1]],
        owner=np.where(lowest == highest, lowest, -1),
        members=members,
        starts=starts,
    )
