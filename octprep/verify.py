"""Prove from the shards themselves that the laws hold: no source, no trust in what the manifest says of itself.

1. No patient, no source content and no near-identical scan is in two splits.
2. Every image found is in images.csv exactly once: in a shard, or with a reason.
3. val, test and folds hold every image once; train holds every kept image at least once, its copies numbered.
4. In a balanced split every shard has the same count of every class.
5. Every record's CRC, every shard's SHA-256 and every count match the manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep import engine, images, likeness, schema, tfrecord
from octprep.engine import Progress, silent
from octprep.joined import Joins
from octprep.schema import IMAGES_NAME, JOINS_NAME, Manifest, Shard
from octprep.tfrecord import RecordError

LAWS: Mapping[int, str] = {
    1: "no patient, no content and no near-identical scan is in two splits",
    2: "every image found is in images.csv exactly once, in a shard or with a reason",
    3: "val and test hold every image once, train every kept image at least once",
    4: "in a balanced split every shard has the same count of every class",
    5: "every CRC, SHA-256 and count matches the manifest",
}


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
    offset: int = 0  # of the record's frame in its shard, bytes
    descriptor: bytes = field(default=b"", repr=False)  # `likeness.describe` of the pixels; of first copies alone
    pixels: bytes = field(default=b"", repr=False)  # a digest of the stored pixels
    comparable: bool = True  # `likeness.comparable`

    @property
    def where(self) -> str:
        """The place in words."""
        return f"{self.shard} record {self.index} ({self.scan})"


@dataclass(frozen=True)
class ShardTask:
    """A shard to read, and what it should be."""

    folder: Path
    shard: Shard
    manifest: Manifest


class Count(NamedTuple):
    """What a split holds."""

    images: int  # repeats not counted
    patients: int


@dataclass(frozen=True)
class Verdict:
    """What was read and what is wrong with it."""

    manifest: Manifest
    records: int
    faults: tuple[Fault, ...]
    counts: Mapping[str, Count]  # by split
    too_small: int = 0  # images that could not be compared with others, where near-identical scans were looked for


def verify(folder: Path, *, workers: int | None = None, progress: Progress = silent) -> Verdict:
    """Read every record of a finished folder and check the laws.

    Raises ManifestError if there is no manifest that could be read.
    """
    manifest = Manifest.load(folder, trusting=True)
    faults: list[Fault] = []
    if not manifest.untouched:
        faults.append(Fault(5, schema.MANIFEST_NAME, "was changed after it was written: its digest does not match"))
    tasks = [ShardTask(folder, shard, manifest) for part in manifest.splits.values() for shard in part]
    total = sum(task.shard.records for task in tasks)
    by_split: dict[str, list[Entry]] = {name: [] for name in manifest.splits}
    progress("reading records", 0, total)
    for shard, entries, found in engine.run(read_shard, tasks, workers):
        by_split[_split_of(shard, manifest)] += entries
        faults += found
        progress("reading records", len(entries), total)
    for entries in by_split.values():
        entries.sort()
    faults += _strangers(folder, manifest)
    faults += leaks(by_split)
    if manifest.config.near_duplicates:
        progress("comparing scans", 0, 1)
        faults += near_leaks(by_split, folder, manifest, workers)
        progress("comparing scans", 1, 1)
    faults += group_faults(folder, manifest)
    faults += images_faults(folder, manifest, by_split)
    faults += copy_faults(by_split)
    faults += balance_faults(manifest)
    counts = {
        split: Count(len({entry.scan for entry in entries}), len({entry.patient for entry in entries}))
        for split, entries in by_split.items()
    }
    too_small = sum(not entry.comparable for entries in by_split.values() for entry in entries if entry.copy == 0)
    return Verdict(manifest, sum(map(len, by_split.values())), tuple(sorted(set(faults))), counts, too_small)


def read_shard(task: ShardTask) -> tuple[str, list[Entry], list[Fault]]:
    """A shard's name, its records without their pixels, and what is wrong with each."""
    name, path = task.shard.name, task.folder / task.shard.name
    entries: list[Entry] = []
    faults: list[Fault] = []
    if difference := schema.file_fault(path, task.shard):
        faults.append(Fault(5, name, difference))
    try:
        offset = 0
        for index, data in enumerate(tfrecord.read(path)):
            match _read_record(data, name, index, offset, task.manifest):
                case Entry() as entry:
                    entries.append(entry)
                case str() as what:
                    faults.append(Fault(5, f"{name} record {index}", what))
            offset += tfrecord.framed_size(data)
    except RecordError as error:
        faults.append(Fault(5, name, str(error)))
    except OSError:
        return name, [], faults  # said already, by its size and SHA-256
    counts = Counter(entry.label for entry in entries)
    per_class = tuple(counts[label] for label in range(len(task.manifest.class_names)))
    if (len(entries), per_class) != (task.shard.records, task.shard.per_class):
        faults.append(
            Fault(
                5,
                name,
                f"holds {len(entries)} good records, {_counted(per_class, task.manifest)}, where the manifest says "
                f"{task.shard.records}, {_counted(task.shard.per_class, task.manifest)}",
            )
        )
    return name, entries, faults


