"""What must agree in a finished folder: records, images.csv, joins.json and the manifest. Pure: values in, faults out.

Everything that the records can show is compared, so that an edit is named even where every sum was put right after it.
They cannot show, and only the form of these is looked at: bytes, border, confidence and note in images.csv, and what
it says of files that are in no shard, beyond their paths and joins; the seed, fractions, shard size, margins, field and
denoiser of the config; the source's listing; the versions of the libraries; the distances in joins.json. A change of
stored pixels shows in their mean, deviation and sharpness, if it is large enough for these.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import cv2

from octprep import imaging, patients, scan, split
from octprep.images import Row
from octprep.joined import Joins
from octprep.patients import NEAR_IDENTICAL, SAME_BYTES, SAME_PIXELS, Group
from octprep.plan import SURPLUS
from octprep.scan import Named, Scan
from octprep.schema import IMAGES_NAME, JOINS_NAME, MANIFEST_NAME, SPLIT_FOLDERS, Leaks, Manifest, Recipe

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
_LARGE = 10**7  # pixels of a side, and rows of a crop, are fewer
_FEW = 3  # rows with the same fault that are named one by one even if it is in all


class Fault(NamedTuple):
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
    joins: Joins | None  # None if joins.json cannot be read
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


def leaks(by_split: Mapping[str, Sequence[Entry]]) -> Iterator[Fault]:
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
                    yield Fault(1, entry.where, f"{what} is in {name} and in {home}: {other.where}")
                elif other.sha256 != entry.sha256:
                    yield Fault(1, entry.where, f"has the same stored pixels, in {name}, as {other.where} in {home}")


def group_leaks(rows: Iterable[Row]) -> Iterator[Fault]:
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
                yield Fault(
                    1,
                    f"{IMAGES_NAME} {row['path']}",
                    f"is in {row['split']}, but {home['path']} of the same group {row['group']} is in {home['split']}",
                )


def table(found: Evidence) -> Iterator[Fault]:
    """Law 2: images.csv against the records, the manifest's numbers and joins.json.

    What is wrong with a column in every row is said once.
    """
    rows, manifest = found.rows, found.manifest
    if rows is None:
        return
    for name, number in Counter(row["path"] for row in rows).items():
        if number > 1:
            yield Fault(2, f"{IMAGES_NAME} {name}", f"has {number} rows")
    kept = sum(bool(row["shard"]) for row in rows)
    for what, number, said in (
        ("rows", len(rows), manifest.source["found"]),
        ("rows of images kept", kept, manifest.source["kept"]),
        ("rows of files left out", len(rows) - kept, manifest.source["left_out"]),
    ):
        if number != said:
            yield Fault(2, IMAGES_NAME, f"has {number:,} {what}, where the manifest says {said:,}")
    stored: dict[str, list[tuple[str, Entry]]] = defaultdict(list)
    for name, entries in found.by_split.items():
        for entry in entries:
            stored[entry.scan].append((name, entry))
    groups = _groups(rows, found.joins)
    compared: Counter[str] = Counter()
    wrong: dict[str, list[Fault]] = defaultdict(list)
    for row in rows:
        records = stored.pop(row["path"], [])
        place = f"{IMAGES_NAME} {row['path']}"
        for aspect, fault in itertools.chain(
            _place(row, records, found),
            _form(row, manifest),
            *(_against_record(row, entry, manifest) for _, entry in records),
            _group(row, groups),
        ):
            compared[aspect] += 1
            if fault:
                wrong[aspect].append(fault if isinstance(fault, Fault) else Fault(2, place, fault))
    for aspect, faults in wrong.items():
        if len(faults) == compared[aspect] > _FEW:
            first = faults[0]
            yield Fault(
                2,
                IMAGES_NAME,
                f"{aspect}: not one of {len(faults):,} is what the records and the manifest show; "
                f"the first: {first.where} {first.what}",
            )
        else:
            yield from faults
    for strays in stored.values():
        yield Fault(2, strays[0][1].where, f"has no row in {IMAGES_NAME}")


Said = tuple[str, Fault | str | None]  # what was compared, and what is wrong with it


def _place(row: Row, records: Sequence[tuple[str, Entry]], found: Evidence) -> Iterator[Said]:
    """Which shards hold a file, how often, and in which split."""
    names = sorted({entry.shard for _, entry in records})
    if bool(row["shard"]) == bool(row["left_out"]):
        yield "place", "must have either a shard or a reason for being left out"
        return
    if strange := set(row["shard"].split()) - found.shards:
        yield f"shard {row['shard']}", f"says shard {' '.join(sorted(strange))}, which the manifest does not have"
        return
    if found.lost(row):
        other = {name.partition("/")[0] for name in row["shard"].split()} - {row["split"]}
        yield "split", f"says split {row['split'] or 'none'}, but shard {row['shard']}" if other else None
        return
    says = (
        f"says {row['copies'] or 'no'} copies in {row['shard'] or 'no shard'}; found {len(records)} in "
        f"{' '.join(names) or 'no shard'}"
    )
    yield "place", None if (row["shard"], row["copies"]) == (" ".join(names), str(len(records))) else says
    splits = sorted({name for name, _ in records})
    in_split = f"its records are in {' '.join(splits)}" if splits else "it has no record"
    says = f"says split {row['split'] or 'none'}, but {in_split}"
    yield "split", None if row["split"] == " ".join(splits) else says


def _form(row: Row, manifest: Manifest) -> Iterator[Said]:
    """What each cell may hold, and what the path shows."""
    filled = [column for column in _FILLED if row[column]]
    lacking = [column for column in _FILLED if not row[column]] if row["shard"] or filled else []
    yield "cells", f"lacks {', '.join(lacking)}" if lacking else None
    if not row["shard"]:
        says = f"is in no shard, but says split {row['split'] or 'none'} and {row['copies'] or 'no'} copies"
        yield "split", None if (row["split"], row["copies"]) == ("", "0") else says
    if not filled:
        others = [column for column in ("folder", "note") if row[column]]
        yield "cells", f"has a {others[0]}, but was not prepared" if others else None
    if lacking or not filled:
        return
    if row["shard"]:
        unknown = f"is of class {row['class']!r}, which the manifest does not have"
        yield f"class {row['class']}, if known", None if row["class"] in manifest.class_names else unknown
    for column in ("bytes", "width", "height", "number"):
        least = int(column != "number")
        limit = _LARGE if column in ("width", "height") else 10**14
        good = bool(_WHOLE.fullmatch(row[column])) and least <= int(row[column]) <= limit
        yield f"form of {column}", None if good else f"has {column} {row[column][:40]!r}"
    for column in _NUMBERS:
        good = _decimal(row, column)
        yield f"form of {column}", None if good else f"has {column} {row[column][:40]!r}"
    yield "form of sha256", None if _HEX.fullmatch(row["sha256"]) else f"has sha256 {row['sha256'][:80]!r}"
    plain = len(row["note"]) < 1000 and row["note"].isprintable()
    yield "note", None if plain else "has a note that no build writes"
    crop = _crop(row)
    yield "form of crop", None if crop else f"has crop {', '.join(row[column][:20] for column in _CROP)}"
    if crop and manifest.recipe.crop == "none":
        whole = (row["crop_top"], row["crop_bottom"]) == ("0", row["height"])
        yield "rows kept", None if whole else "is cropped in its rows, but config.recipe.crop is none"
    named = _named(row["path"])
    if named:
        shown = {"class": named.label, "patient": named.patient, "number": str(named.number), "folder": named.folder}
        for column, value in shown.items():
            says = f"says {column} {row[column] or 'none'}, but its path says {value or 'none'}"
            yield f"{column} and path", None if row[column] == value else says


def _against_record(row: Row, entry: Entry, manifest: Manifest) -> Iterator[Said]:
    """What a record shows of its row."""
    said = {
        f"class {manifest.class_names[entry.label]}": ("class", manifest.class_names[entry.label]),
        "patient": ("patient", entry.patient),
        "number": ("number", str(entry.number)),
        "sha256": ("sha256", entry.sha256),
        "height": ("height", str(entry.size[0])),
        "width": ("width", str(entry.size[1])),
    }
    for aspect, (column, value) in said.items():
        if row[column] == value:
            yield aspect, None
        else:
            yield aspect, Fault(2, entry.where, f"says {column} {value}, where {IMAGES_NAME} says {row[column]}")
    if crop := _crop(row):
        _, affine = imaging.place(crop, manifest.recipe)
        close = all(
            math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)
            for one, other in zip(affine, entry.affine, strict=True)
        )
        cells = ", ".join(row[column] for column in _CROP)
        yield "crop", None if close else Fault(2, entry.where, f"has not the affine of its crop ({cells})")
    same_version = manifest.libraries.get("opencv") == cv2.__version__  # another one may differ in the last place
    for column, measured in zip(_MEASURED, entry.measures, strict=False):
        if _decimal(row, column):
            unit = 10.0 ** -_NUMBERS[column][1]
            close = abs(float(row[column]) - measured) <= unit * (0.500001 if same_version else 1.5)
            what = f"says {column} {row[column]}, but its stored pixels have {measured:.5f}"
            yield column, None if close else what


def _group(row: Row, groups: Mapping[str, str] | None) -> Iterator[Said]:
    """Whose scans a row's are taken for."""
    if groups is not None and row["patient"]:
        group = groups[row["patient"]]
        what = f"says group {row['group'] or 'none'}, but by {JOINS_NAME} it is {group}"
        yield "group", None if row["group"] == group else what


