"""Reading and decoding one B-scan.

What could not be read says nothing about the image, so it stops the work and names the file. Only a file that was read
whole, as it was listed, and cannot be decoded is an exclusion.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import stat
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Self, TypeVar

from octprep import preprocessing
from octprep.arrays import Gray
from octprep.crashes import Divisible, time_limit
from octprep.format.config import Colour
from octprep.format.errors import OctError, StoppedError, UnreadableImage
from octprep.format.files import NotReadable, read_bytes, retry
from octprep.format.flags import Flags
from octprep.format.paths import path_to_text, text_to_path
from octprep.preprocessing import volumes
from octprep.preprocessing.limits import MAX_VOLUME_BYTES
from octprep.preprocessing.volumes import Volume
from octprep.source.files import Exclusion, Scan, ScanFile
from octprep.storage.remote import Location, RemoteFolder, RemoteObject, Source, locate, read_file

Result = TypeVar("Result")


def read_scan(src: Source, scan_file: ScanFile, colour: Colour = "refuse") -> tuple[Scan, Gray, Flags] | Exclusion:
    """Read and decode one B-scan: its Scan, its gray values, (rows, columns) uint8 in 0..255, and its flags.

    colour: as for `octprep.preprocessing.decode_with_flags`. An Exclusion is for a file that was read whole and cannot
    be decoded, or has over preprocessing.MAX_BYTES. Raises StoppedError if the file is gone or is not the one that was
    listed; OSError or MemoryError, which `with_retries` retries, if the machine could not read it.
    """
    limit = MAX_VOLUME_BYTES if scan_file.frame else preprocessing.MAX_BYTES
    if scan_file.bytes > limit:
        return Exclusion(scan_file.path, f"too large: {scan_file.bytes:,} bytes, more than {limit // 10**6} MB")
    try:
        if scan_file.frame:
            volume = _volume_of(src, scan_file)
            with time_limit():
                gray, flags = volumes.decode_frame(volume, scan_file.frame, colour)
            sha256 = volumes.frame_sha256(volume, scan_file.frame)
        else:
            data = _read(*locate(src, scan_file.path), scan_file.bytes, scan_file.modified_ns, scan_file.linked)
            with time_limit():
                gray, flags = preprocessing.decode_with_flags(data, colour)
            sha256 = hashlib.sha256(data).hexdigest()
    except UnreadableImage as error:
        return Exclusion(scan_file.path, str(error))
    height, width = gray.shape
    return Scan.of(scan_file, sha256=sha256, height=height, width=width), gray, flags


def _volume_of(src: Source, frame: ScanFile) -> Volume:
    """The file that holds a frame. Raises UnreadableImage, and as `read_scan` does."""
    return _volume(*locate(src, frame.file), frame.bytes, frame.modified_ns, frame.linked)


@lru_cache(maxsize=1)  # the next frame is mostly of the same file
def _volume(folder: Location, path: str, size: int, modified_ns: int, linked: bool) -> Volume:
    data = _read(folder, path, size, modified_ns, linked)
    with time_limit():
        return volumes.load_volume(data)


def _read(folder: Location, path: str, size: int, modified_ns: int, linked: bool) -> bytes:
    """The bytes of a file as it was listed. path: relative to the folder, as text. Raises as `read_scan` does."""
    if isinstance(folder, RemoteFolder):
        return _read_object(folder, path, RemoteObject(size, modified_ns))
    return _read_local(folder, path, size, modified_ns, linked)


def _read_object(src: RemoteFolder, inner: str, listed: RemoteObject) -> bytes:
    """The bytes of an object as it was listed. Raises StoppedError as `read_scan` does, and StorageError."""
    name = text_to_path(inner)
    try:
        data = src.read_unchanged(name, listed)
    except FileNotFoundError:
        raise _not_as_listed(src / name, "is gone") from None
    if data is None:
        raise _not_as_listed(src / name, "has another size, content or time of change")
    return data


def _read_local(src: Path, inner: str, size: int, modified_ns: int, linked: bool) -> bytes:
    """The bytes of a file as it was listed. Raises as `read_scan` does."""
    name = text_to_path(inner)
    path = f"{src}{os.sep}{name}"  # text, as making a Path of it takes longer than to open it
    try:
        data, status = read_bytes(path, MAX_VOLUME_BYTES, follow_links=linked)
    except (FileNotFoundError, NotADirectoryError):
        raise _not_as_listed(path, "is gone") from None
    except NotReadable as error:
        raise _not_as_listed(path, str(error)) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_as_listed(path, "is a link") from None
        raise
    same_size = len(data) == status.st_size == size
    if not same_size or modified_ns not in (-1, status.st_mtime_ns):
        raise _not_as_listed(path, "has another size or time of change")
    if not linked and not _is_at_its_path(str(src), name, status):
        raise _not_as_listed(path, "is in another place, behind a link")
    return data


@dataclass(frozen=True)
class FileBatch(Divisible):
    """Some files of a source that a worker reads one after the other."""

    src: Source
    files: tuple[ScanFile, ...]
    crashes: Mapping[str, str] = field(default_factory=dict, kw_only=True)  # path -> reason: files not to be decoded

    @abstractmethod
    def read(self, scan_file: ScanFile) -> object:
        """What is kept of one file, or an Exclusion. Raises as `read_scan` does."""

    @property
    def part_count(self) -> int:
        """How many files there are."""
        return len(self.files)

    def try_part(self, index: int) -> None:
        """Read one file. Raises as `with_retries` does."""
        self.result(self.files[index], self.read)

    def without(self, reasons: Mapping[int, str]) -> Self:
        """The batch that excludes some files without reading them. reasons: index of a file -> why."""
        crashes = {self.files[index].path: reason for index, reason in reasons.items()}
        return dataclasses.replace(self, crashes={**self.crashes, **crashes})

    def result(self, scan_file: ScanFile, work: Callable[[ScanFile], Result]) -> Result | Exclusion:
        """The result of work(scan_file), or an Exclusion for a file of `crashes`. Raises as `with_retries` does."""
        if scan_file.path in self.crashes:
            return Exclusion(scan_file.path, self.crashes[scan_file.path])
        return with_retries(self.src, scan_file, lambda _, file: work(file))


@dataclass(frozen=True)
class FlaggedScan:
    """A B-scan that was decoded, and what is unusual about it."""

    scan: Scan
    flags: Flags


class DecodedBatch(FileBatch):
    """Files that are decoded, and their pixels dropped."""

    def read(self, scan_file: ScanFile) -> FlaggedScan | Exclusion:
        """One file's scan with its flags, or an Exclusion. Raises as `read_scan` does."""
        result = read_scan(self.src, scan_file)
        if isinstance(result, Exclusion):
            return result
        scan, gray, flags = result
        return FlaggedScan(scan, preprocessing.find_flags(gray, flags))