def leaks(by_split: Mapping[str, Sequence[Entry]]) -> Iterator[Fault]:
    """Law 1: the first record of every patient and content in each split that is not the first to have it."""
    first: dict[str, tuple[str, Entry]] = {}
    told: set[tuple[str, str]] = set()
    for split, entries in by_split.items():
        for entry in entries:
            for what in (f"patient {entry.patient}", f"content {entry.sha256}"):
                home, other = first.setdefault(what, (split, entry))
                if home != split and (split, what) not in told:
                    told.add((split, what))
                    yield Fault(1, entry.where, f"{what} is in {split} and in {home}: {other.where}")


def near_leaks(
    by_split: Mapping[str, Sequence[Entry]], folder: Path, manifest: Manifest, workers: int | None = None
) -> Iterator[Fault]:
    """Law 1, on the pixels: near-identical scans under different patient ids in different splits."""
    placed = [(split, entry) for split, entries in by_split.items() for entry in entries if entry.descriptor]
    if len(placed) < 2:
        return

    def stored(index: int) -> NDArray[np.uint8]:
        entry = placed[index][1]
        image = tfrecord.decode(tfrecord.read_at(folder / entry.shard, entry.offset))[schema.IMAGE][0]
        pixels = _pixels(image, manifest) if isinstance(image, bytes) else None
        assert pixels is not None, "its descriptor came from them"
        return pixels

    descriptors = np.frombuffer(b"".join(entry.descriptor for _, entry in placed), np.uint8)
    owners = [entry.patient for _, entry in placed]
    for pair in likeness.near_identical(descriptors.reshape(len(placed), -1), owners, stored, workers=workers):
        (home, other), (split, entry) = placed[pair.first], placed[pair.second]
        if home != split and other.sha256 != entry.sha256:  # equal contents are told already
            yield Fault(
                1,
                entry.where,
                f"is near-identical (correlation {pair.correlation:.2f}) to {other.where} in {home}, "
                f"under patient {entry.patient} here and {other.patient} there",
            )


def group_faults(folder: Path, manifest: Manifest) -> Iterator[Fault]:
    """Law 1, on the groups that images.csv names; and joins.json, which says why, against the manifest."""
    try:
        data = (folder / JOINS_NAME).read_bytes()
        Joins.from_json(data)
        if hashlib.sha256(data).hexdigest() != manifest.joins_sha256:
            yield Fault(2, JOINS_NAME, "was changed after it was written: its SHA-256 does not match the manifest")
    except (OSError, ValueError) as error:
        yield Fault(2, JOINS_NAME, f"cannot be read: {error}")
    try:
        rows = images.read((folder / IMAGES_NAME).read_bytes())
    except (OSError, ValueError):
        return  # told by images_faults
    homes: dict[str, images.Row] = {}  # the first row of each group
    told: set[tuple[str, str]] = set()
    for row in rows:
        home = homes.setdefault(row["group"], row) if row["split"] else row
        # One patient on two sides is told already, by the records.
        if home["split"] != row["split"] and home["patient"] != row["patient"]:
            pair = (row["group"], row["split"])
            if pair not in told:
                told.add(pair)
                yield Fault(
                    1,
                    f"{IMAGES_NAME} {row['path']}",
                    f"is in {row['split']}, but {home['path']} of the same group {row['group']} is in {home['split']}",
                )


def images_faults(folder: Path, manifest: Manifest, by_split: Mapping[str, Sequence[Entry]]) -> Iterator[Fault]:
    """Law 2: images.csv against the records."""
    path = folder / IMAGES_NAME
    try:
        data = path.read_bytes()
        rows = images.read(data)
    except (OSError, ValueError) as error:
        yield Fault(2, IMAGES_NAME, f"cannot be read: {error}")
        return
    if hashlib.sha256(data).hexdigest() != manifest.images_sha256:
        yield Fault(2, IMAGES_NAME, "was changed after it was written: its SHA-256 does not match the manifest")
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
    stored: dict[str, list[Entry]] = defaultdict(list)
    homes = {entry.shard: split for split, entries in by_split.items() for entry in entries}
    for entries in by_split.values():
        for entry in entries:
            stored[entry.scan].append(entry)
    for row in rows:
        entries = stored.pop(row["path"], [])
        where = f"{IMAGES_NAME} {row['path']}"
        if bool(row["shard"]) == bool(row["left_out"]):
            yield Fault(2, where, "must have either a shard or a reason for being left out")
        elif set(row["shard"].split()) != {entry.shard for entry in entries} or int(row["copies"] or 0) != len(entries):
            found = " ".join(sorted({entry.shard for entry in entries})) or "no shard"
            yield Fault(
                2,
                where,
                f"says {row['copies']} copies in {row['shard'] or 'no shard'}; found {len(entries)} in {found}",
            )
        for split in sorted({homes[entry.shard] for entry in entries} - {row["split"]}):
            yield Fault(2, where, f"says split {row['split'] or 'none'}, but its records are in {split}")
        for entry in entries:
            said = (row["class"], row["patient"], row["sha256"])
            if said != (manifest.class_names[entry.label], entry.patient, entry.sha256):
                yield Fault(2, entry.where, f"class, patient or content is not what {IMAGES_NAME} says")
    for entries in stored.values():
        yield Fault(2, entries[0].where, f"has no row in {IMAGES_NAME}")


