"""The cap on the scans of one patient (--max-per-patient): how many of each class are kept, and which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from octprep.source.files import Scan


def cap_images_per_patient(
    scans: Sequence[Scan], limit: int, group_of: Mapping[str, str] | None = None
) -> Sequence[Scan]:
    """At most `limit` scans of every patient, evenly spaced over the image numbers of each class; 0: all of them.

    group_of: the key of the patient group of every scan, by path; without it, ids are patients. A patient's classes
    share the limit in proportion to their scans, as in `capped_counts`.
    """
    if not limit:
        return scans
    patients: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        patients[group_of[scan.path] if group_of else scan.patient].append(scan)
    return [scan for members in patients.values() for scan in _evenly_spaced(members, limit)]


def capped_counts(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    """How many of a patient's scans of each class are kept if there may be at most `limit`; 0: all.

    Every class keeps one, the class with the fewest scans first, as long as the limit allows; the rest of the limit is
    shared in proportion to the other scans, by the largest remainder.
    """
    total = sum(counts.values())
    if not limit or total <= limit:
        return dict(counts)
    labels = sorted(counts, key=lambda label: (counts[label], label))[:limit]
    spare = limit - len(labels)
    beyond_one = max(1, total - len(counts))
    shares = {label: divmod(spare * (counts[label] - 1), beyond_one) for label in labels}
    unassigned = spare - sum(whole for whole, _ in shares.values())
    rounded_up = set(sorted(labels, key=lambda label: (-shares[label][1], label))[:unassigned])
    return {label: 1 + shares[label][0] + (label in rounded_up) for label in labels}


def _evenly_spaced(scans: Sequence[Scan], limit: int) -> Sequence[Scan]:
    """At most `limit` scans of one patient: of each class the capped count, at the middles of equal intervals."""
    by_class: dict[str, list[Scan]] = defaultdict(list)
    for scan in sorted(scans, key=lambda scan: (scan.image_number, scan.path)):
        by_class[scan.label].append(scan)
    kept = capped_counts({label: len(members) for label, members in by_class.items()}, limit)
    return [
        by_class[label][(2 * i + 1) * len(by_class[label]) // (2 * count)]
        for label, count in kept.items()
        for i in range(count)
    ]
