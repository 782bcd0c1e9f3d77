"""Which scans must stay together: the same patient id, or the same content under another id.

Content is the same if the bytes of the files are, or the stored pixels (which are if the decoded ones are); and scans
under different ids that `octprep.duplicates` finds near-identical are taken for one patient's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from octprep.duplicates.exact import DuplicatePair, content_keys
from octprep.source.files import Scan


@dataclass(frozen=True)
class PatientGroup:
    """Scans that no split may part."""

    key: str  # the smallest patient id among them, as text
    scans: tuple[Scan, ...]  # sorted by path


def group(scans: Iterable[Scan], near: Iterable[DuplicatePair] = ()) -> list[PatientGroup]:
    """Join scans that share the bare patient id, the content, or a near-identical scan; sorted by key.

    near: joins found on pixels; those of scans that are not among `scans` are passed over. The same id under several
    classes counts as one patient: whether it is one is not documented, so it is assumed.
    """
    ordered = sorted(scans)
    parent: dict[str, str] = {}

    def find(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    owners = {scan.path: f"patient {scan.patient}" for scan in ordered}
    for scan in ordered:
        for content in content_keys(scan):
            parent[find(content)] = find(owners[scan.path])
    for join in near:
        if join.first in owners and join.second in owners:
            parent[find(owners[join.first])] = find(owners[join.second])
    members: dict[str, list[Scan]] = defaultdict(list)
    for scan in ordered:
        members[find(owners[scan.path])].append(scan)
    groups = [PatientGroup(min(scan.patient for scan in joined), tuple(joined)) for joined in members.values()]
    return sorted(groups, key=lambda joined: joined.key)


def by_number(patient: str) -> tuple[int, str]:
    """Sorts ids, which are numbers, as numbers."""
    return len(patient), patient
