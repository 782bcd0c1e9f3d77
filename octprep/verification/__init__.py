"""Prove from the shards themselves that the laws hold: no source, no trust in what the manifest says of itself.

1. No patient, no source content and no near-identical scan is in two splits.
2. Every image found is in images.csv exactly once: in a shard, or with a reason.
3. val, test and folds hold every image once; train holds every kept image at least once, its copies numbered.
4. In a balanced split every shard has the same count of every class.
5. Every record's CRC, every shard's SHA-256 and every count match the manifest.

`octprep.verification.checks` says what must agree besides, and what no record can show.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from octprep import duplicates, preprocessing
from octprep import workers as worker_pool
from octprep.duplicates.exact import NEAR_IDENTICAL
from octprep.duplicates.file import DuplicatesFile
from octprep.format import images_csv
from octprep.format.manifest import (
    AFFINE,
    DUPLICATES_NAME,
    FORMAT_VERSION,
    IMAGE,
    IMAGES_NAME,
    LABEL,
    MANIFEST_NAME,
    NUMBER,
    PATH,
    PATIENT,
    REPEAT,
    ROW_OFFSET,
    SHA256,
    SOURCE_SIZE,
    Manifest,
    Shard,
    read_part,
    shard_problem,
)
from octprep.shards import tfrecord
from octprep.shards.records import decode_pixels
from octprep.shards.tfrecord import RecordError
from octprep.verification import checks
from octprep.verification.checks import Entry, Evidence, Violation
from octprep.workers import Progress, no_progress

CHECKS: Mapping[int, str] = {
    1: "no patient, no content and no near-identical scan is in two splits",
    2: "every image found is in images.csv exactly once, in a shard or with a reason",
    3: "val and test hold every image once, train every kept image at least once",
    4: "in a balanced split every shard has the same count of every class",
    5: "every CRC, SHA-256 and count matches the manifest",
}

_FEW = 3  # records of a shard with the same fault that are named one by one
_MOST = 1 << 31  # whole numbers of a record are below it

Read = TypeVar("Read")
Crop = tuple[int, int, int, int]


@dataclass(frozen=True)
class ShardTask:
    """A shard to read, and what it should be."""

    folder: Path
    shard: Shard
    manifest: Manifest
    crops: Mapping[str, Crop]  # of scans with bars beside them, by path


class Contents(NamedTuple):
    """What is in a shard."""

    name: str
    entries: list[Entry]  # its records without their pixels
    faults: list[Violation]
    whole: bool  # whether every record could be read


class Count(NamedTuple):
    """What a split holds."""

    images: int  # repeats not counted
    patients: int


@dataclass(frozen=True)
class VerificationResult:
    """What was read and what is wrong with it."""

    manifest: Manifest
    records: int
    faults: tuple[Violation, ...]
    counts: Mapping[str, Count]  # by split
    too_small: int = 0  # images that could not be compared with others, where near-identical scans were looked for
    unread: tuple[str, ...] = ()  # shards that could not be read whole, and tables that could not be read
    lost_rows: int = 0  # rows of images.csv that point to such shards, and so were not held against them


def verify(folder: Path, *, workers: int | None = None, progress: Progress = no_progress) -> VerificationResult:
    """Read every record of a finished folder and check the laws.

    What follows from a fault that is named already is left out: of a shard that cannot be read whole neither its counts
    nor the rows that point to it are named. Raises ManifestError if there is no manifest that could be read.
    """
    manifest = Manifest.load(folder, allow_edited=True)
    faults: list[Violation] = []
    if not manifest.digest_ok:
        faults.append(Violation(5, MANIFEST_NAME, "was changed after it was written: its digest does not match"))
    elif read_part(folder / MANIFEST_NAME) != manifest.to_bytes():
        faults.append(
            Violation(5, MANIFEST_NAME, "was rewritten: it says the same, but not in the bytes that octprep writes")
        )
    rows = _beside(folder / IMAGES_NAME, manifest.images_sha256, images_csv.read, faults)
    joins = _beside(folder / DUPLICATES_NAME, manifest.duplicates_sha256, DuplicatesFile.from_json, faults)
    crops = checks.crops(rows, manifest.recipe)
    tasks = [ShardTask(folder, shard, manifest, crops) for part in manifest.splits.values() for shard in part]
    total = sum(task.shard.records for task in tasks)
    by_split: dict[str, list[Entry]] = {name: [] for name in manifest.splits}
    unread = set()
    progress("reading records", 0, total)
    for found in worker_pool.run(read_shard, tasks, workers):
        by_split[found.name.partition("/")[0]] += found.entries
        faults += found.faults
        unread |= set() if found.whole else {found.name}
        progress("reading records", len(found.entries), total)
    for entries in by_split.values():
        entries.sort()
    evidence = Evidence(manifest, by_split, rows, joins, frozenset(unread))
    faults += _others(folder, manifest)
    faults += checks.leaks(by_split)
    if manifest.config.near_duplicates:
        progress("comparing scans", 0, 1)
        near = near_pairs(evidence, folder, workers, faults)
        faults += near_leaks(evidence, near)
        progress("comparing scans", 1, 1)
    else:
        near = {}
    faults += checks.group_leaks(rows or ())
    faults += checks.table(evidence)
    faults += checks.joined(evidence, near)
    faults += checks.copies(evidence)
    faults += checks.balance(manifest)
    faults += checks.settings(evidence)
    counts = {
        split: Count(len({entry.scan for entry in entries}), len({entry.patient for entry in entries}))
        for split, entries in by_split.items()
    }
    too_small = sum(not entry.comparable for entries in by_split.values() for entry in entries if entry.copy == 0)
    tables = [name for name, part in ((IMAGES_NAME, rows), (DUPLICATES_NAME, joins)) if part is None]
    return VerificationResult(
        manifest,
        sum(map(len, by_split.values())),
        tuple(sorted(set(faults))),
        counts,
        too_small,
        (*sorted(unread), *tables),
        sum(map(evidence.lost, rows or ())),
    )


def _beside(path: Path, sha256: str, read: Callable[[bytes], Read], faults: list[Violation]) -> Read | None:
    """What images.csv or duplicates.json holds, or None; a fault if it cannot be read or is not what the manifest names."""
    try:
        data = read_part(path)
        found = read(data)
    except FileNotFoundError:
        faults.append(Violation(2, path.name, "is missing"))
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        faults.append(Violation(2, path.name, f"cannot be read: {why}"))
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        faults.append(
            Violation(2, path.name, "was changed after it was written: its SHA-256 does not match the manifest")
        )
    return found


def read_shard(task: ShardTask) -> Contents:
    """What is in a shard, and what is wrong with it: the cause alone, where a record cannot be read."""
    name, path = task.shard.name, task.folder / task.shard.name
    entries: list[Entry] = []
    bad: dict[str, list[int]] = {}  # records by what is wrong with them
    different, broken = shard_problem(path, task.shard), ""
    try:
        offset = 0
        for index, data in enumerate(tfrecord.read(path)):
            match _read_record(data, name, index, offset, task):
                case Entry() as entry:
                    entries.append(entry)
                case str() as what:
                    bad.setdefault(what, []).append(index)
            offset += tfrecord.framed_size(data)
    except RecordError as error:
        broken = str(error)
    except OSError as error:
        broken = different or f"cannot be read ({error.strerror or error})"
    faults = [
        Violation(5, f"{name} record {index}", what)
        for what, places in bad.items()
        for index in (places if len(places) <= _FEW else ())
    ]
    faults += [
        Violation(5, name, f"{len(places):,} records, the first of them {places[0]}: {what}")
        for what, places in bad.items()
        if len(places) > _FEW
    ]
    if broken and (different in (None, broken) or not entries):
        faults.append(Violation(5, name, broken if different in (None, broken) else f"{broken}; it {different}"))
    elif broken:
        faults.append(
            Violation(
                5, name, f"{broken}; it {different}. {len(entries):,} of {task.shard.records:,} records were read"
            )
        )
    elif different:
        faults.append(Violation(5, name, different))
    counts = Counter(entry.label for entry in entries)
    per_class = tuple(counts[label] for label in range(len(task.manifest.class_names)))
    if not (broken or bad) and (len(entries), per_class) != (task.shard.records, task.shard.per_class):
        faults.append(
            Violation(
                5,
                name,
                f"holds {len(entries)} good records, {checks.counted(per_class, task.manifest)}, where the manifest "
                f"says {task.shard.records}, {checks.counted(task.shard.per_class, task.manifest)}",
            )
        )
    return Contents(name, entries, faults, not (broken or bad))


def near_pairs(
    evidence: Evidence, folder: Path, workers: int | None, faults: list[Violation]
) -> dict[tuple[str, str], float]:
    """How well the detail of two scans agrees, -1 to 1, by their paths: of all that are near-identical under different
    patient ids, and of those that duplicates.json says are.
    """
    placed = [entry for entries in evidence.by_split.values() for entry in entries if entry.descriptor]
    if len(placed) < 2:
        return {}

    def stored(index: int) -> NDArray[np.uint8]:
        entry = placed[index]
        image = tfrecord.decode(tfrecord.read_at(folder / entry.shard, entry.offset))[IMAGE][0]
        pixels = _pixels(image, evidence.manifest) if isinstance(image, bytes) else None
        if pixels is None:
            raise RecordError(f"{entry.where} changed while it was verified")
        return pixels

    descriptors = np.frombuffer(b"".join(entry.descriptor for entry in placed), np.uint8).reshape(len(placed), -1)
    owners = [entry.patient for entry in placed]
    places = {entry.scan: index for index, entry in enumerate(placed)}
    try:
        pairs = duplicates.near_identical(descriptors, owners, stored, workers=workers)
        found = {(placed[pair.first].scan, placed[pair.second].scan): pair.correlation for pair in pairs}
        for join in evidence.joins.joins if evidence.joins else ():
            ends = (join.first, join.second)
            if join.reason != NEAR_IDENTICAL or not places.keys() >= set(ends) or {ends, ends[::-1]} & found.keys():
                continue
            # As `near_identical` does: the scan with the smaller descriptor is laid on the other.
            one, other = sorted((places[end] for end in ends), key=lambda at: (placed[at].descriptor, at))
            found[ends] = round(duplicates.correlation(stored(one), stored(other)), 4)
    except (RecordError, OSError) as error:
        faults.append(Violation(5, str(folder), f"could not be read a second time: {error}"))
        return {}
    return found


def near_leaks(evidence: Evidence, near: Mapping[tuple[str, str], float]) -> Iterator[Violation]:
    """Law 1, on the pixels: near-identical scans under different patient ids in different splits."""
    firsts = evidence.firsts
    for (one, two), correlation in sorted(near.items()):
        (home, other), (split, entry) = firsts[one], firsts[two]
        same = other.sha256 == entry.sha256 or other.pixels == entry.pixels  # these are said already
        if home != split and not same and correlation >= duplicates.THRESHOLD:
            yield Violation(
                1,
                entry.where,
                f"is near-identical (correlation {correlation:.2f}) to {other.where} in {home}, "
                f"under patient {entry.patient} here and {other.patient} there",
            )


def _read_record(data: bytes, shard: str, index: int, offset: int, task: ShardTask) -> Entry | str:
    """A record's entry, or what is wrong with it."""
    manifest, recipe = task.manifest, task.manifest.recipe
    try:
        example = tfrecord.decode(data)
    except RecordError as error:
        return f"is not a record of format {FORMAT_VERSION}: {error}"
    wanted: dict[str, tuple[type, int]] = {
        IMAGE: (bytes, 1), LABEL: (int, 1), PATIENT: (bytes, 1), PATH: (bytes, 1),
        NUMBER: (int, 1), SHA256: (bytes, 1), SOURCE_SIZE: (int, 2), AFFINE: (float, 6),
        REPEAT: (int, 1), **({ROW_OFFSET: (float, recipe.width)} if recipe.flatten else {}),
    }  # fmt: skip
    if example.keys() != wanted.keys():
        return f"lacks features or has others than it should: {', '.join(sorted(example.keys() ^ wanted.keys()))[:200]}"
    for key, (kind, length) in wanted.items():
        if len(example[key]) != length or not all(isinstance(value, kind) for value in example[key]):
            return f"has a feature of the wrong kind or length: {key}"
    features: Mapping[str, Any] = {
        key: values[0] if wanted[key][0] is bytes else values for key, values in example.items()
    }
    counts = (LABEL, NUMBER, REPEAT, SOURCE_SIZE)
    numbers = [number for key in counts for number in features[key]]
    (label,), (copy,) = features[LABEL], features[REPEAT]
    if not 0 <= label < len(manifest.class_names):
        return f"has label {label}, but there are {len(manifest.class_names)} classes"
    places = [*features[AFFINE], *features.get(ROW_OFFSET, ())]
    if not all(0 <= number < _MOST for number in numbers) or not all(math.isfinite(place) for place in places):
        return "has a number that cannot be"
    try:
        texts = [features[key].decode() for key in (PATH, PATIENT)]
    except UnicodeDecodeError:
        return "has text that is not UTF-8"
    if not all(texts) or len(features[SHA256]) != 32:
        return "has a feature of the wrong length"
    if tfrecord.encode(features) != data:
        return "is not encoded as octprep encodes a record"
    pixels = _pixels(features[IMAGE], manifest)
    if pixels is None:
        form = "gray pixels" if manifest.config.encoding == "raw" else "gray pixels in a PNG"
        return f"has an image that is not {recipe.height} x {recipe.width} {form}"
    rest = repr([features[key] for key in sorted(features) if key not in (IMAGE, REPEAT)]).encode()
    entry = Entry(
        shard=shard,
        index=index,
        scan=texts[0],
        patient=texts[1],
        label=label,
        sha256=features[SHA256].hex(),
        copy=copy,
        number=features[NUMBER][0],
        size=tuple(features[SOURCE_SIZE]),
        affine=tuple(features[AFFINE]),
        offset=offset,
        pixels=_digest(pixels.tobytes()),
        rest=_digest(rest),
    )
    if copy:
        return entry
    entry = dataclasses.replace(entry, measures=_measures(pixels, entry.scan, task))
    if manifest.config.near_duplicates:
        comparable = duplicates.comparable(pixels)
        return dataclasses.replace(entry, descriptor=duplicates.describe(pixels), comparable=comparable)
    return entry


def _measures(pixels: NDArray[np.uint8], path: str, task: ShardTask) -> tuple[float, ...]:
    """Mean, deviation and sharpness of stored pixels without bars beside the scan; () if its crop is not known."""
    if task.manifest.recipe.fit == "pad":
        if path not in task.crops:
            return ()
        top, bottom, left, right = preprocessing.placement(task.crops[path], task.manifest.recipe)
        pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
    return preprocessing.measure_intensity(pixels)


def _pixels(image: bytes, manifest: Manifest) -> NDArray[np.uint8] | None:
    """The stored pixels, (height, width), or None if the bytes are no such image."""
    return decode_pixels(image, manifest.recipe.height, manifest.recipe.width, manifest.config.encoding)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _others(folder: Path, manifest: Manifest) -> Iterable[Violation]:
    """Shards that the manifest does not name."""
    known = {shard.name for part in manifest.splits.values() for shard in part}
    for path in sorted(folder.glob("*/*.tfrecord")):
        name = path.relative_to(folder).as_posix()
        if name not in known:
            yield Violation(5, name, "is not in the manifest")
