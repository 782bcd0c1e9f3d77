"""Check 2 on images.csv: its rows against the records, the manifest's counts, the file names and duplicates.json.

No record shows, and only the form is checked (`octprep.format.images_csv.decode`) of: bytes, fill_fraction,
crop_confidence, note and flags, and what a row of an excluded file holds beyond its path and patient group. A change of
stored pixels shows in their mean, std and sharpness, if it is large enough to change the rounded values.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

from octprep import preprocessing
from octprep.duplicates.duplicates_json import DuplicatesFile
from octprep.format.flags import WHITE_FRAME
from octprep.format.images_csv import DECIMALS, ImageRow, ScanRow, Table
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, STATED, Manifest
from octprep.format.names import split_of_folder
from octprep.source.files import ScanFile, parse_scan_path
from octprep.splits.patients import connected_components
from octprep.verification.checks import Evidence, Violation
from octprep.verification.records import Records, RecordSummary

_MEASURED = ("mean_intensity", "std_intensity", "sharpness")  # in the order of `preprocessing.measure_intensity`
_NAMED_ONE_BY_ONE = 3  # rows with the same violation, even if they are all rows
_NEARLY_ALL = 0.9  # of the images: what is wrong with more of them is reported once

Difference = tuple[str, str]  # what was compared, to sum up equal ones, and what is wrong


def check_table(evidence: Evidence) -> Iterator[Violation]:
    """Every row of images.csv, and the counts of its rows; what is wrong with a column in nearly all is said once."""
    table = evidence.table
    if table is None:
        return
    yield from _check_counts(table, evidence.manifest)
    yield from _check_rows(table, evidence)


def _check_counts(table: Table, manifest: Manifest) -> Iterator[Violation]:
    for path, count in table.repeated_paths.items():
        yield Violation(2, f"{IMAGES_NAME} {path}", f"has {count} rows")
    counts = [("rows", table.count, manifest.source["found"])]
    if not table.problems:
        counts.append(("rows of images kept", len(table.rows), manifest.source["kept"]))
        counts.append(("rows of excluded files", len(table.excluded), manifest.source["excluded"]))
    for noun, count, declared in counts:
        if count != declared:
            yield Violation(2, IMAGES_NAME, f"has {count:,} {noun}, where the manifest says {declared:,}")


def _check_rows(table: Table, evidence: Evidence) -> Iterator[Violation]:
    records = _RecordsByPath(evidence.records)
    groups = _expected_groups(table, evidence.duplicates)
    violations: dict[str, list[Violation]] = defaultdict(list)  # by what was compared
    for problem in table.problems:
        records.pop(problem.path)
        where = f"{IMAGES_NAME} {problem.path}".rstrip()
        violations[f"column {problem.column}"].append(Violation(2, where, problem.message))
    for row in table.rows:
        for aspect, violation in _check_image(row, records.pop(row.path), groups, evidence):
            violations[aspect].append(violation)
    for excluded in table.excluded:
        where = f"{IMAGES_NAME} {excluded.path}"
        if with_records := records.pop(excluded.path):
            shards = " ".join(sorted({record.shard for record in with_records}))
            message = f"is excluded, but {shards} holds {len(with_records)} records of it"
            violations["exclusion_reason"].append(Violation(2, where, message))
        if excluded.scan:
            for aspect, message in _scan_differences(excluded.scan, groups, evidence.manifest):
                violations[aspect].append(Violation(2, where, message))
    yield from _sum_up(violations, table.rows)
    for without_row in records.left():
        yield Violation(2, without_row.where, f"has no row in {IMAGES_NAME}")


class _RecordsByPath:
    """The records by path, from which those of a path can be taken once."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._is_taken = np.zeros(len(records), bool)

    def pop(self, path: str) -> list[RecordSummary]:
        """The records of a path, or [] if there are none, or they were taken."""
        numbers = [number for number in self._records.with_path(path) if not self._is_taken[number]]
        self._is_taken[numbers] = True
        return [self._records[number] for number in numbers]

    def left(self) -> Iterator[RecordSummary]:
        """The first record of each path that was not taken."""
        firsts = self._records.firsts
        return (self._records[number] for number in firsts[~self._is_taken[firsts]].tolist())


