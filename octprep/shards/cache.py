"""The cache of prepared scans on disk, between reading the source and writing the shards.

The split of a scan depends on whether it can be decoded and on its content, so every scan must be opened before the
first shard can be planned. To decode each only once, its encoded pixels are kept here, batch by batch, until
its shard is written. A batch is two files: its pixels one after the other, NAME.bin, and a receipt, NAME.json, written
last: a line of JSON (what the batch depends on, and checksums), then the rows, one for each file. A batch with a valid
receipt for the same files, recipe and encoding is not prepared again.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import google_crc32c

from octprep import preprocessing
from octprep.arrays import Gray
from octprep.format.config import Preprocessing
from octprep.format.errors import StoppedError
from octprep.format.files import atomic_write, saving
from octprep.format.measurements import ScanMeasurements
from octprep.prepare import PreparedScan, prepare_scan
from octprep.preprocessing import Geometry
from octprep.shards.records import decode_pixels, encode_pixels
from octprep.source.files import Exclusion, Scan, ScanFile
from octprep.source.reading import FileBatch

BATCH = 64  # scans: small enough to lose little when interrupted and to keep every core busy to the end
_PIECE = 1 << 20  # bytes that are read at a time to check a batch's pixels


@dataclass(frozen=True)
class CachedScan:
    """One prepared scan, and where its encoded pixels are in the cache."""

    scan: Scan
    geometry: Geometry
    measurements: ScanMeasurements
    descriptor: bytes  # of the stored pixels, for the search for near-duplicates
    cache_file: str  # name of the batch's file of pixels, within the cache's folder
    offset: int  # in that file, bytes
    length: int  # bytes
    crc: int  # CRC-32C of the bytes


@dataclass(frozen=True)
class BatchTask(FileBatch):
    """Some files to read and prepare."""

    folder: Path  # of the cache
    name: str  # of the batch
    recipe: Preprocessing
    encoding: str  # raw or png

    def read(self, scan_file: ScanFile) -> tuple[PreparedScan, bytes] | Exclusion:
        """A prepared scan and its encoded pixels, or an Exclusion. Raises as `prepare_scan` does."""
        prepared = prepare_scan(self.src, scan_file, self.recipe)
        if isinstance(prepared, Exclusion):
            return prepared
        return prepared, encode_pixels(prepared.pixels, self.encoding)


def batch_tasks(
    src: Path, folder: Path, files: Sequence[ScanFile], recipe: Preprocessing, encoding: str
) -> list[BatchTask]:
    """The files of a source in batches of BATCH."""
    return [
        BatchTask(src, tuple(files[start : start + BATCH]), folder, f"{index:06d}", recipe, encoding)
        for index, start in enumerate(range(0, len(files), BATCH))
    ]


def cache_batch(task: BatchTask) -> str:
    """Read, prepare and store a batch, unless a valid receipt says that this is done. Returns its name.

    Its results are read from the receipt (`read_receipt`) instead of being returned: a worker killed while it sends a
    long result leaves its pool waiting for the rest, while a short message goes through whole or not at all. Raises
    StoppedError, as `with_retries` does, for a file that cannot be read or prepared.
    """
    receipt, pixels = task.folder / f"{task.name}.json", task.folder / f"{task.name}.bin"
    key = _key(task)
    if _receipt_is_valid(receipt, pixels, key):
        return task.name
    results: list[CachedScan | Exclusion] = []
    crc = 0
    with saving(pixels, durable=False) as partial_file, partial_file.open("wb") as file:
        for scan_file in task.files:
            prepared = task.result(scan_file, task.read)
            if isinstance(prepared, Exclusion):
                results.append(prepared)
                continue
            scan, data = prepared
            results.append(_cached(scan, data, pixels.name, file.tell()))
            file.write(data)
            crc = google_crc32c.extend(crc, data)
        size = file.tell()
    _write_receipt(receipt, key, results, size, crc)
    return task.name


def _cached(prepared: PreparedScan, data: bytes, cache_file: str, offset: int) -> CachedScan:
    return CachedScan(
        scan=prepared.scan,
        geometry=prepared.geometry,
        measurements=prepared.measurements,
        descriptor=prepared.descriptor,
        cache_file=cache_file,
        offset=offset,
        length=len(data),
        crc=google_crc32c.value(data),
    )


def read_receipt(folder: Path, name: str) -> list[CachedScan | Exclusion]:
    """The results of a batch, one for each of its files.

    Raises StoppedError if the receipt was damaged, and removes it, so that the batch is prepared again.
    """
    path = folder / f"{name}.json"
    try:
        _, rows = _checked_receipt(path)
        return [_from_row(row) for row in json.loads(rows)]
    except (ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        raise _damaged(path) from None


def read_image(folder: Path, item: CachedScan) -> bytes:
    """The encoded pixels of a cached scan, as its record holds them. Raises StoppedError if they were damaged."""
    path = folder / item.cache_file
    with path.open("rb") as file:
        file.seek(item.offset)
        data = file.read(item.length)
    if google_crc32c.value(data) != item.crc:
        raise _damaged(path)
    return data


def read_pixels(folder: Path, item: CachedScan, recipe: Preprocessing, encoding: str) -> Gray:
    """The stored pixels of a cached scan, (height, width) uint8. Raises StoppedError if they were damaged."""
    pixels = decode_pixels(read_image(folder, item), recipe.height, recipe.width, encoding)
    if pixels is None:
        raise _damaged(folder / item.cache_file)
    return pixels


def _damaged(path: Path) -> StoppedError:
    return StoppedError(
        f"{path} was damaged after it was written. Run the same command again: the batch is prepared again, and the "
        "build resumes."
    )


def _key(task: BatchTask) -> str:
    """A digest of all that a batch depends on, each file's time of change included, and of what its receipt holds."""
    versions = {"octprep": version("octprep"), **preprocessing.library_versions(task.recipe)}
    types = (CachedScan, Scan, Geometry, ScanMeasurements, Exclusion)
    layout = [field.name for kind in types for field in dataclasses.fields(kind)]
    digest = hashlib.sha256(f"{task.recipe} {task.encoding} {versions} {layout}\n".encode())
    for file in task.files:
        digest.update(f"{file}\n".encode())
    return digest.hexdigest()


