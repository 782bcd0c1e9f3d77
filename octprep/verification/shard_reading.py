"""Reading the records of one shard: a summary of each, and what is wrong with the others."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from octprep import duplicates, preprocessing
from octprep.arrays import Gray
from octprep.format.files import cannot_be_read
from octprep.format.manifest import STATED, Manifest, Shard, shard_problem
from octprep.shards import tfrecord
from octprep.shards.records import decode_with_pixels, encode_record
from octprep.shards.tfrecord import RecordError
from octprep.verification.records import PackedRecords, RecordSummary

Crop = tuple[int, int, int, int]  # top, bottom, left, right in source pixels, half open

_NAMED_ONE_BY_ONE = 3  # records of a shard with the same problem; of more, the number and the first are named


@dataclass(frozen=True)
class ReadTask:
    """A shard to read, and what the manifest says of it."""

    folder: Path
    shard: Shard
    manifest: Manifest
    crops: Mapping[str, Crop]  # by path, of its scans where they are stored with black bars


class ShardContents(NamedTuple):
    """What a shard holds."""

    name: str
    records: PackedRecords
    problems: list[tuple[str, str]]  # the shard or record, and what is wrong with it
    complete: bool  # whether every record could be read
    # `duplicates.dct_descriptor` of the pixels of each record that is no repeat, one after the other; b"" where
    # near-duplicates were not searched for.
    descriptors: bytes


def read_shard(task: ReadTask) -> ShardContents:
    """Summarise the records of a shard, and say what is wrong; if a record is damaged, only why.

    Raises StoppedError if the machine cannot read the shard.
    """
    name, path = task.shard.name, task.folder / task.shard.name
    records: list[RecordSummary] = []
    descriptors = bytearray()
    bad_records: dict[str, list[int]] = {}  # what is wrong -> indices
    file_problem, read_error = shard_problem(path, task.shard), ""
    try:
        offset = 0
        for index, data in enumerate(tfrecord.read(path)):
            result = _read_record(data, index, offset, task)
            if isinstance(result, str):
                bad_records.setdefault(result, []).append(index)
            else:
                records.append(result[0])
                descriptors += result[1]
            offset += tfrecord.framed_size(data)
    except RecordError as error:
        read_error = str(error)
    except (FileNotFoundError, NotADirectoryError):
        read_error = "is missing"
    except OSError as error:
        raise cannot_be_read(path, error) from error
    problems = _record_problems(name, bad_records)
    if message := _shard_message(file_problem, read_error, len(records), task.shard):
        problems.append((name, message))
    complete = not (read_error or bad_records)
    if complete and (message := _count_message(records, task)):
        problems.append((name, message))
    return ShardContents(name, PackedRecords.of(records), problems, complete, bytes(descriptors))


def format_counts(per_class: Sequence[int], manifest: Manifest) -> str:
    """Such as `CNV 12, DME 12`."""
    return ", ".join(f"{name} {count}" for name, count in zip(manifest.class_names, per_class, strict=True))


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


def _read_record(data: bytes, index: int, offset: int, task: ReadTask) -> tuple[RecordSummary, bytes] | str:
    """A record's summary and its part of `ShardContents.descriptors`, or what is wrong with it."""
    manifest = task.manifest
    try:
        record = decode_with_pixels(data, manifest)
    except RecordError as error:
        return str(error)
    if encode_record(record) != data:
        return "is not encoded as octprep encodes a record"
    pixels = record.pixels
    other_features = repr(vars(record) | {"image": None, "pixels": None, "repeat": None})
    summary = RecordSummary(
        shard=task.shard.name,
        index=index,
        path=record.path,
        patient=record.patient,
        label=record.label,
        sha256=record.sha256,
        repeat=record.repeat,
        image_number=record.number,
        stated=tuple(getattr(record, name) for name in STATED),
        source_size=record.source_size,
        affine=record.affine,
        offset=offset,
        pixel_digest=_digest(pixels.tobytes()),
        feature_digest=_digest(other_features.encode()),
    )
    if record.repeat:
        return summary, b""
    summary = dataclasses.replace(summary, measures=_measures(pixels, record.path, task))
    if manifest.config.near_duplicates:
        summary = dataclasses.replace(summary, comparable=duplicates.is_comparable(pixels))
        return summary, duplicates.dct_descriptor(pixels)
    return summary, b""


def _measures(pixels: Gray, path: str, task: ReadTask) -> tuple[float, ...]:
    """Mean, std and sharpness of the stored pixels without black bars; () if the crop is not known."""
    if task.manifest.recipe.resize == "pad":
        if path not in task.crops:
            return ()
        top, bottom, left, right = preprocessing.placement(task.crops[path], task.manifest.recipe)
        pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
    return preprocessing.measure_intensity(pixels)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
