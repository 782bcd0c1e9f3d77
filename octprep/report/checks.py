"""Whether the laws hold, as far as images.csv, duplicates.json and the manifest tell.

`octprep verify` asks the records themselves.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from octprep.format.images_csv import ImageRow
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, Manifest, open_shard
from octprep.report.table import Images

HOLDS, BROKEN, NOT_ASKED, NOT_KNOWN = "holds", "broken", "not asked", "not known"
MOST = 20  # names in a sentence before it is cut
_IDS = 6  # patient ids of one group before they are cut


@dataclass(frozen=True)
class Check:
    """One law, and how it stands."""

    name: str
    state: str  # HOLDS, BROKEN, NOT_ASKED or NOT_KNOWN
    word: str  # for the headline; "" if it says nothing there
    sentence: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """All checks, and the one sentence they come to."""

    checks: tuple[Check, ...]

    @property
    def good(self) -> bool:
        """Whether no law is broken."""
        return all(check.state != BROKEN for check in self.checks)

    @property
    def headline(self) -> str:
        """Such as: Leak-free, balanced and complete. Or: LEAKY; otherwise balanced and complete."""
        broken = [check.word for check in self.checks if check.state == BROKEN]
        rest = [check.word for check in self.checks if check.state != BROKEN and check.word]
        text = "; otherwise ".join(filter(None, (_listed(broken), _listed(rest))))
        return text[:1].upper() + text[1:]


def judge(rows: Images, table: bytes | None, joins: bytes | None, manifest: Manifest, lost: Sequence[str]) -> Verdict:
    """Hold images.csv (its rows, and its bytes or None if it could not be read) and duplicates.json against the manifest.

    joins: the bytes of duplicates.json, None if it could not be read. lost: in words, the shards that are not there as the
    manifest says.
    """
    wrong = None if table is None else disagreements(rows, manifest)
    leaking, repeating = leaks(rows.kept, manifest), repeats(rows.kept, manifest)
    if wrong != []:  # a row that is not there could have broken these laws
        leaking, repeating = _unknown(leaking), _unknown(repeating)
    return Verdict(
        (
            leaking,
            balance(manifest),
            complete(wrong, lost, manifest),
            repeating,
            table_check(table, manifest),
            joins_check(joins, manifest),
        )
    )


def _unknown(check: Check) -> Check:
    """What a check says when rows are missing: what is broken stays broken, the rest cannot be told."""
    if check.state == BROKEN:
        return check
    return Check(check.name, NOT_KNOWN, "", f"This cannot be told without the whole {IMAGES_NAME}.")


def leaks(kept: Iterable[ImageRow], manifest: Manifest) -> Check:
    """What is in more than one split, by the rows or as the manifest owns up to.

    Looked at are patients, contents, patients who are taken for one person, and near-identical scans; these last are
    known from the manifest alone.
    """
    patients: dict[str, set[str]] = defaultdict(set)
    contents: dict[str, set[str]] = defaultdict(set)
    groups: dict[str, set[str]] = defaultdict(set)
    members: dict[str, set[str]] = defaultdict(set)
    for image in kept:
        patients[image.patient].add(image.split)
        contents[image.sha256].add(image.split)
        groups[image.patient_group].add(image.split)
        members[image.patient_group].add(image.patient)
    order = list(manifest.splits)

    def parted(where: dict[str, set[str]], known: Sequence[str]) -> dict[str, str]:
        names = {name for name, splits in where.items() if len(splits) > 1} | set(known)
        return {
            name: " and ".join(sorted(where.get(name, ()), key=order.index))
            for name in sorted(names, key=lambda name: (len(name), name))
        }

    people = parted(patients, manifest.leaks.patients)
    files = parted(contents, manifest.leaks.contents)
    near = manifest.leaks.near
    # A group of one patient is parted where the patient is, which is told already.
    joined = parted({group: groups[group] for group, ids in members.items() if len(ids) > 1}, ())
    if not people and not files and not near and not joined:
        sentence = f"No patient (nor patients taken for one) and no file content is in two of {_listed(order)}."
        return Check("Leaks", HOLDS, "leak-free", sentence)
    counted = (
        (people, "patient"),
        (files, "file content"),
        (joined, "group of patients"),
        (near, "pair of near-identical scans"),
    )
    parts = [_count(len(part), noun) for part, noun in counted if part]
    return Check(
        "Leaks",
        BROKEN,
        "LEAKY",
        f"In more than one split: {_listed(parts)}. Results on these shards will look better than they are.",
        _cut(
            [
                *(f"patient {name}: in {splits or 'two splits, says the manifest'}" for name, splits in people.items()),
                *(f"content {name[:16]}: in {splits or 'two splits'}" for name, splits in files.items()),
                *(
                    f"group {name}, patients {_few(members[name])} taken for one: in {splits}"
                    for name, splits in joined.items()
                ),
                *(f"{one} and {other}: near-identical, under different patient ids" for one, other in near),
            ]
        ),
    )


def balance(manifest: Manifest) -> Check:
    """Whether every shard of train holds the same number of each class, where that was asked for."""
    train = manifest.splits.get("train", ())
    if manifest.config.balance == "none":
        if "train" not in manifest.splits:
            why = "Folds take turns as validation, so each holds its images once, classes in their natural proportion."
        else:
            why = "Balance was not asked for: every shard has its classes in their natural proportion."
        return Check("Balance", NOT_ASKED, "", why + " Training can weight the classes.")
    uneven = [shard for shard in train if len(set(shard.per_class)) > 1]
    if uneven:
        return Check(
            "Balance",
            BROKEN,
            "NOT BALANCED",
            f"{_count(len(uneven), 'shard')} of train hold the classes in unequal numbers.",
            _cut(
                [
                    f"{shard.name}: "
                    + ", ".join(
                        f"{name} {number:,}" for name, number in zip(manifest.class_names, shard.per_class, strict=True)
                    )
                    for shard in uneven
                ]
            ),
        )
    each = sorted({shard.per_class[0] for shard in train if shard.per_class})
    numbers = " or ".join(f"{number:,}" for number in each) if len(each) <= 2 else f"{each[0]:,} to {each[-1]:,}"
    return Check(
        "Balance",
        HOLDS,
        "balanced",
        f"Each of the {_count(len(train), 'shard')} of train holds every class equally often: {numbers} records each."
        if len(train) != 1
        else f"The one shard of train holds every class equally often: {numbers} records each.",
    )


def disagreements(rows: Images, manifest: Manifest) -> list[str]:
    """In words, what is wrong with single rows, and where their numbers are not the manifest's."""
    source = manifest.source
    wrong = list(rows.problems)
    for what, number, wanted in (
        ("rows", rows.count, source["found"]),
        ("images kept", len(rows.kept), source["kept"]),
        ("files left out", len(rows.excluded), source["left_out"]),
    ):
        if number != wanted:
            wrong.append(f"{number:,} {what}, where the manifest says {wanted:,}")
    records: Counter[tuple[str, str]] = Counter()
    for image in rows.kept:
        records[image.split, image.label] += image.record_count
    for split in manifest.splits:
        for label, wanted in manifest.per_class(split).items():
            if records[split, label] != wanted:
                wrong.append(
                    f"{split}: {records[split, label]:,} records of {label} by {IMAGES_NAME}, "
                    f"where the manifest says {wanted:,}"
                )
    return wrong