def _receipt_is_valid(receipt: Path, pixels: Path, key: str) -> bool:
    """Whether a batch is complete: its receipt is as it was written, for this key, and so are its pixels."""
    try:
        head, _ = _checked_receipt(receipt)
        if head["key"] != key or pixels.stat().st_size != head["pixels_bytes"]:
            return False
        crc = 0
        with pixels.open("rb") as file:
            while piece := file.read(_PIECE):
                crc = google_crc32c.extend(crc, piece)
        return bool(crc == head["pixels_crc"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # absent, cut short, damaged or of another version: prepare the batch again


def _write_receipt(
    receipt: Path, key: str, results: Sequence[CachedScan | Exclusion], pixels_bytes: int, pixels_crc: int
) -> None:
    rows = json.dumps([_to_row(result) for result in results]).encode()
    head = {"key": key, "pixels_bytes": pixels_bytes, "pixels_crc": pixels_crc, "rows_sha256": _sha256(key, rows)}
    atomic_write(receipt, json.dumps(head).encode() + b"\n" + rows, durable=False)


def _checked_receipt(receipt: Path) -> tuple[dict[str, Any], bytes]:
    """The head of a receipt, and its rows as JSON. Raises OSError, or another error if it is not as it was written."""
    line, _, rows = receipt.read_bytes().partition(b"\n")
    head = json.loads(line)
    if _sha256(str(head["key"]), rows) != head["rows_sha256"]:
        raise ValueError("was changed after it was written")
    return dict(head), rows


def _sha256(key: str, rows: bytes) -> str:
    return hashlib.sha256(key.encode() + rows).hexdigest()


def _to_row(result: CachedScan | Exclusion) -> dict[str, Any]:
    """What `_from_row` reads; dataclasses.asdict, which copies every value, is twenty times slower."""
    if isinstance(result, Exclusion):
        return vars(result)
    measurements = {name: getattr(result.measurements, name) for name in _MEASUREMENTS}  # has slots, so no vars()
    nested = {"scan": vars(result.scan), "geometry": vars(result.geometry), "measurements": measurements}
    return vars(result) | nested | {"descriptor": base64.b64encode(result.descriptor).decode()}


def _from_row(row: dict[str, Any]) -> CachedScan | Exclusion:
    if "reason" in row:
        return Exclusion(**row)
    geometry = {name: tuple(value) for name, value in row["geometry"].items()}
    measurements = row["measurements"] | {"crop": tuple(row["measurements"]["crop"])}
    values = {
        "scan": Scan(**row["scan"]),
        "geometry": Geometry(**geometry),
        "measurements": ScanMeasurements(**measurements),
        "descriptor": base64.b64decode(row["descriptor"]),
    }
    return CachedScan(**(row | values))


_MEASUREMENTS = tuple(field.name for field in dataclasses.fields(ScanMeasurements))
