"""Folders and files that one process at a time writes to. Only the standard library is imported."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from octprep.format.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HAS_FLOCK = fcntl is not None
OWNER_NAME = ".writing.json"  # names the process that writes to a folder, where the file system has no locks


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a lock on an existing folder while the block runs, so that no other process writes to it.

    what: the program, such as `octprep build`, for the message. The lock is the system's (flock on the folder), which
    is released however its process ends. Where the file system has no locks, a file in the folder names the process and
    its machine instead; one of a process of this machine that no longer runs is ignored. Raises OutputError if another
    process holds the lock.
    """
    descriptor, owner = _lock(folder, what), None
    if descriptor is None:
        owner = folder / OWNER_NAME
        descriptor = _create_owner_file(owner, folder, what)
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
        owner = _read_owner(folder / OWNER_NAME)
        if owner is None or _may_run(owner):
            os.close(descriptor)
            raise _locked_error(folder / OWNER_NAME, owner, folder, what)
    return descriptor


def lock_file(descriptor: int) -> bool:
    """Lock an open file until it is closed; False if another process has locked it, True where locks do not exist."""
    if not HAS_FLOCK:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    return True


def hold_file(path: Path, *, shared: bool = False, wait: bool = False) -> int | None:
    """Lock a file, which is made if it is missing, until the descriptor that is returned is closed.

    shared: together with others that hold it shared. None if another process holds it, unless that is to be waited for.
    Where locks do not exist, nothing is locked. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    if not HAS_FLOCK:
        return descriptor
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(descriptor, mode)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            os.close(descriptor)
            return None
    return descriptor


def _create_owner_file(path: Path, folder: Path, what: str) -> int:
    """Write the owner file for this process and keep it open. Raises OutputError if it names one that may still run."""
    content = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())})
    for _ in range(3):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            owner = _read_owner(path)
            if owner is None or _may_run(owner):
                raise _locked_error(path, owner, folder, what) from None
            try:
                path.unlink(missing_ok=True)  # on Windows this fails as long as the other process has it open
            except PermissionError:
                raise _locked_error(path, owner, folder, what) from None
            continue
        os.write(descriptor, content.encode())
        return descriptor
    raise _locked_error(path, _read_owner(path), folder, what)


def _locked_error(path: Path, owner: dict[str, object] | None, folder: Path, what: str) -> OutputError:
    by = f"process {owner['pid']} on {owner['host']}" if owner else "an unnamed process"
    return OutputError(
        f"another {what} is writing to {folder}: {path} was written by {by}. Wait for it, or, if it no longer runs, "
        "delete that file and run the same command again."
    )


def _read_owner(path: Path) -> dict[str, object] | None:
    """The process that an owner file names, or None if it cannot be read."""
    try:
        owner = json.loads(path.read_bytes())
        return {"host": str(owner["host"]), "pid": int(owner["pid"]), "started": str(owner["started"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _may_run(owner: dict[str, object]) -> bool:
    """Whether the process of an owner file may still run: yes if it is of another machine, where that is not known."""
    if owner["host"] != socket.gethostname():
        return True
    if sys.platform == "win32":
        return False  # if it runs, removing its file fails
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
    """When a process was started, as process ids are reused; "" where that is not known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
