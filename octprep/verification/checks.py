"""What must agree in a finished folder: records, images.csv, duplicates.json and the manifest. Pure: values in, faults out.

Everything that the records can show is compared, so that an edit is named even where every sum was put right after it.
They cannot show, and only the form of these is looked at: bytes, border, confidence and note in images.csv, and what
it says of files that are in no shard, beyond their paths and joins; the seed, fractions, shard size, margins, field and
denoiser of the config; the source's listing; the versions of the libraries; the distances in duplicates.json. A change of
stored pixels shows in their mean, deviation and sharpness, if it is large enough for these.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import cv2

from octprep import preprocessing
from octprep.duplicates.exact import NEAR_IDENTICAL, SAME_BYTES, SAME_PIXELS
from octprep.duplicates.file import DuplicatesFile
from octprep.format.config import SOURCE_SPLITS, Preprocessing
from octprep.format.images_csv import Row
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, MANIFEST_NAME, Leaks, Manifest
from octprep.shards.plan import UNDERSAMPLED
from octprep.source import files
from octprep.source.files import Scan, ScanFile
from octprep.splits.leaks import find_leaks
from octprep.splits.patients import PatientGroup
from octprep.splits.strategies import parted

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,14})")
_HEX = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*[A-Za-z0-9.+!_-]{0,40}")
_BEYOND = re.compile(r"beyond --max-per-patient ([0-9]+) of its patient")
_CROP = ("crop_top", "crop_bottom", "crop_left", "crop_right")
# Cells that a row has all of or none: none of a file that was not prepared.
_FILLED = (
    "class", "patient", "number", "bytes", "width", "height", "sha256", "border", *_CROP, "confidence",
    "mean", "deviation", "sharpness", "group",
)  # fmt: skip
# What is a number from 0 on in images.csv: the largest there can be, and the places it is rounded to.
_NUMBERS = {
    "border": (1.0, 6), "confidence": (1.0, 4), "mean": (255.0, 2), "deviation": (255.0, 2), "sharpness": (1e6, 4),
}  # fmt: skip
_MEASURED = ("mean", "deviation", "sharpness")  # as `imaging.measure` gives them
# Whole numbers in images.csv: the least and the largest there can be.
_COUNTS = {"bytes": (1, 10**14), "width": (1, 10**7), "height": (1, 10**7), "number": (0, 10**14)}
_LARGE = 10**7  # pixels of a side, and rows of a crop, are fewer
_FEW = 3  # rows with the same fault that are named one by one even if it is in all
_MOSTLY = 0.9  # of the images: if a fault is in more than so many, it is said once


class Violation(NamedTuple):
    """One broken law, and where."""

    law: int
    where: str  # shard, record, scan: whatever names the place
    what: str


@dataclass(frozen=True, order=True)
class Entry:
    """What one record says of itself, without its pixels."""

    shard: str
    index: int
    scan: str
    patient: str
    label: int
    sha256: str
    copy: int
    number: int = 0
    size: tuple[int, int] = (0, 0)  # height, width of the source
    affine: tuple[float, ...] = ()
    offset: int = 0  # of the record's frame in its shard, bytes
    descriptor: bytes = field(default=b"", repr=False)  # `likeness.describe` of the pixels; of first copies alone
    pixels: bytes = field(default=b"", repr=False)  # a digest of the stored pixels
    rest: bytes = field(default=b"", repr=False)  # a digest of everything else but the number of the copy
    measures: tuple[float, ...] = ()  # `imaging.measure` of the pixels; of first copies alone
    comparable: bool = True  # `likeness.comparable`

    @property
    def where(self) -> str:
        """The place in words."""
        return f"{self.shard} record {self.index} ({self.scan})"


@dataclass(frozen=True)
class Evidence:
    """Everything that was read of a folder."""

    manifest: Manifest
    by_split: Mapping[str, Sequence[Entry]]
    rows: Sequence[Row] | None  # of images.csv; None if it cannot be read
    joins: DuplicatesFile | None  # None if duplicates.json cannot be read
    unread: frozenset[str] = frozenset()  # names of shards of which a record, or all, could not be read

    @cached_property
    def shards(self) -> frozenset[str]:
        """The names of all shards that the manifest has."""
        return frozenset(shard.name for part in self.manifest.splits.values() for shard in part)

    @cached_property
    def firsts(self) -> dict[str, tuple[str, Entry]]:
        """A record of each scan, and its split, by path."""
        found: dict[str, tuple[str, Entry]] = {}
        for name, entries in self.by_split.items():
            for entry in entries:
                found.setdefault(entry.scan, (name, entry))
        return found

    def lost(self, row: Row) -> bool:
        """Whether a row points to a shard that could not be read whole."""
        return not self.unread.isdisjoint(row["shard"].split())


def leaks(by_split: Mapping[str, Sequence[Entry]]) -> Iterator[Violation]:
    """Law 1: the first record of every patient and content in each split that is not the first to have it.

    Content is the bytes of the source file, or, where files differ, the stored pixels.
    """
    first: dict[str, tuple[str, Entry]] = {}
    said: set[tuple[str, str]] = set()
    for name, entries in by_split.items():
        for entry in entries:
            for what in (f"patient {entry.patient}", f"content {entry.sha256}", f"picture {entry.pixels.hex()}"):
                home, other = first.setdefault(what, (name, entry))
                if home == name or (name, what) in said:
                    continue
                said.add((name, what))
                if not what.startswith("picture"):
                    yield Violation(1, entry.where, f"{what} is in {name} and in {home}: {other.where}")
                elif other.sha256 != entry.sha256:
                    yield Violation(
                        1, entry.where, f"has the same stored pixels, in {name}, as {other.where} in {home}"
                    )


def group_leaks(rows: Iterable[Row]) -> Iterator[Violation]:
    """Law 1, on the groups that images.csv names."""
    homes: dict[str, Row] = {}  # the first row of each group
    said: set[tuple[str, str]] = set()
    for row in rows:
        home = homes.setdefault(row["group"], row) if row["split"] else row
        # One patient on two sides is said already, by the records.
        if home["split"] != row["split"] and home["patient"] != row["patient"]:
            pair = (row["group"], row["split"])
            if pair not in said:
                said.add(pair)
                yield Violation(
                    1,
                    f"{IMAGES_NAME} {row['path']}",
                    f"is in {row['split']}, but {home['path']} of the same group {row['group']} is in {home['split']}",
                )


def table(found: Evidence) -> Iterator[Violation]:
    """Law 2: images.csv against the records, the manifest's numbers and duplicates.json.

    What is wrong with a column in nearly every row is said once.
    """
    rows, manifest = found.rows, found.manifest
    if rows is None:
        return
    for name, number in Counter(row["path"] for row in rows).items():
        if number > 1:
            yield Violation(2, f"{IMAGES_NAME} {name}", f"has {number} rows")
    kept = sum(bool(row["shard"]) for row in rows)
    for what, number, said in (
        ("rows", len(rows), manifest.source["found"]),
        ("rows of images kept", kept, manifest.source["kept"]),
        ("rows of files left out", len(rows) - kept, manifest.source["left_out"]),
    ):
        if number != said:
            yield Violation(2, IMAGES_NAME, f"has {number:,} {what}, where the manifest says {said:,}")
    stored: dict[str, list[tuple[str, Entry]]] = defaultdict(list)
    for name, entries in found.by_split.items():
        for entry in entries:
            stored[entry.scan].append((name, entry))
    groups = _groups(rows, found.joins)
    wrong: dict[str, list[Violation]] = defaultdict(list)
    for row in rows:
        records = stored.pop(row["path"], [])
        place = f"{IMAGES_NAME} {row['path']}"
        for aspect, what in (*_place(row, records, found), *_form(row, manifest), *_group(row, groups)):
            wrong[aspect].append(Violation(2, place, what))
        for _, entry in records:
            if entry.rest != records[0][1].rest or entry is records[0][1]:  # else law 3 finds it equal to the first
                for aspect, what in _against_record(row, entry, manifest):
                    wrong[aspect].append(Violation(2, entry.where, what))
        for _, entry in records:
            for aspect, what in _against_pixels(row, entry, manifest):
                wrong[aspect].append(Violation(2, place, what))
    classes = Counter(row["class"] for row in rows if row["shard"])
    for aspect, faults in wrong.items():
        if len(faults) > max(_FEW, _MOSTLY * classes.get(aspect.removeprefix("class "), kept)) or (
            aspect.startswith("shard ") and len(faults) > _FEW
        ):
            first = faults[0]
            yield Violation(2, IMAGES_NAME, f"{aspect}: {len(faults):,} faults; the first: {first.where} {first.what}")
        else:
            yield from faults
    for strays in stored.values():
        yield Violation(2, strays[0][1].where, f"has no row in {IMAGES_NAME}")


Said = tuple[str, str]  # what was compared, and what is wrong with it


def _place(row: Row, records: Sequence[tuple[str, Entry]], found: Evidence) -> Iterator[Said]:
    """Which shards hold a file, how often, and in which split."""
    if bool(row["shard"]) == bool(row["left_out"]):
        yield "place", "must have either a shard or a reason for being left out"
        return
    said = row["shard"].split()
    if not found.shards.issuperset(said):
        strange = " ".join(sorted(set(said) - found.shards))
        yield f"shard {row['shard']}", f"says shard {strange}, which the manifest does not have"
        return
    if not found.unread.isdisjoint(said):
        if {name.partition("/")[0] for name in said} != {row["split"]}:
            yield "split", f"says split {row['split'] or 'none'}, but shard {row['shard']}"
        return
    names = " ".join(sorted({entry.shard for _, entry in records}))
    if (row["shard"], row["copies"]) != (names, str(len(records))):
        yield (
            "place",
            f"says {row['copies'] or 'no'} copies in {row['shard'] or 'no shard'}; found {len(records)} in "
            f"{names or 'no shard'}",
        )
    splits = " ".join(sorted({name for name, _ in records}))
    if row["split"] != splits:
        in_split = f"its records are in {splits}" if splits else "it has no record"
        yield "split", f"says split {row['split'] or 'none'}, but {in_split}"


def _form(row: Row, manifest: Manifest) -> Iterator[Said]:
    """What each cell may hold, and what the path shows."""
    filled = [column for column in _FILLED if row[column]]
    if not row["shard"] and (row["split"], row["copies"]) != ("", "0"):
        yield "split", f"is in no shard, but says split {row['split'] or 'none'} and {row['copies'] or 'no'} copies"
    if not filled:
        if others := [column for column in ("folder", "note") if row[column]]:
            yield "cells", f"has a {others[0]}, but was not prepared"
        if not row["shard"]:
            return
    if len(filled) < len(_FILLED):
        yield "cells", f"lacks {', '.join(column for column in _FILLED if not row[column])}"
        return
    if row["shard"] and row["class"] not in manifest.class_names:
        yield f"class {row['class']}", f"is of class {row['class']!r}, which the manifest does not have"
    for column in _COUNTS:
        if not _whole(row, column):
            yield f"form of {column}", f"has {column} {row[column][:40]!r}"
    for column in _NUMBERS:
        if not _decimal(row, column):
            yield f"form of {column}", f"has {column} {row[column][:40]!r}"
    if not _HEX.fullmatch(row["sha256"]):
        yield "form of sha256", f"has sha256 {row['sha256'][:80]!r}"
    if len(row["note"]) > 1000 or not row["note"].isprintable():
        yield "note", "has a note that no build writes"
    if not _crop(row):
        yield "form of crop", f"has crop {', '.join(row[column][:20] for column in _CROP)}"
    elif manifest.recipe.crop == "none" and (row["crop_top"], row["crop_bottom"]) != ("0", row["height"]):
        yield "rows kept", "is cropped in its rows, but config.recipe.crop is none"
    if named := _named(row["path"]):
        shown = {"class": named.label, "patient": named.patient, "number": str(named.number), "folder": named.folder}
        for column, value in shown.items():
            if row[column] != value:
                yield (
                    f"{column} and path",
                    f"says {column} {row[column] or 'none'}, but its path says {value or 'none'}",
                )


def _against_record(row: Row, entry: Entry, manifest: Manifest) -> Iterator[Said]:
    """What a record shows of its row, but for the pixels."""
    label = manifest.class_names[entry.label]
    if row["class"] != label:
        yield f"class {row['class']}", f"says class {label}, where {IMAGES_NAME} says {row['class']}"
    for column, value in (
        ("patient", entry.patient),
        ("number", str(entry.number)),
        ("sha256", entry.sha256),
        ("height", str(entry.size[0])),
        ("width", str(entry.size[1])),
    ):
        if row[column] != value:
            yield column, f"says {column} {value}, where {IMAGES_NAME} says {row[column]}"
    if crop := _crop(row):
        affine = preprocessing.Geometry.of_crop(crop, manifest.recipe).affine
        pairs = zip(affine, entry.affine, strict=True)
        if not all(math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6) for one, other in pairs):
            yield "crop", f"has not the affine of its crop ({', '.join(row[column] for column in _CROP)})"


def _against_pixels(row: Row, entry: Entry, manifest: Manifest) -> Iterator[Said]:
    """What the stored pixels show of a row."""
    same_version = manifest.libraries.get("opencv") == cv2.__version__  # another one may differ in the last place
    for column, measured in zip(_MEASURED, entry.measures, strict=False):
        unit = 10.0 ** -_NUMBERS[column][1]
        if _decimal(row, column) and abs(float(row[column]) - measured) > unit * (0.500001 if same_version else 1.5):
            yield column, f"says {column} {row[column]}, but its stored pixels have {measured:.5f}"


def _group(row: Row, groups: Mapping[str, str] | None) -> Iterator[Said]:
    """Whose scans a row's are taken for."""
    if groups is not None and row["patient"] and row["group"] != groups[row["patient"]]:
        yield "group", f"says group {row['group'] or 'none'}, but by {DUPLICATES_NAME} it is {groups[row['patient']]}"


