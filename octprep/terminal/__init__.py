"""What both programs print: into any terminal, file or pipe, whatever its encoding, closed ones too.

Only the standard library is imported.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PIPE_CLOSED = 141  # exit code of a program whose reader has gone, as a shell gives it: 128 + SIGPIPE


def prepare() -> None:
    """Make standard output and error take any text: what their encoding lacks is written as a backslash escape.

    One that was closed before the program started leads nowhere from here on; its number would otherwise be given to
    the next file that is opened.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (until the program ends)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """End the program without a word, with exit code PIPE_CLOSED, when what reads its output has gone (`| head`)."""
    try:
        yield
    except BrokenPipeError:
        drop_output()
        raise SystemExit(PIPE_CLOSED) from None


def drop_output() -> None:
    """Let standard output lead nowhere, so that the interpreter does not complain of it when it ends."""
    with suppress(OSError, ValueError):  # ValueError: a stream without a number, as in tests
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def printable(text: str) -> str:
    """A message on one line without control characters, which a file's name may hold: they are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
