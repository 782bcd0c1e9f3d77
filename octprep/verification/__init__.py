"""Check the guarantees of a finished folder from its shards alone, without the source.

1. No patient, no source content and no near-identical scan is in two splits.
2. Every image found is in images.csv exactly once: in a shard, or with a reason.
3. val, test and folds hold every image once; train holds every kept image at least once, its repeats numbered.
4. In a balanced split every shard has the same count of every class.
5. Every record's CRC, every shard's SHA-256 and every count match the manifest.

Everything that the records can show is compared, so that an edit is found even if all digests were computed again
after it. `table_checks` and `manifest_checks` say what no record can show.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from octprep import duplicates, preprocessing
from octprep.arrays import Bytes, Gray
from octprep.cluster import WAIT, WorkerNeeds
from octprep.duplicates.descriptors import as_matrix
from octprep.duplicates.duplicates_json import DuplicatesFile
from octprep.duplicates.exact import NEAR_IDENTICAL
from octprep.duplicates.pixel_comparison import compare_in_pool
from octprep.format import images_csv
from octprep.format.errors import SettingError
from octprep.format.manifest import (
    DUPLICATES_NAME,
    IMAGES_NAME,
    MANIFEST_NAME,
    Manifest,
    read_folder_file,
    unlisted_shards,
)
from octprep.shards import tfrecord
from octprep.shards.records import decode_with_pixels
from octprep.shards.tfrecord import RecordError
from octprep.shards.uploads import is_of_build
from octprep.storage.cache import copied
from octprep.storage.remote import Location, RemoteFolder, location
from octprep.verification.checks import (
    CHECKS,
    Evidence,
    Violation,
    check_balance,
    check_groups,
    check_leaks,
    check_repeats,
)
from octprep.verification.duplicate_checks import check_duplicates, check_near_duplicates
from octprep.verification.index_checks import check_index, check_tfds_files
from octprep.verification.manifest_checks import check_settings
from octprep.verification.records import PackedRecords, Records
from octprep.verification.shard_reading import Crop, ReadTask, read_shard
from octprep.verification.table_checks import check_table
from octprep.workers import Pool, Progress, no_progress, open_pool

__all__ = ["CHECKS", "SplitCount", "VerificationResult", "Violation", "verify"]

Content = TypeVar("Content")


class SplitCount(NamedTuple):
    """What a split holds."""

    images: int  # repeats not counted
    patients: int


@dataclass(frozen=True)
class VerificationResult:
    """What was read, and which guarantees do not hold."""

    manifest: Manifest
    records: int
    violations: tuple[Violation, ...]
    counts: Mapping[str, SplitCount]  # by split
    not_comparable: int = 0  # images too small to be compared with others, where near-identical scans were searched for
    unread: tuple[str, ...] = ()  # shards that could not be read whole, and tables that could not be read
    unchecked_rows: int = 0  # rows of images.csv that point to such shards
    notes: tuple[str, ...] = ()  # what violates no guarantee, such as a missing index

    def to_json(self) -> bytes:
        """All results as JSON, for other programs."""
        whole = {
            "digest": self.manifest.digest,
            "all_guarantees_hold": not self.violations,
            "records": self.records,
            "splits": {split: count._asdict() for split, count in self.counts.items()},
            "guarantees": {str(check): text for check, text in CHECKS.items()},
            "violations": [violation._asdict() for violation in self.violations],
            "not_comparable": self.not_comparable,
            "unread": self.unread,
            "unchecked_rows": self.unchecked_rows,
            "notes": self.notes,
        }
        return (json.dumps(whole, indent=1) + "\n").encode()


def verify(
    folder: Location | str,
    *,
    workers: int | None = None,
    cluster: Path | str | None = None,
    cluster_wait: float = WAIT,
    progress: Progress = no_progress,
) -> VerificationResult:
    """Read every record of a finished folder and check the guarantees.

    folder: what `octprep build` wrote, or its URL, of which all objects are copied to the user's cache for as long as
    this takes; nothing is changed. workers: processes; None: one for each core. cluster,
    cluster_wait: as for `octprep.build`.

    What only follows from another violation is not reported: of a shard that cannot be read whole neither its counts
    nor the rows that point to it. Raises ManifestError if the manifest is missing or is none; SettingError if workers
    is below 0, or the cluster cannot be used; StoppedError if it is lost, or if the machine cannot read a file, which
    is no violation.
    """
    place = location(folder)
    if isinstance(place, RemoteFolder) and cluster is not None:
        raise SettingError(f"{place} is verified on this machine, from a copy that --cluster cannot see; omit that.")
    with copied(place, is_of_build) as local:
        folder = local if cluster is None else local.absolute()
        return _verify(folder, workers, cluster, cluster_wait, progress)


def _verify(
    folder: Path, workers: int | None, cluster: Path | str | None, cluster_wait: float, progress: Progress
) -> VerificationResult:
    manifest = Manifest.load(folder, allow_edited=True)
    violations = list(_check_manifest_bytes(folder, manifest))
    pairs = _read_checked(folder / DUPLICATES_NAME, manifest.duplicates_sha256, DuplicatesFile.from_json, violations)
    needs = WorkerNeeds(partial(preprocessing.library_versions, manifest.recipe), files=(folder / MANIFEST_NAME,))
    with open_pool(workers, cluster, cluster_wait, needs) as pool:
        records, descriptors, unread = _read_records(folder, manifest, pool, progress, violations)
        violations += _check_unlisted_shards(folder, manifest)
        violations += check_leaks(records)
        near: dict[tuple[str, str], float] = {}
        if manifest.config.near_duplicates:
            progress("comparing scans", 0, 1)
            near = _near_identical(manifest, records, pairs, descriptors, folder, pool, violations)
            violations += check_near_duplicates(records, near)
            progress("comparing scans", 1, 1)
    del descriptors
    # Only now, as there is not the memory for its rows beside the descriptors if there are millions of scans.
    table = _read_checked(folder / IMAGES_NAME, manifest.images_sha256, images_csv.decode, violations)
    evidence = Evidence(manifest, records, table, pairs, frozenset(unread))
    violations += check_groups(table.rows if table else ())
    violations += check_table(evidence)
    violations += check_duplicates(evidence, near)
    violations += check_repeats(evidence)
    violations += check_balance(manifest)
    violations += check_settings(evidence)
    index_violations, note = check_index(folder, manifest, table, violations)
    violations += index_violations
    violations += check_tfds_files(folder, manifest)
    unread_tables = [name for name, content in ((IMAGES_NAME, table), (DUPLICATES_NAME, pairs)) if content is None]
    is_first = records.column("repeat") == 0
    return VerificationResult(
        manifest,
        len(records),
        tuple(sorted(set(violations))),
        {split: _count(records, numbers) for split, numbers in records.splits.items()},
        int(np.count_nonzero(is_first & ~records.column("comparable"))),
        (*sorted(unread), *unread_tables),
        sum(map(evidence.is_unread, table.rows if table else ())),
        (note,) if note else (),
    )


def _check_manifest_bytes(folder: Path, manifest: Manifest) -> Iterator[Violation]:
    if not manifest.digest_ok:
        yield Violation(5, MANIFEST_NAME, "was changed after it was written: its digest does not match")
    elif read_folder_file(folder / MANIFEST_NAME) != manifest.to_bytes():
        yield Violation(5, MANIFEST_NAME, "was rewritten: it says the same, but not in the bytes that octprep writes")


def _read_checked(
    path: Path, sha256: str, decode: Callable[[bytes], Content], violations: list[Violation]
) -> Content | None:
    """What images.csv or duplicates.json holds, or None; reports one that cannot be read or was changed."""
    try:
        data = read_folder_file(path)
        content = decode(data)
    except FileNotFoundError:
        violations.append(Violation(2, path.name, "is missing"))
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        violations.append(Violation(2, path.name, f"cannot be read: {reason}"))
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        violations.append(
            Violation(2, path.name, "was changed after it was written: its SHA-256 does not match the manifest")
        )
    return content


def _crops(folder: Path, manifest: Manifest) -> dict[str, dict[str, Crop]]:
    """The crop of the images of every shard by their paths; {} unless scans have black bars, which are not measured."""
    crops: dict[str, dict[str, Crop]] = defaultdict(dict)
    if manifest.recipe.resize == "pad":
        table = _read_checked(folder / IMAGES_NAME, manifest.images_sha256, images_csv.decode, [])
        for row in table.rows if table else ():
            for shard in row.shards:
                crops[shard][row.path] = row.measurements.crop
    return crops


def _read_records(
    folder: Path,
    manifest: Manifest,
    pool: Pool,
    progress: Progress,
    violations: list[Violation],
) -> tuple[Records, Bytes, set[str]]:
    """The records of all shards, and the names of the shards that could not be read whole.

    Also the descriptors of those that are no repeats, in the same order, (records, DESCRIPTOR_BYTES) uint8; no row
    where near-duplicates were not searched for.
    """
    crops = _crops(folder, manifest)
    tasks = [
        ReadTask(folder, shard, manifest, crops.get(shard.name, {}))
        for shards in manifest.splits.values()
        for shard in shards
    ]
    del crops
    total = sum(task.shard.records for task in tasks)
    descriptors: dict[str, bytes] = {}  # by shard
    unread = set()

    def contents() -> Iterator[tuple[str, PackedRecords]]:
        progress("reading records", 0, total)
        for of_shard in pool.run(read_shard, tasks):
            descriptors[of_shard.name] = of_shard.descriptors
            violations.extend(Violation(5, where, message) for where, message in of_shard.problems)
            if not of_shard.complete:
                unread.add(of_shard.name)
            yield of_shard.name, of_shard.records
            progress("reading records", len(of_shard.records.paths), total)

    names = {split: sorted(shard.name for shard in shards) for split, shards in manifest.splits.items()}
    records = Records(names, contents())
    in_order = (name for of_split in names.values() for name in of_split)
    return records, as_matrix(descriptors.pop(name) for name in in_order), unread


def _near_identical(
    manifest: Manifest,
    records: Records,
    duplicates_file: DuplicatesFile | None,
    descriptors: Bytes,
    folder: Path,
    pool: Pool,
    violations: list[Violation],
) -> dict[tuple[str, str], float]:
    """Correlation of the fine detail of two scans, -1..1, by their paths.

    Of all pairs that are near-identical under different patient ids, and of those that duplicates.json says are.
    descriptors: as `_read_records` gives them.
    """
    firsts = np.flatnonzero(records.column("repeat") == 0)
    if len(firsts) < 2:
        return {}

    read = partial(_stored_pixels, folder, manifest)

    def place(index: int) -> tuple[str, int, str]:
        record = records[int(firsts[index])]
        return record.shard, record.offset, record.where

    def path_of(index: int) -> str:
        return records[int(firsts[index])].path

    def index_of(path: str) -> int | None:
        """The index of the last of the records of an image that are no repeats."""
        numbers = [number for number in records.with_path(path) if records.column("repeat")[number] == 0]
        return int(np.searchsorted(firsts, numbers[-1])) if numbers else None

    # As numbers in the order of their ids, as which they were compared by the build.
    patient_order = sorted(range(len(records.patients)), key=records.patients.__getitem__)
    rank = np.argsort(patient_order)
    patients = rank[records.column("patient")[firsts]]
    try:
        matches = duplicates.near_identical(
            descriptors,
            patients,
            lambda index: read(place(index)),
            workers=pool.workers,
            compare=compare_in_pool(pool, place, read),
        )
        near = {(path_of(match.first), path_of(match.second)): match.correlation for match in matches}
        for pair in duplicates_file.pairs if duplicates_file else ():
            paths = (pair.first, pair.second)
            if pair.reason != NEAR_IDENTICAL:
                continue
            indices = [index for path in paths if (index := index_of(path)) is not None]
            if len(indices) < len(paths):
                continue
            if near.keys() & {paths, paths[::-1]}:
                continue
            # As in the search: the scan with the smaller descriptor is registered to the other.
            first, second = sorted(indices, key=lambda index: (descriptors[index].tobytes(), index))
            near[paths] = round(duplicates.detail_correlation(read(place(first)), read(place(second))), 4)
    except (RecordError, OSError) as error:
        violations.append(Violation(5, str(folder), f"could not be read a second time: {error}"))
        return {}
    return near


def _stored_pixels(folder: Path, manifest: Manifest, place: tuple[str, int, str]) -> Gray:
    """The pixels of a record. place: its shard, the byte at which it begins, and how it is called in messages."""
    shard, offset, where = place
    try:
        return decode_with_pixels(tfrecord.read_at(folder / shard, offset), manifest).pixels
    except RecordError:
        raise RecordError(f"{where} changed while it was verified") from None


def _check_unlisted_shards(folder: Path, manifest: Manifest) -> Iterable[Violation]:
    """Check 5: shards that the manifest does not name."""
    for name in unlisted_shards(folder, manifest):
        yield Violation(5, name, "is not in the manifest")


def _count(records: Records, numbers: range) -> SplitCount:
    backwards = np.asarray(numbers, np.int64)[::-1]
    _, last = np.unique(records.column("path")[backwards], return_index=True)  # of each image
    return SplitCount(len(last), len(np.unique(records.column("patient")[backwards[last]])))
