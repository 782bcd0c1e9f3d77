"""What was found in the files of a source, of which there may be millions, with little of each in memory.

In memory is the Scan, or the Exclusion, that splits, plans and tables refer to. The rest (measurements, descriptor,
places of the pixels and of the record), more than half of the whole, lies in a temporary file and is read again for
each access.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
import weakref
from array import array
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import IO

from octprep.format.sequences import MadeOnAccess
from octprep.shards.cache import CachedScan, KnownFile
from octprep.source.files import Exclusion, Scan

# Of a file: KnownFile.bytes and changed_ns, and for a scan: the number of its `cache_file`, its offset, length and crc,
# and the size of its `frame`; the frame and the details follow.
_HEAD = struct.Struct("<qqIQQII")
_NO_SCAN = (0, 0, 0, 0, 0)


class StoredFiles(MadeOnAccess[KnownFile]):
    """KnownFiles, each of which is made when it is asked for; several threads may do so."""

    def __init__(self, folder: Path) -> None:
        """folder: for the temporary file, which is made when it is needed, and vanishes with this object."""
        self.results: list[Scan | Exclusion] = []  # of each file
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._lock = Lock()
        self._size = 0  # bytes of the temporary file
        self._starts, self._lengths = array("Q"), array("I")  # of each file in the temporary one, bytes
        self._names: dict[str, int] = {}  # the number of each `cache_file`
        self._cache_files: list[str] = []  # by these numbers

    def __len__(self) -> int:
        return len(self.results)

    def make(self, index: int) -> KnownFile:
        """A file."""
        data = self._read(index)
        size, changed_ns = _HEAD.unpack_from(data)[:2]
        result = self.results[index]
        return KnownFile(result if isinstance(result, Exclusion) else self._scan(result, data), size, changed_ns)

    def scan(self, index: int) -> CachedScan:
        """What is stored of a file that holds a scan."""
        result = self.results[index]
        assert isinstance(result, Scan)
        return self._scan(result, self._read(index))

    def _scan(self, scan: Scan, data: bytes) -> CachedScan:
        """A scan by what `_read` gives of it."""
        _, _, name, offset, length, crc, frame_bytes = _HEAD.unpack_from(data)
        details = _HEAD.size + frame_bytes
        frame = data[_HEAD.size : details]
        return CachedScan(scan, data[details:], self._cache_files[name], offset, length, crc, frame)

    def append(self, known: KnownFile) -> None:
        """Add a file."""
        self._starts.append(0)
        self._lengths.append(0)
        self.results.append(known.result if isinstance(known.result, Exclusion) else known.result.scan)
        self.replace(len(self) - 1, known)

    def replace(self, index: int, known: KnownFile) -> None:
        """Store a file in place of another."""
        result = known.result
        if isinstance(result, Exclusion):
            self.results[index], place, rest = result, _NO_SCAN, b""
        else:
            number = self._names.setdefault(result.cache_file, len(self._names))
            if number == len(self._cache_files):
                self._cache_files.append(result.cache_file)
            place = number, result.offset, result.length, result.crc, len(result.frame)
            self.results[index], rest = result.scan, result.frame + result.details
        self._write(index, _HEAD.pack(known.bytes, known.changed_ns, *place) + rest)

    def keep(self, indices: Iterable[int]) -> None:
        """Keep these files, in this order, and no others."""
        order = list(indices)
        self.results = [self.results[index] for index in order]
        self._starts = array("Q", (self._starts[index] for index in order))
        self._lengths = array("I", (self._lengths[index] for index in order))

    def sort(self) -> None:
        """Sort the files by path."""
        self.keep(sorted(range(len(self)), key=lambda index: self.results[index].path))

    def _write(self, index: int, data: bytes) -> None:
        with self._lock:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - open as long as this object is there
                weakref.finalize(self, self._file.close)
            self._file.seek(self._size)
            self._file.write(data)
            self._starts[index], self._lengths[index] = self._size, len(data)
            self._size += len(data)

    def _read(self, index: int) -> bytes:
        assert self._file is not None, "it is made before the first of the files is appended"
        with self._lock:
            self._file.seek(self._starts[index])
            return self._file.read(self._lengths[index])


class StoredScans(MadeOnAccess[CachedScan]):
    """The scans among stored files, each of which is made when it is asked for."""

    def __init__(self, files: StoredFiles, paths: AbstractSet[str] | None = None) -> None:
        """paths: of the scans; None: all."""
        self._files = files
        self._indices = array("Q")
        for index, result in enumerate(files.results):
            if isinstance(result, Scan) and (paths is None or result.path in paths):
                self._indices.append(index)

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def scans(self) -> list[Scan]:
        """The scans alone, which are in memory."""
        results = (self._files.results[index] for index in self._indices)
        return [scan for scan in results if isinstance(scan, Scan)]

    @cached_property
    def sha256(self) -> str:
        """A digest of the paths, patients, stored pixels and descriptors of the scans, in their order; hex."""
        digest = hashlib.sha256()
        for item in self:
            digest.update(json.dumps([item.scan.path, item.scan.patient]).encode())
            digest.update(item.scan.pixel_digest + item.descriptor)
        return digest.hexdigest()

    def make(self, index: int) -> CachedScan:
        """A scan."""
        return self._files.scan(self._indices[index])
