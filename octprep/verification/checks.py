"""The guarantees that verify checks, and the checks that need the records and the manifest alone. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from octprep.duplicates.duplicates_json import DuplicatesFile
from octprep.format.images_csv import ImageRow, Table
from octprep.format.manifest import IMAGES_NAME, Manifest
from octprep.verification.records import Records, RecordSummary
from octprep.verification.shard_reading import format_counts

CHECKS: Mapping[int, str] = {
    1: "no patient, no content and no near-identical scan is in two splits",
    2: "every image found is in images.csv exactly once, in a shard or with a reason",
    3: "val and test hold every image once, train every kept image at least once",
    4: "in a balanced split every shard has the same count of every class",
    5: "every CRC, SHA-256 and count matches the manifest",
}


class Violation(NamedTuple):
    """One guarantee that does not hold, and where."""

    check: int  # a key of CHECKS
    where: str  # the shard, record, row or setting
    message: str


@dataclass(frozen=True)
class Evidence:
    """Everything that was read of a folder."""

    manifest: Manifest
    records: Records
    table: Table | None  # None if images.csv cannot be read
    duplicates: DuplicatesFile | None  # None if duplicates.json cannot be read
    unread: frozenset[str] = frozenset()  # names of shards of which a record, or all, could not be read

    @cached_property
    def shard_names(self) -> frozenset[str]:
        """The names of all shards in the manifest."""
        return frozenset(shard.name for shards in self.manifest.splits.values() for shard in shards)

    @cached_property
    def unread_paths(self) -> frozenset[str]:
        """The paths of the rows that point to a shard that could not be read whole."""
        return frozenset(row.path for row in self.table.rows if self.is_unread(row)) if self.table else frozenset()

    def is_unread(self, row: ImageRow) -> bool:
        """Whether a row points to a shard that could not be read whole."""
        return not self.unread.isdisjoint(row.shards)


def check_leaks(records: Records) -> Iterator[Violation]:
    """Check 1: the first record of every patient and content in each split but the first that has it.

    Content is the bytes of the source file or, where files differ, the stored pixels.
    """
    for column, number, first_number in records.in_several_splits():
        record, first = records[number], records[first_number]
        if column != "pixel_digest":
            what = f"patient {record.patient}" if column == "patient" else f"content {record.sha256}"
            yield Violation(1, record.where, f"{what} is in {record.split} and in {first.split}: {first.where}")
        elif first.sha256 != record.sha256:
            message = f"has the same stored pixels, in {record.split}, as {first.where} in {first.split}"
            yield Violation(1, record.where, message)


def check_groups(rows: Iterable[ImageRow]) -> Iterator[Violation]:
    """Check 1, on the patient groups of images.csv; a single patient in two splits is reported by `check_leaks`."""
    first_rows: dict[str, ImageRow] = {}
    reported: set[tuple[str, str]] = set()
    for row in rows:
        first = first_rows.setdefault(row.patient_group, row)
        if first.split == row.split or first.patient == row.patient or (row.patient_group, row.split) in reported:
            continue
        reported.add((row.patient_group, row.split))
        yield Violation(
            1,
            f"{IMAGES_NAME} {row.path}",
            f"is in {row.split}, but {first.path} of the same patient group {row.patient_group} is in {first.split}",
        )


def check_repeats(evidence: Evidence) -> Iterator[Violation]:
    """Check 3: images that are repeated where none may be, and repeats that are not numbered 0, 1, 2 and so on."""
    balance = evidence.manifest.config.balance
    records = evidence.records
    for split in records.splits:
        repeated = records.repeated(split) if split != "train" or balance != "oversample" else []
        if split != "train":
            for same in repeated:
                second = records[same[1]]
                yield Violation(3, second.where, f"{split} holds {second.path} {len(same)} times")
        elif repeated:
            yield Violation(
                3,
                records[repeated[0][1]].where,
                f"config.balance is {balance}, which repeats nothing, but train holds {len(repeated):,} scans more "
                "than once",
            )
        for numbers in records.unusual_repeats(split):
            of_one = [records[number] for number in numbers]
            incomplete = _may_lack_records(evidence, split, of_one[0].path)
            yield from _check_repeats_of_one(split, of_one, incomplete=incomplete)


def check_balance(manifest: Manifest) -> Iterator[Violation]:
    """Check 4 on the manifest's counts, which check 5 compares with the records."""
    if manifest.config.balance == "none":
        return
    for shard in manifest.splits.get("train", ()):
        if len(set(shard.per_class)) > 1:
            yield Violation(4, shard.name, f"classes are not balanced: {format_counts(shard.per_class, manifest)}")


def _may_lack_records(evidence: Evidence, split: str, path: str) -> bool:
    """Whether an image may have records in shards that could not be read whole."""
    if evidence.unread.isdisjoint(shard.name for shard in evidence.manifest.splits[split]):
        return False
    return evidence.table is None or path in evidence.unread_paths


def _check_repeats_of_one(split: str, records: Sequence[RecordSummary], *, incomplete: bool) -> Iterator[Violation]:
    """The records of one image in one split: numbered from 0, and equal but for the number."""
    first = records[0]
    numbers = sorted(record.repeat for record in records)
    is_numbered = len(set(numbers)) == len(numbers) if incomplete else numbers == list(range(len(numbers)))
    if not is_numbered:
        yield Violation(3, first.where, f"the repeats of {first.path} in {split} are not numbered from 0")
    for record in records[1:]:
        if record.pixel_digest != first.pixel_digest:
            yield Violation(3, record.where, f"has other pixels than {first.shard} record {first.index}")
        elif record.feature_digest != first.feature_digest:
            yield Violation(3, record.where, f"has other features than {first.shard} record {first.index}")
