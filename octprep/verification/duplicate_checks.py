"""Checks 1 and 2 on duplicate pairs: those of duplicates.json, and those that the stored pixels show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

import numpy as np

from octprep import duplicates
from octprep.duplicates.duplicates_json import DuplicatesFile
from octprep.duplicates.exact import NEAR_IDENTICAL, SAME_BYTES, SAME_PIXELS, DuplicatePair
from octprep.format.images_csv import ScanRow, Table
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME
from octprep.verification.checks import Evidence, Violation
from octprep.verification.records import Records

Correlations = Mapping[tuple[str, str], float]  # of two scans' fine detail, -1..1, by their paths

_TOLERANCE = 0.01  # between a stored correlation and the one measured again


def check_near_duplicates(records: Records, near: Correlations) -> Iterator[Violation]:
    """Check 1 on the pixels: near-identical scans under different patient ids in different splits.

    Pairs with equal bytes or equal pixels are reported by `check_leaks`.
    """
    for (first, second), correlation in sorted(near.items()):
        first_record, record = records.first(first), records.first(second)
        assert first_record and record, "near-identical scans have records"
        same_content = first_record.sha256 == record.sha256 or first_record.pixel_digest == record.pixel_digest
        if first_record.split != record.split and not same_content and correlation >= duplicates.MIN_CORRELATION:
            yield Violation(
                1,
                record.where,
                f"is near-identical (correlation {correlation:.2f}) to {first_record.where} in {first_record.split}, "
                f"under patient {record.patient} here and {first_record.patient} there",
            )


def check_duplicates(evidence: Evidence, near: Correlations) -> Iterator[Violation]:
    """Check 2 on duplicates.json, against images.csv and the records.

    near: of all near-identical pairs under different patient ids, and of those that duplicates.json says are.
    """
    if evidence.duplicates is None or evidence.table is None:
        return
    named = {path for pair in evidence.duplicates.pairs for path in (pair.first, pair.second)}
    scans = {scan.path: scan for scan in evidence.table.scans if scan.path in named}
    damaged = {problem.path for problem in evidence.table.problems}
    for pair in evidence.duplicates.pairs:
        if not damaged.isdisjoint((pair.first, pair.second)):
            continue
        first, second = scans.get(pair.first), scans.get(pair.second)
        where = f"{DUPLICATES_NAME} {pair.first} = {pair.second}"
        if first is None or second is None:
            yield Violation(2, where, f"names a scan that {IMAGES_NAME} does not have")
            continue
        for message in _pair_problems(pair, first, second, evidence, near):
            yield Violation(2, where, message)
    yield from _check_unlinked(evidence.table, evidence, evidence.duplicates, near)
    yield from _check_search(evidence, evidence.duplicates)


def _pair_problems(
    pair: DuplicatePair, first: ScanRow, second: ScanRow, evidence: Evidence, near: Correlations
) -> Iterator[str]:
    assert evidence.duplicates is not None
    if first.patient == second.patient:
        yield f"links two scans of one patient id, {first.patient}"
    if (pair.reason == SAME_BYTES) != (first.sha256 == second.sha256):
        yield f"says {pair.reason}, but {IMAGES_NAME} shows otherwise"
    records = [record for path in (pair.first, pair.second) if (record := evidence.records.first(path))]
    if pair.reason == SAME_PIXELS and len({record.pixel_digest for record in records}) > 1:
        yield f"says {pair.reason}, but the stored pixels differ"
    if pair.reason != NEAR_IDENTICAL:
        if pair.correlation != 1:
            yield f"says {pair.reason}, but a correlation of {pair.correlation:.4f}"
        return
    measured = near.get((pair.first, pair.second), near.get((pair.second, pair.first)))
    if pair.correlation < evidence.duplicates.threshold:
        yield f"says correlation {pair.correlation:.4f}, below {evidence.duplicates.threshold:.2f}"
    elif measured is not None and abs(measured - pair.correlation) > _TOLERANCE:
        yield f"says correlation {pair.correlation:.4f}, but the stored pixels have {measured:.4f}"


def _check_unlinked(table: Table, evidence: Evidence, file: DuplicatesFile, near: Correlations) -> Iterator[Violation]:
    """Scans with the same content, or near-identical ones, that are in two patient groups."""
    scans = _alike(table, evidence.records, {path for paths in near for path in paths})
    first_scans: dict[str | bytes, ScanRow] = {}
    for path, scan in scans.items():
        contents: dict[str, str | bytes] = {"bytes": scan.sha256}
        if record := evidence.records.first(path):
            contents["stored pixels"] = record.pixel_digest
        for noun, content in contents.items():
            first = first_scans.setdefault(content, scan)
            if first.patient_group != scan.patient_group:
                yield Violation(
                    2, f"{IMAGES_NAME} {path}", f"has the same {noun} as {first.path}, but another patient group"
                )
    for (first_path, second_path), correlation in near.items():
        groups = {scans[path].patient_group for path in (first_path, second_path) if path in scans}
        if len(groups) > 1 and correlation >= file.threshold:
            yield Violation(
                2,
                f"{IMAGES_NAME} {second_path}",
                f"is near-identical (correlation {correlation:.2f}) to {first_path}, but of another patient group",
            )


def _alike(table: Table, records: Records, others: AbstractSet[str]) -> dict[str, ScanRow]:
    """The scans that may have their path, bytes or stored pixels in common with another, and some others, by path.

    All of them would take much memory.
    """
    first_numbers = (records.with_path(scan.path)[:1] for scan in table.scans)
    pixels = (records.column("pixel_digest")[numbers].tobytes() for numbers in first_numbers)
    alike = np.zeros(sum(1 for _ in table.scans), bool)
    for values in ((scan.path for scan in table.scans), (scan.sha256 for scan in table.scans), pixels):
        hashes = np.fromiter(map(hash, values), np.int64)
        _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        alike |= counts[inverse] > 1
    return {
        scan.path: scan
        for scan, is_alike in zip(table.scans, alike.tolist(), strict=True)
        if is_alike or scan.path in others
    }


def _check_search(evidence: Evidence, file: DuplicatesFile) -> Iterator[Violation]:
    """Whether duplicates.json was made with the config's setting for near-identical scans."""
    searched = evidence.manifest.config.near_duplicates
    if searched == (file.distances is None):
        setting = "on" if searched else "off"
        yield Violation(
            2, DUPLICATES_NAME, f"shows that near-identical scans were treated otherwise than config says ({setting})"
        )
    elif not searched and any(pair.reason == NEAR_IDENTICAL for pair in file.pairs):
        yield Violation(2, DUPLICATES_NAME, "has near-identical scans, but config.near_duplicates is off")
