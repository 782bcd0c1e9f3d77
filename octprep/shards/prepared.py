"""Files that an earlier build prepared, so that a build prepares only files that are new or have changed.

They are known from two places: the receipts of an unfinished build (`octprep.shards.cache`), and PREPARED_NAME beside
the shards of a finished one, which says what was found in every file and where its pixels are in the shards. It is
compressed text: a line with what it depends on, a line of JSON for each file, sorted by path, and their SHA-256. No
other program reads it, and it may be deleted: the next build then prepares every file again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octprep.format.config import BuildConfig
from octprep.format.errors import ManifestError
from octprep.format.files import NotReadable, open_regular, saving
from octprep.format.manifest import MANIFEST_NAME, PREPARED_NAME, Manifest, Shard
from octprep.format.record_index import IndexedRecord
from octprep.shards import cache
from octprep.shards.cache import CachedScan, KnownFile
from octprep.shards.workdir import published_shard_problem
from octprep.source.files import Exclusion, ScanFile
from octprep.source.reading import hash_files
from octprep.storage.remote import Source
from octprep.workers import Pool, Progress


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


def read(folder: Path, cache_folder: Path, config: BuildConfig) -> dict[str, KnownFile]:
    """What PREPARED_NAME in a finished folder says of files, by path, for a build with these settings.

    Nothing if it is missing, damaged, of other preprocessing or other versions of the libraries, or not of the shards
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
                return {}
            digest, line = hashlib.sha256(), b""
            for following in file:
                if line:
                    digest.update(line)
                    row = json.loads(line)
                    shard = row["result"].get("cache_file")  # not of an exclusion
                    if shard is None or shard in places:
                        row["result"] |= {"cache_file": places[shard]} if shard else {}
                        found = cache.from_row(row)
                        known[found.path] = found
                line = following
        return known if line.decode() == digest.hexdigest() else {}
    except (ManifestError, NotReadable, OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError):
        return {}


class ImagePlaces:
    """Where the image of each row of images.csv is in a folder of shards, of several places the first."""

    def __init__(self, paths: Iterable[str]) -> None:
        """paths: of all rows, in any order."""
        self._paths = sorted(paths)
        self._shards = [""] * len(self._paths)
        self._offsets = array("q", bytes(8 * len(self._paths)))

    def add(self, shard: Shard, records: Iterable[IndexedRecord]) -> None:
        """Add the places in a shard. records: of the shard's index."""
        for record in records:
            if not self._shards[record.row]:
                self._shards[record.row], self._offsets[record.row] = shard.name, record.image_offset

    def find(self, path: str) -> tuple[str, int]:
        """The shard that holds a row's image, or "" if none does, and the byte of its file at which it begins."""
        row = bisect_left(self._paths, path)
        return self._shards[row], self._offsets[row]


def write(path: Path, known: Iterable[KnownFile], manifest: Manifest, places: ImagePlaces) -> None:
    """Write PREPARED_NAME for a folder of shards to a path.

    Scans whose pixels are in no shard are left out.
    """
    digest = hashlib.sha256()
    with saving(path) as partial, partial.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as file:
        file.write(_head(manifest.config, manifest))
        for found in known:
            row = cache.to_row(found)
            if isinstance(found.result, CachedScan):
                shard, offset = places.find(found.path)
                if not shard:
                    continue
                row["result"] |= {"cache_file": shard, "offset": offset}
            line = json.dumps(row).encode() + b"\n"
            digest.update(line)
            file.write(line)
        file.write(digest.hexdigest().encode())


def _head(config: BuildConfig, manifest: Manifest) -> bytes:
    """The first line: what preparing a file depends on, and the dataset."""
    key = cache.preparation_key(config.recipe, config.encoding)
    return json.dumps({"key": key, "digest": manifest.digest}).encode() + b"\n"
