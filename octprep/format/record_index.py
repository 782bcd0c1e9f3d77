"""The index of a folder of shards: where each record and its image begin. Only the standard library is imported.

It lies in INDEX_NAME beside the shards and follows from them and images.csv, so it is not in the manifest and may be
deleted. For each split there is a table of numbers, index/train.csv:

    # octprep index 1; dataset <digest of the manifest>; the lines below have SHA-256 <hex>
    shard,record_offset,record_bytes,image_offset,image_bytes,label,repeat,row
    0,0,50512,190,50176,2,0,17

with one line a record, in the order of the shards, and for each shard the index that NVIDIA DALI reads,
index/train/00000-of-00058.tfrecord.idx: one line `offset size` a record. `encode` writes a table in one way only, and
`decode` accepts no other.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from octprep.format.errors import ManifestError
from octprep.format.json_types import MAX_INTEGER
from octprep.format.manifest import Manifest, Shard, read_folder_file
from octprep.format.paths import original

INDEX_NAME = "index"
_VERSION = 1
_FRAME = 12, 4  # bytes of a record's frame before and after its data


class IndexedRecord(NamedTuple):
    """Where a record lies, and what it holds. The fields are the columns of the table."""

    shard: int  # the shard's number in its split, from 0
    record_offset: int  # the byte of the shard's file at which the record's frame begins
    record_bytes: int  # of the whole frame
    image_offset: int  # the byte of the shard's file at which the image begins
    image_bytes: int  # of the image: pixels, or a PNG
    label: int  # index into the manifest's class names
    repeat: int  # 0 for the first occurrence of an image, 1.. for repeats
    row: int  # of images.csv, counted from 0 below the header, that has the record's path


def table_name(split: str) -> str:
    """The name of a split's table, relative to the folder of shards."""
    return f"{INDEX_NAME}/{split}.csv"


def dali_name(shard: Shard) -> str:
    """The name of a shard's index for NVIDIA DALI, relative to the folder of shards."""
    return f"{INDEX_NAME}/{shard.name}.idx"


def encode(records: Iterable[IndexedRecord], digest: str) -> bytes:
    """The bytes of a split's table. digest: of the manifest, hex."""
    return encode_table([encode_lines(records)], digest)


def encode_lines(records: Iterable[IndexedRecord]) -> bytes:
    """The lines of some records in a table."""
    return "".join(",".join(map(str, record)) + "\n" for record in records).encode()


def encode_table(lines: Iterable[bytes], digest: str) -> bytes:
    """The bytes of a split's table of the lines of all its records, in their order. digest: of the manifest, hex."""
    body = b"".join([",".join(IndexedRecord._fields).encode() + b"\n", *lines])
    return _first_line(digest, hashlib.sha256(body).hexdigest()) + body


def decode(data: bytes, digest: str) -> list[IndexedRecord]:
    """The records of a split's table, in the order of the shards. digest: of the manifest, hex.

    Raises ValueError if the bytes are not what `encode` writes for this dataset; the message is a sentence about the
    table without its subject.
    """
    first, newline, body = data.partition(b"\n")
    if first + newline != _first_line(digest, hashlib.sha256(body).hexdigest()):
        known = first.startswith(f"# octprep index {_VERSION}; ".encode())
        if known and digest.encode() not in first:
            raise ValueError("is that of another dataset")
        raise ValueError("was changed after it was written" if known else "is not an index that octprep wrote")
    try:
        records = [IndexedRecord(*map(int, line.split(b","))) for line in body.splitlines()[1:]]
    except (ValueError, TypeError):
        raise ValueError("has a line that is not of whole numbers") from None
    if encode(records, digest) != data:
        raise ValueError("is not written as octprep writes an index")
    return records


def is_intact(data: bytes, digest: str) -> bool:
    """Whether the bytes of a table have the checksum in their first line, and are of this dataset."""
    first, newline, body = data.partition(b"\n")
    return first + newline == _first_line(digest, hashlib.sha256(body).hexdigest())


def encode_dali(records: Iterable[IndexedRecord]) -> bytes:
    """A shard's index as NVIDIA DALI's program tfrecord2idx writes it."""
    return "".join(f"{record.record_offset} {record.record_bytes}\n" for record in records).encode()


def check(records: Sequence[IndexedRecord], manifest: Manifest, split: str) -> None:
    """Raise ValueError if records are not laid out as the manifest says that a split's shards are.

    The frames of each shard must follow one another without a gap to the end of its file, each with its image inside,
    and there must be as many of each class as the manifest counts. So no byte outside the shards is ever addressed. The
    message is a sentence about the table without its subject.
    """
    by_shard = {number: list(members) for number, members in groupby(records, key=lambda record: record.shard)}
    shards = manifest.splits[split]
    if list(by_shard) != [number for number, shard in enumerate(shards) if shard.records]:
        raise ValueError("does not hold the shards of the manifest in their order")
    for number, members in by_shard.items():
        check_shard(members, manifest, shards[number])


def check_shard(records: Iterable[IndexedRecord], manifest: Manifest, shard: Shard) -> None:
    """Raise ValueError, as `check` does, for the records of one shard of the manifest."""
    recipe, raw = manifest.recipe, manifest.config.encoding == "raw"
    end, counts = 0, Counter[int]()
    for record in records:
        first, last = record.image_offset, record.image_offset + record.image_bytes
        start, end = end, record.record_offset + record.record_bytes
        if record.record_offset != start or not start + _FRAME[0] <= first < last <= end - _FRAME[1]:
            raise ValueError(f"has offsets that no record of {shard.name} has: {', '.join(map(str, record))}")
        if raw and record.image_bytes != recipe.height * recipe.width:
            raise ValueError(f"has an image of {record.image_bytes:,} bytes, not {recipe.height}x{recipe.width}")
        if not (0 <= record.repeat < MAX_INTEGER and 0 <= record.row < MAX_INTEGER):
            raise ValueError("has a repeat or a row out of range")
        counts[record.label] += 1
    expected = {label: count for label, count in enumerate(shard.per_class) if count}
    if end != shard.bytes or counts != expected:
        raise ValueError(f"has other records than {shard.name} has by the manifest")


def read(folder: Path, manifest: Manifest, split: str) -> list[IndexedRecord]:
    """The records of a split of a finished folder, in the order of the shards. manifest: of the folder.

    Raises ManifestError, which says how to write the index, if it is missing, damaged or not that of these shards, and
    if there is no such split.
    """
    if split not in manifest.splits:
        raise ManifestError(f"{original(folder)} has no split {split!r}; it has {', '.join(manifest.splits)}.")
    path = folder / table_name(split)
    try:
        if path.parent.is_symlink():
            raise ValueError("lies behind a link")
        records = decode(_read_file(path), manifest.digest)
        check(records, manifest, split)
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(
            f"{original(path)} is missing, which says where each record is. Write it with `octprep index "
            f"{original(folder)}`."
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise ManifestError(f"{original(path)} cannot be read ({reason}). {_remedy(folder)}") from None
    except ValueError as error:
        raise ManifestError(
            f"{original(path)} {error}, so it does not say where the records are. {_remedy(folder)}"
        ) from None
    return records


def _read_file(path: Path) -> bytes:
    try:
        return read_folder_file(path)
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from None


def _remedy(folder: Path) -> str:
    return f"Write it again with `octprep index {original(folder)}`."


def _first_line(digest: str, sha256: str) -> bytes:
    return f"# octprep index {_VERSION}; dataset {digest}; the lines below have SHA-256 {sha256}\n".encode()
