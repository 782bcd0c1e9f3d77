"""Patients, contents and near-duplicates that are in more than one split."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from octprep.duplicates.exact import DuplicatePair, repeated_contents
from octprep.format.manifest import Leaks
from octprep.source.files import Scan
from octprep.splits.patients import PatientGroup, group_patients, numeric_order
from octprep.wording import listed, number

Key = TypeVar("Key")
_MAX_PAIRS = 5  # near-identical pairs that `describe_leaks` names


def find_leaks(splits: Iterable[Sequence[Scan]], near: Iterable[DuplicatePair] = ()) -> Leaks:
    """The patient ids, contents and near-duplicate pairs that are in more than one of the splits."""
    patients: dict[str, set[int]] = defaultdict(set)  # id -> indices of splits
    files: dict[bytes, set[int]] = defaultdict(set)  # SHA-256 of the file -> indices of splits
    pixels: dict[bytes, set[int]] = defaultdict(set)  # SHA-256 of the stored pixels -> indices of splits
    split_of: dict[str, int] = {}
    file_of: dict[bytes, bytes] = {}  # SHA-256 of the stored pixels -> of the first file that has them
    splits = list(splits)
    repeated = repeated_contents([scan for members in splits for scan in members])
    for index, members in enumerate(splits):
        for scan in members:
            split_of[scan.path] = index
            patients[scan.patient].add(index)
            if scan.file_digest in repeated:
                files[scan.file_digest].add(index)
            if scan.pixel_digest in repeated:
                pixels[scan.pixel_digest].add(index)
                file_of.setdefault(scan.pixel_digest, scan.file_digest)
    contents = _in_several(files) | {file_of[digest] for digest in _in_several(pixels)}
    return Leaks(
        patients=tuple(sorted(_in_several(patients), key=numeric_order)),
        contents=tuple(sorted(digest.hex() for digest in contents)),
        near=tuple(
            (pair.first, pair.second)
            for pair in sorted(near)
            if pair.first in split_of and pair.second in split_of and split_of[pair.first] != split_of[pair.second]
        ),
    )


def find_hidden_leaks(
    splits: Mapping[str, Sequence[Scan]], groups: Iterable[PatientGroup], near: Sequence[DuplicatePair]
) -> Leaks:
    """The leaks of `find_leaks`, and the patients that only a scan in no split links across splits.

    Scan x of patient 1 is in train, scan y of patient 2 in test, and both are duplicates of scan z, which is excluded:
    no pair of scans in the splits shows that 1 and 2 may be one patient; their group does.
    """
    visible = find_leaks(list(splits.values()), near)
    split_of = {scan.path: name for name, members in splits.items() for scan in members}
    hidden: set[str] = set()
    for group in groups:
        members = [scan for scan in group.scans if scan.path in split_of]
        if len({split_of[scan.path] for scan in members}) > 1 and all(
            len({split_of[scan.path] for scan in linked.scans}) == 1 for linked in group_patients(members, near)
        ):
            hidden |= {scan.patient for scan in members}
    return dataclasses.replace(visible, patients=tuple(sorted({*visible.patients, *hidden}, key=numeric_order)))


def describe_leaks(leaks: Leaks) -> str:
    """What is in more than one split, such as `2 patients (7 and 12) and 1 file content`; "" if nothing is."""
    pairs = [" = ".join(pair) for pair in leaks.near]
    return listed(
        [
            *[f"{number(len(leaks.patients), 'patient')} ({listed(leaks.patients)})"] * bool(leaks.patients),
            *[number(len(leaks.contents), "file content")] * bool(leaks.contents),
            *[f"{number(len(pairs), 'near-identical pair')} ({listed(pairs, _MAX_PAIRS)})"] * bool(pairs),
        ]
    )


def _in_several(splits_of: Mapping[Key, set[int]]) -> set[Key]:
    return {key for key, splits in splits_of.items() if len(splits) > 1}