def _check_image(
    row: ImageRow,
    records: Sequence[RecordSummary],
    groups: Mapping[str, str] | None,
    evidence: Evidence,
) -> Iterator[tuple[str, Violation]]:
    """What is wrong with the row of an image, by what was compared."""
    where, manifest = f"{IMAGES_NAME} {row.path}", evidence.manifest
    differences = [*_placement_differences(row, records, evidence), *_scan_differences(row, groups, manifest)]
    if row.label not in manifest.class_names:
        differences.append((f"class {row.label}", f"is of class {row.label!r}, which the manifest does not have"))
    for record in records:
        differences += _pixel_differences(row, record, manifest)
    for aspect, message in differences:
        yield aspect, Violation(2, where, message)
    for record in records:
        # Repeats with equal features differ from the row as the first one does; check 3 compares the others.
        if record is records[0] or record.feature_digest != records[0].feature_digest:
            for aspect, message in _record_differences(row, record, manifest):
                yield aspect, Violation(2, record.where, message)


def _sum_up(violations: Mapping[str, Sequence[Violation]], rows: Sequence[ImageRow]) -> Iterator[Violation]:
    """The violations, but one for all where nearly every row has the same."""
    class_sizes = Counter(row.label for row in rows)
    for aspect, same in violations.items():
        affected = class_sizes.get(aspect.removeprefix("class "), len(rows))
        many = len(same) > max(_NAMED_ONE_BY_ONE, _NEARLY_ALL * affected)
        if many or (aspect.startswith("shard ") and len(same) > _NAMED_ONE_BY_ONE):
            first = same[0]
            message = f"{aspect}: {len(same):,} violations; the first: {first.where} {first.message}"
            yield Violation(2, IMAGES_NAME, message)
        else:
            yield from same


def _placement_differences(row: ImageRow, records: Sequence[RecordSummary], evidence: Evidence) -> Iterator[Difference]:
    """Which shards hold an image, how often, and in which split."""
    shards = " ".join(row.shards)
    if unknown := sorted(set(row.shards) - evidence.shard_names):
        yield f"shard {shards}", f"says shard {' '.join(unknown)}, which the manifest does not have"
        return
    if evidence.is_unread(row):
        if {name.partition("/")[0] for name in row.shards} != {row.split}:
            yield "split", f"says split {row.split}, but shard {shards}"
        return
    holding = tuple(sorted({record.shard for record in records}))
    if (row.shards, row.record_count) != (holding, len(records)):
        yield (
            "record_count",
            f"says {row.record_count} records in {shards}, but {len(records)} are in {' '.join(holding) or 'no shard'}",
        )
    splits = " ".join(sorted({record.split for record in records}))
    if row.split != splits:
        yield "split", f"says split {row.split}, but " + (f"its records are in {splits}" if splits else "has no record")


def _scan_differences(row: ScanRow, groups: Mapping[str, str] | None, manifest: Manifest) -> Iterator[Difference]:
    """What the path, duplicates.json and the recipe show of a row."""
    usual = not (manifest.layouts or manifest.config.classes) and manifest.config.patients != "per-class"
    if usual and (scan_file := _parse_path(row.path)):
        for column, cell, in_path in (
            ("class", row.label, scan_file.label),
            ("patient", row.patient, scan_file.patient),
            ("image_number", row.image_number, scan_file.image_number),
            ("source_split", row.source_split, scan_file.source_split),
        ):
            if cell != in_path:
                yield f"{column} and path", f"says {column} {cell or 'none'}, but its path says {in_path or 'none'}"
    for name in STATED:
        if name not in manifest.stated and getattr(row, name):
            yield name, f"says {name} {getattr(row, name)!r}, which the manifest's source.features does not have"
    if groups is not None and row.patient_group != groups[row.patient]:
        expected = groups[row.patient]
        yield "patient_group", f"says patient_group {row.patient_group}, but by {DUPLICATES_NAME} it is {expected}"
    has_frame = WHITE_FRAME in row.measurements.flags  # which is cut off
    if manifest.recipe.crop == "none" and not has_frame and row.measurements.crop[:2] != (0, row.height):
        yield "crop rows", "is cropped in its rows, but config.recipe.crop is none"


