"""Whether the guarantees hold, as far as images.csv, duplicates.json and the manifest show it.

`octprep verify` reads the records themselves.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octprep.format.images_csv import ImageRow
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, Manifest, open_shard
from octprep.report.table import Images
from octprep.storage.remote import Location, RemoteFolder
from octprep.wording import first_lines, listed, number

HOLDS, VIOLATED, NOT_APPLICABLE, UNKNOWN = "holds", "violated", "not applicable", "unknown"
MAX_DETAILS = 20  # lines of a check that are shown
_MAX_IDS = 6  # patient ids of one group that are named


@dataclass(frozen=True)
class Check:
    """One guarantee, and whether it holds."""

    name: str
    state: str  # HOLDS, VIOLATED, NOT_APPLICABLE or UNKNOWN
    headline_word: str  # its word in the headline; "": not mentioned there
    sentence: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckResults:
    """All checks, and their summary in one line."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no guarantee is violated."""
        return all(check.state != VIOLATED for check in self.checks)

    @property
    def headline(self) -> str:
        """Such as: Leak-free, balanced and complete. Or: LEAKY; otherwise balanced and complete."""
        violated = [check.headline_word for check in self.checks if check.state == VIOLATED]
        others = [check.headline_word for check in self.checks if check.state != VIOLATED and check.headline_word]
        text = "; otherwise ".join(filter(None, (listed(violated), listed(others))))
        return text if text.startswith((IMAGES_NAME, DUPLICATES_NAME)) else text[:1].upper() + text[1:]


def evaluate_checks(
    images: Images, table: bytes | None, pairs: bytes | None, manifest: Manifest, missing: Sequence[str]
) -> CheckResults:
    """Compare images.csv and duplicates.json with the manifest.

    images: the rows of images.csv. table, pairs: the bytes of images.csv and duplicates.json, None if they could not be
    read. missing: from `missing_shards`.
    """
    differences = None if table is None else table_differences(images, manifest)
    leaks, repeats = check_leaks(images.kept, manifest), check_repeats(images.kept, manifest)
    if differences != []:  # rows may be missing that violate these guarantees
        leaks, repeats = _unless_violated(leaks), _unless_violated(repeats)
    return CheckResults(
        (
            leaks,
            check_balance(manifest),
            check_completeness(differences, missing, manifest),
            repeats,
            _check_file(IMAGES_NAME, table, manifest.images_sha256),
            _check_file(DUPLICATES_NAME, pairs, manifest.duplicates_sha256),
        )
    )


def check_leaks(kept: Iterable[ImageRow], manifest: Manifest) -> Check:
    """What is in more than one split, by the rows or as the manifest declares.

    Compared are patients, contents and patient groups; near-identical scans are known from the manifest alone.
    """
    patients: dict[str, set[str]] = defaultdict(set)
    contents: dict[str, set[str]] = defaultdict(set)  # those in several splits, or declared to be
    first_split: dict[str, str] = {}  # of each content; a set for each would take most of the memory
    declared = set(manifest.leaks.contents)
    groups: dict[str, set[str]] = defaultdict(set)
    members: dict[str, set[str]] = defaultdict(set)
    for row in kept:
        patients[row.patient].add(row.split)
        first = first_split.setdefault(row.sha256, row.split)
        if first != row.split or row.sha256 in declared:
            contents[row.sha256] |= {first, row.split}
        groups[row.patient_group].add(row.split)
        members[row.patient_group].add(row.patient)
    # A group of one id is in two splits only if its patient is, which is reported already.
    groups = {group: splits for group, splits in groups.items() if len(members[group]) > 1}
    order = list(manifest.splits)
    leaking_patients = _in_several(patients, order, manifest.leaks.patients)
    leaking_contents = _in_several(contents, order, manifest.leaks.contents)
    leaking_groups = _in_several(groups, order)
    near = manifest.leaks.near
    if not leaking_patients and not leaking_contents and not leaking_groups and not near:
        sentence = f"No patient, no group of linked patients and no file content is in two of {listed(order)}."
        if manifest.unknown_patients:
            unknown = f"{manifest.unknown_patients[0].upper()}{manifest.unknown_patients[1:]}."
            return Check("Leaks", HOLDS, "leak-free but for unknown patients", f"{sentence} {unknown}")
        return Check("Leaks", HOLDS, "leak-free", sentence)
    counts = [
        number(len(names), *words)
        for names, words in (
            (leaking_patients, ("patient",)),
            (leaking_contents, ("file content",)),
            (leaking_groups, ("group of linked patients", "groups of linked patients")),
            (near, ("near-identical pair",)),
        )
        if names
    ]
    details = [
        *(f"patient {name}: in {splits}" for name, splits in leaking_patients.items()),
        *(f"content {name[:16]}: in {splits}" for name, splits in leaking_contents.items()),
        *(
            f"group {name}, linked patients {listed(_sorted_ids(members[name]), _MAX_IDS)}: in {splits}"
            for name, splits in leaking_groups.items()
        ),
        *(f"{first} and {second}: near-identical, under different patient ids" for first, second in near),
    ]
    sentence = f"In more than one split: {listed(counts)}. Results on these shards will look better than they are."
    return Check("Leaks", VIOLATED, "LEAKY", sentence, _first(details))


