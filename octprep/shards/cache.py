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
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import google_crc32c

from octprep import preprocessing
from octprep.arrays import Gray
from octprep.duplicates.descriptors import dct_descriptor
from octprep.format.config import Preprocessing
from octprep.format.errors import StoppedError
from octprep.format.files import atomic_write, read_ahead, saving
from octprep.format.manifest import PREPARED_NAME
from octprep.format.measurements import ScanMeasurements
from octprep.format.paths import text_to_path
from octprep.prepare import PreparedScan, prepare_scan
from octprep.preprocessing import Geometry
from octprep.shards.records import decode_pixels, encode_pixels
from octprep.source.files import Exclusion, Scan, ScanFile, field_values
from octprep.source.reading import FileBatch
from octprep.storage.remote import Source

BATCH = 64  # scans: small enough to lose little when interrupted and to keep every core busy to the end
_AHEAD = 8  # files that the system may read before they are needed: on a cold disk a file takes as long as its work
_PIECE = 1 << 20  # bytes that are read at a time to check a batch's pixels


@dataclass(frozen=True, slots=True)
class CachedScan:
    """One prepared scan, and where its encoded pixels are in the cache."""

    scan: Scan
    details: bytes  # the three properties below, packed: there may be millions of scans
    cache_file: str  # the file with its pixels, relative to the cache's folder: of a batch, or a shard
    offset: int  # in that file, bytes
    length: int  # bytes
    crc: int  # CRC-32C of the bytes

    @property
    def geometry(self) -> Geometry:
        """Which part of the source the stored pixels show."""
        return _unpack(self.details)[0]

    @property
    def measurements(self) -> ScanMeasurements:
        """What the preparation measured."""
        return _unpack(self.details)[1]

    @property
    def descriptor(self) -> bytes:
        """Of the stored pixels, for the search for near-duplicates; b"" if it was prepared without."""
        word_bytes, columns = _DETAILS.unpack_from(self.details)[-2:]
        return self.details[_DETAILS.size + word_bytes + 8 * columns :]


def _pack(geometry: Geometry, measured: ScanMeasurements, descriptor: bytes) -> bytes:
    """What `_unpack` reads, and then the descriptor."""
    words = "\0".join((measured.note, *measured.flags)).encode()
    numbers = (getattr(measured, name) for name in _MEASURED)
    head = _DETAILS.pack(*geometry.affine, *geometry.crop, *numbers, len(words), len(geometry.rpe_curve))
    return b"".join((head, words, struct.pack(f"<{len(geometry.rpe_curve)}d", *geometry.rpe_curve), descriptor))


def _unpack(details: bytes) -> tuple[Geometry, ScanMeasurements]:
    """The geometry and the measurements that `_pack` packed. Raises struct.error for bytes that are too short."""
    values = _DETAILS.unpack_from(details)
    crop, (word_bytes, columns) = values[6:10], values[-2:]
    curve = struct.unpack_from(f"<{columns}d", details, _DETAILS.size + word_bytes)
    note, *flags = details[_DETAILS.size : _DETAILS.size + word_bytes].decode().split("\0")
    measured = dict(zip(_MEASURED, values[10:-2], strict=True))
    return Geometry(values[:6], crop, curve), ScanMeasurements(crop=crop, note=note, flags=tuple(flags), **measured)


