"""Scans with the same content: the same bytes of the file, or the same stored pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from octprep.format.errors import SourceError
from octprep.source.files import Exclusion, Scan

SAME_BYTES, SAME_PIXELS, NEAR_IDENTICAL = "same bytes", "same pixels", "near-identical"
_MOST = 5  # sets of contradictory files that an error names


@dataclass(frozen=True, order=True)
class DuplicatePair:
    """Two scans under different patient ids that are one person's, and why."""

    first: str  # path; the smaller of the two
    second: str  # path
    reason: str  # SAME_BYTES, SAME_PIXELS or NEAR_IDENTICAL
    correlation: float = 1.0  # of their stored pixels, up to 1


def contents(scan: Scan) -> tuple[str, ...]:
    """What tells that two scans show the same: the bytes of the file and, where they are known, the stored pixels."""
    return (f"bytes {scan.sha256}", *([f"pixels {scan.pixels}"] if scan.pixels else []))


def same_contents(scans: Iterable[Scan]) -> list[list[Scan]]:
    """Sets of at least two scans with the same content, whatever they are called; each and all sorted by path."""
    sets: dict[str, list[Scan]] = {}
    for scan in sorted(scans):
        found = [sets[content] for content in contents(scan) if content in sets]
        home = found[0] if found else []
        for other in found[1:]:
            if other is not home:  # the bytes are those of one set, the pixels those of another
                home += other
                for content in (content for moved in other for content in contents(moved)):
                    sets[content] = home
        home.append(scan)
        for content in contents(scan):
            sets[content] = home
    unique = {id(home): home for home in sets.values() if len(home) > 1}
    return sorted(sorted(home) for home in unique.values())


def joins(scans: Iterable[Scan], near: Iterable[DuplicatePair] = ()) -> list[DuplicatePair]:
    """Every reason but the id for which scans of different ids are one group, sorted; a set of copies is a chain."""
    found = set(near)
    for copies in same_contents(scans):
        for first, second in pairwise(copies):
            if first.patient != second.patient:
                reason = SAME_BYTES if first.sha256 == second.sha256 else SAME_PIXELS
                found.add(DuplicatePair(first.path, second.path, reason))
    return sorted(found)


def conflicts(scans: Iterable[Scan]) -> list[list[Scan]]:
    """The sets of scans with the same content under different classes."""
    return [copies for copies in same_contents(scans) if len({scan.label for scan in copies}) > 1]


def settle_duplicates(scans: Iterable[Scan], on_conflict: str = "drop") -> tuple[list[Scan], list[Exclusion]]:
    """Keep one of the scans with the same content, and none where the copies are labelled differently.

    A copy in the test folder goes before one in val, that before one in train, so that a published test set stays
    whole; copies elsewhere do not count against it even under another class. on_conflict says what becomes of copies
    under different classes: `drop` leaves all out, `keep` keeps one of each class, `error` raises SourceError.
    """
    ordered = sorted(scans)
    if on_conflict == "error":
        _refuse_conflicts(ordered)
    in_sets: dict[str, Sequence[Scan]] = {scan.path: copies for copies in same_contents(ordered) for scan in copies}
    kept: list[Scan] = []
    rejections: list[Exclusion] = []
    for scan in ordered:
        copies = in_sets.get(scan.path, (scan,))
        if scan.path != copies[0].path:
            continue  # settled with the first of its set
        first, *others = sorted(copies, key=lambda scan: (("test", "val", "train", "").index(scan.folder), scan.path))
        rivals = [copy for copy in copies if first.folder != "test" or copy.folder == "test"]
        labels = sorted({rival.label for rival in rivals})
        if len(labels) == 1:
            kept.append(first)
            rejections += [_copy(other, first) for other in others]
            continue
        if on_conflict == "keep":
            firsts = {label: next(copy for copy in (first, *others) if copy.label == label) for label in labels}
            kept += firsts.values()
            rejections += [
                _copy(other, firsts.get(other.label, first))
                for other in (first, *others)
                if other not in firsts.values()
            ]
        else:
            reason = _under_several(first, others[0], labels)
            rejections += [Exclusion(copy.path, reason) for copy in (first, *others)]
    return sorted(kept), sorted(rejections)


def settle_conflicts(scans: Iterable[Scan], on_conflict: str = "drop") -> tuple[list[Scan], list[Exclusion]]:
    """Leave out what stands under different classes, and nothing else: for splits that are taken as they are.

    `keep` keeps all of it, `error` raises SourceError.
    """
    ordered = sorted(scans)
    if on_conflict == "error":
        _refuse_conflicts(ordered)
    reasons: dict[str, str] = {}
    for copies in conflicts(ordered) if on_conflict == "drop" else ():
        reason = _under_several(copies[0], copies[1], sorted({copy.label for copy in copies}))
        reasons |= dict.fromkeys((copy.path for copy in copies), reason)
    kept = [scan for scan in ordered if scan.path not in reasons]
    return kept, [Exclusion(path, reason) for path, reason in sorted(reasons.items())]


def _refuse_conflicts(scans: Iterable[Scan]) -> None:
    """Raise SourceError if a content stands under different classes."""
    if found := conflicts(scans):
        named = "; ".join(" = ".join(copy.path for copy in copies) for copies in found[:_MOST])
        what = "1 content stands" if len(found) == 1 else f"{len(found):,} contents stand"
        raise SourceError(
            f"{what} under different classes: {named}. Correct the source, or let --label-conflicts drop leave such files "
            "out, or --label-conflicts keep keep one of each class."
        )


def _copy(copy: Scan, of: Scan) -> Exclusion:
    other = "another scan" if copy.label == of.label else f"a scan of {of.label}"
    return Exclusion(copy.path, f"{_same(copy, of)} as {other}: {of.path}")


def _under_several(first: Scan, second: Scan, labels: Sequence[str]) -> str:
    return f"{_same(first, second)} under different classes: {' and '.join(labels)}"


def _same(first: Scan, second: Scan) -> str:
    return SAME_BYTES if first.sha256 == second.sha256 else SAME_PIXELS
