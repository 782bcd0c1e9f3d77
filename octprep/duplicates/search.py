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
from octprep.duplicates.lsh import candidates_with, lsh_candidates, medians_and_deviations
from octprep.duplicates.near_rows import NearRows, NearRowsMemory, RowPairs, row_ids
from octprep.duplicates.pixel_comparison import Compare, Pair, compare_in_threads
from octprep.duplicates.registration import MIN_CORRELATION
from octprep.duplicates.unique_rows import SEVERAL, UniqueDescriptors, unique_descriptors
from octprep.source.files import Scan
from octprep.workers import default_workers

# Many similar scans must not cost the square of their number. Each is compared on pixels with its nearest; and once it
# is paired with a scan of another patient, with that patient's others only if each is among the very nearest of the
# other.
_NEAREST, _VERY_NEAREST = 16, 3

_MAX_ADDED = 64  # rows that are searched for among those of an earlier search; for more, all are searched again
_ALL_PAIRS = 512  # descriptors up to which every pair is a candidate: the median over so few means little to LSH
_CHUNK = 1 << 9  # pairs that are aligned at a time
# Pairs whose pixels are compared before it is checked which of the next are needed: at first, and at most, as there are
# twice as many each time, so that many processes have enough to do.
_BLOCK, _MAX_BLOCK = 64, 2048

PixelPair = tuple[str, str]  # SHA-256 of the stored pixels of two scans, hex; the first is registered to the second


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
    memory: NearRowsMemory | None = None,
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
        memory=memory,
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
    memory: NearRowsMemory | None = None,
) -> list[NearDuplicate]:
    """Pairs of scans of different patients whose stored pixels are near-identical, sorted.

    descriptors: (scans, DESCRIPTOR_BYTES) uint8, a row as `dct_descriptor` gives. patients: the patient of each scan,
    as text or as numbers. pixels: the stored image of a scan by its index, all from one recipe; it is called only for
    candidates, by several threads at once. min_correlation: pairs from this correlation on are returned, near-identical
    or not. workers: threads; None means one for each core. The pairs depend neither on them nor on the order of the
    scans, where no two have equal descriptors. compare: what gives the correlations of pairs, in place of `pixels`: it
    may know them, or measure them elsewhere. memory: of searches among the same scans or nearly so, which shortens this
    one and changes nothing. Raises ValueError for descriptors of another shape.

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
    names, indices = np.unique(np.asarray(patients), return_inverse=True)
    patient_index = indices.astype(np.int64)
    unique = unique_descriptors(np.ascontiguousarray(descriptors), patient_index)
    with ThreadPoolExecutor(workers or default_workers()) as threads:
        if memory is None or len(unique) <= _ALL_PAIRS:
            found = _near_rows(unique, threads)
        else:
            found = _remembered(unique, row_ids(unique, [str(name) for name in names]), memory, threads)
    nearest = _nearest(*found)
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


def _remembered(
    unique: UniqueDescriptors, ids: NDArray[np.uint64], memory: NearRowsMemory, threads: Executor
) -> RowPairs:
    """What `_near_rows` gives, from an earlier search where that is possible; the memory gets it."""
    median, deviation = medians_and_deviations(unique)
    found: RowPairs | None
    for known in memory.known:
        same = np.array_equal(known.median, median) and np.array_equal(known.deviation, deviation)
        if same and (found := _with_added(unique, known, ids, threads)) is not None:
            break
    else:
        found = _near_rows(unique, threads)
    of_two = found.first != found.second
    memory.used.append(NearRows(ids, median, deviation, RowPairs(*(part[of_two] for part in found))))
    return found


def _with_added(
    unique: UniqueDescriptors, known: NearRows, ids: NDArray[np.uint64], threads: Executor
) -> RowPairs | None:
    """What `_near_rows` gives, from the pairs of an earlier search and those of the rows that it did not have.

    None if there are too many such rows, if rows are gone, beside which others may not have been kept, or for a crowded
    bucket.
    """
    place = known.places_in(ids)
    added = np.ones(len(unique), bool)
    added[place[place >= 0]] = False
    if np.count_nonzero(added) > _MAX_ADDED or (place < 0).any():
        return None
    numbers = np.zeros(0, np.int64)
    if added.any():
        candidates = candidates_with(unique, np.flatnonzero(added), known.median, known.deviation)
        if candidates is None:
            return None
        numbers = candidates
    before = RowPairs(place[known.pairs.first], place[known.pairs.second], known.pairs.distance)
    count = len(unique)
    near = _near_of_all(unique, numbers // count, numbers % count, threads)
    return _nearest_of_each(_joined(_of_several(unique), before, *near))


def _near_rows(unique: UniqueDescriptors, threads: Executor) -> RowPairs:
    """Pairs of rows of two patients that may be near-identical, first <= second; a row with itself if of several.

    Only those in which either is among the _NEAREST of the other, so that they are no more than _NEAREST times the
    rows: of those that were found so far the others can be dropped, as more pairs only make them further.
    """
    count = len(unique)
    found = _of_several(unique)
    for firsts, seconds in [np.triu_indices(count, 1)] if count <= _ALL_PAIRS else lsh_candidates(unique):
        is_new = np.isin(firsts * count + seconds, found.first * count + found.second, invert=True)
        near = _near_of_all(unique, firsts[is_new], seconds[is_new], threads)
        found = _nearest_of_each(_joined(found, *near))
    return found


def _of_several(unique: UniqueDescriptors) -> RowPairs:
    """The rows of several patients, each with itself."""
    rows = np.flatnonzero(unique.patient == SEVERAL)
    return RowPairs(rows, rows, np.zeros(rows.size, np.float32))


def _near_of_all(unique: UniqueDescriptors, first: Int64, second: Int64, threads: Executor) -> Iterator[RowPairs]:
    """What `_near_of` gives of many pairs, some at a time."""
    starts = range(0, first.size, _CHUNK)
    return threads.map(
        lambda start: _near_of(unique, first[start : start + _CHUNK], second[start : start + _CHUNK]), starts
    )


def _joined(*pairs: RowPairs) -> RowPairs:
    return RowPairs(*(np.concatenate(parts) for parts in zip(*pairs, strict=True)))


def _nearest_of_each(pairs: RowPairs) -> RowPairs:
    """Those pairs in which either row is among the _NEAREST of the other."""
    kept = _ranks(*pairs).min(axis=0) < _NEAREST
    return RowPairs(*(part[kept] for part in pairs))


def _near_of(unique: UniqueDescriptors, first: Int64, second: Int64) -> RowPairs:
    """Those of some pairs of rows that are of two patients and near enough by their descriptors."""
    apart = unique.different_patients(first, second)
    first, second = first[apart], second[apart]
    left, right = (coefficients(unique.descriptors[unique.scan[rows]]) for rows in (first, second))
    alignable = raw_distance(left, right) <= MAX_RAW_DISTANCE
    distance = aligned_distance(left[alignable], right[alignable])
    kept = distance <= MAX_ALIGNED_DISTANCE
    return RowPairs(first[alignable][kept], second[alignable][kept], distance[kept])


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
    is_single = np.diff(unique.starts) == 1
    singles = (is_single[firsts] & is_single[seconds]).tolist()
    scans = np.sort(unique.scan[np.stack([firsts, seconds])], axis=0).T.tolist()  # of two such rows, which most are
    for row, (first, second, is_very_near) in enumerate(
        zip(firsts.tolist(), seconds.tolist(), very_near.tolist(), strict=True)
    ):
        if singles[row]:
            lower, upper = scans[row]
            yield _Candidate(lower, upper, is_very_near)
            continue
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
