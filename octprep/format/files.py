"""Files that are there whole or not at all, that outlast a power failure, and folders that one process writes to.

Only the standard library is imported.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from octprep.format.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HAS_FLOCK = fcntl is not None
OWNER_NAME = ".writing.json"  # says who writes to a folder, where the file system has no locks
_PART = re.compile(r"\.part-(\d+)-.*", re.DOTALL)
_PAUSES = (0.1, 0.4, 1.5)  # seconds before something is tried again

Result = TypeVar("Result")


class NotReadable(Exception):
    """A path that is no regular file, or a file that is too large to be read; the message says which."""


@contextmanager
def saving(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """The path to write a file to, beside its own and with its ending; after the block it has its own name.

    After a crash the file holds either its old content or all of the new one. With durable that is so after a power
    failure as well: the file and its folder are synchronised to the disk. If the block fails nothing is left behind.
    """
    part = path.with_name(f".part-{os.getpid()}-{path.name[-80:]}")
    try:
        yield part
        if durable:
            sync(part)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def atomic_write(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that it is there whole or not at all; lasting: also after a power failure (see `saving`)."""
    with saving(path, durable=durable) as part:
        part.write_bytes(data)


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


def clear_parts(folder: Path) -> None:
    """Remove what a killed process left half written in a folder; call it only while holding the folder's lock."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _PART.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()


def read_bytes(path: Path, limit: int, *, follow_links: bool = True) -> tuple[bytes, os.stat_result]:
    """A regular file's content, and its status once it was read. A pipe, a device or a folder is never waited for.

    limit: the most bytes to read. Raises NotReadable for anything that is no regular file or is larger, OSError for
    what the system says; ELOOP if the path is a link and follow_links is False.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a pipe
            raise NotReadable("is not a regular file") from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise NotReadable("is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limit:
            raise NotReadable(f"has {status.st_size:,} bytes, more than the {limit:,} that are read at most")
        data = file.read(status.st_size + 1)  # not the limit, for which memory would be taken
        if len(data) > status.st_size:  # it grows
            data += file.read(limit + 1 - len(data))
        status = os.fstat(file.fileno())
    if len(data) > limit:
        raise NotReadable(f"has more than the {limit:,} bytes that are read at most")
    return data, status


def patiently(work: Callable[[], Result]) -> Result:
    """What work() returns; where the machine fails it for a moment (OSError, MemoryError), it is tried again.

    Four times in about 2 s; then, and at once where a file is not there, the error is raised.
    """
    for pause in _PAUSES:
        try:
            return work()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise
        except (OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno == errno.ELOOP:
                raise
        time.sleep(pause)
    return work()


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Keep every other process out of a folder that exists, as long as the block runs.

    what: who wants it, such as `octprep build`, for the message. The lock is the system's (flock on the folder), which
    ends with its process however that ends. Where the file system has none, a file in the folder names the process and
    its machine instead; on the same machine one that no longer runs is passed over. Raises OutputError if another
    process has the folder.
    """
    descriptor, owner = _lock(folder, what), None
    if descriptor is None:
        owner = folder / OWNER_NAME
        descriptor = _claim(owner, folder, what)
    try:
        yield
    finally:
        os.close(descriptor)
        if owner is not None:
            with suppress(OSError):
                owner.unlink()


def _lock(folder: Path, what: str) -> int | None:
    """The descriptor that holds the system's lock, or None if the file system has no locks."""
    if not HAS_FLOCK:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            raise OutputError(f"another {what} is writing to {folder}; wait for it, or give another folder.") from None
        return None
    if (folder / OWNER_NAME).exists():  # written from a machine on which this disk has no locks
        owner = _owner(folder / OWNER_NAME)
        if owner is None or _runs(owner):
            os.close(descriptor)
            raise _taken(folder / OWNER_NAME, owner, folder, what)
    return descriptor


def lock_file(descriptor: int) -> bool:
    """Keep an open file for this process until it is closed; False if another process has it, True where no file
    system locks are.
    """
    if not HAS_FLOCK:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    return True


def _claim(path: Path, folder: Path, what: str) -> int:
    """Name this process in a file, and hold that open. Raises OutputError if another is named that may still run."""
    mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())})
    for _ in range(3):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            owner = _owner(path)
            if owner is None or _runs(owner):
                raise _taken(path, owner, folder, what) from None
            try:
                path.unlink(missing_ok=True)  # on Windows this fails as long as the other process has it open
            except PermissionError:
                raise _taken(path, owner, folder, what) from None
            continue
        os.write(descriptor, mine.encode())
        return descriptor
    raise _taken(path, _owner(path), folder, what)


def _taken(path: Path, owner: dict[str, object] | None, folder: Path, what: str) -> OutputError:
    by = f"process {owner['pid']} on {owner['host']}" if owner else "a process that it does not name"
    return OutputError(
        f"another {what} is writing to {folder}: {path} was written by {by}. Wait for it, or, if it no longer runs, "
        "delete that file and run the same command again."
    )


def _owner(path: Path) -> dict[str, object] | None:
    """Who is named in an owner's file, or None if it cannot be read."""
    try:
        owner = json.loads(path.read_bytes())
        return {"host": str(owner["host"]), "pid": int(owner["pid"]), "started": str(owner["started"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _runs(owner: dict[str, object]) -> bool:
    """Whether a process may still run: of another machine nothing is known."""
    if owner["host"] != socket.gethostname():
        return True
    if sys.platform == "win32":
        return False  # removing its file will fail if it does
    pid = owner["pid"]
    assert isinstance(pid, int)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return owner["started"] in ("", _started(pid))


def _started(pid: int) -> str:
    """When a process was started, as another one may have got its number since; "" where nothing says so."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def path_to_text(path: str) -> str:
    """A path as text that UTF-8 and every table, terminal and page can hold, for any bytes a file system allows.

    Control characters and bytes that are not UTF-8 become backslash, x and two hexadecimal digits, and a backslash
    becomes two, so different paths never give equal text; `text_to_path` gives the path back. Other characters stay.
    """
    if path.isprintable() and "\\" not in path:
        return path
    return "".join(map(_escaped, path))


def text_to_path(text: str) -> str:
    """The path that `path_to_text` made text of. Raises ValueError if it made it of none."""
    if "\\" not in text:
        return text
    if re.sub(r"\\\\|\\x[0-9a-f]{2}", "", text).count("\\"):
        raise ValueError(f"a backslash in {text!r} is followed by neither another one nor x and two digits")
    raw = re.sub(
        rb"\\(\\|x[0-9a-f]{2})",
        lambda found: b"\\" if found[1] == b"\\" else bytes([int(found[1][1:], 16)]),
        text.encode(),
    )
    return raw.decode(errors="surrogateescape")


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable() or character == " ":
        return character
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF or code < 0xA0 or character in "\u2028\u2029":
        errors = "surrogateescape" if 0xDC80 <= code <= 0xDCFF else "surrogatepass"
        return "".join(f"\\x{byte:02x}" for byte in character.encode(errors=errors))
    return character
