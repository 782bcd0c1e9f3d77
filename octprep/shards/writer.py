"""Writing one shard and its receipt. The shard's file is complete under its name, or absent.

The receipt, NAME.receipt.json, says what the shard's bytes follow from, what they are and where each record lies in
them, so that a shard that is there is neither written nor read again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c

import octprep
from octprep.format.config import Preprocessing
from octprep.format.errors import StoppedError
from octprep.format.files import atomic_write, saving
from octprep.format.manifest import FORMAT_VERSION, Shard, shard_problem
from octprep.shards import tfrecord
from octprep.shards.cache import CachedScan, ImageReader, crc_of_file
from octprep.shards.records import Record, encode_with_image_offset
from octprep.source.files import DESCRIBED


class RecordPlace(NamedTuple):
    """Where a record lies in its shard, which follows from the record before it."""

    bytes: int  # of the whole frame
    image: int  # the byte of the frame at which the image begins
    image_bytes: int
    crc: int  # CRC-32C of the frame


@dataclass(frozen=True)
class ShardTask:
    """What one shard's bytes depend on, and where to put them."""

    folder: Path  # to write the shard to, under its name
    cache_folder: Path  # that holds the prepared scans
    name: str
    class_names: tuple[str, ...]
    recipe: Preprocessing
    stated: tuple[str, ...]  # the features of `octprep.format.manifest.STATED` that the records have
    records_key: str  # of these three, as `records_key` gives it
    copies: bool  # whether the frames of scans in a finished folder are those that would be written: they are copied
    items: Sequence[tuple[CachedScan, int]]  # the scan and the number of its repeat, in the order of the records


def write_shard(task: ShardTask) -> Shard:
    """Write a shard and its receipt, or return it as a valid receipt describes it.

    A frame that is copied from a shard of a finished folder is compared with its CRC-32C, which was kept when it was
    written. Raises StoppedError if such a frame, or a scan's pixels in the cache, were damaged.
    """
    if shard := existing_shard(task):
        return shard
    path, key = task.folder / task.name, task_key(task)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, shard_crc = hashlib.sha256(), 0
    places: list[RecordPlace] = []
    with ImageReader(task.cache_folder) as images, saving(path) as partial_file, partial_file.open("wb") as file:
        for item, repeat in task.items:
            if task.copies and item.frame and repeat == 0:
                framed, image, crc = images.read_frame(item)
            else:
                data, image = encode_with_image_offset(_record(task, item, repeat, images.read(item)))
                framed, image = tfrecord.frame(data), image + tfrecord.HEADER_BYTES
                crc = google_crc32c.value(framed)
            digest.update(framed)
            shard_crc = google_crc32c.extend(shard_crc, framed)
            file.write(framed)
            places.append(RecordPlace(len(framed), image, item.length, crc))
        size = file.tell()
    shard = _shard(task, size, digest.hexdigest())
    _write_receipt(path, [key, shard.bytes, shard.sha256, shard_crc, places])
    return shard


def _write_receipt(path: Path, content: list[Any]) -> None:
    """Write the receipt of the shard at a path."""
    receipt = {"content": content, "sha256": _content_sha256(content)}
    atomic_write(_receipt_path(path), json.dumps(receipt).encode(), durable=False)


def read_places(folder: Path, shard: Shard) -> list[RecordPlace]:
    """Where the records of a shard that was written to a folder lie in it, in their order.

    Raises StoppedError if the receipt is not as it was written; it is removed then, so that the shard is written again.
    """
    try:
        return [RecordPlace(*place) for place in receipt_content(folder, shard)[4]]
    except TypeError:
        raise _damaged_receipt(_receipt_path(folder / shard.name)) from None


def receipt_content(folder: Path, shard: Shard) -> list[Any]:
    """What the receipt of a shard that was written to a folder holds, for `keep_shard`.

    Raises StoppedError if the receipt is not as it was written; it is removed then, so that the shard is written again.
    """
    path = _receipt_path(folder / shard.name)
    try:
        content = _read_receipt(path)
        if content[1:3] != [shard.bytes, shard.sha256]:
            raise ValueError("is of another shard")
        return content
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged_receipt(path) from None


def keep_shard(task: ShardTask, finished: Path, content: list[Any]) -> Shard | None:
    """Link a shard of a finished folder to the folder of a task, with its receipt.

    finished: the folder; its shard must be of the key of the task. content: of the receipt that it was written with.
    None if the shard has not its CRC-32C any more, or where it cannot be linked.
    """
    _, size, sha256, shard_crc, _ = content
    path, shard = task.folder / task.name, _shard(task, size, sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        if crc_of_file(finished / task.name) != shard_crc:
            return None
        os.link(finished / task.name, path)
    except OSError:  # on another file system, or one without links
        return None
    _write_receipt(path, content)
    return shard


def _damaged_receipt(path: Path) -> StoppedError:
    path.unlink(missing_ok=True)
    return StoppedError(f"{path} was damaged after it was written. Run the same command again.")


def _receipt_path(path: Path) -> Path:
    return path.with_suffix(".receipt.json")


def _read_receipt(path: Path) -> list[Any]:
    """The key, bytes, SHA-256, CRC-32C and places in a receipt.

    Raises OSError, or another error if it is not as it was written.
    """
    receipt = json.loads(path.read_bytes())
    content = list(receipt["content"])
    if receipt["sha256"] != _content_sha256(content):
        raise ValueError("was changed after it was written")
    return content


def _content_sha256(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _record(task: ShardTask, item: CachedScan, repeat: int, image: bytes) -> Record:
    scan, geometry, recipe = item.scan, item.geometry, task.recipe
    return Record(
        image=image,
        label=task.class_names.index(scan.label),
        patient=scan.patient,
        path=scan.path,
        number=scan.image_number,
        sha256=scan.sha256,
        source_size=(scan.height, scan.width),
        affine=geometry.affine,
        row_offset=tuple(geometry.column_offsets(recipe.width).tolist()) if recipe.flatten else (),
        repeat=repeat,
        **{name: getattr(scan, name) for name in task.stated},
    )


def records_key(class_names: tuple[str, ...], recipe: Preprocessing, stated: tuple[str, ...]) -> str:
    """What a record follows from besides its scan, repeat and pixels, as text. For the arguments see ShardTask."""
    return f"{octprep.__version__} {FORMAT_VERSION} {class_names} {recipe} {stated}"


_described = attrgetter(*DESCRIBED)


def task_key(task: ShardTask) -> str:
    """A digest of all that the bytes of a shard follow from but its name, hex."""
    digest = hashlib.sha256(f"{task.records_key}\n".encode())
    for item, repeat in task.items:
        digest.update(f"{_described(item.scan)} {item.length} {item.crc} {repeat}\n".encode())
        digest.update(item.details)
    return digest.hexdigest()


def _shard(task: ShardTask, size: int, sha256: str) -> Shard:
    counts = Counter(item.scan.label for item, _ in task.items)
    return Shard(
        name=task.name,
        records=len(task.items),
        per_class=tuple(counts[name] for name in task.class_names),
        bytes=size,
        sha256=sha256,
    )


def existing_shard(task: ShardTask) -> Shard | None:
    """The shard of a task as a valid receipt describes it, if it is there and has its SHA-256."""
    path = task.folder / task.name
    try:
        written_key, size, sha256, *_ = _read_receipt(_receipt_path(path))
        shard = _shard(task, size, sha256)
        return shard if written_key == task_key(task) and shard_problem(path, shard) is None else None
    except (OSError, ValueError, KeyError, TypeError, StoppedError):
        return None  # absent, cut short, unreadable or of another version: write the shard again