def missing_shards(folder: Path, manifest: Manifest) -> list[str]:
    """In words, the shards that are not in the folder with the size that the manifest says; none is read."""
    lost = []
    for shard in (shard for part in manifest.splits.values() for shard in part):
        try:
            with open_shard(folder / shard.name) as file:
                status = os.fstat(file.fileno())
        except (FileNotFoundError, NotADirectoryError):
            lost.append(f"{shard.name} is missing")
        except OSError as error:
            lost.append(f"{shard.name} cannot be opened: {error.strerror or error}")
        except ValueError as error:
            lost.append(f"{shard.name} {error}")
        else:
            if status.st_size != shard.bytes:
                lost.append(f"{shard.name} has {status.st_size:,} bytes, where the manifest says {shard.bytes:,}")
    return lost


def complete(wrong: Sequence[str] | None, lost: Sequence[str], manifest: Manifest) -> Check:
    """Whether every file found is in images.csv once, in a shard or with a reason, and every shard is there.

    wrong: from `disagreements`, or None if images.csv could not be read. lost: from `missing_shards`.
    """
    number = sum(map(len, manifest.splits.values()))
    sentences = []
    if lost:
        sentences.append(f"Not there as the manifest says: {len(lost):,} of {_count(number, 'shard')}.")
    if wrong is None:
        sentences.append(f"{IMAGES_NAME} could not be read, so no image is accounted for.")
    elif wrong:
        sentences.append(f"{IMAGES_NAME} and the manifest do not agree.")
    if sentences:
        return Check("Completeness", BROKEN, "INCOMPLETE", " ".join(sentences), (*_cut(lost), *_cut(wrong or [])))
    source = manifest.source
    return Check(
        "Completeness",
        HOLDS,
        "complete",
        f"All {source['found']:,} files found are accounted for: {source['kept']:,} kept, each with its shard; "
        f"{source['left_out']:,} left out, each with its reason. All shards ({number:,}) are there, of the right size.",
    )


