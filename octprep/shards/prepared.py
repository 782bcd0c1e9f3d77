"""Files that an earlier build prepared, so that a build prepares only files that are new or have changed.

They are known from two places: the receipts of an unfinished build (`octprep.shards.cache`), and PREPARED_NAME beside
the shards of a finished one, which says what was found in every file and where its pixels and its first record are in
the shards, and how scans correlate whose stored pixels were compared. It is compressed text: a line with what it
depends on, a line of JSON with the correlations, one for every cache.BATCH files, sorted by path, and the SHA-256 of
these. No other program reads it, and it may be deleted: the next build then prepares every file again.

A shard that has another size than the manifest says, or was written or moved after it, is compared with its SHA-256
before anything of it is used; of any other, each image and each record has a CRC-32C here, with which it is compared
when it is read. So a record of a scan that has not changed is copied as it is (`octprep.shards.writer`).
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from octprep.duplicates.search import PixelPair
from octprep.format.config import BuildConfig
from octprep.format.errors import ManifestError
from octprep.format.files import NotReadable, open_regular, saving
from octprep.format.manifest import MANIFEST_NAME, PREPARED_NAME, Manifest, Shard
from octprep.format.record_index import IndexedRecord
from octprep.shards import cache
from octprep.shards.cache import CachedScan, KnownFile
from octprep.shards.workdir import published_shard_problem
from octprep.shards.writer import RecordPlace, records_key
from octprep.source.files import Exclusion, ScanFile
from octprep.source.reading import hash_files
from octprep.storage.remote import Source
from octprep.workers import Pool, Progress

_BUFFER = 1 << 16  # bytes


@dataclass(frozen=True)
class FinishedFiles:
    """What a finished folder says of files."""

    files: dict[str, KnownFile]  # by path
    correlations: dict[PixelPair, float]  # of scans whose stored pixels were compared
    records_key: str  # of its records, as `octprep.shards.writer.records_key` gives it


@dataclass(frozen=True)
class FoundFiles:
    """The files of a source, by whether they must be prepared."""

    known: tuple[KnownFile, ...]  # as they are listed now
    unknown: tuple[ScanFile, ...]


def find_known(
    src: Source,
    files: Sequence[ScanFile],
    known: Mapping[str, KnownFile],
    pool: Pool,
    progress: Progress,
) -> FoundFiles:
    """Which files are still as they are known.

    A file with the same size and time of change is taken for the same; one of the same size alone, as in a copy of the
    source, if its content has the same SHA-256. Raises StoppedError for a file that cannot be read.
    """
    same: list[tuple[ScanFile, KnownFile]] = []
    unknown: list[ScanFile] = []
    perhaps: dict[str, tuple[ScanFile, KnownFile]] = {}
    for file in files:
        before = known.get(file.path)
        if before is None or before.bytes != file.bytes or _spacing_changed(before, file):
            unknown.append(file)
        elif before.changed_ns == file.changed_ns:
            same.append((file, before))
        elif isinstance(before.result, Exclusion):
            unknown.append(file)
        else:
            perhaps[file.path] = (file, before)
    if perhaps:
        stage = "reading changed files"
        progress(stage, 0, len(perhaps))
        batch = [file for file, _ in perhaps.values()]
        tasks = [(src, batch[start : start + cache.BATCH]) for start in range(0, len(batch), cache.BATCH)]
        for paths, digests in pool.run(hash_files, tasks):
            progress(stage, len(paths), len(perhaps))
            for path, digest in zip(paths, digests, strict=True):
                file, before = perhaps[path]
                assert isinstance(before.result, CachedScan)
                if digest == before.result.scan.sha256:
                    same.append((file, before))
                else:
                    unknown.append(file)
    return FoundFiles(
        tuple(before.as_listed(file) for file, before in same),
        tuple(sorted(unknown, key=lambda file: file.path)),
    )


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
        known: dict[str, KnownFile] = {}
        with open_regular(folder / PREPARED_NAME) as raw, gzip.open(raw) as file:
            if file.readline() != _head(config, manifest):
                return None
            line = file.readline()
            digest = hashlib.sha256(line)
            correlations = cache.from_correlation_rows(json.loads(line))
            line = file.readline()
            while following := file.readline():
                digest.update(line)
                for row in json.loads(line):
                    place = row[cache.PLACE]
                    if not place or place[0] in places:
                        row[cache.PLACE] = [places[place[0]], *place[1:]] if place else []
                        found = cache.from_row(row)
                        known[found.path] = found
                line = following
        if line.decode() != digest.hexdigest():
            return None
        return FinishedFiles(known, correlations, records_key(manifest.class_names, manifest.recipe, manifest.stated))
    except (ManifestError, NotReadable, OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError):
        return None


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
    correlations: Mapping[PixelPair, float],
    manifest: Manifest,
    places: ImagePlaces,
) -> None:
    """Write PREPARED_NAME for a folder of shards to a path.

    Scans whose pixels are in no shard are left out.
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
        for batch in chain([cache.correlation_rows(correlations)], batches):
            line = json.dumps(batch).encode() + b"\n"
            digest.update(line)
            lines.write(line)
        lines.write(digest.hexdigest().encode())


def _head(config: BuildConfig, manifest: Manifest) -> bytes:
    """The first line: what preparing a file depends on, and the dataset."""
    key = cache.preparation_key(config.recipe, config.encoding)
    return json.dumps({"key": key, "digest": manifest.digest}).encode() + b"\n"