def _groups(rows: Sequence[Row], joins: DuplicatesFile | None) -> dict[str, str] | None:
    """The group of every patient id: the smallest id among those that are joined."""
    if joins is None:
        return None
    parent: dict[str, str] = {}

    def find(patient: str) -> str:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    owners = {row["path"]: row["patient"] for row in rows if row["patient"]}
    parent = {row["patient"]: row["patient"] for row in rows if row["patient"]}
    for join in joins.joins:
        if join.first in owners and join.second in owners:
            one, other = sorted((find(owners[join.first]), find(owners[join.second])))
            parent[other] = one  # so that the smallest is its own parent
    return {patient: find(patient) for patient in parent}


def _named(path: str) -> ScanFile | None:
    """What a path says of its scan, or None if it follows no rule that is known."""
    folders = path.split("/")[:-1]
    inner = 2 if len(folders) > 1 and folders[-2].lower() in SOURCE_SPLITS else 1
    try:
        named = files.read_name(path, 0, "/".join(folders[: max(len(folders) - inner, 0)]))
    except ValueError:  # no path at all
        return None
    return named if isinstance(named, ScanFile) else None


def _crop(row: Row) -> tuple[int, int, int, int] | None:
    """The crop of a row, or None if no build writes such a one."""
    cells = [row[column] for column in (*_CROP, "width")]
    if not all(map(_WHOLE.fullmatch, cells)):
        return None
    top, bottom, left, right, width = map(int, cells)
    if -_LARGE < top < bottom < _LARGE and 0 <= left < right <= min(width, _LARGE):
        return top, bottom, left, right
    return None