def copy_faults(by_split: Mapping[str, Sequence[Entry]]) -> Iterator[Fault]:
    """Law 3: what is repeated where nothing may be, and copies that are not numbered 0, 1, 2 and so on."""
    for split, entries in by_split.items():
        copies: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            copies[entry.scan].append(entry)
        for scan, same in copies.items():
            if split != "train" and len(same) > 1:
                yield Fault(3, same[1].where, f"{split} holds {scan} {len(same)} times")
            if sorted(entry.copy for entry in same) != list(range(len(same))):
                yield Fault(3, same[0].where, f"the copies of {scan} in {split} are not numbered from 0")
            for entry in same[1:]:
                if entry.pixels != same[0].pixels:
                    yield Fault(3, entry.where, f"has other pixels than {same[0].shard} record {same[0].index}")


def balance_faults(manifest: Manifest) -> Iterator[Fault]:
    """Law 4; the counts themselves are checked against the records by law 5."""
    if manifest.config.balance == "none":
        return
    for shard in manifest.splits.get("train", ()):
        if len(set(shard.per_class)) > 1:
            yield Fault(4, shard.name, f"classes are not balanced: {_counted(shard.per_class, manifest)}")


def _read_record(data: bytes, shard: str, index: int, offset: int, manifest: Manifest) -> Entry | str:
    """A record's entry, or what is wrong with it."""
    try:
        example = tfrecord.decode(data)
        image, label = example[schema.IMAGE][0], example[schema.LABEL][0]
        entry = Entry(
            shard=shard,
            index=index,
            scan=_text(example[schema.SCAN][0]),
            patient=_text(example[schema.PATIENT][0]),
            label=int(label),
            sha256=bytes(example[schema.SHA256][0]).hex(),  # type: ignore[arg-type]
            copy=int(example[schema.COPY][0]),
            offset=offset,
        )
        wanted = {schema.NUMBER: 1, schema.SOURCE_SIZE: 2, schema.AFFINE: 6}
        if manifest.recipe.flatten:
            wanted[schema.SHIFT] = manifest.recipe.width
        sizes = {key: len(example[key]) for key in wanted}
    except (RecordError, KeyError, IndexError, TypeError, ValueError) as error:
        return f"is not a record of format {schema.FORMAT_VERSION}: {error}"
    if not 0 <= entry.label < len(manifest.class_names):
        return f"has label {entry.label}, but there are {len(manifest.class_names)} classes"
    if sizes != wanted or len(entry.sha256) != 64:
        return "has a feature of the wrong length"
    assert isinstance(image, bytes)
    pixels = _pixels(image, manifest)
    if pixels is None:
        return f"has an image that is not {manifest.recipe.height} x {manifest.recipe.width} gray pixels"
    entry = dataclasses.replace(entry, pixels=hashlib.blake2b(pixels.tobytes(), digest_size=16).digest())
    if manifest.config.near_duplicates and entry.copy == 0:
        comparable = likeness.comparable(pixels)
        return dataclasses.replace(entry, descriptor=likeness.describe(pixels), comparable=comparable)
    return entry


def _pixels(image: bytes, manifest: Manifest) -> NDArray[np.uint8] | None:
    """The stored pixels, (height, width), or None if the bytes are no such image."""
    recipe = manifest.recipe
    if manifest.config.encoding == "raw":
        if len(image) != recipe.height * recipe.width:
            return None
        return np.frombuffer(image, np.uint8).reshape(recipe.height, recipe.width)
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED) if image else None
    good = pixels is not None and pixels.shape == (recipe.height, recipe.width)
    return np.asarray(pixels, np.uint8) if good else None


def _text(value: object) -> str:
    if not isinstance(value, bytes):
        raise TypeError(f"expected bytes, got {value!r}")
    return value.decode()


def _split_of(shard: str, manifest: Manifest) -> str:
    return next(name for name, part in manifest.splits.items() if any(shard == other.name for other in part))


def _strangers(folder: Path, manifest: Manifest) -> Iterable[Fault]:
    known = {shard.name for part in manifest.splits.values() for shard in part}
    for path in sorted(folder.glob("*/*.tfrecord")):
        name = path.relative_to(folder).as_posix()
        if name not in known:
            yield Fault(5, name, "is not in the manifest")


def _counted(per_class: Sequence[int], manifest: Manifest) -> str:
    return ", ".join(f"{name} {number}" for name, number in zip(manifest.class_names, per_class, strict=True))
