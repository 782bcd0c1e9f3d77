"""Batches of prepared scans on disk: what stands between reading the source and writing the shards.

Whether a file can be decoded, and what its content is, decides who is in which split, so every scan must be opened
before the first shard can be planned. To decode each only once, its prepared pixels wait here, batch by batch, until
its shard is written. A batch whose receipt fits its files, the recipe and the encoding is not done again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import google_crc32c
import numpy as np

from octprep import imaging
from octprep.scan import Named, Rejection, Scan, read
from octprep.schema import Recipe, write_whole

BATCH = 64  # scans: small enough to lose little when interrupted and to keep every core busy to the end


@dataclass(frozen=True)
class PreparedScan:
    """One scan, what the preparation found on it, and where its stored pixels wait."""

    scan: Scan
    affine: tuple[float, ...]  # row-major 2x3, stored (column, row, 1) -> source (column, row)
    border: float  # fraction of the source that was fill left by rotation and shifting
    bend: tuple[float, ...]  # of the flattened retina (`imaging.shift`); () if it was not flattened
    crop: tuple[int, int, int, int]  # top, bottom, left, right in source pixels, half open; rows as flattened
    confidence: float  # of the retina crop, 0..1
    note: str
    mean: float  # gray level of the stored pixels
    deviation: float  # of their gray levels
    sharpness: float  # of their layers
    file: str  # of the batch, within the work folder
    offset: int
    length: int  # bytes
    crc: int  # CRC-32C of the bytes


@dataclass(frozen=True)
class BatchTask:
    """Some files to read and prepare."""

    src: Path
    folder: Path  # where batches wait
    name: str
    files: tuple[Named, ...]
    recipe: Recipe
    encoding: str  # raw or png


def batch_tasks(src: Path, folder: Path, named: Sequence[Named], recipe: Recipe, encoding: str) -> list[BatchTask]:
    """The whole source, cut in batches."""
    starts = range(0, len(named), BATCH)
    return [
        BatchTask(src, folder, f"{i:06d}", tuple(named[start : start + BATCH]), recipe, encoding)
        for i, start in enumerate(starts)
    ]


def prepare_batch(task: BatchTask) -> str:
    """Read, decode, prepare and store a batch, unless its receipt says that this is done. Returns its name.

    What was found is read from the receipt (`results`), not sent: a worker killed while it sends much leaves its pool
    waiting for the rest, while a short message goes through whole or not at all.
    """
    receipt, pixels = task.folder / f"{task.name}.json", task.folder / f"{task.name}.bin"
    key = _key(task)
    if _is_done(receipt, pixels, key):
        return task.name
    cv2.setNumThreads(1)  # one process a core is the better use of many cores
    found: list[PreparedScan | Rejection] = []
    part = pixels.with_name(f".{pixels.name}.part-{os.getpid()}")
    try:
        with part.open("wb") as file:
            for named in task.files:
                match read(task.src, named):
                    case Rejection() as rejection:
                        found.append(rejection)
                    case scan, gray:
                        ready = imaging.prepare(gray, task.recipe)
                        data = encode_pixels(ready.pixels, task.encoding)
                        found.append(
                            PreparedScan(
                                scan=scan,
                                affine=ready.affine,
                                border=round(ready.border, 6),
                                bend=ready.bend,
                                crop=ready.crop,
                                confidence=round(ready.confidence, 4),
                                note=ready.note,
                                mean=round(ready.mean, 2),
                                deviation=round(ready.deviation, 2),
                                sharpness=round(ready.sharpness, 4),
                                file=pixels.name,
                                offset=file.tell(),
                                length=len(data),
                                crc=google_crc32c.value(data),
                            )
                        )
                        file.write(data)
        part.replace(pixels)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    rows = [_fields(result) for result in found]
    write_whole(receipt, json.dumps({"key": key, "bytes": pixels.stat().st_size, "rows": rows}).encode(), lasting=False)
    return task.name


def results(folder: Path, name: str) -> list[PreparedScan | Rejection]:
    """What a batch that is done holds."""
    return [_row(row) for row in json.loads((folder / f"{name}.json").read_bytes())["rows"]]


def encode_pixels(pixels: np.ndarray[Any, np.dtype[np.uint8]], encoding: str) -> bytes:
    """(rows, columns) uint8 as the record's image bytes: row by row, or as a PNG."""
    if encoding == "raw":
        return pixels.tobytes()
    return cv2.imencode(".png", pixels)[1].tobytes()


def _key(task: BatchTask) -> str:
    """A digest of all that the batch depends on, with each file's time of change."""
    digest = hashlib.sha256(f"{task.recipe} {task.encoding} {imaging.libraries(task.recipe)}".encode())
    for named in task.files:
        try:
            changed = (task.src / named.path).stat().st_mtime_ns
        except OSError:
            changed = -1
        digest.update(f"{named} {changed}\n".encode())
    return digest.hexdigest()


def _is_done(receipt: Path, pixels: Path, key: str) -> bool:
    try:
        raw = json.loads(receipt.read_bytes())
        return bool(raw["key"] == key and raw["bytes"] == pixels.stat().st_size)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # absent or cut short: prepare the batch again


def _fields(result: PreparedScan | Rejection) -> dict[str, Any]:
    """What `_row` reads; dataclasses.asdict would copy every value, at a twentieth of the speed."""
    return vars(result) | ({"scan": vars(result.scan)} if isinstance(result, PreparedScan) else {})


def _row(row: dict[str, Any]) -> PreparedScan | Rejection:
    if "reason" in row:
        return Rejection(**row)
    tuples = {name: tuple(row[name]) for name in ("affine", "bend", "crop")}
    return PreparedScan(**{**row, "scan": Scan(**row["scan"]), **tuples})