def repeats(kept: Iterable[ImageRow], manifest: Manifest) -> Check:
    """Whether only an oversampled train holds an image more than once."""
    may = {"train"} if manifest.config.balance == "oversample" else set()
    twice = [image for image in kept if image.record_count > 1 and image.split not in may]
    once = _listed([split for split in manifest.splits if split not in may])
    if twice:
        return Check(
            "Repeats",
            BROKEN,
            "WITH REPEATS",
            f"{_count(len(twice), 'image')} stand more than once where every image may stand only once.",
            _cut([f"{image.path}: {image.record_count} times in {image.split}" for image in twice]),
        )
    rest = " train repeats images of the smaller classes, and holds every one at least once." if may else ""
    verb = "holds" if " and " not in once else "hold"
    return Check("Repeats", HOLDS, "", f"{once} {verb} every image once.{rest}")


def table_check(table: bytes | None, manifest: Manifest) -> Check:
    """Whether images.csv is the one that the manifest was written for."""
    if table is None:
        return Check("Table", BROKEN, "WITHOUT ITS TABLE", f"{IMAGES_NAME} is missing or cannot be read.")
    if hashlib.sha256(table).hexdigest() != manifest.images_sha256:
        return Check(
            "Table",
            BROKEN,
            "EDITED",
            f"{IMAGES_NAME} was changed after it was written: its SHA-256 is not the manifest's. "
            "What this page says comes from the changed table.",
        )
    return Check("Table", HOLDS, "", f"{IMAGES_NAME} is as it was written: its SHA-256 is the manifest's.")


def joins_check(joins: bytes | None, manifest: Manifest) -> Check:
    """Whether duplicates.json is the one that the manifest was written for."""
    if joins is None:
        return Check("DuplicatesFile", BROKEN, "WITHOUT ITS JOINS", f"{DUPLICATES_NAME} is missing or cannot be read.")
    if hashlib.sha256(joins).hexdigest() != manifest.duplicates_sha256:
        return Check(
            "DuplicatesFile",
            BROKEN,
            "WITH OTHER JOINS",
            f"{DUPLICATES_NAME} was changed after it was written: its SHA-256 is not the manifest's. "
            "What this page says about joined scans comes from the changed file.",
        )
    return Check("DuplicatesFile", HOLDS, "", f"{DUPLICATES_NAME} is as it was written: its SHA-256 is the manifest's.")


def _few(ids: Iterable[str]) -> str:
    """Patient ids in a sentence, cut where they are too many."""
    ordered = sorted(ids, key=lambda name: (len(name), name))
    more = len(ordered) - _IDS
    return _listed([*ordered[:_IDS], f"{more:,} more"] if more > 0 else ordered)


def _count(number: int, noun: str) -> str:
    first, of, rest = noun.partition(" of ")
    return f"{number:,} {first}{'s' * (number != 1)}{of}{rest}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def _cut(lines: Sequence[str]) -> tuple[str, ...]:
    more = len(lines) - MOST
    return (*lines[:MOST], f"and {more:,} more") if more > 0 else tuple(lines)