def _groups(rows: Sequence[Row], joins: Joins | None) -> dict[str, str] | None:
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


def _named(path: str) -> Named | None:
    """What a path says of its scan, or None if it follows no rule that is known."""
    folders = path.split("/")[:-1]
    inner = 2 if len(folders) > 1 and folders[-2].lower() in SPLIT_FOLDERS else 1
    try:
        named = scan.read_name(path, 0, "/".join(folders[: max(len(folders) - inner, 0)]))
    except ValueError:  # no path at all
        return None
    return named if isinstance(named, Named) else None


def _crop(row: Row) -> tuple[int, int, int, int] | None:
    """The crop of a row, or None if no build writes such a one."""
    cells = [row[column] for column in (*_CROP, "width")]
    if not all(map(_WHOLE.fullmatch, cells)):
        return None
    top, bottom, left, right, width = map(int, cells)
    if -_LARGE < top < bottom < _LARGE and 0 <= left < right <= min(width, _LARGE):
        return top, bottom, left, right
    return None


def _decimal(row: Row, column: str) -> bool:
    """Whether a cell holds a number that can be, written as Python writes it."""
    most, places = _NUMBERS[column]
    try:
        value = float(row[column])
    except ValueError:
        return False
    return 0 <= value <= most and row[column] == repr(round(value, places))


