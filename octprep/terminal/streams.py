"""Output to any terminal, file or pipe, whatever its encoding, and although it may be closed.

Besides the standard library only errors and paths of `octprep.format` are imported, which takes no time.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path

from octprep.format.errors import OutputError
from octprep.format.paths import escape

PIPE_CLOSED = 141  # exit code of a program whose reader has closed the pipe, as shells give it: 128 + SIGPIPE


class ReaderClosed(BrokenPipeError):
    """What reads standard output has closed it, as `| head` does.

    It has no `errno`, because Typer would end the program with exit code 1 for a BrokenPipeError that has one.
    """


def prepare_streams() -> None:
    """Make standard output and error accept any text: what their encoding lacks is written as a backslash escape.

    A stream that was closed before the program started is replaced by the null device. Otherwise its descriptor would
    be given to the next file that is opened, and that file would receive the program's messages.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (open until the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_stdout() -> None:
    """Redirect standard output to the null device, so that the interpreter reports no error when it flushes at exit."""
    with suppress(OSError, ValueError):  # ValueError: a stream without a descriptor, as in tests
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def say(text: str) -> None:
    """Print lines to standard output at once, also into a file or a pipe.

    Control characters other than line ends are shown as escapes. Raises ReaderClosed if nothing reads the lines, and
    OutputError if the disk does not take them.
    """
    try:
        print("\n".join(map(printable, text.split("\n"))), flush=True)
    except BrokenPipeError:
        raise ReaderClosed("standard output was closed by its reader") from None
    except OSError as error:
        raise stdout_error(error) from None


def stdout_error(error: OSError) -> OutputError:
    """The error of standard output that cannot be written, which is discarded from here on."""
    discard_stdout()
    return OutputError(f"standard output cannot be written: {error.strerror or error}.")


def printable(text: str) -> str:
    """The text on one line: control characters and other bytes that a file's name may hold are escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else escape(c) for c in text)
