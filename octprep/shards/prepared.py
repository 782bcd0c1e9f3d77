"""Files that an earlier build prepared, so that a build prepares only files that are new or have changed.

They are known from two places: the receipts of an unfinished build (`octprep.shards.cache`), and PREPARED_NAME beside
the shards of a finished one, which says what was found in every file and where its pixels and its first record are in
the shards, and what comparing the scans gave. It is compressed text: a line with what it depends on, a line of JSON
with the results of comparing, one for every shard, with what its receipt says, one for every cache.BATCH files, sorted
by path, and the SHA-256 of these. No other program reads it, and it may be deleted: the next build then prepares every
file again.

A shard that has another size than the manifest says, or was written or moved after it, is compared with its SHA-256
before anything of it is used; of any other, each image and each record has a CRC-32C here, with which it is compared
when it is read. So a record of a scan that has not changed is copied as it is, and a shard that would be written as it
is there is compared with a CRC-32C and linked (`octprep.shards.writer`).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Any

from octprep.duplicates.near_rows import NearRows
from octprep.duplicates.search import PixelPair
from octprep.format.config import BuildConfig
from octprep.format.errors import ManifestError, StoppedError
from octprep.format.files import NotReadable, open_regular, saving
from octprep.format.manifest import MANIFEST_NAME, PREPARED_NAME, Manifest, Shard
from octprep.format.record_index import IndexedRecord
from octprep.shards import cache
from octprep.shards.cache import CachedScan, KnownFile
from octprep.shards.searches import from_found
from octprep.shards.stored_files import StoredFiles
from octprep.shards.workdir import published_shard_problem
from octprep.shards.writer import RecordPlace, receipt_content, records_key
from octprep.source.files import Exclusion, Scan, ScanFile
from octprep.source.reading import hash_files
from octprep.storage.remote import Source
from octprep.workers import Pool, Progress

_BUFFER = 1 << 16  # bytes


@dataclass(frozen=True)
class FinishedFiles:
    """What a finished folder says of files."""

    folder: Path
    files: Iterator[KnownFile]  # read when they are asked for
    correlations: dict[PixelPair, float]  # of scans whose stored pixels were compared
    near_rows: list[NearRows]  # of the searches for near-duplicates
    records_key: str  # of its records, as `octprep.shards.writer.records_key` gives it
    shard_keys: dict[str, str]  # of its undamaged shards, by name, as `octprep.shards.writer.task_key` gives it


def find_known(
    src: Source,
    files: Sequence[ScanFile],
    known: Iterable[KnownFile],
    stored: StoredFiles,
    pool: Pool,
    progress: Progress,
) -> list[ScanFile]:
    """Store the files that are still as they are known, as they are listed now; returns the others.

    known: in any order; of several with the same path the last counts. stored: empty, as yet.

    A file with the same size and time of change is taken for the same; one of the same size alone, as in a copy of the
    source, if its content has the same SHA-256. Raises StoppedError for a file that cannot be read.
    """
    numbers = {file.path: number for number, file in enumerate(files)}
    found = array("q", [-1]) * len(files)  # the index of each in `stored`
    may_differ = bytearray(len(files))  # 1 for a file of the same size and another time of change
    for before in known:
        number = numbers.get(before.path)
        if number is None:
            continue
        file = files[number]
        found[number] = -1
        if before.bytes != file.bytes or _spacing_changed(before, file):
            continue
        may_differ[number] = before.changed_ns != file.changed_ns
        if not (may_differ[number] and isinstance(before.result, Exclusion)):
            found[number] = len(stored)
            stored.append(before.as_listed(file))
    perhaps = [file for number, file in enumerate(files) if may_differ[number] and found[number] >= 0]
    if perhaps:
        stage = "reading changed files"
        progress(stage, 0, len(perhaps))
        tasks = [(src, perhaps[start : start + cache.BATCH]) for start in range(0, len(perhaps), cache.BATCH)]
        for paths, digests in pool.run(hash_files, tasks):
            progress(stage, len(paths), len(perhaps))
            for path, digest in zip(paths, digests, strict=True):
                scan = stored.results[found[numbers[path]]]
                assert isinstance(scan, Scan)
                if digest != scan.sha256:
                    found[numbers[path]] = -1
    stored.keep(index for index in found if index >= 0)
    return [file for index, file in zip(found, files, strict=True) if index < 0]


def _spacing_changed(before: KnownFile, file: ScanFile) -> bool:
    """Whether another distance of rows is stated than the one that a scan was prepared with."""
    return isinstance(before.result, CachedScan) and before.result.scan.axial_um != file.axial_um


def read(folder: Path, cache_folder: Path, config: BuildConfig) -> FinishedFiles | None:
    """What PREPARED_NAME in a finished folder says of files, for a build with these settings.

    None if it is missing, damaged, of other preprocessing or other versions of the libraries, or not of the shards
    that are there. cache_folder: that the results are to name their shards relative to.
    """
    try:
        manifest = Manifest.load(folder)
        published_ns = (folder / MANIFEST_NAME).stat().st_mtime_ns
        shards = [shard for shards in manifest.splits.values() for shard in shards]
        to_folder = os.path.relpath(folder, cache_folder)
        places = {
            shard.name: f"{to_folder}/{shard.name}"
            for shard in shards
            if not published_shard_problem(folder / shard.name, shard, published_ns)
        }
        with open_regular(folder / PREPARED_NAME) as raw, gzip.open(raw) as file:
            if file.readline() != _head(config, manifest):
                return None
            line = first = file.readline()
            digest = hashlib.sha256()
            keys = {}
            while following := file.readline():
                digest.update(line)
                line = following
                if line.startswith(_SHARD_LINE):
                    name, content = json.loads(line)[_SHARD]
                    keys[name] = content[0]
        if line.decode() != digest.hexdigest():
            return None
        return FinishedFiles(
            folder,
            _known_files(folder / PREPARED_NAME, places),
            *from_found(json.loads(first)),
            records_key(manifest.class_names, manifest.recipe, manifest.stated),
            {name: key for name, key in keys.items() if name in places},
        )
    except (ManifestError, StoppedError, *_DAMAGE):
        return None


_SHARD = "shard"  # the name in a line about a shard, which is a JSON object with nothing else
_SHARD_LINE = b"{"
_DAMAGE = (NotReadable, OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError)


def _known_files(path: Path, places: Mapping[str, str]) -> Iterator[KnownFile]:
    """The files in a PREPARED_NAME that has its SHA-256, but for scans in other shards than those of `places`.

    places: the name of a shard -> its path relative to the cache's folder.
    """
    with suppress(*_DAMAGE), open_regular(path) as raw, gzip.open(raw) as file:
        file.readline()
        file.readline()
        for line in file:
            rows = json.loads(line) if line.startswith(b"[") else []  # the last line is the SHA-256, others of shards
            for row in rows:
                place = row[cache.PLACE]
                if not place or place[0] in places:
                    row[cache.PLACE] = [places[place[0]], *place[1:]] if place else []
                    yield cache.from_row(row)


def receipts(folder: Path, names: Collection[str]) -> Iterator[tuple[str, list[Any]]]:
    """The names and the contents of the receipts of some shards, of a folder whose PREPARED_NAME has its SHA-256."""
    with suppress(*_DAMAGE), open_regular(folder / PREPARED_NAME) as raw, gzip.open(raw) as file:
        file.readline()
        file.readline()
        for line in takewhile(lambda line: line.startswith(_SHARD_LINE), file):
            name, content = json.loads(line)[_SHARD]
            if name in names:
                yield name, content


class ImagePlaces:
    """Where the first record of each row of images.csv, repeat 0, is in a folder of shards."""

    def __init__(self, paths: Iterable[str]) -> None:
        """paths: of all rows, in any order."""
        self._paths = sorted(paths)
        self._shards = [""] * len(self._paths)
        self._records, self._images = (array("q", bytes(8 * len(self._paths))) for _ in range(2))  # bytes of the file
        self._sizes, self._crcs = (array("I", bytes(4 * len(self._paths))) for _ in range(2))  # of the frames

    def add(self, shard: Shard, records: Iterable[IndexedRecord], places: Iterable[RecordPlace]) -> None:
        """Add the places in a shard. records: of its index. places: the same of its receipt."""
        for record, place in zip(records, places, strict=True):
            if record.repeat == 0:
                row = record.row
                self._shards[row], self._records[row], self._images[row] = (
                    shard.name,
                    record.record_offset,
                    record.image_offset,
                )
                self._sizes[row], self._crcs[row] = place.bytes, place.crc

    def record(self, path: str) -> tuple[str, int, int]:
        """The shard that holds a row's first record ("": none), the byte at which its frame begins, and its bytes."""
        row = self._row(path)
        return self._shards[row], self._records[row], self._sizes[row]

    def image(self, path: str) -> tuple[str, int, bytes]:
        """The same shard, the byte at which the image begins, and the record's frame as `cache.pack_frame` has it."""
        row = self._row(path)
        before = self._images[row] - self._records[row]
        return self._shards[row], self._images[row], cache.pack_frame(self._sizes[row], before, self._crcs[row])

    def _row(self, path: str) -> int:
        return bisect_left(self._paths, path)


