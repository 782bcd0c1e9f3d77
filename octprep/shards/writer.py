"""One shard task -> one file and its receipt. The file is there whole, under its name, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import google_crc32c

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.format.errors import StoppedError
from octprep.format.files import atomic_write, saving
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
    Shard,
    shard_problem,
)
from octprep.shards import tfrecord
from octprep.shards.cache import CachedScan


@dataclass(frozen=True)
class ShardTask:
    """What one shard's bytes depend on, and where to put them."""

    folder: Path  # that will hold the shard under its name
    batches: Path  # where prepared scans wait
    name: str
    class_names: tuple[str, ...]
    recipe: Preprocessing
    items: tuple[tuple[CachedScan, int], ...]  # the scan and the number of its copy, in the order of the records


def write_shard(task: ShardTask) -> Shard:
    """Write a shard and its receipt, or take it from its receipt."""
    path = task.folder / task.name
    receipt = path.with_suffix(".receipt.json")
    key = _key(task)
    if found := _from_receipt(task, receipt, path, key):
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with saving(path) as part, part.open("wb") as file:
        for item, copy in task.items:
            framed = tfrecord.frame(encode_record(item, _pixels(task, item), task.class_names, task.recipe, copy))
            digest.update(framed)
            file.write(framed)
        size = file.tell()
    shard = _shard(task, size, digest.hexdigest())
    said = json.dumps({"key": key, "bytes": shard.bytes, "sha256": shard.sha256})
    atomic_write(receipt, said.encode(), durable=False)
    return shard


def encode_record(
    item: CachedScan, pixels: bytes, class_names: tuple[str, ...], recipe: Preprocessing, copy: int
) -> bytes:
    """One B-scan as a serialized tf.train.Example."""
    scan = item.scan
    features: dict[str, tfrecord.Value] = {
        IMAGE: pixels,
        LABEL: [class_names.index(scan.label)],
        PATIENT: scan.patient.encode(),
        PATH: scan.path.encode(),
        NUMBER: [scan.number],
        SHA256: bytes.fromhex(scan.sha256),
        SOURCE_SIZE: [scan.height, scan.width],
        AFFINE: list(item.affine),
        REPEAT: [copy],
    }
    if recipe.flatten:
        features[ROW_OFFSET] = preprocessing.row_offsets(item.affine, item.bend, item.crop, recipe.width).tolist()
    return tfrecord.encode(features)


def _pixels(task: ShardTask, item: CachedScan) -> bytes:
    with (task.batches / item.file).open("rb") as file:
        file.seek(item.offset)
        data = file.read(item.length)
    if google_crc32c.value(data) != item.crc:
        raise StoppedError(
            f"{task.batches / item.file} was damaged after it was written. "
            "Run the same command again: it is made again, and the work goes on from there."
        )
    return data


def _key(task: ShardTask) -> str:
    digest = hashlib.sha256(f"{version('octprep')} {FORMAT_VERSION} {task.class_names} {task.recipe}\n".encode())
    for item, copy in task.items:
        digest.update(f"{item.scan} {item.affine} {item.bend} {item.length} {item.crc} {copy}\n".encode())
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


def _from_receipt(task: ShardTask, receipt: Path, path: Path, key: str) -> Shard | None:
    try:
        raw = json.loads(receipt.read_bytes())
        shard = _shard(task, raw["bytes"], raw["sha256"])
        return shard if raw["key"] == key and shard_problem(path, shard) is None else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, cut short or of another version: write the shard again