# The affine, the crop, what was measured, the bytes of the note and flags and the columns of the curve, which follow.
_DETAILS = struct.Struct("<6d4i5dIi")
_MEASURED = ("fill_fraction", "crop_confidence", "mean_intensity", "std_intensity", "sharpness")


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What was found in a file when it was prepared, and how to tell whether it is still the same."""

    result: CachedScan | Exclusion
    bytes: int  # size of the file
    changed_ns: int  # last change of its content or status, ns since 1970; see `ScanFile.changed_ns`

    @property
    def path(self) -> str:
        """Of the file, relative to the source, as text."""
        return self.result.path if isinstance(self.result, Exclusion) else self.result.scan.path

    def as_listed(self, file: ScanFile) -> KnownFile:
        """The same, with what the path and the listing of the file say of it now."""
        result = self.result
        if isinstance(result, CachedScan):
            result = dataclasses.replace(result, scan=dataclasses.replace(result.scan, **field_values(file)))
        return KnownFile(result, file.bytes, file.changed_ns)


@dataclass(frozen=True)
class BatchTask(FileBatch):
    """Some files to read and prepare."""

    folder: Path  # of the cache
    name: str  # of the batch
    recipe: Preprocessing
    encoding: str  # raw or png
    described: bool = True  # with descriptors, for the search for near-duplicates

    def read(self, scan_file: ScanFile) -> tuple[PreparedScan, bytes] | Exclusion:
        """A prepared scan and its encoded pixels, or an Exclusion. Raises as `prepare_scan` does."""
        prepared = prepare_scan(self.src, scan_file, self.recipe)
        if isinstance(prepared, Exclusion):
            return prepared
        return prepared, encode_pixels(prepared.pixels, self.encoding)

    def read_ahead(self, index: int) -> None:
        """Let the system read what comes _AHEAD files after a file; at the first, also all in between."""
        if isinstance(self.src, Path):
            for scan_file in self.files[index + _AHEAD if index else 1 : index + _AHEAD + 1]:
                read_ahead(self.src / text_to_path(scan_file.file))


def batch_tasks(
    src: Source,
    folder: Path,
    files: Sequence[ScanFile],
    recipe: Preprocessing,
    encoding: str,
    *,
    described: bool = True,
) -> list[BatchTask]:
    """Files in batches of BATCH, under names that no batch in the cache's folder has. described: see BatchTask."""
    first = 1 + max((int(path.stem) for path in folder.glob("[0-9]*.json")), default=-1)
    batches = [tuple(files[start : start + BATCH]) for start in range(0, len(files), BATCH)]
    return [
        BatchTask(src, batch, folder, f"{index:06d}", recipe, encoding, described)
        for index, batch in enumerate(batches, first)
    ]


def cache_batch(task: BatchTask) -> str:
    """Read, prepare and store a batch. Returns its name.

    Its results are read from the receipt (`read_receipt`) instead of being returned: a worker killed while it sends a
    long result leaves its pool waiting for the rest, while a short message goes through whole or not at all. Raises
    StoppedError, as `with_retries` does, for a file that cannot be read or prepared.
    """
    receipt, pixels = task.folder / f"{task.name}.json", task.folder / f"{task.name}.bin"
    known: list[KnownFile] = []
    crc = 0
    with saving(pixels, durable=False) as partial_file, partial_file.open("wb") as file:
        for index, scan_file in enumerate(task.files):
            task.read_ahead(index)
            prepared = task.result(scan_file, task.read)
            if isinstance(prepared, Exclusion):
                known.append(KnownFile(prepared, scan_file.bytes, scan_file.changed_ns))
                continue
            scan, data = prepared
            descriptor = dct_descriptor(scan.pixels) if task.described else b""
            cached = _cached(scan, descriptor, data, pixels.name, file.tell())
            known.append(KnownFile(cached, scan_file.bytes, scan_file.changed_ns))
            file.write(data)
            crc = google_crc32c.extend(crc, data)
        size = file.tell()
    _write_receipt(receipt, preparation_key(task.recipe, task.encoding), known, size, crc)
    return task.name


def _cached(prepared: PreparedScan, descriptor: bytes, data: bytes, cache_file: str, offset: int) -> CachedScan:
    return CachedScan(
        scan=prepared.scan,
        details=_pack(prepared.geometry, prepared.measurements, descriptor),
        cache_file=cache_file,
        offset=offset,
        length=len(data),
        crc=google_crc32c.value(data),
    )


