"""How alike scans are: what the threshold for near-identical scans stands between.

Two measures are told apart. The distance of descriptors is quick and says which pairs are worth a look; the
correlation of fine detail, speckle too, needs the pixels and decides. The threshold is on the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

from octprep import duplicates
from octprep import workers as worker_pool
from octprep.duplicates import Distances, file
from octprep.duplicates.exact import DuplicatePair
from octprep.format.seeding import seeded_hash
from octprep.inspection import features
from octprep.inspection.features import ScanFeatures
from octprep.source.files import Scan
from octprep.splits.patients import PatientGroup
from octprep.workers import Progress

THRESHOLD = duplicates.THRESHOLD
NEAR_ENOUGH = duplicates.NEAR  # distance of descriptors up to which pairs are compared on pixels
_DRAWN = 200  # pairs of each kind that are compared on pixels for the picture
_EACH = 4  # of them at most of one patient
_CHUNK = 8  # pairs per task

ScanPair = tuple[Scan, Scan]


@dataclass(frozen=True)
class Similarity:
    """How near scans are to each other, by both measures."""

    joined: tuple[DuplicatePair, ...]  # pairs under different ids at or above THRESHOLD, most alike first
    apart: tuple[
        DuplicatePair, ...
    ]  # pairs of different persons below it that were near enough to compare, most alike first
    distances: Distances  # of descriptors, pairs of ids drawn at random
    same: tuple[float, ...]  # correlations of neighbouring scans of one patient, drawn, sorted
    different: tuple[float, ...]  # correlations of scans of two persons, drawn, sorted
    same_of: int  # how many pairs of neighbouring scans there are
    persons: int  # between whom the pairs of two were drawn


def compare(src: Path, read: Sequence[ScanFeatures], workers: int | None = None) -> tuple[DuplicatePair, ...]:
    """All pairs under different ids that come near enough to be compared on pixels, most alike first.

    Those that reach THRESHOLD are the ones that `octprep build` joins.
    """
    found = file.near_duplicate_pairs(
        [item.scan for item in read],
        [item.descriptor for item in read],
        lambda index: features.stored_pixels(src, read[index].scan),
        listed=-1.0,
        workers=workers,
    )
    return tuple(sorted(found, key=lambda join: (-join.correlation, join)))


def measure(
    src: Path,
    read: Sequence[ScanFeatures],
    groups: Sequence[PatientGroup],
    compared: tuple[DuplicatePair, ...],
    *,
    seed: int,
    workers: int | None,
    progress: Progress,
) -> Similarity:
    """Both distributions: of distances, and of correlations in pairs drawn by the seed and the paths alone.

    groups: of all scans, with the pairs among `compared` that reach THRESHOLD joined.
    """
    person = {one.path: group.key for group in groups for one in group.scans}
    owners = [item.scan.patient for item in read]
    distances = duplicates.distances(file.as_matrix([item.descriptor for item in read]), owners, seed)
    next_to = neighbours([item.scan for item in read])
    same, different = drawn(next_to, seed), strangers(groups, seed)
    tasks = [
        (src, kind, pairs[start : start + _CHUNK])
        for kind, pairs in enumerate((same, different))
        for start in range(0, len(pairs), _CHUNK)
    ]
    found: tuple[list[float], list[float]] = ([], [])
    progress("measuring closeness", 0, len(same) + len(different))
    for kind, correlations in worker_pool.run_tasks(_correlate, tasks, workers):
        found[kind].extend(correlations)
        progress("measuring closeness", len(correlations), len(same) + len(different))
    return Similarity(
        joined=tuple(join for join in compared if join.correlation >= THRESHOLD),
        apart=tuple(join for join in compared if person[join.first] != person[join.second]),
        distances=distances,
        same=tuple(sorted(found[0])),
        different=tuple(sorted(found[1])),
        same_of=len(next_to),
        persons=len(groups),
    )


def neighbours(scans: Iterable[Scan]) -> list[ScanPair]:
    """All pairs of one patient's scans of one class that follow each other by number and are not copies."""
    ordered = sorted(scans, key=lambda one: (one.patient, one.label, one.number, one.path))
    return [
        (first, second)
        for first, second in pairwise(ordered)
        if (first.patient, first.label) == (second.patient, second.label)
        and first.pixels != second.pixels
        and first.number != second.number
    ]


def drawn(pairs: Iterable[ScanPair], seed: int) -> list[ScanPair]:
    """Some of the pairs of `neighbours`, of one patient no more than a few."""
    taken: dict[str, list[ScanPair]] = {}
    for pair in sorted(pairs, key=lambda pair: seeded_hash(pair[0].path, seed)):
        own = taken.setdefault(pair[0].patient, [])
        if len(own) < _EACH:
            own.append(pair)
    return sorted(chain(*taken.values()), key=lambda pair: seeded_hash(pair[0].path, seed))[:_DRAWN]


def strangers(groups: Iterable[PatientGroup], seed: int) -> list[ScanPair]:
    """Pairs of scans of two persons, as far as joins tell; no person is in more than two of them."""
    ones = [min(group.scans, key=lambda one: seeded_hash(one.path, seed)) for group in groups]
    return list(pairwise(sorted(ones, key=lambda one: seeded_hash(one.path, seed))))[:_DRAWN]


def _correlate(task: tuple[Path, int, Sequence[ScanPair]]) -> tuple[int, list[float]]:
    src, kind, pairs = task
    return kind, [
        round(duplicates.correlation(features.stored_pixels(src, first), features.stored_pixels(src, second)), 4)
        for first, second in pairs
    ]