def check_balance(manifest: Manifest) -> Check:
    """Whether every shard of train holds the same number of each class, where that was asked for."""
    train = manifest.splits.get("train", ())
    if manifest.config.balance == "none":
        if "train" not in manifest.splits:
            sentence = "Folds take turns as validation, so each holds its images once, with natural class proportions."
        else:
            sentence = "Balance was not asked for: every shard has natural class proportions."
        return Check("Balance", NOT_APPLICABLE, "", f"{sentence} Training can weight the classes.")
    uneven = [shard for shard in train if len(set(shard.per_class)) > 1]
    if uneven:
        details = []
        for shard in uneven:
            counts = zip(manifest.class_names, shard.per_class, strict=True)
            details.append(f"{shard.name}: " + ", ".join(f"{name} {count:,}" for name, count in counts))
        sentence = f"{number(len(uneven), 'shard')} of train hold the classes in unequal numbers."
        return Check("Balance", VIOLATED, "NOT BALANCED", sentence, _first(details))
    sizes = sorted({shard.per_class[0] for shard in train if shard.per_class})
    records = " or ".join(f"{size:,}" for size in sizes) if len(sizes) <= 2 else f"{sizes[0]:,} to {sizes[-1]:,}"
    subject = f"Each of the {len(train):,} shards" if len(train) != 1 else "The one shard"
    sentence = f"{subject} of train holds every class equally often: {records} records each."
    return Check("Balance", HOLDS, "balanced", sentence)


def table_differences(images: Images, manifest: Manifest) -> list[str]:
    """In words, what is wrong with single rows, and where their counts are not the manifest's."""
    source = manifest.source
    differences = list(images.problems)
    for noun, count, declared in (
        ("rows", images.count, source["found"]),
        ("images kept", len(images.kept), source["kept"]),
        ("files excluded", len(images.excluded), source["excluded"]),
    ):
        if count != declared:
            differences.append(f"{count:,} {noun}, where the manifest says {declared:,}")
    records: Counter[tuple[str, str]] = Counter()
    for row in images.kept:
        records[row.split, row.label] += row.record_count
    for split in manifest.splits:
        for label, declared in manifest.per_class(split).items():
            if records[split, label] != declared:
                differences.append(
                    f"{split}: {records[split, label]:,} records of {label} by {IMAGES_NAME}, "
                    f"where the manifest says {declared:,}"
                )
    return differences


def missing_shards(folder: Location, manifest: Manifest) -> list[str]:
    """In words, the shards that are not in the folder with the size in the manifest; none is read."""
    missing = []
    objects = folder.list() if isinstance(folder, RemoteFolder) else {}
    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        try:
            size = _local_size(folder / shard.name) if isinstance(folder, Path) else objects[shard.name].bytes
        except (FileNotFoundError, NotADirectoryError, KeyError):
            missing.append(f"{shard.name} is missing")
        except OSError as error:
            missing.append(f"{shard.name} cannot be opened: {error.strerror or error}")
        except ValueError as error:
            missing.append(f"{shard.name} {error}")
        else:
            if size != shard.bytes:
                missing.append(f"{shard.name} has {size:,} bytes, where the manifest says {shard.bytes:,}")
    return missing


