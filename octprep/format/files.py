"""Files that are complete or absent after a crash, and reads that never wait. Only the standard library is imported."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from octprep.format.errors import OutputError, StoppedError
from octprep.format.paths import path_to_text, require_path

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STDOUT = Path("-")  # the file that an option names to have standard output written instead
_PART = re.compile(r"\.part-(\d+)-.*", re.DOTALL)
# Flags with which a file is opened for reading: a pipe is not waited for.
_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_OF_THE_PATH = (errno.ELOOP, errno.ENAMETOOLONG)  # errors that come again
_PAUSES = (0.1, 0.4, 1.5)  # seconds between the attempts of `retry`

Result = TypeVar("Result")


class NotReadable(Exception):
    """A path that is not a regular file, or a file that is too large to be read; the message says which."""


@contextmanager
def saving(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """The path to write a file to, next to its own and with its suffix; after the block it is renamed.

    After a crash the file holds either its old content or all of the new one. With durable that is so after a power
    failure as well: the file and its folder are synchronised to the disk. If the block fails nothing is left behind.
    Several processes or threads, on one machine or more, may save the same file at once: one after the other replaces
    it as a whole.
    """
    partial = path.with_name(f".part-{os.getpid()}-{uuid.uuid4().hex[:12]}-{path.name[-80:]}")
    try:
        yield partial
        if durable:
            sync(partial)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def atomic_write(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file that is complete or absent after a crash; durable: after a power failure too (see `saving`)."""
    with saving(path, durable=durable) as partial:
        partial.write_bytes(data)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a power failure.

    Does nothing for a folder where the system cannot do that (Windows, some network disks).
    """
    is_folder = path.is_dir()
    if is_folder and sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder or sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
    finally:
        os.close(descriptor)


def remove_partial_files(folder: Path) -> None:
    """Remove the partly written files of killed processes; call it only while holding the folder's lock."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _PART.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()


def open_regular(path: Path | str, *, follow_links: bool = True) -> io.BufferedReader:
    """Open a regular file for reading, without waiting for a pipe or a device.

    Raises NotReadable for anything that is not a regular file, and OSError as the system does: ELOOP if the path is a
    link and follow_links is False.
    """
    return os.fdopen(_descriptor(path, follow_links=follow_links), "rb")


