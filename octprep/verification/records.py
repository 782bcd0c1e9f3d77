"""Reading the records of one shard: a summary of each, and what is wrong with the others."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from octprep import duplicates, preprocessing
from octprep.arrays import Gray
from octprep.format.manifest import (
    AFFINE,
    FORMAT_VERSION,
    IMAGE,
    LABEL,
    NUMBER,
    PATH,
    PATIENT,
    REPEAT,
    ROW_OFFSET,
    SHA256,
    SOURCE_SIZE,
    Manifest,
    Shard,
    shard_problem,
)
from octprep.shards import tfrecord
from octprep.shards.records import unpacked
from octprep.shards.tfrecord import RecordError

Crop = tuple[int, int, int, int]  # top, bottom, left, right in source pixels, half open

_NAMED_ONE_BY_ONE = 3  # records of a shard with the same problem; of more, the number and the first are named
_LIMIT = 1 << 31  # whole numbers of a record are below it


@dataclass(frozen=True, order=True)
class RecordSummary:
    """What one record holds, without its pixels."""

    shard: str
    index: int  # in the shard, from 0
    path: str  # of the source file, the record's key
    patient: str
    label: int  # index into the manifest's class names
    sha256: str  # of the source file, hex
    repeat: int  # 0 for the first occurrence of an image
    image_number: int = 0
    source_size: tuple[int, int] = (0, 0)  # height, width in pixels
    affine: tuple[float, ...] = ()
    offset: int = 0  # of the record's frame in its shard, bytes
    descriptor: bytes = field(default=b"", repr=False)  # `duplicates.describe` of the pixels; b"" for repeats
    pixel_digest: bytes = field(default=b"", repr=False)  # of the stored pixels
    feature_digest: bytes = field(default=b"", repr=False)  # of all features but `image` and `repeat`
    measures: tuple[float, ...] = ()  # `preprocessing.measure` of the pixels; () for repeats
    comparable: bool = True  # whether the pixels are enough to compare the scan with others

    @property
    def where(self) -> str:
        """The record in words."""
        return f"{self.shard} record {self.index} ({self.path})"


@dataclass(frozen=True)
class ReadTask:
    """A shard to read, and what the manifest says of it."""

    folder: Path
    shard: Shard
    manifest: Manifest
    crops: Mapping[str, Crop]  # by path, of scans that are stored with black bars


class ShardContents(NamedTuple):
    """What a shard holds."""

    name: str
    records: list[RecordSummary]
    problems: list[tuple[str, str]]  # the shard or record, and what is wrong with it
    complete: bool  # whether every record could be read


def read_shard(task: ReadTask) -> ShardContents:
    """Summarise the records of a shard and name what is wrong: the cause alone where a record cannot be read."""
    name, path = task.shard.name, task.folder / task.shard.name
    records: list[RecordSummary] = []
    bad_records: dict[str, list[int]] = {}  # what is wrong -> indices
    file_problem, read_error = shard_problem(path, task.shard), ""
    try:
        offset = 0
        for index, data in enumerate(tfrecord.read(path)):
            summary = _read_record(data, index, offset, task)
            if isinstance(summary, str):
                bad_records.setdefault(summary, []).append(index)
            else:
                records.append(summary)
            offset += tfrecord.framed_size(data)
    except RecordError as error:
        read_error = str(error)
    except OSError as error:
        read_error = file_problem or f"cannot be read ({error.strerror or error})"
    problems = _record_problems(name, bad_records)
    if message := _shard_message(file_problem, read_error, len(records), task.shard):
        problems.append((name, message))
    complete = not (read_error or bad_records)
    if complete and (message := _count_message(records, task)):
        problems.append((name, message))
    return ShardContents(name, records, problems, complete)


def format_counts(per_class: Sequence[int], manifest: Manifest) -> str:
    """Such as `CNV 12, DME 12`."""
    return ", ".join(f"{name} {count}" for name, count in zip(manifest.class_names, per_class, strict=True))


def decode_pixels(image: bytes, manifest: Manifest) -> Gray | None:
    """The stored pixels of a record, (height, width) uint8, or None if the bytes are no such image."""
    return unpacked(image, manifest.recipe, manifest.config.encoding)


def _record_problems(shard: str, bad_records: Mapping[str, Sequence[int]]) -> list[tuple[str, str]]:
    problems = []
    for message, indices in bad_records.items():
        if len(indices) <= _NAMED_ONE_BY_ONE:
            problems += [(f"{shard} record {index}", message) for index in indices]
        else:
            problems.append((shard, f"{len(indices):,} records, the first of them {indices[0]}: {message}"))
    return problems


def _shard_message(file_problem: str | None, read_error: str, read: int, shard: Shard) -> str:
    """What is wrong with the shard's file, or ""."""
    if not read_error or file_problem in (None, read_error):
        return read_error or file_problem or ""
    message = f"{read_error}; it {file_problem}"
    return f"{message}. {read:,} of {shard.records:,} records were read" if read else message