def read_receipt(task: BatchTask) -> list[KnownFile]:
    """The results of a batch, one for each of its files.

    Raises StoppedError if the receipt was damaged, or replaced by that of other settings (which a machine of a cluster
    can do that is still at work for an earlier build); it is removed then, so that the batch is prepared again.
    """
    path = task.folder / f"{task.name}.json"
    try:
        head, rows = _checked_receipt(path)
        known = [from_row(row) for row in json.loads(rows)]
        is_of_task = [file.path for file in known] == [file.path for file in task.files]
        if head["key"] != preparation_key(task.recipe, task.encoding) or not is_of_task:
            raise ValueError("is of another task")
        return [file.as_listed(listed) for file, listed in zip(known, task.files, strict=True)]
    except (ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        raise _damaged(path) from None


def read_receipts(folder: Path, key: str) -> dict[str, KnownFile]:
    """All files that are prepared in a cache, by path. key: as `preparation_key` gives it.

    Batches that were prepared otherwise, or are damaged, are removed.
    """
    known: dict[str, KnownFile] = {}
    for receipt in sorted(folder.glob("[0-9]*.json")):
        rows = _valid_rows(receipt, receipt.with_suffix(".bin"), key)
        if rows is None:
            receipt.unlink(missing_ok=True)
        else:
            known |= {file.path: file for file in map(from_row, json.loads(rows))}
    for pixels in folder.glob("[0-9]*.bin"):
        if not pixels.with_suffix(".json").exists():
            pixels.unlink(missing_ok=True)
    return known


def read_image(folder: Path, item: CachedScan) -> bytes:
    """The encoded pixels of a cached scan, as its record holds them. Raises StoppedError if they were damaged."""
    path = folder / item.cache_file
    with path.open("rb") as file:
        file.seek(item.offset)
        data = file.read(item.length)
    if google_crc32c.value(data) != item.crc:
        if path.suffix == ".tfrecord":  # a shard of a finished folder: the next build is not to use them
            (path.parents[1] / PREPARED_NAME).unlink(missing_ok=True)
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
        f"{path} was damaged after it was written. Run the same command again: its scans are prepared again, and the "
        "build resumes."
    )


@lru_cache(maxsize=1)
def _octprep_version() -> str:
    """The version installed; looking it up takes milliseconds."""
    return version("octprep")


def preparation_key(recipe: Preprocessing, encoding: str) -> str:
    """A digest of all that the result of preparing a file depends on besides the file, and of the form of a row."""
    versions = {"octprep": _octprep_version(), **preprocessing.library_versions(recipe)}
    types = (KnownFile, CachedScan, Scan, Geometry, ScanMeasurements, Exclusion)
    layout = [_DETAILS.format, *(field.name for kind in types for field in dataclasses.fields(kind))]
    return hashlib.sha256(f"{recipe} {encoding} {versions} {layout}\n".encode()).hexdigest()


def _valid_rows(receipt: Path, pixels: Path, key: str) -> bytes | None:
    """The rows of a batch whose receipt is as it was written, for this key, and so are its pixels; None of another."""
    try:
        head, rows = _checked_receipt(receipt)
        if head["key"] != key or pixels.stat().st_size != head["pixels_bytes"]:
            return None
        crc = 0
        with pixels.open("rb") as file:
            while piece := file.read(_PIECE):
                crc = google_crc32c.extend(crc, piece)
        return rows if crc == head["pixels_crc"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, cut short, damaged or of another version: prepare the batch again


def _write_receipt(receipt: Path, key: str, known: Sequence[KnownFile], pixels_bytes: int, pixels_crc: int) -> None:
    rows = json.dumps([to_row(file) for file in known]).encode()
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


def to_row(known: KnownFile) -> dict[str, Any]:
    """What `from_row` reads."""
    result = _values(known.result)
    if isinstance(known.result, CachedScan):
        details = base64.b64encode(known.result.details).decode()
        result |= {"scan": field_values(known.result.scan), "details": details}
    return _values(known) | {"result": result}


def from_row(row: dict[str, Any]) -> KnownFile:
    """The reverse of `to_row`, of parsed JSON. Raises KeyError, TypeError or ValueError for anything else."""
    return KnownFile(**(row | {"result": _result(row["result"])}))


def _result(row: dict[str, Any]) -> CachedScan | Exclusion:
    if "reason" in row:
        return Exclusion(**row)
    scan = row["scan"]
    scan |= {name: sys.intern(scan[name]) for name in ("label", "patient", "source_split", "source", "eye", "volume")}
    values = {
        "scan": Scan(**scan),
        "details": base64.b64decode(row["details"]),
        "cache_file": sys.intern(row["cache_file"]),
    }
    return CachedScan(**(row | values))


def _values(instance: KnownFile | CachedScan | Exclusion) -> dict[str, Any]:
    return {name: getattr(instance, name) for name in instance.__slots__}
