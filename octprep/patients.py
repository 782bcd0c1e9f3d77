"""Which scans must stay together: the same patient id, or the same bytes under another id."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from octprep.scan import Rejection, Scan
from octprep.schema import Leaks


@dataclass(frozen=True)
class Group:
    """Scans that no split may part."""

    key: str  # the smallest patient id among them, as text
    scans: tuple[Scan, ...]  # sorted by path


def group(scans: Iterable[Scan]) -> list[Group]:
    """Join scans that share the bare patient id or the content of the file; sorted by key.

    The same id under several classes counts as one patient: whether it is one is not documented, so it is assumed.
    """
    ordered = sorted(scans)
    parent: dict[str, str] = {}

    def find(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for scan in ordered:
        parent[find(f"sha256 {scan.sha256}")] = find(f"patient {scan.patient}")
    members: dict[str, list[Scan]] = defaultdict(list)
    for scan in ordered:
        members[find(f"patient {scan.patient}")].append(scan)
    groups = [Group(min(scan.patient for scan in joined), tuple(joined)) for joined in members.values()]
    return sorted(groups, key=lambda joined: joined.key)


def settle_duplicates(scans: Iterable[Scan]) -> tuple[list[Scan], list[Rejection]]:
    """Keep one of the scans with equal bytes, and none where the copies are labelled differently.

    A copy in the test folder goes before one in val, that before one in train, so that a published test set stays
    whole; copies elsewhere do not count against it even under another class.
    """
    copies: dict[str, list[Scan]] = defaultdict(list)
    for scan in sorted(scans, key=lambda scan: (("test", "val", "train", "").index(scan.folder), scan.path)):
        copies[scan.sha256].append(scan)
    kept: list[Scan] = []
    rejections: list[Rejection] = []
    for first, *others in copies.values():
        rivals = (
            [scan for scan in (first, *others) if scan.folder == first.folder]
            if first.folder == "test"
            else [first, *others]
        )
        labels = sorted({scan.label for scan in rivals})
        if len(labels) > 1:
            reason = f"same bytes under different classes: {' and '.join(labels)}"
            rejections += [Rejection(scan.path, reason) for scan in (first, *others)]
        else:
            kept.append(first)
            rejections += [Rejection(scan.path, f"same bytes as another scan: {first.path}") for scan in others]
    return sorted(kept), sorted(rejections)


def find_leaks(splits: Iterable[Sequence[Scan]]) -> Leaks:
    """Patients and contents that are in more than one of the splits."""
    patients: dict[str, set[int]] = defaultdict(set)
    contents: dict[str, set[int]] = defaultdict(set)
    for index, members in enumerate(splits):
        for scan in members:
            patients[scan.patient].add(index)
            contents[scan.sha256].add(index)
    return Leaks(
        patients=tuple(
            sorted((key for key, where in patients.items() if len(where) > 1), key=lambda key: (len(key), key))
        ),
        contents=tuple(sorted(key for key, where in contents.items() if len(where) > 1)),
    )