def _whole(row: Row, column: str) -> bool:
    """Whether a cell holds a whole number that can be."""
    least, most = _COUNTS[column]
    return bool(_WHOLE.fullmatch(row[column])) and least <= int(row[column]) <= most


def _decimal(row: Row, column: str) -> bool:
    """Whether a cell holds a number that can be, written as Python writes it."""
    most, places = _NUMBERS[column]
    try:
        value = float(row[column])
    except ValueError:
        return False
    return 0 <= value <= most and row[column] == repr(round(value, places))


def joined(found: Evidence, near: Mapping[tuple[str, str], float]) -> Iterator[Violation]:
    """Law 2: duplicates.json against images.csv and the records.

    near: correlations of pairs of scans with a record each, by their paths in either order: of all that were found
    near-identical, and of those that duplicates.json says are.
    """
    if found.joins is None or found.rows is None:
        return
    by_path = {row["path"]: row for row in found.rows if row["patient"]}
    firsts = found.firsts
    for join in found.joins.joins:
        where = f"{DUPLICATES_NAME} {join.first} = {join.second}"
        one, other = by_path.get(join.first), by_path.get(join.second)
        if one is None or other is None:
            yield Violation(2, where, f"joins a scan that {IMAGES_NAME} does not have")
            continue
        if one["patient"] == other["patient"]:
            yield Violation(2, where, f"joins two scans of one patient id, {one['patient']}")
        if (join.reason == SAME_BYTES) != (one["sha256"] == other["sha256"]):
            yield Violation(2, where, f"says {join.reason}, but {IMAGES_NAME} shows otherwise")
        if join.first in firsts and join.second in firsts and join.reason == SAME_PIXELS:
            (_, left), (_, right) = firsts[join.first], firsts[join.second]
            if left.pixels != right.pixels:
                yield Violation(2, where, f"says {join.reason}, but the stored pixels differ")
        measured = near.get((join.first, join.second), near.get((join.second, join.first)))
        if join.reason == NEAR_IDENTICAL and join.correlation < found.joins.threshold:
            yield Violation(2, where, f"says correlation {join.correlation:.4f}, below {found.joins.threshold:.2f}")
        elif join.reason == NEAR_IDENTICAL and measured is not None and abs(measured - join.correlation) > 0.01:
            yield Violation(
                2, where, f"says correlation {join.correlation:.4f}, but the stored pixels have {measured:.4f}"
            )
        elif join.reason != NEAR_IDENTICAL and join.correlation != 1:
            yield Violation(2, where, f"says {join.reason}, but a correlation of {join.correlation:.4f}")
    yield from _not_joined(found, near, by_path)
    if found.manifest.config.near_duplicates == (found.joins.distances is None):
        said = "on" if found.manifest.config.near_duplicates else "off"
        yield Violation(
            2, DUPLICATES_NAME, f"shows that near-identical scans were treated otherwise than config says ({said})"
        )
    elif not found.manifest.config.near_duplicates and any(join.reason == NEAR_IDENTICAL for join in found.joins.joins):
        yield Violation(2, DUPLICATES_NAME, "has near-identical scans, but config.near_duplicates is off")