def _record_differences(row: ImageRow, record: RecordSummary, manifest: Manifest) -> Iterator[Difference]:
    """Where a record's features, apart from the pixels, are not those of its row."""
    label = manifest.class_names[record.label]
    if row.label != label:
        yield f"class {row.label}", f"says class {label}, where {IMAGES_NAME} says {row.label}"
    for column, in_record, cell in (
        ("patient", record.patient, row.patient),
        ("image_number", record.image_number, row.image_number),
        ("sha256", record.sha256, row.sha256),
        ("height", record.source_size[0], row.height),
        ("width", record.source_size[1], row.width),
    ):
        if in_record != cell:
            yield column, f"says {column} {in_record}, where {IMAGES_NAME} says {cell}"
    expected = tuple(getattr(row, name) if name in manifest.stated else None for name in STATED)
    if record.stated != expected:
        yield "source, eye or volume", f"says {record.stated}, where {IMAGES_NAME} and the manifest say {expected}"
    affine = preprocessing.Geometry.of_crop(row.measurements.crop, manifest.recipe).affine
    pairs = zip(affine, record.affine, strict=True)
    if not all(math.isclose(wanted, actual, rel_tol=1e-6, abs_tol=1e-6) for wanted, actual in pairs):
        yield "crop", f"does not have the affine of its crop {row.measurements.crop}"


def _pixel_differences(row: ImageRow, record: RecordSummary, manifest: Manifest) -> Iterator[Difference]:
    """Where a row's measurements are not those of the record's stored pixels."""
    same_opencv = manifest.libraries.get("opencv") == cv2.__version__  # another one may differ in the last place
    for column, measured in zip(_MEASURED, record.measures, strict=False):  # repeats have no measures
        cell = getattr(row.measurements, column)
        unit = 10.0 ** -DECIMALS[column][1]
        if abs(cell - measured) > unit * (0.500001 if same_opencv else 1.5):
            yield column, f"says {column} {cell}, but its stored pixels have {measured:.5f}"


def _expected_groups(table: Table, duplicates: DuplicatesFile | None) -> dict[str, str] | None:
    """The patient group of every patient id, by the pairs of duplicates.json, or None if it is not known.

    It is the smallest id among those that are linked.
    """
    if duplicates is None:
        return None
    named = {path for pair in duplicates.pairs for path in (pair.first, pair.second)}
    patients = {scan.path: scan.patient for scan in table.scans if scan.path in named}
    links = [(patient, patient) for patient in {scan.patient for scan in table.scans}]
    damaged = {problem.path for problem in table.problems}
    for pair in duplicates.pairs:
        if not damaged.isdisjoint((pair.first, pair.second)):
            return None
        if pair.first in patients and pair.second in patients:
            links.append((patients[pair.first], patients[pair.second]))
    return connected_components(links)


def _parse_path(path: str) -> ScanFile | None:
    """What a path says of its scan, or None if it is not [train|val|test/]CLASS/CLASS-patient-number."""
    folders = path.split("/")[:-1]
    inner = 2 if len(folders) > 1 and split_of_folder(folders[-2]) else 1
    try:
        parsed = parse_scan_path(path, 0, "/".join(folders[: max(len(folders) - inner, 0)]))
    except ValueError:  # not a path as octprep writes it
        return None
    return parsed if isinstance(parsed, ScanFile) else None
