"""The cache of prepared scans on disk, between reading the source and writing the shards.

The split of a scan depends on whether it can be decoded and on its content, so every scan must be opened before the
first shard can be planned. To decode each only once, its encoded pixels are kept here, batch by batch, until
its shard is written. A batch is two files: its pixels one after the other, NAME.bin, and a receipt, NAME.json, written
last: a line of JSON (what the batch depends on, and checksums), then the rows, one for each file. A batch with a valid
receipt for the same files, recipe and encoding is not prepared again. So are the correlations of scans whose stored
pixels were compared, in a file with a checksum, and the results of searches (`octprep.shards.searches`).
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import os
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import google_crc32c

import octprep
from octprep import preprocessing
from octprep.arrays import Gray
from octprep.duplicates.descriptors import dct_descriptor
from octprep.duplicates.search import PixelPair
from octprep.format.config import Preprocessing
from octprep.format.errors import StoppedError
from octprep.format.files import atomic_write, read_ahead, saving
from octprep.format.manifest import PREPARED_NAME
from octprep.format.measurements import ScanMeasurements
from octprep.format.paths import text_to_path
from octprep.prepare import PreparedScan, prepare_scan
from octprep.preprocessing import Geometry
from octprep.shards.records import decode_pixels, encode_pixels
from octprep.source.files import FIELDS, Exclusion, Scan, ScanFile
from octprep.source.reading import FileBatch
from octprep.storage.remote import Source

BATCH = 64  # scans: small enough to lose little when interrupted and to keep every core busy to the end
_AHEAD = 8  # files that the system may read before they are needed: on a cold disk a file takes as long as its work
_OPEN_FILES = 128  # that an ImageReader has open at once: the shards of a large dataset, and far from any limit
_CORRELATIONS_NAME = "correlations.json"  # in the cache's folder
_PIECE = 1 << 20  # bytes that are read at a time to check a file


@dataclass(frozen=True, slots=True)
class CachedScan:
    """One prepared scan, and where its encoded pixels are in the cache."""

    scan: Scan
    details: bytes  # the three properties below, packed: there may be millions of scans
    cache_file: str  # the file with its pixels, relative to the cache's folder: of a batch, or a shard
    offset: int  # in that file, bytes
    length: int  # bytes
    crc: int  # CRC-32C of the bytes
    frame: bytes = b""  # in a shard: where the record is that was written of exactly this, packed by `pack_frame`

    def with_scan(self, scan: Scan) -> CachedScan:
        """The same pixels for another description of the scan, of which no record was written."""
        return dataclasses.replace(self, scan=scan, frame=b"")

    def with_descriptor(self, descriptor: bytes) -> CachedScan:
        """The same with a descriptor, of a scan that was prepared without."""
        return dataclasses.replace(self, details=self.details + descriptor)

    @property
    def geometry(self) -> Geometry:
        """Which part of the source the stored pixels show."""
        return _unpack_geometry(self.details)

    @property
    def measurements(self) -> ScanMeasurements:
        """What the preparation measured."""
        return _unpack_measurements(self.details)

    @property
    def descriptor(self) -> bytes:
        """Of the stored pixels, for the search for near-duplicates; b"" if it was prepared without."""
        word_bytes, columns = _DETAILS.unpack_from(self.details)[-2:]
        return self.details[_DETAILS.size + word_bytes + 8 * columns :]


def _pack(geometry: Geometry, measured: ScanMeasurements, descriptor: bytes) -> bytes:
    """What the two functions below read, and then the descriptor."""
    words = "\0".join((measured.note, *measured.flags)).encode()
    numbers = (getattr(measured, name) for name in _MEASURED)
    head = _DETAILS.pack(*geometry.affine, *geometry.crop, *numbers, len(words), len(geometry.rpe_curve))
    return b"".join((head, words, struct.pack(f"<{len(geometry.rpe_curve)}d", *geometry.rpe_curve), descriptor))


def _unpack_geometry(details: bytes) -> Geometry:
    """The geometry that `_pack` packed. Raises struct.error for bytes that are too short."""
    values = _DETAILS.unpack_from(details)
    word_bytes, columns = values[-2:]
    curve = struct.unpack_from(f"<{columns}d", details, _DETAILS.size + word_bytes)
    return Geometry(values[:6], values[6:10], curve)


def _unpack_measurements(details: bytes) -> ScanMeasurements:
    """The measurements that `_pack` packed. Raises struct.error for bytes that are too short."""
    values = _DETAILS.unpack_from(details)
    note, *flags = details[_DETAILS.size : _DETAILS.size + values[-2]].decode().split("\0")
    measured = dict(zip(_MEASURED, values[10:-2], strict=True))
    return ScanMeasurements(crop=values[6:10], note=note, flags=tuple(flags), **measured)


# The affine, the crop, what was measured, the bytes of the note and flags and the columns of the curve, which follow.
_DETAILS = struct.Struct("<6d4i5dIi")
_MEASURED = ("fill_fraction", "crop_confidence", "mean_intensity", "std_intensity", "sharpness")


_listed = attrgetter(*FIELDS[ScanFile])


# Of the frame of a record: its bytes, those of them before the image, and the CRC-32C of the frame.
_FRAME = struct.Struct("<III")


def pack_frame(size: int, before: int, crc: int) -> bytes:
    """`CachedScan.frame` of a frame of `size` bytes, of which `before` are before the image, and its CRC-32C."""
    return _FRAME.pack(size, before, crc)


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
        """The same, with what the path and the listing of the file say of it now: with the same objects as it has."""
        result = self.result
        if isinstance(result, CachedScan):
            scan = _as_listed(result.scan, file)
            frame = result.frame if _listed(result.scan) == _listed(file) else b""
            place = result.cache_file, result.offset, result.length, result.crc, frame
            result = CachedScan(scan, result.details, *place)
        return KnownFile(result, file.bytes, file.changed_ns)


@dataclass(frozen=True)
class BatchTask(FileBatch):
    """Some files to read and prepare."""

    folder: Path  # of the cache
    name: str  # of the batch
    recipe: Preprocessing
    encoding: str  # raw or png
    key: str  # as `preparation_key` gives it
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
                read_ahead(f"{self.src}{os.sep}{text_to_path(scan_file.file)}")


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
    key = preparation_key(recipe, encoding)
    return [
        BatchTask(src, batch, folder, f"{index:06d}", recipe, encoding, key, described)
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
    _write_receipt(receipt, task.key, known, size, crc)
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
        if head["key"] != task.key or not is_of_task:
            raise ValueError("is of another task")
        return [file.as_listed(listed) for file, listed in zip(known, task.files, strict=True)]
    except (ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        raise _damaged(path) from None


def read_receipts(folder: Path, key: str) -> Iterator[KnownFile]:
    """All files that are prepared in a cache, one after the other. key: as `preparation_key` gives it.

    Of several with the same path the last counts. Batches that were prepared otherwise, or are damaged, are removed.
    """
    for receipt in sorted(folder.glob("[0-9]*.json")):
        rows = _valid_rows(receipt, receipt.with_suffix(".bin"), key)
        if rows is None:
            receipt.unlink(missing_ok=True)
        else:
            yield from map(from_row, json.loads(rows))
    for pixels in folder.glob("[0-9]*.bin"):
        if not pixels.with_suffix(".json").exists():
            pixels.unlink(missing_ok=True)


class ImageReader:
    """Reads the encoded pixels of cached scans, and keeps the files open that it last read from.

    Opening a file takes longer than reading an image from it. Close it, or use it in a `with` block.
    """

    def __init__(self, folder: Path) -> None:
        """folder: of the cache."""
        self._folder = folder
        self._files: dict[str, io.FileIO] = {}  # by name, that which was opened first in front

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def read(self, item: CachedScan) -> bytes:
        """The encoded pixels of a scan, as its record holds them. Raises StoppedError if they were damaged."""
        return self._read(item.cache_file, item.offset, item.length, item.crc)

    def read_frame(self, item: CachedScan) -> tuple[bytes, int, int]:
        """The frame of a scan's first record in a finished folder, of a scan that has one.

        Also where its image begins, and its CRC-32C. Raises StoppedError if it was damaged.
        """
        size, before, crc = _FRAME.unpack(item.frame)
        return self._read(item.cache_file, item.offset - before, size, crc), before, crc

    def _read(self, name: str, offset: int, size: int, crc: int) -> bytes:
        file = self._open(name)
        file.seek(offset)
        data = file.read(size)
        if google_crc32c.value(data) != crc:
            path = self._folder / name
            if path.suffix == ".tfrecord":  # a shard of a finished folder: the next build is not to use them
                (path.parents[1] / PREPARED_NAME).unlink(missing_ok=True)
            raise _damaged(path)
        return data

    def _open(self, name: str) -> io.FileIO:
        file = self._files.get(name)
        if file is None:
            if len(self._files) == _OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            file = self._files[name] = io.FileIO(self._folder / name)
        return file


def read_pixels(folder: Path, item: CachedScan, recipe: Preprocessing, encoding: str) -> Gray:
    """The stored pixels of a cached scan, (height, width) uint8. Raises StoppedError if they were damaged."""
    with ImageReader(folder) as reader:
        pixels = decode_pixels(reader.read(item), recipe.height, recipe.width, encoding)
    if pixels is None:
        raise _damaged(folder / item.cache_file)
    return pixels


def _damaged(path: Path) -> StoppedError:
    return StoppedError(
        f"{path} was damaged after it was written. Run the same command again: its scans are prepared again, and the "
        "build resumes."
    )


def preparation_key(recipe: Preprocessing, encoding: str) -> str:
    """A digest of all that the result of preparing a file depends on besides the file, and of the form of a row."""
    versions = {"octprep": octprep.__version__, **preprocessing.library_versions(recipe)}
    types = (KnownFile, CachedScan, Scan, Geometry, ScanMeasurements, Exclusion)
    names = (FIELDS.get(kind) or [field.name for field in dataclasses.fields(kind)] for kind in types)
    layout = [_ROWS, _DETAILS.format, *chain(*names)]
    return hashlib.sha256(f"{recipe} {encoding} {versions} {layout}\n".encode()).hexdigest()


def _valid_rows(receipt: Path, pixels: Path, key: str) -> bytes | None:
    """The rows of a batch whose receipt is as it was written, for this key, and so are its pixels; None of another."""
    try:
        head, rows = _checked_receipt(receipt)
        if head["key"] != key or pixels.stat().st_size != head["pixels_bytes"]:
            return None
        return rows if crc_of_file(pixels) == head["pixels_crc"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, cut short, damaged or of another version: prepare the batch again


def crc_of_file(path: Path) -> int:
    """The CRC-32C of a file, read some at a time. Raises OSError."""
    crc = 0
    with io.FileIO(path) as file:
        while piece := file.read(_PIECE):
            crc = google_crc32c.extend(crc, piece)
    return crc


def _write_receipt(receipt: Path, key: str, known: Sequence[KnownFile], pixels_bytes: int, pixels_crc: int) -> None:
    head = {"key": key, "pixels_bytes": pixels_bytes, "pixels_crc": pixels_crc}
    _write_checked(receipt, head, [to_row(file) for file in known])


def _write_checked(path: Path, head: dict[str, Any], rows: Sequence[Any]) -> None:
    """Write what `_checked_receipt` reads. head: with the key, and without the checksum of the rows."""
    data = json.dumps(rows).encode()
    head = {**head, "rows_sha256": _sha256(head["key"], data)}
    atomic_write(path, json.dumps(head).encode() + b"\n" + data, durable=False)


def write_rows(path: Path, key: str, rows: Sequence[Any]) -> None:
    """Write rows of JSON to a file of a cache, with a checksum. key: as `preparation_key` gives it."""
    _write_checked(path, {"key": key}, rows)


def read_rows(path: Path, key: str) -> list[Any]:
    """What `write_rows` wrote with this key; [] if that is missing, damaged or of another key."""
    try:
        head, rows = _checked_receipt(path)
        return list(json.loads(rows)) if head["key"] == key else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write_correlations(folder: Path, key: str, correlations: Mapping[PixelPair, float]) -> None:
    """Keep the correlations that a build has measured in a cache. key: as `preparation_key` gives it."""
    write_rows(folder / _CORRELATIONS_NAME, key, correlation_rows(correlations))


def read_correlations(folder: Path, key: str) -> dict[PixelPair, float]:
    """What `write_correlations` wrote with this key; {} if that is missing, damaged or of another key."""
    return from_correlation_rows(read_rows(folder / _CORRELATIONS_NAME, key))


def correlation_rows(correlations: Mapping[PixelPair, float]) -> list[tuple[str, str, float]]:
    """Correlations as rows of JSON, sorted."""
    return [(*pair, correlation) for pair, correlation in sorted(correlations.items())]


def from_correlation_rows(rows: Sequence[tuple[str, str, float]]) -> dict[PixelPair, float]:
    """The reverse of `correlation_rows`, of parsed JSON. Raises TypeError or ValueError for anything else."""
    return {(first, second): float(correlation) for first, second, correlation in rows}


def _checked_receipt(receipt: Path) -> tuple[dict[str, Any], bytes]:
    """The head of a receipt, and its rows as JSON. Raises OSError, or another error if it is not as it was written."""
    line, _, rows = receipt.read_bytes().partition(b"\n")
    head = json.loads(line)
    if _sha256(str(head["key"]), rows) != head["rows_sha256"]:
        raise ValueError("was changed after it was written")
    return dict(head), rows


def _sha256(key: str, rows: bytes) -> str:
    return hashlib.sha256(key.encode() + rows).hexdigest()


def to_row(known: KnownFile) -> list[Any]:
    """What `from_row` reads. A list, as the names of the fields would take most of the time to write and read."""
    result = known.result
    if isinstance(result, Exclusion):
        return [known.bytes, known.changed_ns, result.path, result.reason]
    details = base64.b64encode(result.details).decode()
    place = place_cells(result.cache_file, result.offset, result.frame)
    return [known.bytes, known.changed_ns, _scan_values(result.scan), details, *place, result.length, result.crc]


def place_cells(cache_file: str, offset: int, frame: bytes) -> list[Any]:
    """The cells PLACE of a row: see CachedScan."""
    return [cache_file, offset, base64.b64encode(frame).decode()]


def from_row(row: list[Any]) -> KnownFile:
    """The reverse of `to_row`, of parsed JSON. Raises TypeError or ValueError for anything else."""
    size, changed_ns, *result = row
    if len(result) == 2:
        return KnownFile(Exclusion(*result), size, changed_ns)
    values, details, cache_file, offset, frame, length, crc = result
    details, frame = base64.b64decode(details), base64.b64decode(frame)
    scan = _scan(*values)
    return KnownFile(  # with the numbers of the scan where they are equal, so that each is one object
        CachedScan(scan, details, sys.intern(cache_file), offset, _once(length), crc, frame),
        scan.bytes if scan.bytes == size else size,
        scan.changed_ns if scan.changed_ns == changed_ns else changed_ns,
    )


@lru_cache(maxsize=1 << 12)
def _once(value: int) -> int:
    """The same number as one object of 32 bytes, for numbers that many scans have: there may be millions of scans."""
    return value


def _scan(
    path: str, label: str, patient: str, image_number: int, source_split: str, size: int, source: str, eye: str,
    volume: str, axial_um: float, frame: int, modified_ns: int, changed_ns: int, linked: bool, sha256: str,
    height: int, width: int, pixels_sha256: str,
) -> Scan:  # fmt: skip
    """A scan of what is stored of it, in the order of FIELDS. By name, this would take twice the time."""
    intern = sys.intern
    return Scan(
        path, intern(label), intern(patient), image_number, intern(source_split), size,
        bytes.fromhex(sha256 + pixels_sha256), _once(height), _once(width), source=intern(source), eye=intern(eye),
        volume=intern(volume), axial_um=axial_um, frame=frame,
        modified_ns=changed_ns if changed_ns == modified_ns else modified_ns, changed_ns=changed_ns, linked=linked,
    )  # fmt: skip


def _as_listed(scan: Scan, file: ScanFile) -> Scan:
    """A scan with what the path and the listing of its file say of it now. As `_scan`, not by name."""
    return Scan(
        file.path, file.label, file.patient, file.image_number, file.source_split, file.bytes, scan.digests,
        scan.height, scan.width, source=file.source, eye=file.eye, volume=file.volume, axial_um=file.axial_um,
        frame=file.frame, modified_ns=file.modified_ns, changed_ns=file.changed_ns, linked=file.linked,
    )  # fmt: skip


PLACE = slice(4, 7)  # of a row: where the pixels and the record are (`place_cells`); nothing of an exclusion
_ROWS = 3  # the version of the form of a row
_scan_values = attrgetter(*FIELDS[Scan])
