"""Patient groups: the scans that must stay in one split.

A group holds the scans of one patient id, and those of other ids that are linked to it by equal content (the bytes of
the files, or the stored pixels) or by a near-duplicate: the connected components of that relation, by union-find.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from octprep.duplicates.exact import DuplicatePair, content_keys, with_repeated_content
from octprep.source.files import Scan
from octprep.wording import number


@dataclass(frozen=True)
class PatientGroup:
    """Scans that no split may separate."""

    key: str  # the smallest patient id among them, as text
    scans: tuple[Scan, ...]  # sorted by path


def group_patients(scans: Iterable[Scan], near: Iterable[DuplicatePair] = ()) -> list[PatientGroup]:
    """The patient groups of the scans, sorted by key.

    near: near-duplicate pairs; those of scans that are not among `scans` are ignored. The same id under several classes
    counts as one patient; the archive does not say whether it is, so this is an assumption.
    """
    ordered = sorted(scans, key=lambda scan: scan.path)
    node_of = {patient: f"patient {patient}" for patient in {scan.patient for scan in ordered}}
    patients = {scan.path: node_of[scan.patient] for scan in ordered}
    links = [(node, node) for node in node_of.values()]
    links += [
        (patients[scan.path], content) for scan in with_repeated_content(ordered) for content in content_keys(scan)
    ]
    links += [
        (patients[pair.first], patients[pair.second])
        for pair in near
        if pair.first in patients and pair.second in patients
    ]
    component_of = connected_components(links)
    members: dict[str, list[Scan]] = defaultdict(list)
    for scan in ordered:
        members[component_of[patients[scan.path]]].append(scan)
    groups = [PatientGroup(min(scan.patient for scan in linked), tuple(linked)) for linked in members.values()]
    return sorted(groups, key=lambda group: group.key)


def connected_components(links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The smallest node that each node is linked to, directly or through others: itself if there is none; union-find.

    links: pairs of nodes; a node with itself adds a node without a link.
    """
    parent: dict[str, str] = {}

    def find(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, second in links:
        smaller, larger = sorted((find(first), find(second)))
        parent[larger] = smaller
    return {node: find(node) for node in list(parent)}


def group_keys(groups: Iterable[PatientGroup]) -> dict[str, str]:
    """The key of the group of every scan, by path."""
    return {scan.path: group.key for group in groups for scan in group.scans}


def describe_without_id(count: int, files: int) -> str:
    """A sentence on the scans that are excluded as their patient is not known. files: how many there are in all."""
    return (
        f"{count:,} of {number(files, 'file')} {'has' if count == 1 else 'have'} no patient id and "
        f"{'is' if count == 1 else 'are'} left out; --patients unknown takes each for a patient of its own."
    )


def numeric_order(patient: str) -> tuple[int, str]:
    """A sort key that orders ids, which are numbers, as numbers."""
    return len(patient), patient
