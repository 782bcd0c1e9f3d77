"""Writing one shard and its receipt. The shard's file is complete under its name, or absent."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from octprep.format.config import Preprocessing
from octprep.format.files import atomic_write, saving
from octprep.format.manifest import FORMAT_VERSION, Shard, shard_problem
from octprep.shards import cache, tfrecord
from octprep.shards.cache import CachedScan
from octprep.shards.records import Record, encode_record


@dataclass(frozen=True)
class ShardTask:
    """What one shard's bytes depend on, and where to put them."""

    folder: Path  # to write the shard to, under its name
    cache_folder: Path  # that holds the prepared scans
    name: str
    class_names: tuple[str, ...]
    recipe: Preprocessing
    stated: tuple[str, ...]  # the features of `octprep.format.manifest.STATED` that the records have
    items: tuple[tuple[CachedScan, int], ...]  # the scan and the number of its repeat, in the order of the records


def write_shard(task: ShardTask) -> Shard:
    """Write a shard and its receipt, or return it as a valid receipt describes it.

    Raises StoppedError if a scan's pixels in the cache were damaged.
    """
    path = task.folder / task.name
    receipt = path.with_suffix(".receipt.json")
    key = _key(task)
    if shard := _from_receipt(task, receipt, path, key):
        return shard
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with saving(path) as partial_file, partial_file.open("wb") as file:
        for item, repeat in task.items:
            framed = tfrecord.frame(encode_record(_record(task, item, repeat)))
            digest.update(framed)
            file.write(framed)
        size = file.tell()
    shard = _shard(task, size, digest.hexdigest())
    content = json.dumps({"key": key, "bytes": shard.bytes, "sha256": shard.sha256})
    atomic_write(receipt, content.encode(), durable=False)
    return shard


def _record(task: ShardTask, item: CachedScan, repeat: int) -> Record:
    scan, geometry, recipe = item.scan, item.geometry, task.recipe
    return Record(
        image=cache.read_image(task.cache_folder, item),
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


def _key(task: ShardTask) -> str:
    digest = hashlib.sha256(
        f"{version('octprep')} {FORMAT_VERSION} {task.class_names} {task.recipe} {task.stated}\n".encode()
    )
    for item, repeat in task.items:
        digest.update(f"{item.scan} {item.length} {item.crc} {repeat}\n".encode())
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


def _from_receipt(task: ShardTask, receipt: Path, path: Path, key: str) -> Shard | None:
    try:
        content = json.loads(receipt.read_bytes())
        shard = _shard(task, content["bytes"], content["sha256"])
        return shard if content["key"] == key and shard_problem(path, shard) is None else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, cut short or of another version: write the shard again
