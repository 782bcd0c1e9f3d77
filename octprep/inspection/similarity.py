"""How similar scans are: what the threshold for near-duplicates separates.

There are two measures. The aligned distance of DCT descriptors is quick and selects the pairs that are compared on
pixels; the normalised cross-correlation (NCC) of fine detail, speckle included, needs the pixels and decides. The
threshold is on the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

from octprep import duplicates
from octprep.duplicates.descriptors import as_matrix
from octprep.duplicates.distances import Distances, measure_distances
from octprep.duplicates.exact import DuplicatePair
from octprep.duplicates.pixel_comparison import compare_in_pool
from octprep.duplicates.search import near_duplicate_pairs
from octprep.format.seeding import seeded_hash
from octprep.inspection import features
from octprep.inspection.features import ScanFeatures
from octprep.source.files import Scan
from octprep.splits.patients import PatientGroup, group_keys
from octprep.storage.remote import Source
from octprep.workers import Pool, Progress

THRESHOLD = duplicates.MIN_CORRELATION  # correlation from which two scans are near-duplicates
MAX_DISTANCE = duplicates.MAX_ALIGNED_DISTANCE  # of descriptors, up to which pairs are compared on pixels
_MAX_SAMPLE = 200  # pairs of each kind that are correlated
_MAX_PER_PATIENT = 4  # of them, of one patient
_BATCH = 8  # pairs per task

ScanPair = tuple[Scan, Scan]


@dataclass(frozen=True)
class Similarity:
    """How similar scans are, by both measures."""

    duplicates: tuple[DuplicatePair, ...]  # of different ids, at or above THRESHOLD; highest correlation first
    # Of different patient groups, below it, but near enough by their descriptors to be compared; highest first.
    below_threshold: tuple[DuplicatePair, ...]
    distances: Distances  # of descriptors
    within: tuple[float, ...]  # correlations of consecutive scans of one patient, a random sample; sorted
    between: tuple[float, ...]  # correlations of scans of two patient groups, a random sample; sorted
    within_total: int  # pairs of consecutive scans in all
    group_count: int  # patient groups in all


def compare_candidates(src: Source, scan_features: Sequence[ScanFeatures], pool: Pool) -> tuple[DuplicatePair, ...]:
    """Every pair of different ids that is near enough to be compared on pixels; highest correlation first.

    Those from THRESHOLD on are the near-duplicates by which `octprep build` merges patient ids.
    """
    scans = [item.scan for item in scan_features]
    read = partial(features.stored_pixels, src)
    compared = near_duplicate_pairs(
        scans,
        [item.descriptor for item in scan_features],
        lambda index: read(scans[index]),
        min_correlation=-1.0,
        workers=pool.workers,
        compare=compare_in_pool(pool, scans.__getitem__, read),
    )
    return tuple(sorted(compared, key=lambda pair: (-pair.correlation, pair)))


def measure_similarity(
    src: Source,
    scan_features: Sequence[ScanFeatures],
    groups: Sequence[PatientGroup],
    compared: tuple[DuplicatePair, ...],
    *,
    seed: int,
    pool: Pool,
    progress: Progress,
) -> Similarity:
    """Both distributions: of distances, and of correlations in pairs drawn by the seed and the paths alone.

    groups: of all scans, merged by the pairs of `compared` that reach THRESHOLD.
    """
    group_of = group_keys(groups)
    scans = [item.scan for item in scan_features]
    distances = measure_distances(
        as_matrix([item.descriptor for item in scan_features]), [scan.patient for scan in scans], seed
    )
    consecutive = within_patient_pairs(scans)
    samples = (_sample(consecutive, seed), between_patient_pairs(groups, seed))
    tasks = [
        (src, sample_index, pairs[start : start + _BATCH])
        for sample_index, pairs in enumerate(samples)
        for start in range(0, len(pairs), _BATCH)
    ]
    correlations: tuple[list[float], list[float]] = ([], [])
    total = sum(map(len, samples))
    progress("measuring similarity", 0, total)
    for sample_index, batch in pool.run(_correlate, tasks):
        correlations[sample_index].extend(batch)
        progress("measuring similarity", len(batch), total)
    return Similarity(
        duplicates=tuple(pair for pair in compared if pair.correlation >= THRESHOLD),
        below_threshold=tuple(pair for pair in compared if group_of[pair.first] != group_of[pair.second]),
        distances=distances,
        within=tuple(sorted(correlations[0])),
        between=tuple(sorted(correlations[1])),
        within_total=len(consecutive),
        group_count=len(groups),
    )


def within_patient_pairs(scans: Iterable[Scan]) -> list[ScanPair]:
    """All pairs of one patient's scans of one class with consecutive numbers, other than exact duplicates."""
    ordered = sorted(scans, key=lambda scan: (scan.patient, scan.label, scan.image_number, scan.path))
    return [
        (first, second)
        for first, second in pairwise(ordered)
        if (first.patient, first.label) == (second.patient, second.label)
        and first.pixel_digest != second.pixel_digest
        and (first.image_number != second.image_number or not first.image_number)  # 0: not stated
    ]


def between_patient_pairs(groups: Iterable[PatientGroup], seed: int) -> list[ScanPair]:
    """A random sample of pairs of scans of two patient groups; no group is in more than two of them."""
    one_each = [min(group.scans, key=lambda scan: seeded_hash(scan.path, seed)) for group in groups]
    return list(pairwise(sorted(one_each, key=lambda scan: seeded_hash(scan.path, seed))))[:_MAX_SAMPLE]


def _sample(pairs: Iterable[ScanPair], seed: int) -> list[ScanPair]:
    """A random sample of pairs of `within_patient_pairs`, at most _MAX_PER_PATIENT of one patient."""
    by_patient: dict[str, list[ScanPair]] = {}
    for pair in sorted(pairs, key=lambda pair: seeded_hash(pair[0].path, seed)):
        of_patient = by_patient.setdefault(pair[0].patient, [])
        if len(of_patient) < _MAX_PER_PATIENT:
            of_patient.append(pair)
    return sorted(chain(*by_patient.values()), key=lambda pair: seeded_hash(pair[0].path, seed))[:_MAX_SAMPLE]


def _correlate(task: tuple[Source, int, Sequence[ScanPair]]) -> tuple[int, list[float]]:
    src, sample_index, pairs = task
    return sample_index, [
        round(duplicates.detail_correlation(features.stored_pixels(src, first), features.stored_pixels(src, second)), 4)
        for first, second in pairs
    ]
