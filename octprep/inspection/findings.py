"""Who and what stands in more than one folder, whose scans belong together, and which labels contradict each other.

Pure: scans and joins in, values out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from octprep.duplicates.exact import SAME_BYTES, SAME_PIXELS, DuplicatePair, conflicts, joins, same_contents
from octprep.source import files
from octprep.source.files import Scan
from octprep.splits.patients import PatientGroup, numeric_order


@dataclass(frozen=True)
class Leak:
    """A patient in more than one folder."""

    patient: str
    scans: Mapping[str, int]  # by folder
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Copies:
    """Scans with the same content."""

    reason: str  # SAME_BYTES, or SAME_PIXELS where some of the files differ
    scans: tuple[Scan, ...]  # sorted by path

    @property
    def labels(self) -> tuple[str, ...]:
        """Their classes."""
        return tuple(sorted({one.label for one in self.scans}))


@dataclass(frozen=True)
class Gathered:
    """Several patient ids that count as one person, and why."""

    patients: tuple[str, ...]
    scans: int
    folders: tuple[str, ...]
    joins: tuple[DuplicatePair, ...]


@dataclass(frozen=True)
class Shared:
    """How much of one folder is known from the others."""

    folder: str
    scans: int
    known: int  # scans whose person, as far as joins tell, has scans in another folder


@dataclass(frozen=True)
class Findings:
    """What was found about persons, contents and labels."""

    leaks: tuple[Leak, ...]
    copies: tuple[Copies, ...]  # with the same content in more than one folder
    near: tuple[DuplicatePair, ...]  # near-identical scans of different ids in different folders
    shared: tuple[Shared, ...]  # every folder; () where there are no split folders
    groups: tuple[Gathered, ...]  # with more than one id
    conflicts: tuple[Copies, ...]  # with the same content under several classes
    near_conflicts: tuple[DuplicatePair, ...]  # near-identical scans of different ids and classes
    two_classes: Mapping[str, tuple[str, ...]]  # the classes of every id that has more than one


def find(scans: Sequence[Scan], groups: Sequence[PatientGroup], near: Sequence[DuplicatePair]) -> Findings:
    """Look for everything. groups: of all scans; near: the near-identical scans of different ids among them.

    What has the same content is not named again as near-identical.
    """
    same = joins(scans)
    pairs = {(join.first, join.second) for join in same}
    near = sorted(join for join in near if (join.first, join.second) not in pairs)
    by_path = {one.path: one for one in scans}

    def parted(join: DuplicatePair) -> bool:
        return by_path[join.first].folder != by_path[join.second].folder

    folders = list(files.count(scans))
    labels = _labels(scans)
    return Findings(
        leaks=_leaks(scans, labels),
        copies=tuple(_copies(same) for same in same_contents(scans) if len({one.folder for one in same}) > 1),
        near=tuple(join for join in near if parted(join)),
        shared=tuple(_shared(folder, groups) for folder in folders) if folders != [""] else (),
        groups=tuple(_gathered(groups, sorted([*same, *near]))),
        conflicts=tuple(_copies(same) for same in conflicts(scans)),
        near_conflicts=tuple(join for join in near if by_path[join.first].label != by_path[join.second].label),
        two_classes={patient: found for patient, found in labels.items() if len(found) > 1},
    )


def _labels(scans: Iterable[Scan]) -> dict[str, tuple[str, ...]]:
    """The classes of every patient, by id."""
    labels: dict[str, set[str]] = defaultdict(set)
    for one in scans:
        labels[one.patient].add(one.label)
    return {patient: tuple(sorted(labels[patient])) for patient in sorted(labels, key=numeric_order)}


def _leaks(scans: Iterable[Scan], labels: Mapping[str, tuple[str, ...]]) -> tuple[Leak, ...]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in sorted(scans, key=lambda one: one.path):
        counts[one.patient][one.folder] += 1
    return tuple(
        Leak(patient, dict(sorted(counts[patient].items())), found)
        for patient, found in labels.items()
        if len(counts[patient]) > 1
    )


def _copies(same: Sequence[Scan]) -> Copies:
    reason = SAME_BYTES if len({one.sha256 for one in same}) == 1 else SAME_PIXELS
    return Copies(reason, tuple(sorted(same, key=lambda one: one.path)))


def _shared(folder: str, groups: Iterable[PatientGroup]) -> Shared:
    total = known = 0
    for group in groups:
        here = sum(one.folder == folder for one in group.scans)
        total += here
        known += here if here < len(group.scans) else 0
    return Shared(folder, total, known)


def _gathered(groups: Iterable[PatientGroup], joins: Sequence[DuplicatePair]) -> list[Gathered]:
    key_of = {one.path: group.key for group in groups for one in group.scans}
    reasons: dict[str, list[DuplicatePair]] = defaultdict(list)
    for join in joins:
        reasons[key_of[join.first]].append(join)
    found = []
    for group in groups:
        ids = sorted({one.patient for one in group.scans}, key=numeric_order)
        if len(ids) > 1:
            folders = tuple(sorted({one.folder for one in group.scans}))
            found.append(Gathered(tuple(ids), len(group.scans), folders, tuple(reasons[group.key])))
    return sorted(found, key=lambda one: numeric_order(one.patients[0]))