def joined(found: Evidence, near: Mapping[tuple[str, str], float]) -> Iterator[Fault]:
    """Law 2: joins.json against images.csv and the records.

    near: correlations of pairs of scans with a record each, by their paths in either order: of all that were found
    near-identical, and of those that joins.json says are.
    """
    if found.joins is None or found.rows is None:
        return
    by_path = {row["path"]: row for row in found.rows if row["patient"]}
    firsts = found.firsts
    for join in found.joins.joins:
        where = f"{JOINS_NAME} {join.first} = {join.second}"
        one, other = by_path.get(join.first), by_path.get(join.second)
        if one is None or other is None:
            yield Fault(2, where, f"joins a scan that {IMAGES_NAME} does not have")
            continue
        if one["patient"] == other["patient"]:
            yield Fault(2, where, f"joins two scans of one patient id, {one['patient']}")
        if (join.reason == SAME_BYTES) != (one["sha256"] == other["sha256"]):
            yield Fault(2, where, f"says {join.reason}, but {IMAGES_NAME} shows otherwise")
        if join.first in firsts and join.second in firsts and join.reason == SAME_PIXELS:
            (_, left), (_, right) = firsts[join.first], firsts[join.second]
            if left.pixels != right.pixels:
                yield Fault(2, where, f"says {join.reason}, but the stored pixels differ")
        measured = near.get((join.first, join.second), near.get((join.second, join.first)))
        if join.reason == NEAR_IDENTICAL and join.correlation < found.joins.threshold:
            yield Fault(2, where, f"says correlation {join.correlation:.4f}, below {found.joins.threshold:.2f}")
        elif join.reason == NEAR_IDENTICAL and measured is not None and abs(measured - join.correlation) > 0.01:
            yield Fault(2, where, f"says correlation {join.correlation:.4f}, but the stored pixels have {measured:.4f}")
        elif join.reason != NEAR_IDENTICAL and join.correlation != 1:
            yield Fault(2, where, f"says {join.reason}, but a correlation of {join.correlation:.4f}")
    yield from _not_joined(found, near, by_path)
    if found.manifest.config.near_duplicates == (found.joins.distances is None):
        said = "on" if found.manifest.config.near_duplicates else "off"
        yield Fault(2, JOINS_NAME, f"shows that near-identical scans were treated otherwise than config says ({said})")
    elif not found.manifest.config.near_duplicates and any(join.reason == NEAR_IDENTICAL for join in found.joins.joins):
        yield Fault(2, JOINS_NAME, "has near-identical scans, but config.near_duplicates is off")


