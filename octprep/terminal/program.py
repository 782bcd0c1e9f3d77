"""The frame in which a program's command runs: an error that the user can fix is one sentence and an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from octprep.format.errors import Notice, OctError, is_out_of_memory
from octprep.terminal import interrupts
from octprep.terminal.streams import PIPE_CLOSED, discard_stdout, prepare_streams, printable

_show_warning = warnings.showwarning


def run_program(program: str, command: Callable[[], object], *, memory_advice: str, watch: bool = True) -> None:
    """Run a command line, such as a Typer app, and exit with a sentence and a code if it fails.

    The sentence begins with the program's name. memory_advice: what to do if memory runs out, as a clause. watch:
    handle Ctrl-C and SIGTERM, which only a program may that owns its process. Raises SystemExit with 128 + the signal's
    number, with PIPE_CLOSED if the reader of standard output has closed it, with the `exit_code` of an OctError, with 1
    for an OSError or if memory ran out, and as the command does; other exceptions are mistakes in the program and pass.
    """

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, Notice):
            warn(f"{program}: {message}")
        else:
            _show_warning(message, category, filename, lineno, file, line)

    prepare_streams()
    warnings.showwarning = show
    if watch:
        interrupts.watch(program)
        interrupts.command_runs()
    try:
        command()
    except BaseException as error:
        if interrupts.signal_caught():  # whatever a library has turned the interruption into
            interrupts.leave()
        if isinstance(error, BrokenPipeError):
            discard_stdout()
            sys.exit(PIPE_CLOSED)
        if is_out_of_memory(error):
            library = f" while a library was loaded ({error})" if isinstance(error, ImportError) else ""
            warn(f"{program}: memory ran out{library}; {memory_advice}.")
        elif isinstance(error, OctError | OSError):
            warn(f"{program}: {error}")
        else:
            raise
        sys.exit(getattr(error, "exit_code", 1))


def warn(text: str) -> None:
    """Print one line to standard error, if that can be written."""
    with suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)