def read_scans(batch: DecodedBatch) -> list[FlaggedScan | Exclusion]:
    """Read and decode some B-scans of a source. Raises as `with_retries` does."""
    return [batch.result(scan_file, batch.read) for scan_file in batch.files]


def hash_files(task: tuple[Source, Sequence[ScanFile]]) -> tuple[list[str], list[str]]:
    """The paths and SHA-256, in hex, of some files of a source, (src, files).

    The SHA-256 is that of a Scan; "" for one that is no longer a regular file, or is larger than it was listed, or for
    a frame that is no longer one.
    """
    src, batch = task
    digests = []
    for file in batch:
        try:
            if file.frame:
                digests.append(volumes.frame_sha256(_volume_of(src, file), file.frame))
            else:
                digests.append(hashlib.sha256(read_file(src, file.path, file.bytes)).hexdigest())
        except (NotReadable, UnreadableImage):
            digests.append("")
    return [file.path for file in batch], digests


def with_retries(src: Source, scan_file: ScanFile, work: Callable[[Source, ScanFile], Result]) -> Result:
    """The result of work(src, scan_file), called again if the machine fails for a moment.

    Raises StoppedError, naming the file, for failures that last (OSError, MemoryError) and for any mistake in `work`;
    OctErrors are raised as they are.
    """

    def attempt() -> Result:
        with preprocessing.memory_errors():
            return work(src, scan_file)

    def shown() -> str:
        folder, path = locate(src, scan_file.path)
        return path_to_text(str(folder / text_to_path(path)))

    try:
        return retry(attempt)
    except OctError:
        raise
    except OSError as error:
        raise StoppedError(
            f"{shown()} cannot be read: {error.strerror or error}. That says nothing about the scan, so it was not "
            "excluded: check that the disk can be read, then run the same command again."
        ) from error
    except MemoryError:
        raise StoppedError(
            f"there is too little memory for {shown()}. That says nothing about the scan, so it was not excluded: run "
            "the same command again with fewer --workers, or with more memory."
        ) from None
    except Exception as error:
        raise StoppedError(
            f"{shown()} made octprep fail ({type(error).__name__}: {path_to_text(str(error))}). This is a mistake in "
            "octprep: please report it. What was prepared is kept; without that file the same command resumes."
        ) from error


def _is_at_its_path(src: str, inner: str, status: os.stat_result) -> bool:
    """Whether a file that was opened is the one at its path, with no link on the way from the source to it.

    inner: its path relative to the source, with forward slashes.
    """
    place = src
    try:
        for name in inner.split("/"):
            place = f"{place}{os.sep}{name}"
            current = os.lstat(place)
            if _is_link(current):
                return False
    except FileNotFoundError:
        return False
    return (current.st_dev, current.st_ino) == (status.st_dev, status.st_ino)


def _is_link(status: os.stat_result) -> bool:
    """Whether it is that of a link, or on Windows of a junction."""
    return stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) != 0


def _not_as_listed(path: Location | str, what: str) -> StoppedError:
    return StoppedError(
        f"{path_to_text(str(path))} {what}, so it is not the file that was listed when this run began. When the source "
        "is complete and nothing writes there, run the same command again; it resumes with what was prepared."
    )
