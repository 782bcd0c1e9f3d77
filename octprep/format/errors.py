"""The errors a user can meet. Only the standard library is imported."""

from __future__ import annotations

import errno
from typing import ClassVar


class OctError(Exception):
    """An error the user can fix. The message is one or two sentences: what came, what was expected, what to do."""

    exit_code: ClassVar[int] = 1


class SettingError(OctError, ValueError):
    """A setting has a value that is not allowed."""

    exit_code = 2


class SourceError(OctError):
    """The folder or files given as input cannot be used."""

    exit_code = 2


class OutputError(OctError):
    """The file or folder to write to cannot be used."""

    exit_code = 2


class LeakError(OctError):
    """A patient or an image content would be in more than one split."""


class ManifestError(OctError):
    """A folder of shards is missing, unfinished, edited, or disagrees with its manifest."""


class StoppedError(OctError):
    """The machine stopped the work (disk full, worker killed, interrupted); the same command resumes it."""


class UnreadableImage(OctError):
    """One image file cannot be used; the message is the reason, without the path."""


class Notice(UserWarning):
    """A warning for the user, one or two sentences; the work continues."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, also while a library was loaded.

    The system's loader says that only in words, and partly in the same ones for a file that may not be executed.
    """
    if isinstance(error, ImportError):
        text = str(error).lower()
        if "static tls" in text or "not permitted" in text or "permission denied" in text:
            return False
        return "failed to map segment" in text or "cannot allocate memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