def _local_size(shard: Path) -> int:
    with open_shard(shard) as file:
        return os.fstat(file.fileno()).st_size


def check_completeness(differences: Sequence[str] | None, missing: Sequence[str], manifest: Manifest) -> Check:
    """Whether every file found is in images.csv once, in a shard or with a reason, and every shard is there.

    differences: from `table_differences`, or None if images.csv could not be read. missing: from `missing_shards`.
    """
    shards = sum(map(len, manifest.splits.values()))
    sentences = []
    if missing:
        sentences.append(f"Missing, or not as the manifest says: {len(missing):,} of {number(shards, 'shard')}.")
    if differences is None:
        sentences.append(f"{IMAGES_NAME} could not be read, so no image is accounted for.")
    elif differences:
        sentences.append(f"{IMAGES_NAME} and the manifest do not agree.")
    if sentences:
        details = (*_first(missing), *_first(differences or []))
        return Check("Completeness", VIOLATED, "INCOMPLETE", " ".join(sentences), details)
    source = manifest.source
    return Check(
        "Completeness",
        HOLDS,
        "complete",
        f"All {source['found']:,} files found are accounted for: {source['kept']:,} kept, each with its shard; "
        f"{source['excluded']:,} excluded, each with its reason. All shards ({shards:,}) are there, of the right size.",
    )


def check_repeats(kept: Iterable[ImageRow], manifest: Manifest) -> Check:
    """Whether only an oversampled train holds an image more than once."""
    oversampled = {"train"} if manifest.config.balance == "oversample" else set()
    repeated = [row for row in kept if row.record_count > 1 and row.split not in oversampled]
    if repeated:
        return Check(
            "Repeats",
            VIOLATED,
            "WITH REPEATS",
            f"{number(len(repeated), 'image')} repeated in a split that must hold every image once.",
            _first([f"{row.path}: {row.record_count} times in {row.split}" for row in repeated]),
        )
    others = [split for split in manifest.splits if split not in oversampled]
    sentence = f"{listed(others)} {'hold' if len(others) > 1 else 'holds'} every image once."
    if oversampled:
        sentence += " train repeats images of the smaller classes, and holds every one at least once."
    return Check("Repeats", HOLDS, "", sentence)


def _check_file(name: str, data: bytes | None, sha256: str) -> Check:
    """Whether images.csv or duplicates.json is the one that the manifest was written for."""
    if data is None:
        return Check(name, VIOLATED, f"{name} missing", f"{name} is missing or cannot be read.")
    if hashlib.sha256(data).hexdigest() != sha256:
        return Check(
            name,
            VIOLATED,
            f"{name} modified",
            f"{name} was changed after it was written: its SHA-256 is not the manifest's. "
            "This page shows what the changed file says.",
        )
    return Check(name, HOLDS, "", f"{name} is as it was written: its SHA-256 is the manifest's.")


def _unless_violated(check: Check) -> Check:
    """A check of which rows may be missing: a violation stays one, and anything else is unknown."""
    if check.state == VIOLATED:
        return check
    return Check(check.name, UNKNOWN, "", f"This is unknown without the whole {IMAGES_NAME}.")


def _in_several(
    splits_of: Mapping[str, set[str]], order: Sequence[str], declared: Iterable[str] = ()
) -> dict[str, str]:
    """What is in more than one split or declared to be, with the splits in words, sorted by length and name."""
    names = {name for name, splits in splits_of.items() if len(splits) > 1} | set(declared)
    return {
        name: listed(sorted(splits_of.get(name, ()), key=order.index)) or "two splits, by the manifest"
        for name in _sorted_ids(names)
    }


def _sorted_ids(ids: Iterable[str]) -> list[str]:
    return sorted(ids, key=lambda name: (len(name), name))


def _first(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(first_lines(lines, MAX_DETAILS))