def _not_joined(
    found: Evidence, near: Mapping[tuple[str, str], float], by_path: Mapping[str, Row]
) -> Iterator[Violation]:
    """Scans that show the same and are of two groups."""
    assert found.joins is not None
    first: dict[str, Row] = {}
    contents = {path: entry.pixels.hex() for path, (_, entry) in found.firsts.items()}
    for path, row in by_path.items():
        for what, content in (("bytes", row["sha256"]), ("stored pixels", contents.get(path))):
            if content:
                other = first.setdefault(f"{what} {content}", row)
                if other["group"] != row["group"]:
                    yield Violation(
                        2, f"{IMAGES_NAME} {path}", f"has the same {what} as {other['path']}, but another group"
                    )
    for (one, two), correlation in near.items():
        groups = {by_path[path]["group"] for path in (one, two) if path in by_path}
        if len(groups) > 1 and correlation >= found.joins.threshold:
            yield Violation(
                2,
                f"{IMAGES_NAME} {two}",
                f"is near-identical (correlation {correlation:.2f}) to {one}, but of another group",
            )


def copies(found: Evidence) -> Iterator[Violation]:
    """Law 3: what is repeated where nothing may be, and copies that are not numbered 0, 1, 2 and so on."""
    balance = found.manifest.config.balance
    partial = None if found.rows is None else {row["path"] for row in found.rows if found.lost(row)}
    for name, entries in found.by_split.items():
        same_scan: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            same_scan[entry.scan].append(entry)
        repeated = [same for same in same_scan.values() if len(same) > 1]
        if name != "train":
            for same in repeated:
                yield Violation(3, same[1].where, f"{name} holds {same[0].scan} {len(same)} times")
        elif repeated and balance != "oversample":
            yield Violation(
                3,
                repeated[0][1].where,
                f"config.balance is {balance}, which repeats nothing, but train holds {len(repeated):,} scans more "
                "than once",
            )
        hurt = any(shard.name in found.unread for shard in found.manifest.splits[name])
        for path, same in same_scan.items():
            numbers = sorted(entry.copy for entry in same)
            some_lost = hurt and (partial is None or path in partial)
            if numbers != list(range(len(same))) and (not some_lost or len(set(numbers)) < len(same)):
                yield Violation(3, same[0].where, f"the copies of {path} in {name} are not numbered from 0")
            for entry in same[1:]:
                if entry.pixels != same[0].pixels:
                    yield Violation(3, entry.where, f"has other pixels than {same[0].shard} record {same[0].index}")
                elif entry.rest != same[0].rest:
                    yield Violation(3, entry.where, f"has other features than {same[0].shard} record {same[0].index}")