def write(
    path: Path,
    known: Iterable[KnownFile],
    compared: dict[str, Any],
    manifest: Manifest,
    places: ImagePlaces,
    shards: Path,
) -> None:
    """Write PREPARED_NAME for a folder of shards to a path.

    Scans whose pixels are in no shard are left out. compared: `Searches.found`. shards: the folder that the shards were
    written to. Raises StoppedError for a receipt that was damaged.
    """

    def rows() -> Iterator[list[Any]]:
        for found in known:
            row = cache.to_row(found)
            if isinstance(found.result, CachedScan):
                shard, offset, frame = places.image(found.path)
                if not shard:
                    continue
                row[cache.PLACE] = cache.place_cells(shard, offset, frame)
            yield row

    digest = hashlib.sha256()
    with (
        saving(path) as partial,
        partial.open("wb") as raw,
        gzip.GzipFile("", "wb", 1, raw, mtime=0) as file,
        io.BufferedWriter(file, _BUFFER) as lines,  # a line at a time takes longer
    ):
        lines.write(_head(manifest.config, manifest))
        remaining = rows()
        batches = iter(lambda: list(islice(remaining, cache.BATCH)), [])
        written = ({_SHARD: [shard.name, receipt_content(shards, shard)]} for shard in chain(*manifest.splits.values()))
        for content in chain([compared], written, batches):
            line = json.dumps(content).encode() + b"\n"
            digest.update(line)
            lines.write(line)
        lines.write(digest.hexdigest().encode())


def _head(config: BuildConfig, manifest: Manifest) -> bytes:
    """The first line: what preparing a file depends on, and the dataset."""
    key = cache.preparation_key(config.recipe, config.encoding)
    return json.dumps({"key": key, "digest": manifest.digest}).encode() + b"\n"
