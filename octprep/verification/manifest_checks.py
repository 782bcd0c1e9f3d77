"""Check 5 on the manifest: the settings and leaks it declares, where splits, rows and records show them.

Only the form is checked of what leaves no trace: seed, fractions, shard size, margins, field of view and denoiser of
the config, the source's listing, the versions of the libraries, and the distances in duplicates.json.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from octprep.duplicates.duplicates_json import DuplicatesFile
from octprep.duplicates.exact import NEAR_IDENTICAL
from octprep.format.config import SOURCE_SPLITS, BuildConfig
from octprep.format.images_csv import UNDERSAMPLED, ImageRow, Table
from octprep.format.manifest import IMAGES_NAME, MANIFEST_NAME, Leaks, Manifest
from octprep.source.files import Scan
from octprep.splits.leaks import find_hidden_leaks, find_leaks
from octprep.splits.patients import PatientGroup
from octprep.verification.checks import Evidence, Violation
from octprep.verification.records import RecordSummary
from octprep.wording import number

_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*[A-Za-z0-9.+!_-]{0,40}")
_OVER_CAP = re.compile(r"beyond --max-per-patient ([0-9]+) of its patient")


def check_settings(evidence: Evidence) -> Iterator[Violation]:
    """What the manifest says of the build."""
    config = evidence.manifest.config
    yield from _check_libraries(evidence.manifest)
    splits, expected = list(evidence.manifest.splits), _expected_splits(evidence.manifest)
    if splits != expected:
        yield _violation("config.split", f"is {config.split}, but the splits are {', '.join(splits)}")
    if evidence.manifest.leaks and not config.allow_leaks:
        yield _violation("leaks", "are declared, but config.allow_leaks is false")
    if evidence.table is not None:
        yield from _check_classes(evidence.table, evidence.manifest)
        yield from _check_source_splits(evidence.table.rows, config)
        yield from _check_exclusions(evidence.table, config)
    yield from _check_label_conflicts(evidence)
    if evidence.table is not None and evidence.duplicates is not None and not evidence.unread:
        yield from _check_declared_leaks(evidence, evidence.table, evidence.duplicates)


def _check_libraries(manifest: Manifest) -> Iterator[Violation]:
    required = {"octprep", "numpy", "opencv", "simplejpeg"}
    if manifest.recipe.denoise == "wavelet":
        required.add("pywavelets")
    if missing := sorted(required - manifest.libraries.keys()):
        yield _violation("libraries", f"lacks {', '.join(missing)}")
    for name, version in manifest.libraries.items():
        if not _VERSION.fullmatch(version):
            yield _violation(f"libraries.{name}", f"is {version[:60]!r}, which is not a version")


def _expected_splits(manifest: Manifest) -> list[str]:
    config = manifest.config
    if config.split == "kfold":
        return [*(f"fold{fold}" for fold in range(config.folds)), "test"]
    if config.split in ("as-given", "file"):  # val may be missing
        return [name for name in SOURCE_SPLITS if name in manifest.splits or name != "val"]
    return ["test"] if config.is_test_only else list(SOURCE_SPLITS)


def _check_classes(table: Table, manifest: Manifest) -> Iterator[Violation]:
    classes = {row.label for row in table.rows}
    if absent := [name for name in manifest.class_names if name not in classes]:
        yield _violation("class_names", f"has {', '.join(absent)}, but {IMAGES_NAME} has no image of it in a shard")


def _check_source_splits(rows: Sequence[ImageRow], config: BuildConfig) -> Iterator[Violation]:
    """Whether images are in the splits that the source's folders demand."""
    if config.split == "as-given":
        misplaced = [row for row in rows if row.source_split != row.split]
    elif config.split == "keep-test" or (config.split == "kfold" and any(row.source_split == "test" for row in rows)):
        misplaced = [row for row in rows if (row.source_split == "test") != (row.split == "test")]
    else:
        return
    if misplaced:
        first, verb = misplaced[0], "is" if len(misplaced) == 1 else "are"
        yield _violation(
            "config.split",
            f"is {config.split}, but {number(len(misplaced), 'image')} {verb} not in the split that this demands; the "
            f"first is {first.path}, in {first.split}",
        )