def balance(manifest: Manifest) -> Iterator[Violation]:
    """Law 4; the counts themselves are checked against the records by law 5."""
    if manifest.config.balance == "none":
        return
    for shard in manifest.splits.get("train", ()):
        if len(set(shard.per_class)) > 1:
            yield Violation(4, shard.name, f"classes are not balanced: {counted(shard.per_class, manifest)}")


def settings(found: Evidence) -> Iterator[Violation]:
    """Law 5: what the manifest says of the build, where splits, rows and records show it."""
    config, libraries = found.manifest.config, found.manifest.libraries
    wanted = {"octprep", "numpy", "opencv"} | ({"pywavelets"} if config.recipe.denoise == "wavelet" else set())
    if lacking := sorted(wanted - libraries.keys()):
        yield _of_manifest("libraries", f"lacks {', '.join(lacking)}")
    for name, version in libraries.items():
        if not _VERSION.fullmatch(version):
            yield _of_manifest(f"libraries.{name}", f"is {version[:60]!r}, which is no version")
    names = list(found.manifest.splits)
    expected = {
        "kfold": [*(f"fold{fold}" for fold in range(config.folds)), "test"],
        "official": [name for name in SOURCE_SPLITS if name in names or name != "val"],
        "file": [name for name in SOURCE_SPLITS if name in names or name != "val"],
    }.get(config.split, list(SOURCE_SPLITS))
    if names != expected:
        yield _of_manifest("config.split", f"is {config.split}, but the splits are {', '.join(names)}")
    if found.manifest.leaks and not config.allow_leaks:
        yield _of_manifest("leaks", "are declared, but config.allow_leaks is false")
    if found.rows is not None:
        yield from _rows_and_settings(found, found.rows)
    yield from _declared(found)


