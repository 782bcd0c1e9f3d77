"""Which patients and contents are in more than one split, which ids belong together, and which labels contradict.

Pure: scans, patient groups and near-duplicate pairs in, values out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from octprep.duplicates.exact import (
    SAME_BYTES,
    SAME_PIXELS,
    DuplicatePair,
    duplicate_sets,
    exact_duplicate_pairs,
)
from octprep.source.files import Scan, count_by_split_and_class
from octprep.splits.patients import PatientGroup, group_keys, numeric_order


@dataclass(frozen=True)
class PatientLeak:
    """A patient id in more than one split folder."""

    patient: str
    scans: Mapping[str, int]  # by folder
    labels: tuple[str, ...]


@dataclass(frozen=True)
class DuplicateSet:
    """Scans with the same content."""

    reason: str  # SAME_BYTES, or SAME_PIXELS where some of the files differ
    scans: tuple[Scan, ...]  # sorted by path

    @property
    def labels(self) -> tuple[str, ...]:
        """Their classes, sorted."""
        return tuple(sorted({scan.label for scan in self.scans}))


@dataclass(frozen=True)
class MergedIds:
    """Several patient ids that count as one patient, and why."""

    patients: tuple[str, ...]
    scans: int
    folders: tuple[str, ...]
    pairs: tuple[DuplicatePair, ...]


@dataclass(frozen=True)
class SplitOverlap:
    """How many scans of one split folder are of patients of the others."""

    folder: str
    scans: int
    shared_scans: int  # scans whose patient group has scans in another folder


@dataclass(frozen=True)
class Findings:
    """What names, contents and near-duplicate pairs show. Without pixels there are no near-duplicate pairs."""

    patient_leaks: tuple[PatientLeak, ...]  # sorted by id
    content_leaks: tuple[DuplicateSet, ...]  # with the same content in more than one split folder
    near_duplicate_leaks: tuple[DuplicatePair, ...]  # of different ids, in different split folders
    overlaps: tuple[SplitOverlap, ...]  # every folder; () where there are no split folders
    merged_ids: tuple[MergedIds, ...]  # patient groups with more than one id
    duplicates: tuple[DuplicateSet, ...]  # everything with the same content
    label_conflicts: tuple[DuplicateSet, ...]  # with the same content under several classes
    near_duplicate_conflicts: tuple[DuplicatePair, ...]  # of different ids, under different classes
    patients_in_several_classes: Mapping[str, tuple[str, ...]]  # id -> its classes


def collect_findings(
    scans: Sequence[Scan], groups: Sequence[PatientGroup], near_duplicates: Sequence[DuplicatePair]
) -> Findings:
    """Collect all findings. groups: of all scans; near_duplicates: pairs of different ids among them.

    A pair with the same content is not listed again as a near-duplicate.
    """
    exact_pairs = exact_duplicate_pairs(scans)
    exact_paths = {(pair.first, pair.second) for pair in exact_pairs}
    near_pairs = sorted(pair for pair in near_duplicates if (pair.first, pair.second) not in exact_paths)
    by_path = {scan.path: scan for scan in scans}
    duplicates = tuple(_duplicate_set(same) for same in duplicate_sets(scans))
    labels = _labels_of_patients(scans)
    folders = list(count_by_split_and_class(scans))
    return Findings(
        patient_leaks=_patient_leaks(scans, labels),
        content_leaks=tuple(same for same in duplicates if len({scan.source_split for scan in same.scans}) > 1),
        near_duplicate_leaks=tuple(
            pair for pair in near_pairs if by_path[pair.first].source_split != by_path[pair.second].source_split
        ),
        overlaps=tuple(_overlap(folder, groups) for folder in folders) if folders != [""] else (),
        merged_ids=tuple(_merged_ids(groups, sorted([*exact_pairs, *near_pairs]))),
        duplicates=duplicates,
        label_conflicts=tuple(same for same in duplicates if len(same.labels) > 1),
        near_duplicate_conflicts=tuple(
            pair for pair in near_pairs if by_path[pair.first].label != by_path[pair.second].label
        ),
        patients_in_several_classes={patient: classes for patient, classes in labels.items() if len(classes) > 1},
    )


def _labels_of_patients(scans: Iterable[Scan]) -> dict[str, tuple[str, ...]]:
    """The classes of every patient, by id."""
    labels: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        labels[scan.patient].add(scan.label)
    return {patient: tuple(sorted(labels[patient])) for patient in sorted(labels, key=numeric_order)}


def _patient_leaks(scans: Iterable[Scan], labels: Mapping[str, tuple[str, ...]]) -> tuple[PatientLeak, ...]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for scan in scans:
        counts[scan.patient][scan.source_split] += 1
    return tuple(
        PatientLeak(patient, dict(sorted(counts[patient].items())), classes)
        for patient, classes in labels.items()
        if len(counts[patient]) > 1
    )


def _duplicate_set(scans: Sequence[Scan]) -> DuplicateSet:
    reason = SAME_BYTES if len({scan.file_digest for scan in scans}) == 1 else SAME_PIXELS
    return DuplicateSet(reason, tuple(sorted(scans, key=lambda scan: scan.path)))


def _overlap(folder: str, groups: Iterable[PatientGroup]) -> SplitOverlap:
    scan_count = shared_scans = 0
    for group in groups:
        in_folder = sum(scan.source_split == folder for scan in group.scans)
        scan_count += in_folder
        if in_folder < len(group.scans):
            shared_scans += in_folder
    return SplitOverlap(folder, scan_count, shared_scans)


def _merged_ids(groups: Iterable[PatientGroup], pairs: Sequence[DuplicatePair]) -> list[MergedIds]:
    groups = list(groups)
    group_of = group_keys(groups)
    pairs_of: dict[str, list[DuplicatePair]] = defaultdict(list)
    for pair in pairs:
        pairs_of[group_of[pair.first]].append(pair)
    merged = []
    for group in groups:
        ids = sorted({scan.patient for scan in group.scans}, key=numeric_order)
        if len(ids) > 1:
            folders = tuple(sorted({scan.source_split for scan in group.scans}))
            merged.append(MergedIds(tuple(ids), len(group.scans), folders, tuple(pairs_of[group.key])))
    return sorted(merged, key=lambda ids: numeric_order(ids.patients[0]))
