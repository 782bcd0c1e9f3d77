"""The search for near-duplicates: candidates by their descriptors, then a decision on the pixels of each.

Candidates come from LSH (or, in a small set, are all pairs) and have a small aligned distance. Of these each scan keeps
its nearest few, and the pixels of every such pair are compared by `detail_correlation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Bytes, Float32, Gray, Int64
from octprep.duplicates.descriptors import (
    DESCRIPTOR_BYTES,
    MAX_ALIGNED_DISTANCE,
    MAX_RAW_DISTANCE,
    aligned_distance,
    as_matrix,
    coefficients,
    raw_distance,
)
from octprep.duplicates.exact import NEAR_IDENTICAL, DuplicatePair
from octprep.duplicates.lsh import lsh_candidates
from octprep.duplicates.pixel_comparison import Compare, Pair, compare_in_threads
from octprep.duplicates.registration import MIN_CORRELATION
from octprep.duplicates.unique_rows import SEVERAL, UniqueDescriptors, unique_descriptors
from octprep.source.files import Scan
from octprep.workers import default_workers

# Many similar scans must not cost the square of their number. Each is compared on pixels with its nearest; and once it
# is paired with a scan of another patient, with that patient's others only if each is among the very nearest of the
# other.
_NEAREST, _VERY_NEAREST = 16, 3

_ALL_PAIRS = 512  # descriptors up to which every pair is a candidate: the median over so few means little to LSH
_CHUNK = 1 << 9  # pairs that are aligned at a time
# Pairs whose pixels are compared before it is checked which of the next are needed: at first, and at most, as there are
# twice as many each time, so that many processes have enough to do.
_BLOCK, _MAX_BLOCK = 64, 2048

PixelPair = tuple[str, str]  # SHA-256 of the stored pixels of two scans, hex; the first is registered to the second

_RowPairs = tuple[Int64, Int64, Float32]  # first and second row and their aligned distance; (pairs,) each


@dataclass(frozen=True)
class Correlations:
    """Correlations of the fine detail of two scans, which follow from their stored pixels."""

    known: Mapping[PixelPair, float]  # measured before, with the same versions of the libraries
    used: dict[PixelPair, float] = field(default_factory=dict)  # that a search asked for

    def of(self, pairs: Sequence[PixelPair], measure: Callable[[Sequence[int]], Sequence[float]]) -> list[float]:
        """The correlation of each pair. measure: gives those of some of the pairs, by their places among them."""
        unknown = [place for place, pair in enumerate(pairs) if pair not in self.known]
        measured = dict(zip(unknown, measure(unknown), strict=True)) if unknown else {}
        found = [measured[place] if place in measured else self.known[pair] for place, pair in enumerate(pairs)]
        self.used.update(zip(pairs, found, strict=True))
        return found


@dataclass(frozen=True, order=True)
class NearDuplicate:
    """Two scans of different patients with near-identical pixels."""

    first: int  # index of a scan
    second: int  # index of the other, larger
    correlation: float  # of their fine detail, to four places; MIN_CORRELATION..1 unless others were asked for


def near_duplicate_pairs(
    scans: Sequence[Scan],
    descriptors: Iterable[bytes],
    pixels: Callable[[int], Gray],
    *,
    min_correlation: float = MIN_CORRELATION,
    workers: int | None = None,
    correlations: Correlations | None = None,
    compare: Compare | None = None,
) -> list[DuplicatePair]:
    """Pairs of near-identical scans under different ids, sorted; the other arguments are those of `near_identical`.

    correlations: of scans that have the digests of their stored pixels; those that are known are not measured again.
    """
    measure = compare or compare_in_threads(pixels, workers)

    def known_or_measured(indices: Sequence[Pair]) -> Sequence[float]:
        if correlations is None:
            return measure(indices)
        keys = [(scans[first].pixels_sha256, scans[second].pixels_sha256) for first, second in indices]
        return correlations.of(keys, lambda places: measure([indices[place] for place in places]))

    patients = [scan.patient for scan in scans]
    pairs = []
    for pair in near_identical(
        as_matrix(descriptors),
        patients,
        pixels,
        min_correlation=min_correlation,
        workers=workers,
        compare=known_or_measured,
    ):
        first, second = sorted((scans[pair.first].path, scans[pair.second].path))
        pairs.append(DuplicatePair(first, second, NEAR_IDENTICAL, pair.correlation))
    return sorted(pairs)


def near_identical(
    descriptors: Bytes,
    patients: Sequence[str] | NDArray[np.integer],
    pixels: Callable[[int], Gray],
    *,
    min_correlation: float = MIN_CORRELATION,
    workers: int | None = None,
    compare: Compare | None = None,
) -> list[NearDuplicate]:
    """Pairs of scans of different patients whose stored pixels are near-identical, sorted.

    descriptors: (scans, DESCRIPTOR_BYTES) uint8, a row as `dct_descriptor` gives. patients: the patient of each scan,
    as text or as numbers. pixels: the stored image of a scan by its index, all from one recipe; it is called only for
    candidates, by several threads at once. min_correlation: pairs from this correlation on are returned, near-identical
    or not. workers: threads; None means one for each core. The pairs depend neither on them nor on the order of the
    scans, where no two have equal descriptors. compare: what gives the correlations of pairs, in place of `pixels`: it
    may know them, or measure them elsewhere. Raises ValueError for descriptors of another shape.

    Not every pair among many similar scans is returned: scans with equal descriptors are paired each with one of
    another patient; no scan is compared with more than its _NEAREST, unless it is among theirs; and where two patients
    share a scan, others of theirs are compared only if they are about as near. The pairs are for merging patients, not
    for counting duplicates.

    Images of less than MIN_PIXELS hold too little detail, and give no pair.
    """
    if descriptors.ndim != 2 or descriptors.shape != (len(patients), DESCRIPTOR_BYTES):
        raise ValueError(
            f"descriptors must be ({len(patients)}, {DESCRIPTOR_BYTES}), a row for each patient given; "
            f"got {descriptors.shape}"
        )
    if len(patients) < 2:
        return []
    patient_index = np.unique(np.asarray(patients), return_inverse=True)[1].astype(np.int64)
    unique = unique_descriptors(np.ascontiguousarray(descriptors), patient_index)
    with ThreadPoolExecutor(workers or default_workers()) as threads:
        nearest = _nearest(*_near_rows(unique, threads))
    matcher = _Matcher(descriptors, patient_index, compare or compare_in_threads(pixels, workers), min_correlation)
    matcher.decide(_candidates(unique, *nearest))
    return sorted(matcher.pairs)


class _Candidate(NamedTuple):
    """Two scans whose pixels may be compared."""

    first: int  # index of a scan; the smaller
    second: int
    very_near: bool  # whether each is among the _VERY_NEAREST of the other


class _Matcher:
    """Decides on the pixels which candidates are near-identical.

    Once a scan is paired with a scan of another patient, more candidates of this scan and that patient are decided only
    if they are very near: the two patients are merged already.
    """

    def __init__(self, descriptors: Bytes, patients: Int64, compare: Compare, min_correlation: float) -> None:
        self.pairs: list[NearDuplicate] = []
        self._descriptors = descriptors
        self._patients = patients
        self._compare = compare
        self._min_correlation = min_correlation
        self._paired: set[tuple[int, int]] = set()  # a scan, and a patient with a scan that is near-identical to it

    def decide(self, candidates: Iterable[_Candidate]) -> None:
        """Compare candidates in their order, a block at a time, and add those that correlate to `pairs`."""
        candidates, size = iter(candidates), _BLOCK
        while block := list(islice(candidates, size)):
            needed = [candidate for candidate in block if self._is_needed(candidate)]
            for candidate, correlation in zip(needed, self._compare(list(map(self._in_order, needed))), strict=True):
                if self._is_needed(candidate):  # also after the candidates before it in the block
                    self._add(candidate, correlation)
            size = min(2 * size, _MAX_BLOCK)

    def _is_needed(self, candidate: _Candidate) -> bool:
        return candidate.very_near or self._paired.isdisjoint(self._scans_and_patients(candidate))

    def _add(self, candidate: _Candidate, correlation: float) -> None:
        if correlation >= self._min_correlation:
            self.pairs.append(NearDuplicate(candidate.first, candidate.second, round(correlation, 4)))
        if correlation >= MIN_CORRELATION:
            self._paired |= self._scans_and_patients(candidate)

    def _scans_and_patients(self, candidate: _Candidate) -> set[tuple[int, int]]:
        """Each scan of a candidate with the patient of the other."""
        first, second, _ = candidate
        return {(first, int(self._patients[second])), (second, int(self._patients[first]))}

    def _in_order(self, candidate: _Candidate) -> Pair:
        """The scan with the larger descriptor is registered to the other, so that their order has no influence."""
        lower, upper = sorted(candidate[:2], key=lambda scan: (self._descriptors[scan].tobytes(), scan))
        return lower, upper


def _near_rows(unique: UniqueDescriptors, threads: Executor) -> _RowPairs:
    """Pairs of rows of two patients that may be near-identical, first <= second; a row with itself if of several.

    Only those in which either is among the _NEAREST of the other, so that they are no more than _NEAREST times the
    rows: of those that were found so far the others can be dropped, as more pairs only make them further.
    """
    count = len(unique)
    of_several = np.flatnonzero(unique.patient == SEVERAL)
    found: _RowPairs = (of_several, of_several, np.zeros(of_several.size, np.float32))
    for firsts, seconds in [np.triu_indices(count, 1)] if count <= _ALL_PAIRS else lsh_candidates(unique):
        is_new = np.isin(firsts * count + seconds, found[0] * count + found[1], invert=True)
        firsts, seconds = firsts[is_new], seconds[is_new]
        chunks = [
            (firsts[start : start + _CHUNK], seconds[start : start + _CHUNK]) for start in range(0, firsts.size, _CHUNK)
        ]
        near = threads.map(lambda rows: _near_of(unique, *rows), chunks)
        first, second, distance = (np.concatenate(values) for values in zip(found, *near, strict=True))
        kept = _ranks(first, second, distance).min(axis=0) < _NEAREST
        found = first[kept], second[kept], distance[kept]
    return found


def _near_of(unique: UniqueDescriptors, first: Int64, second: Int64) -> _RowPairs:
    """Those of some pairs of rows that are of two patients and near enough by their descriptors."""
    apart = unique.different_patients(first, second)
    first, second = first[apart], second[apart]
    left, right = (coefficients(unique.descriptors[unique.scan[rows]]) for rows in (first, second))
    alignable = raw_distance(left, right) <= MAX_RAW_DISTANCE
    distance = aligned_distance(left[alignable], right[alignable])
    kept = distance <= MAX_ALIGNED_DISTANCE
    return first[alignable][kept], second[alignable][kept], distance[kept]


def _ranks(first: Int64, second: Int64, distance: Float32) -> Int64:
    """The rank of the second row among the partners of the first, by distance, and the reverse; (2, pairs)."""
    rows, partners, distances = np.append(first, second), np.append(second, first), np.append(distance, distance)
    order = np.lexsort((partners, distances, rows))
    ranks = np.empty(rows.size, np.int64)
    ranks[order] = np.arange(rows.size) - np.searchsorted(rows[order], rows[order])
    return ranks.reshape(2, -1)


def _nearest(first: Int64, second: Int64, distance: Float32) -> tuple[Int64, Int64, NDArray[np.bool_]]:
    """The pairs of rows of `_near_rows`, the nearest first, and whether each is among the _VERY_NEAREST of the other.

    (pairs,) each.
    """
    is_very_near = _ranks(first, second, distance).max(axis=0) < _VERY_NEAREST
    order = np.lexsort((second, first, distance))
    return first[order], second[order], is_very_near[order]


def _candidates(
    unique: UniqueDescriptors, firsts: Int64, seconds: Int64, very_near: NDArray[np.bool_]
) -> Iterator[_Candidate]:
    """The pairs of scans that pairs of rows stand for, in their order: each scan with one of another patient."""
    for first, second, is_very_near in zip(firsts.tolist(), seconds.tolist(), very_near.tolist(), strict=True):
        pairs = {*_partners(unique, first, second), *_partners(unique, second, first)}
        yield from (_Candidate(lower, upper, is_very_near) for lower, upper in sorted(pairs))


def _partners(unique: UniqueDescriptors, row: int, opposite: int) -> Iterator[tuple[int, int]]:
    """Each scan of a row with a scan of the opposite row of another patient, if there is one; smaller index first."""
    scans, opposite_scans = unique.scans_of(row), unique.scans_of(opposite)
    patients = unique.patients
    # Scans of a row are sorted by patient: if the first is not of another patient, only the last may be.
    partners = np.where(patients[scans] != patients[opposite_scans[0]], opposite_scans[0], opposite_scans[-1])
    apart = patients[scans] != patients[partners]
    lower, upper = np.minimum(scans, partners)[apart], np.maximum(scans, partners)[apart]
    return zip(lower.tolist(), upper.tolist(), strict=True)