def _descriptor(path: Path | str, *, follow_links: bool) -> int:
    """A descriptor of a regular file, open for reading. Raises as `open_regular` does."""
    try:
        descriptor = os.open(path, _READING if follow_links else _READING | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a pipe
            raise NotReadable("is not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotReadable("is not a regular file")
    return descriptor


def read_ahead(path: Path | str) -> None:
    """Ask the system to read a regular file into its cache, and do not wait for it.

    Nothing happens where the system takes no such hint, or the file cannot be opened: whoever reads it will say so.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # also for what is no regular file, as a pipe
            descriptor = os.open(path, _READING)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)


def read_bytes(path: Path | str, limit: int, *, follow_links: bool = True) -> tuple[bytes, os.stat_result]:
    """A regular file's content, and its status after reading; at most `limit` bytes are read.

    Raises NotReadable and OSError as `open_regular` does, and NotReadable for a larger file.
    """
    with open_regular(path, follow_links=follow_links) as file:
        status = os.fstat(file.fileno())
        if status.st_size > limit:
            raise NotReadable(f"has {status.st_size:,} bytes, more than the {limit:,} that are read at most")
        data = file.read(status.st_size + 1)  # not `limit`: memory for so much would be allocated
        if len(data) > status.st_size:  # the file has grown
            data += file.read(limit + 1 - len(data))
        status = os.fstat(file.fileno())
    if len(data) > limit:
        raise NotReadable(f"has more than the {limit:,} bytes that are read at most")
    return data, status


def retry(work: Callable[[], Result]) -> Result:
    """What work() returns; after OSError and MemoryError it is called again, 4 times in all within about 2 s.

    Raises the last error; at once for a missing file, a folder in place of a file, a link that is not followed, and a
    name that is too long.
    """
    for pause in _PAUSES:
        try:
            return work()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise
        except (OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno in _OF_THE_PATH:
                raise
        time.sleep(pause)
    return work()


def read_again(path: Path, work: Callable[[], Result]) -> Result:
    """What work() returns, which opens or reads the file at a path; it is called again as `retry` does.

    Raises what `retry` raises at once, and StoppedError for what lasts: that the machine cannot read a file says
    nothing about what it holds.
    """
    try:
        return retry(work)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError as error:
        if error.errno in _OF_THE_PATH:
            raise
        raise cannot_be_read(path, error) from error


def cannot_be_read(path: Path, error: OSError) -> StoppedError:
    """That the machine could not read a file of a folder of shards, and what to do."""
    problem = f"{path_to_text(str(path))} cannot be read ({error.strerror or error})"
    if isinstance(error, PermissionError):
        return StoppedError(
            f"{problem}: this user may not read it, which says nothing about the shards; allow that, then run the same "
            "command again."
        )
    return StoppedError(
        f"{problem}: that says nothing about the shards; check the disk, then run the same command again."
    )


class _PersistentFile(io.FileIO):
    """A file whose `readinto` is called again, at the same place, if the machine fails for a moment."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor)
        self.path = path

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """As that of any file. Raises as `read_again` does."""
        try:
            return io.FileIO.readinto(self, buffer)  # `super()` takes longer
        except OSError:
            return read_again(self.path, partial(super().readinto, buffer))


def open_persistent(path: Path) -> io.BufferedReader:
    """Open a regular file that is no link, as `open_regular` does; opening and reading are tried as by `read_again`.

    Read it with a number of bytes, or into a buffer: reading to the end is tried once.
    """
    descriptor = read_again(path, lambda: _descriptor(path, follow_links=False))
    buffered = getattr(os.fstat(descriptor), "st_blksize", 0)  # bytes, as for `open`
    return io.BufferedReader(_PersistentFile(descriptor, path), buffered or io.DEFAULT_BUFFER_SIZE)


@contextmanager
def open_output(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file that a user named for writing; it is complete or absent after a crash (see `saving`).

    The file that a link leads to is written, not the link; a device or a pipe gets the bytes and stays what it is.
    """
    require_path(path)
    if path.exists() and not path.is_file():
        with path.open("wb") as device:
            yield device
        return
    with saving(path.resolve(), durable=durable) as partial, partial.open("wb") as file:
        yield file


def check_output_file(src: Path | None, option: str, path: Path) -> None:
    """Raise OutputError if a file cannot be written, or must not be because it would lie in the source.

    src: the source folder, if it is one. option: the command-line option that names the file, for the message.
    """
    shown = f"{option} {path_to_text(str(path))}"
    try:
        if src is not None and path.resolve().is_relative_to(src.resolve()):
            raise OutputError(
                f"{shown} lies inside --src {path_to_text(str(src))}, which is only read; name a file outside it."
            )
        if path.is_dir():
            raise OutputError(f"{shown} is a folder; name a file.")
        if not path.absolute().parent.is_dir():
            raise OutputError(
                f"{shown} cannot be written: there is no folder {path_to_text(str(path.parent))}; make it first."
            )
    except OSError as error:
        raise OutputError(f"{shown} cannot be written: {error.strerror or error}; name another file.") from None
    except RuntimeError:
        raise OutputError(f"{shown} cannot be written: it is a link that leads to itself; name another file.") from None


def write_output_file(option: str, path: Path, data: bytes) -> None:
    """Write a file as `open_output` does. Raises OutputError, naming the option, if that fails."""
    try:
        with open_output(path) as file:
            file.write(data)
    except OSError as error:
        raise OutputError(f"{option} {path_to_text(str(path))} cannot be written: {error.strerror or error}.") from None
