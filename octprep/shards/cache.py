"""Batches of prepared scans on disk: what stands between reading the source and writing the shards.

Whether a file can be decoded, and what its content is, decides who is in which split, so every scan must be opened
before the first shard can be planned. To decode each only once, its prepared pixels wait here, batch by batch, until
its shard is written. A batch whose receipt fits its files, the recipe and the encoding is not done again.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import google_crc32c
import numpy as np

from octprep import duplicates, preprocessing
from octprep.arrays import Gray
from octprep.format.config import Preprocessing
from octprep.format.errors import StoppedError
from octprep.format.files import atomic_write, saving
from octprep.source.files import Exclusion, Scan, ScanFile
from octprep.source.reading import read_scan, with_retries

MAX_FILL_FRACTION = 0.9  # fraction of a scan that may be fill, else there is no scan left
BATCH = 64  # scans: small enough to lose little when interrupted and to keep every core busy to the end


@dataclass(frozen=True)
class CachedScan:
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
    likeness: str  # `duplicates.dct_descriptor` of them, in base 64
    file: str  # of the batch, within the work folder
    offset: int
    length: int  # bytes
    crc: int  # CRC-32C of the bytes

    @property
    def descriptor(self) -> bytes:
        """What `duplicates.dct_descriptor` said of the stored pixels."""
        return base64.b64decode(self.likeness)


@dataclass(frozen=True)
class BatchTask:
    """Some files to read and prepare."""

    src: Path
    folder: Path  # where batches wait
    name: str
    files: tuple[ScanFile, ...]
    recipe: Preprocessing
    encoding: str  # raw or png


def batch_tasks(
    src: Path, folder: Path, named: Sequence[ScanFile], recipe: Preprocessing, encoding: str
) -> list[BatchTask]:
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

    Raises StoppedError, as `with_retries` does, for a file that cannot be read or prepared.
    """
    receipt, pixels = task.folder / f"{task.name}.json", task.folder / f"{task.name}.bin"
    key = _key(task)
    if _is_done(receipt, pixels, key):
        return task.name
    found: list[CachedScan | Exclusion] = []
    with saving(pixels, durable=False) as part, part.open("wb") as file:
        for named in task.files:
            match with_retries(task.src, named, partial(_prepare_one, task.recipe, task.encoding)):
                case Exclusion() as rejection:
                    found.append(rejection)
                case ready, data:
                    found.append(dataclasses.replace(ready, file=pixels.name, offset=file.tell()))
                    file.write(data)
    _write_receipt(receipt, key, found)
    return task.name


def _prepare_one(
    recipe: Preprocessing, encoding: str, src: Path, named: ScanFile
) -> tuple[CachedScan, bytes] | Exclusion:
    """One scan, and its bytes, for which a place is to be found."""
    found = read_scan(src, named)
    if isinstance(found, Exclusion):
        return found
    scan, gray = found
    ready = preprocessing.prepare(gray, recipe)
    if ready.border > MAX_FILL_FRACTION:
        return Exclusion(named.path, f"nothing but fill: {ready.border:.0%} of it is white or black from the border on")
    data = encode_pixels(ready.pixels, encoding)
    prepared = CachedScan(
        scan=dataclasses.replace(scan, pixels=hashlib.sha256(ready.pixels.tobytes()).hexdigest()),
        affine=ready.affine,
        border=round(ready.border, 6),
        bend=ready.bend,
        crop=ready.crop,
        confidence=round(ready.confidence, 4),
        note=ready.note,
        mean=round(ready.mean, 2),
        deviation=round(ready.deviation, 2),
        sharpness=round(ready.sharpness, 4),
        likeness=base64.b64encode(duplicates.dct_descriptor(ready.pixels)).decode(),
        file="",
        offset=0,
        length=len(data),
        crc=google_crc32c.value(data),
    )
    return prepared, data


def results(folder: Path, name: str) -> list[CachedScan | Exclusion]:
    """What a batch that is done holds. Raises StoppedError if its receipt was damaged since."""
    try:
        return _read_receipt(folder / f"{name}.json")[1]
    except ValueError:
        raise StoppedError(
            f"{folder / name}.json was damaged after it was written. "
            "Run the same command again: it is made again, and the work goes on from there."
        ) from None


def stored_pixels(folder: Path, item: CachedScan, recipe: Preprocessing, encoding: str) -> Gray:
    """The pixels that wait for a scan's record, (height, width) uint8."""
    with (folder / item.file).open("rb") as file:
        file.seek(item.offset)
        data = np.frombuffer(file.read(item.length), np.uint8)
    if encoding == "png":
        data = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
    return data.reshape(recipe.height, recipe.width)


def encode_pixels(pixels: Gray, encoding: str) -> bytes:
    """(rows, columns) uint8 as the record's image bytes: row by row, or as a PNG."""
    if encoding == "raw":
        return pixels.tobytes()
    return cv2.imencode(".png", pixels)[1].tobytes()


def _key(task: BatchTask) -> str:
    """A digest of all that the batch depends on, with each file's time of change, and of what its receipt holds."""
    versions = {"octprep": version("octprep"), **preprocessing.libraries(task.recipe)}
    layout = [field.name for kind in (CachedScan, Scan, Exclusion) for field in dataclasses.fields(kind)]
    digest = hashlib.sha256(f"{task.recipe} {task.encoding} {versions} {layout}\n".encode())
    for named in task.files:
        digest.update(f"{named}\n".encode())
    return digest.hexdigest()


def _is_done(receipt: Path, pixels: Path, key: str) -> bool:
    """Whether a batch is there whole: its receipt as it was written, for this key, and the pixels that it names."""
    try:
        written, found = _read_receipt(receipt)
        if written != key:
            return False
        with pixels.open("rb") as file:
            ready = [item for item in found if isinstance(item, CachedScan)]
            return all(google_crc32c.value(file.read(item.length)) == item.crc for item in ready) and not file.read(1)
    except (OSError, ValueError):
        return False  # absent, cut short, damaged or of another version: prepare the batch again


def _write_receipt(receipt: Path, key: str, found: Sequence[CachedScan | Exclusion]) -> None:
    """A line of what the batch depends on and the SHA-256 of it and the rest; then what was found."""
    rows = json.dumps([_fields(result) for result in found]).encode()
    head = json.dumps({"key": key, "sha256": hashlib.sha256(key.encode() + rows).hexdigest()}).encode()
    atomic_write(receipt, head + b"\n" + rows, durable=False)


def _read_receipt(receipt: Path) -> tuple[str, list[CachedScan | Exclusion]]:
    """A batch's key and what was found. Raises ValueError if that is not what `_write_receipt` wrote."""
    head, _, rows = receipt.read_bytes().partition(b"\n")
    try:
        written = json.loads(head)
        key = str(written["key"])
        if hashlib.sha256(key.encode() + rows).hexdigest() != written["sha256"]:
            raise ValueError("was changed after it was written")
        return key, [_row(row) for row in json.loads(rows)]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _fields(result: CachedScan | Exclusion) -> dict[str, Any]:
    """What `_row` reads; dataclasses.asdict would copy every value, at a twentieth of the speed."""
    return vars(result) | ({"scan": vars(result.scan)} if isinstance(result, CachedScan) else {})


def _row(row: dict[str, Any]) -> CachedScan | Exclusion:
    if "reason" in row:
        return Exclusion(**row)
    tuples = {name: tuple(row[name]) for name in ("affine", "bend", "crop")}
    return CachedScan(**{**row, "scan": Scan(**row["scan"]), **tuples})