def _count_message(records: Sequence[RecordSummary], task: ReadTask) -> str:
    """How the numbers of records differ from the manifest's, or ""."""
    counts = Counter(record.label for record in records)
    per_class = tuple(counts[label] for label in range(len(task.manifest.class_names)))
    if (len(records), per_class) == (task.shard.records, task.shard.per_class):
        return ""
    return (
        f"holds {len(records)} good records, {format_counts(per_class, task.manifest)}, where the manifest says "
        f"{task.shard.records}, {format_counts(task.shard.per_class, task.manifest)}"
    )


def _read_record(data: bytes, index: int, offset: int, task: ReadTask) -> RecordSummary | str:
    """A record's summary, or what is wrong with it."""
    manifest, recipe = task.manifest, task.manifest.recipe
    try:
        example = tfrecord.decode(data)
    except RecordError as error:
        return f"is not a record of format {FORMAT_VERSION}: {error}"
    expected: dict[str, tuple[type, int]] = {
        IMAGE: (bytes, 1), LABEL: (int, 1), PATIENT: (bytes, 1), PATH: (bytes, 1),
        NUMBER: (int, 1), SHA256: (bytes, 1), SOURCE_SIZE: (int, 2), AFFINE: (float, 6),
        REPEAT: (int, 1), **({ROW_OFFSET: (float, recipe.width)} if recipe.flatten else {}),
    }  # fmt: skip
    if example.keys() != expected.keys():
        names = ", ".join(sorted(example.keys() ^ expected.keys()))
        return f"lacks features or has others than it should: {names[:200]}"
    for key, (kind, length) in expected.items():
        if len(example[key]) != length or not all(isinstance(value, kind) for value in example[key]):
            return f"has a feature of the wrong kind or length: {key}"
    features: Mapping[str, Any] = {
        key: values[0] if expected[key][0] is bytes else values for key, values in example.items()
    }
    (label,), (repeat,) = features[LABEL], features[REPEAT]
    if not 0 <= label < len(manifest.class_names):
        return f"has label {label}, but there are {len(manifest.class_names)} classes"
    for key in (NUMBER, REPEAT, SOURCE_SIZE):
        if not all(0 <= value < _LIMIT for value in features[key]):
            return f"has a number out of range: {key}"
    for key in (AFFINE, *([ROW_OFFSET] if recipe.flatten else [])):
        if not all(map(math.isfinite, features[key])):
            return f"has a number that is not finite: {key}"
    try:
        path, patient = (features[key].decode() for key in (PATH, PATIENT))
    except UnicodeDecodeError:
        return "has text that is not UTF-8"
    if not path or not patient or len(features[SHA256]) != 32:
        return "has a feature of the wrong length"
    if tfrecord.encode(features) != data:
        return "is not encoded as octprep encodes a record"
    pixels = decode_pixels(features[IMAGE], manifest)
    if pixels is None:
        form = "gray pixels" if manifest.config.encoding == "raw" else "gray pixels in a PNG"
        return f"has an image that is not {recipe.height} x {recipe.width} {form}"
    others = repr([features[key] for key in sorted(features) if key not in (IMAGE, REPEAT)])
    summary = RecordSummary(
        shard=task.shard.name,
        index=index,
        path=path,
        patient=patient,
        label=label,
        sha256=features[SHA256].hex(),
        repeat=repeat,
        image_number=features[NUMBER][0],
        source_size=tuple(features[SOURCE_SIZE]),
        affine=tuple(features[AFFINE]),
        offset=offset,
        pixel_digest=_digest(pixels.tobytes()),
        feature_digest=_digest(others.encode()),
    )
    if repeat:
        return summary
    summary = dataclasses.replace(summary, measures=_measures(pixels, path, task))
    if manifest.config.near_duplicates:
        comparable = duplicates.is_comparable(pixels)
        return dataclasses.replace(summary, descriptor=duplicates.dct_descriptor(pixels), comparable=comparable)
    return summary


def _measures(pixels: Gray, path: str, task: ReadTask) -> tuple[float, ...]:
    """Mean, std and sharpness of the stored pixels without black bars; () if the crop is not known."""
    if task.manifest.recipe.fit == "pad":
        if path not in task.crops:
            return ()
        (top, bottom, left, right), _ = preprocessing.place(task.crops[path], task.manifest.recipe)
        pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
    return preprocessing.measure(pixels)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