def _not_joined(found: Evidence, near: Mapping[tuple[str, str], float], by_path: Mapping[str, Row]) -> Iterator[Fault]:
    """Scans that show the same and are of two groups."""
    assert found.joins is not None
    first: dict[str, Row] = {}
    contents = {path: entry.pixels.hex() for path, (_, entry) in found.firsts.items()}
    for path, row in by_path.items():
        for what, content in (("bytes", row["sha256"]), ("stored pixels", contents.get(path))):
            if content:
                other = first.setdefault(f"{what} {content}", row)
                if other["group"] != row["group"]:
                    yield Fault(
                        2, f"{IMAGES_NAME} {path}", f"has the same {what} as {other['path']}, but another group"
                    )
    for (one, two), correlation in near.items():
        groups = {by_path[path]["group"] for path in (one, two) if path in by_path}
        if len(groups) > 1 and correlation >= found.joins.threshold:
            yield Fault(
                2,
                f"{IMAGES_NAME} {two}",
                f"is near-identical (correlation {correlation:.2f}) to {one}, but of another group",
            )


def copies(found: Evidence) -> Iterator[Fault]:
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
                yield Fault(3, same[1].where, f"{name} holds {same[0].scan} {len(same)} times")
        elif repeated and balance != "oversample":
            yield Fault(
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
                yield Fault(3, same[0].where, f"the copies of {path} in {name} are not numbered from 0")
            for entry in same[1:]:
                if entry.pixels != same[0].pixels:
                    yield Fault(3, entry.where, f"has other pixels than {same[0].shard} record {same[0].index}")
                elif entry.rest != same[0].rest:
                    yield Fault(3, entry.where, f"has other features than {same[0].shard} record {same[0].index}")


def balance(manifest: Manifest) -> Iterator[Fault]:
    """Law 4; the counts themselves are checked against the records by law 5."""
    if manifest.config.balance == "none":
        return
    for shard in manifest.splits.get("train", ()):
        if len(set(shard.per_class)) > 1:
            yield Fault(4, shard.name, f"classes are not balanced: {counted(shard.per_class, manifest)}")


def settings(found: Evidence) -> Iterator[Fault]:
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
        "official": [name for name in SPLIT_FOLDERS if name in names or name != "val"],
        "file": [name for name in SPLIT_FOLDERS if name in names or name != "val"],
    }.get(config.split, list(SPLIT_FOLDERS))
    if names != expected:
        yield _of_manifest("config.split", f"is {config.split}, but the splits are {', '.join(names)}")
    if found.manifest.leaks and not config.allow_leaks:
        yield _of_manifest("leaks", "are declared, but config.allow_leaks is false")
    if found.rows is not None:
        yield from _rows_and_settings(found, found.rows)
    yield from _declared(found)


def _rows_and_settings(found: Evidence, rows: Sequence[Row]) -> Iterator[Fault]:
    config = found.manifest.config
    kept = [row for row in rows if row["shard"]]
    given = any(row["folder"] == "test" for row in rows)
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
    if config.balance != "undersample" and any(row["left_out"] == SURPLUS for row in rows):
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


def _declared(found: Evidence) -> Iterator[Fault]:
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
        there = split.parted(parts, [Group(key, tuple(scans)) for key, scans in members.items()], near)
    else:
        there = patients.find_leaks(list(parts.values()), near)
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


def crops(rows: Iterable[Row] | None, recipe: Recipe) -> dict[str, tuple[int, int, int, int]]:
    """The crop of every kept row by its path, where bars beside the scan make it count for the measures."""
    if rows is None or recipe.fit != "pad":
        return {}
    found = ((row["path"], _crop(row)) for row in rows if row["shard"])
    return {path: crop for path, crop in found if crop}


def counted(per_class: Sequence[int], manifest: Manifest) -> str:
    """Such as `CNV 12, DME 12`."""
    return ", ".join(f"{name} {number}" for name, number in zip(manifest.class_names, per_class, strict=True))


def _of_manifest(where: str, what: str) -> Fault:
    return Fault(5, f"{MANIFEST_NAME} {where}", what)
