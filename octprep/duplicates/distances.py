"""How far apart descriptors are within and between patients: histograms over all pairs, or over a random sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Bytes, Float32, Int64
from octprep.duplicates.descriptors import aligned_distance, coefficients

_CHUNK = 1 << 8  # pairs worked on at a time: the memory for more would be given back to the system after each
_MAX_COUNT = 2**53


@dataclass(frozen=True)
class Distances:
    """Histograms of `aligned_distance` over pairs of scans, each pair counted once.

    Validates on construction; raises ValueError if the edges do not rise, or the counts are not whole numbers, one for
    each bin, that add up to no more than the total.
    """

    edges: tuple[float, ...]  # of the bins; the last bin holds everything above its lower edge
    within: tuple[int, ...]  # pairs of one patient id, for each bin
    between: tuple[int, ...]  # pairs of two patient ids
    within_total: int  # how many such pairs there are; more than were counted where a sample was drawn
    between_total: int

    def __post_init__(self) -> None:
        if not all(isinstance(values, tuple) for values in (self.edges, self.within, self.between)):
            raise ValueError("distances must have lists of edges and of counts")
        if len(self.edges) < 2 or not all(is_number(edge, 0, 1e6) for edge in self.edges):
            raise ValueError("the edges of distances must be at least two numbers from 0")
        if not all(low < high for low, high in pairwise(self.edges)):
            raise ValueError("the edges of distances must rise")
        for name, counts, total in (
            ("within", self.within, self.within_total),
            ("between", self.between, self.between_total),
        ):
            if len(counts) != len(self.edges) - 1 or not all(_is_count(count) for count in counts):
                raise ValueError(f"distances {name} patients must have a count for each of the bins")
            if not _is_count(total) or total < sum(counts):
                raise ValueError(f"distances {name} patients must be of at least as many pairs as are counted")


def is_number(value: object, low: float, high: float) -> bool:
    """Whether a value is a number in this range; JSON may hold anything, but NaN is in no range."""
    return type(value) in (int, float) and isinstance(value, int | float) and low <= value <= high


def _is_count(value: object) -> bool:
    return type(value) is int and isinstance(value, int) and 0 <= value < _MAX_COUNT


def measure_distances(
    descriptors: Bytes, patients: Sequence[str] | NDArray[np.integer], seed: int = 0, max_pairs: int = 5_000
) -> Distances:
    """Distances within and between patients: of all pairs of each kind, or of max_pairs drawn at random, none twice.

    descriptors: (scans, DESCRIPTOR_BYTES) uint8, a row as `dct_descriptor` gives. patients: the patient of each scan.
    seed: of the sample. The histograms have 40 bins from 0 to 2.
    """
    edges = np.linspace(0, 2, 41)
    histograms: list[tuple[int, ...]] = []
    totals: list[int] = []
    for (first, second), total in _sampled_pairs(np.asarray(patients), np.random.default_rng(seed), max_pairs):
        values = np.minimum(_pair_distances(descriptors, first, second), edges[-1])
        histograms.append(tuple(int(count) for count in np.histogram(values, edges)[0]))
        totals.append(total)
    return Distances(tuple(round(float(edge), 2) for edge in edges), histograms[0], histograms[1], totals[0], totals[1])


def _sampled_pairs(
    patients: NDArray[Any], rng: np.random.Generator, max_pairs: int
) -> Iterator[tuple[tuple[Int64, Int64], int]]:
    """Different pairs of scans of one patient, then of two: (pairs,) first and second scans, and how many there are.

    With the scans sorted by patient, the partners of a scan within its patient, and those of later patients, are each a
    range of positions behind it; a pair's number gives the scan by a search in the running sum of the ranges' lengths.
    """
    patient_index = np.unique(patients, return_inverse=True)[1]
    order = np.argsort(patient_index, kind="stable")
    scan_count = patient_index.size
    position = np.arange(scan_count)
    next_patient = np.searchsorted(patient_index[order], patient_index[order], side="right")
    for start, stop in ((position + 1, next_patient), (next_patient, np.full(scan_count, scan_count))):
        running = np.cumsum(stop - start)
        total = int(running[-1]) if running.size else 0
        numbers = np.arange(total) if total <= max_pairs else np.sort(rng.choice(total, max_pairs, replace=False))
        first = np.searchsorted(running, numbers, side="right")
        second = stop[first] - (running[first] - numbers)
        yield (order[first], order[second]), total


def _pair_distances(descriptors: Bytes, first: Int64, second: Int64) -> Float32:
    """`aligned_distance` of pairs of scans, by their indices; (pairs,)."""
    chunks = [np.zeros(0, np.float32)]
    for start in range(0, first.size, _CHUNK):
        pairs = slice(start, start + _CHUNK)
        chunks.append(
            aligned_distance(coefficients(descriptors[first[pairs]]), coefficients(descriptors[second[pairs]]))
        )
    return np.concatenate(chunks)