def _check_exclusions(table: Table, config: BuildConfig) -> Iterator[Violation]:
    """Whether images were excluded as undersampling and the cap per patient demand, and no others."""
    reasons = [row.exclusion_reason for row in table.excluded]
    if config.balance != "undersample" and UNDERSAMPLED in reasons:
        yield _violation(
            "config.balance", f"is {config.balance}, but {IMAGES_NAME} says that scans were excluded to undersample"
        )
    cap = config.max_per_patient
    caps = {int(match[1]) for reason in reasons if (match := _OVER_CAP.fullmatch(reason[:80]))}
    if caps - {cap}:
        yield _violation("config.max_per_patient", f"is {cap}, but {IMAGES_NAME} says {max(caps)}")
    sizes = Counter((row.split, row.patient_group) for row in table.rows if row.split not in ("val", "test"))
    if cap and sizes:
        (split, group), size = sizes.most_common(1)[0]
        if size > cap:
            yield _violation("config.max_per_patient", f"is {cap}, but {split} has {size} of patient {group}")


def _check_label_conflicts(evidence: Evidence) -> Iterator[Violation]:
    """Whether one content is kept under two classes although the config does not allow it; the first such."""
    conflicts = evidence.manifest.config.label_conflicts
    if conflicts == "keep":
        return
    records = evidence.records
    labels, found = records.column("label"), []
    for column in ("sha256", "pixel_digest"):
        first = records.first_with_same(column, records.firsts)
        others = np.flatnonzero(labels[records.firsts] != labels[first])
        found += [(int(records.firsts[index]), int(first[index])) for index in others[:1]]
    if found:
        number, first_number = min(found, key=lambda pair: pair[0])
        paths = records[first_number].path, records[number].path
        message = f"is {conflicts}, but {paths[0]} and {paths[1]} show the same under two classes"
        yield _violation("config.label_conflicts", message)


def _check_declared_leaks(evidence: Evidence, table: Table, duplicates: DuplicatesFile) -> Iterator[Violation]:
    """The leaks that the manifest declares against those of the records."""
    declared, actual = evidence.manifest.leaks, _actual_leaks(evidence, table, duplicates)
    for noun, declared_names, actual_names in (
        ("patient", set(declared.patients), set(actual.patients)),
        ("content", set(declared.contents), set(actual.contents)),
        ("near-identical pair", set(map(" = ".join, declared.near)), _leaking_pairs(evidence, declared, actual)),
    ):
        for name in sorted(declared_names - actual_names):
            yield _violation("leaks", f"declares {noun} {name} in two splits, but the records show no such thing")
        for name in sorted(actual_names - declared_names):
            yield _violation("leaks", f"does not declare {noun} {name}, which is in two splits")


def _actual_leaks(evidence: Evidence, table: Table, duplicates: DuplicatesFile) -> Leaks:
    near = [pair for pair in duplicates.pairs if pair.reason == NEAR_IDENTICAL]
    is_given = evidence.manifest.config.split in ("as-given", "file")
    groups = {row.path: row.patient_group for row in table.rows} if is_given else {}
    splits: dict[str, list[Scan]] = {}
    members: dict[str, list[Scan]] = defaultdict(list)
    named = {path for pair in near for path in (pair.first, pair.second)}
    records = evidence.records
    for split, of_split in records.splits.items():
        # Of scans that have nothing in common with another split, nothing can leak but through a patient group.
        members_of_split = of_split if is_given else records.that_may_leak(split, named)
        scans = {
            scan.path: scan for scan in (_as_scan(records[index], evidence.manifest) for index in members_of_split)
        }
        splits[split] = sorted(scans.values(), key=lambda scan: scan.path)
        for path, scan in scans.items():
            members[groups.get(path) or f"patient {scan.patient}"].append(scan)
    if is_given:
        return find_hidden_leaks(splits, [PatientGroup(key, tuple(scans)) for key, scans in members.items()], near)
    return find_leaks(list(splits.values()), near)


def _leaking_pairs(evidence: Evidence, declared: Leaks, actual: Leaks) -> set[str]:
    """Near-identical pairs in two splits; those that are declared count too if they have the same content."""
    pairs = set(map(" = ".join, actual.near))
    for first, second in declared.near:
        first_record, second_record = evidence.records.first(first), evidence.records.first(second)
        if first_record and second_record:
            same_bytes = first_record.sha256 == second_record.sha256
            same_content = same_bytes or first_record.pixel_digest == second_record.pixel_digest
            if first_record.split != second_record.split and same_content:
                pairs.add(f"{first} = {second}")
    return pairs


def _as_scan(record: RecordSummary, manifest: Manifest) -> Scan:
    return Scan(
        path=record.path,
        label=manifest.class_names[record.label],
        patient=record.patient,
        image_number=record.image_number,
        source_split="",
        bytes=0,
        digests=bytes.fromhex(record.sha256) + record.pixel_digest,
        height=record.source_size[0],
        width=record.source_size[1],
    )


def _violation(setting: str, message: str) -> Violation:
    return Violation(5, f"{MANIFEST_NAME} {setting}", message)
