"""Whether the laws hold, as far as images.csv and the manifest tell; `octprep verify` asks the records themselves."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from octprep.report.rows import Image, Rows
from octprep.schema import IMAGES_NAME, Manifest

HOLDS, BROKEN, NOT_ASKED = "holds", "broken", "not asked"
MOST = 20  # names in a sentence before it is cut


@dataclass(frozen=True)
class Check:
    """One law, and how it stands."""

    name: str
    state: str  # HOLDS, BROKEN or NOT_ASKED
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


def judge(rows: Rows, table: bytes | None, manifest: Manifest) -> Verdict:
    """Hold images.csv (its rows, and its bytes or None if it could not be read) against the manifest."""
    return Verdict(
        (
            leaks(rows.kept, manifest),
            balance(manifest),
            complete(rows, manifest),
            repeats(rows.kept, manifest),
            table_check(table, manifest),
        )
    )


def leaks(kept: Iterable[Image], manifest: Manifest) -> Check:
    """Patients and contents in more than one split, by the rows or by what the manifest owns up to."""
    patients: dict[str, set[str]] = defaultdict(set)
    contents: dict[str, set[str]] = defaultdict(set)
    for image in kept:
        patients[image.patient].add(image.split)
        contents[image.sha256].add(image.split)
    order = list(manifest.splits)

    def parted(where: dict[str, set[str]], known: Sequence[str]) -> dict[str, str]:
        names = {name for name, splits in where.items() if len(splits) > 1} | set(known)
        return {
            name: " and ".join(sorted(where.get(name, ()), key=order.index))
            for name in sorted(names, key=lambda name: (len(name), name))
        }

    people = parted(patients, manifest.leaks.patients)
    files = parted(contents, manifest.leaks.contents)
    if not people and not files:
        splits = _listed(order)
        return Check("Leaks", HOLDS, "leak-free", f"No patient and no file content is in two of {splits}.")
    parts = [_count(len(part), noun) for part, noun in ((people, "patient"), (files, "file content")) if part]
    return Check(
        "Leaks",
        BROKEN,
        "LEAKY",
        f"In more than one split: {_listed(parts)}. Results on these shards will look better than they are.",
        _cut(
            [
                *(f"patient {name}: in {splits or 'two splits, says the manifest'}" for name, splits in people.items()),
                *(f"content {name[:16]}: in {splits or 'two splits'}" for name, splits in files.items()),
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


def complete(rows: Rows, manifest: Manifest) -> Check:
    """Whether every file found is in images.csv once, in a shard or with a reason, and all counts agree."""
    source = manifest.source
    wrong = list(rows.faults)
    for what, number, wanted in (
        ("rows", rows.number, source["found"]),
        ("images kept", len(rows.kept), source["kept"]),
        ("files left out", len(rows.left_out), source["left_out"]),
    ):
        if number != wanted:
            wrong.append(f"{number:,} {what}, where the manifest says {wanted:,}")
    records: Counter[tuple[str, str]] = Counter()
    for image in rows.kept:
        records[image.split, image.label] += image.copies
    for split in manifest.splits:
        for label, wanted in manifest.per_class(split).items():
            if records[split, label] != wanted:
                wrong.append(
                    f"{split}: {records[split, label]:,} records of {label} by {IMAGES_NAME}, "
                    f"where the manifest says {wanted:,}"
                )
    if wrong:
        return Check("Completeness", BROKEN, "INCOMPLETE", f"{IMAGES_NAME} and the manifest do not agree.", _cut(wrong))
    return Check(
        "Completeness",
        HOLDS,
        "complete",
        f"All {source['found']:,} files found are accounted for: {source['kept']:,} kept, each with its shard; "
        f"{source['left_out']:,} left out, each with its reason.",
    )


def repeats(kept: Iterable[Image], manifest: Manifest) -> Check:
    """Whether only an oversampled train holds an image more than once."""
    may = {"train"} if manifest.config.balance == "oversample" else set()
    twice = [image for image in kept if image.copies > 1 and image.split not in may]
    once = _listed([split for split in manifest.splits if split not in may])
    if twice:
        return Check(
            "Repeats",
            BROKEN,
            "WITH REPEATS",
            f"{_count(len(twice), 'image')} stand more than once where every image may stand only once.",
            _cut([f"{image.path}: {image.copies} times in {image.split}" for image in twice]),
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


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def _cut(lines: Sequence[str]) -> tuple[str, ...]:
    more = len(lines) - MOST
    return (*lines[:MOST], f"and {more:,} more") if more > 0 else tuple(lines)
