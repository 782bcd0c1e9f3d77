"""Patients and contents that are in more than one split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from octprep.duplicates.exact import DuplicatePair
from octprep.format.manifest import Leaks
from octprep.source.files import Scan
from octprep.splits.patients import by_number


def find_leaks(splits: Iterable[Sequence[Scan]], near: Iterable[DuplicatePair] = ()) -> Leaks:
    """Patients, contents and near-identical scans that are in more than one of the splits."""
    patients: dict[str, set[int]] = defaultdict(set)
    files: dict[str, set[int]] = defaultdict(set)
    pixels: dict[str, set[int]] = defaultdict(set)
    side: dict[str, int] = {}
    bytes_of: dict[str, str] = {}
    for index, members in enumerate(splits):
        for scan in members:
            side[scan.path] = index
            patients[scan.patient].add(index)
            files[scan.sha256].add(index)
            if scan.pixels:
                pixels[scan.pixels].add(index)
                bytes_of.setdefault(scan.pixels, scan.sha256)
    same = _parted(files) | {bytes_of[digest] for digest in _parted(pixels)}
    return Leaks(
        patients=tuple(sorted(_parted(patients), key=by_number)),
        contents=tuple(sorted(same)),
        near=tuple(
            (join.first, join.second)
            for join in sorted(near)
            if join.first in side and join.second in side and side[join.first] != side[join.second]
        ),
    )


def _parted(where: Mapping[str, set[int]]) -> set[str]:
    return {key for key, sides in where.items() if len(sides) > 1}
