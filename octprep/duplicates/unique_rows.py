"""Equal descriptors merged into one row each, with the scans and the patients that have it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Bytes, Int64
from octprep.duplicates.descriptors import DESCRIPTOR_BYTES

_CHUNK = 1 << 12  # rows worked on at a time
SEVERAL = -1  # in place of a patient


@dataclass(frozen=True)
class UniqueDescriptors:
    """Rows, one for each different descriptor, in the order of their bytes."""

    descriptors: Bytes  # (scans, DESCRIPTOR_BYTES), as given
    patients: Int64  # (scans,) index of the patient
    scan: Int64  # (rows,) one scan with the descriptor
    patient: Int64  # (rows,) the patient of all scans with it, or SEVERAL
    scans: Int64  # (scans,) sorted by row, then by patient, then by index
    starts: Int64  # (rows + 1,) where the scans of each row begin in `scans`

    def __len__(self) -> int:
        """How many rows there are."""
        return self.scan.size

    def scans_of(self, row: int) -> Int64:
        """The scans with a row's descriptor, by patient, then by index."""
        return self.scans[self.starts[row] : self.starts[row + 1]]

    def different_patients(self, first: Int64, second: Int64) -> NDArray[np.bool_]:
        """Whether pairs of rows may hold scans of two patients; (pairs,)."""
        return np.asarray((self.patient[first] != self.patient[second]) | (self.patient[first] == SEVERAL), bool)


def unique_descriptors(descriptors: Bytes, patients: Int64) -> UniqueDescriptors:
    """Merge equal descriptors. descriptors: (scans, DESCRIPTOR_BYTES), C-contiguous; patients: (scans,) indices."""
    as_bytes = descriptors.view(f"V{DESCRIPTOR_BYTES}").ravel()
    order = np.argsort(as_bytes, kind="stable")
    is_first = np.ones(order.size, bool)
    for start in range(1, order.size, _CHUNK):
        chunk = order[start - 1 : start + _CHUNK]
        is_first[start : start + _CHUNK] = (descriptors[chunk[1:]] != descriptors[chunk[:-1]]).any(axis=1)
    starts = np.append(np.flatnonzero(is_first), order.size)
    scans = order[np.lexsort((order, patients[order], np.cumsum(is_first)))]
    lowest, highest = patients[scans[starts[:-1]]], patients[scans[starts[1:] - 1]]
    return UniqueDescriptors(
        descriptors=descriptors,
        patients=patients,
        scan=scans[starts[:-1]],
        patient=np.where(lowest == highest, lowest, SEVERAL),
        scans=scans,
        starts=starts,
    )