def _rows_and_settings(found: Evidence, rows: Sequence[Row]) -> Iterator[Violation]:
    config = found.manifest.config
    kept = [row for row in rows if row["shard"]]
    given = any(row["folder"] == "test" for row in rows)
    classes = {row["class"] for row in kept}
    if absent := [name for name in found.manifest.class_names if name not in classes]:
        yield _of_manifest("class_names", f"has {', '.join(absent)}, but {IMAGES_NAME} has no image of it in a shard")
    if config.split == "official":
        strays = [row for row in kept if row["folder"] != row["split"]]
    elif config.split == "repaired" or (config.split == "kfold" and given):
        strays = [row for row in kept if (row["folder"] == "test") != (row["split"] == "test")]
    else:
        strays = []
    if strays:
        more = f" and {len(strays) - 1:,} more" if len(strays) > 1 else ""
        yield _of_manifest(
            "config.split", f"is {config.split}, but {strays[0]['path']}{more} stands in {strays[0]['split'] or 'none'}"
        )
    if config.balance != "undersample" and any(row["left_out"] == UNDERSAMPLED for row in rows):
        yield _of_manifest("config.balance", f"is {config.balance}, but {IMAGES_NAME} says that scans were left out")
    caps = {int(match[1]) for row in rows if (match := _BEYOND.fullmatch(row["left_out"][:80]))}
    if caps - {config.max_per_patient}:
        yield _of_manifest("config.max_per_patient", f"is {config.max_per_patient}, but {IMAGES_NAME} says {max(caps)}")
    numbers = Counter((row["split"], row["group"]) for row in kept if row["split"] not in ("val", "test"))
    if numbers and 0 < config.max_per_patient < max(numbers.values()):
        (name, group), most = numbers.most_common(1)[0]
        yield _of_manifest(
            "config.max_per_patient", f"is {config.max_per_patient}, but {name} has {most} of patient {group}"
        )
    labels: dict[str, Entry] = {}
    for path, (_, entry) in found.firsts.items() if config.conflicts != "keep" else ():
        for content in (entry.sha256, entry.pixels.hex()):
            other = labels.setdefault(content, entry)
            if other.label != entry.label:
                yield _of_manifest(
                    "config.conflicts",
                    f"is {config.conflicts}, but {other.scan} and {path} show the same under two classes",
                )
                return


