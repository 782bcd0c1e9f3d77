"""Errors of the operating system during a build, as errors of octprep that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from octprep.format.errors import OctError, OutputError, StoppedError


@contextmanager
def explain_system_errors(out: Path) -> Iterator[None]:
    """Raise system errors in the block as StoppedError or OutputError; other errors pass unchanged.

    out: the output folder of the build. System errors are OSError, MemoryError, and what OpenCV and the threading
    module raise when there is too little memory.
    """
    try:
        yield
    except OSError as error:
        raise _disk_error(error, out) from error
    except (MemoryError, RuntimeError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.STS_NO_MEM:
            raise
        if isinstance(error, RuntimeError) and "start new thread" not in str(error):
            raise
        raise StoppedError(
            "memory ran out. What is done is kept: close other programs, or use fewer --workers, and run the same "
            "command again to resume."
        ) from error


def _disk_error(error: OSError, out: Path) -> OctError:
    """The error that explains an OSError."""
    kept = "What is done is kept"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoppedError(
            f"the disk of --out {out} is full. {kept}: free some space (a build needs at most twice what its shards "
            "take) and run the same command again to resume."
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StoppedError(
            f"no more files can be opened ({error.strerror}). {kept}: allow more with `ulimit -n`, or use fewer "
            "--workers, and run the same command again to resume."
        )
    if error.errno in (errno.ENOMEM, errno.EAGAIN):
        return StoppedError(
            f"the system gives no more memory or processes ({error.strerror}). {kept}: close other programs, or use "
            "fewer --workers, and run the same command again to resume."
        )
    if error.errno == errno.EFBIG:
        return StoppedError(
            f"{error.filename or f'a file in --out {out}'} cannot be written ({error.strerror}). {kept}: allow larger "
            "files (`ulimit -f` shows the limit) and run the same command again to resume."
        )
    if error.errno == errno.EIO:
        return StoppedError(
            f"{error.filename or f'a file in --out {out}'} cannot be read or written ({error.strerror}). {kept}: check "
            "the disk and run the same command again to resume."
        )
    path = Path(error.filename).absolute() if isinstance(error.filename, str) else None
    target = out.absolute()
    if path is not None and not path.is_relative_to(target) and not target.is_relative_to(path):
        return StoppedError(
            f"{error.filename}: {error.strerror or error}. {kept}: fix that and run the same command again to resume."
        )
    name = f" ({error.filename})" if error.filename else ""
    return OutputError(f"--out {out} cannot be written: {error.strerror or error}{name}.")