def _declared(found: Evidence) -> Iterator[Violation]:
    """The leaks that the manifest owns up to against those that there are."""
    if found.unread or found.rows is None or found.joins is None:
        return
    groups = {row["path"]: row["group"] for row in found.rows}
    parts: dict[str, list[Scan]] = {}
    members: dict[str, list[Scan]] = defaultdict(list)
    for name, entries in found.by_split.items():
        scans = {entry.scan: _as_scan(entry, found.manifest) for entry in entries}
        parts[name] = sorted(scans.values(), key=lambda one: one.path)
        for path, one in scans.items():
            members[groups.get(path) or f"patient {one.patient}"].append(one)
    near = [join for join in found.joins.joins if join.reason == NEAR_IDENTICAL]
    if found.manifest.config.split in ("official", "file"):
        there = parted(parts, [PatientGroup(key, tuple(scans)) for key, scans in members.items()], near)
    else:
        there = find_leaks(list(parts.values()), near)
    declared = found.manifest.leaks
    for what, said, seen in (
        ("patient", set(declared.patients), set(there.patients)),
        ("content", set(declared.contents), set(there.contents)),
        ("near-identical pair", {" = ".join(pair) for pair in declared.near}, _pairs(found, declared, there)),
    ):
        for name in sorted(said - seen):
            yield _of_manifest("leaks", f"declares {what} {name} in two splits, but the records show no such thing")
        for name in sorted(seen - said):
            yield _of_manifest("leaks", f"does not declare {what} {name}, which is in two splits")


def _pairs(found: Evidence, declared: Leaks, there: Leaks) -> set[str]:
    """Near-identical pairs in two splits; those declared count too if they have the same content."""
    firsts = found.firsts
    pairs = {" = ".join(pair) for pair in there.near}
    for one, other in declared.near:
        if one in firsts and other in firsts:
            (home, left), (away, right) = firsts[one], firsts[other]
            if home != away and (left.sha256 == right.sha256 or left.pixels == right.pixels):
                pairs.add(f"{one} = {other}")
    return pairs


def _as_scan(entry: Entry, manifest: Manifest) -> Scan:
    return Scan(
        path=entry.scan,
        label=manifest.class_names[entry.label],
        patient=entry.patient,
        number=entry.number,
        folder="",
        bytes=0,
        sha256=entry.sha256,
        height=entry.size[0],
        width=entry.size[1],
        pixels=entry.pixels.hex(),
    )


def crops(rows: Iterable[Row] | None, recipe: Preprocessing) -> dict[str, tuple[int, int, int, int]]:
    """The crop of every kept row by its path, where bars beside the scan make it count for the measures."""
    if rows is None or recipe.fit != "pad":
        return {}
    found = ((row["path"], _crop(row)) for row in rows if row["shard"])
    return {path: crop for path, crop in found if crop}


def counted(per_class: Sequence[int], manifest: Manifest) -> str:
    """Such as `CNV 12, DME 12`."""
    return ", ".join(f"{name} {number}" for name, number in zip(manifest.class_names, per_class, strict=True))


def _of_manifest(where: str, what: str) -> Violation:
    return Violation(5, f"{MANIFEST_NAME} {where}", what)
