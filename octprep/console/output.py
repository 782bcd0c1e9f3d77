"""Writing to standard output and standard error: results, warnings and progress bars."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer

from octprep import terminal
from octprep.format.files import STDOUT, write_output_file
from octprep.terminal.commands import verbosity
from octprep.workers import Progress


def say(
    text: str, *, always: bool = False, json_file: Path | None = None, json: Callable[[], bytes] | None = None
) -> None:
    """Print a result on standard output, unless --quiet is given; with --json FILE write what `json` makes there too.

    With --json - only JSON goes to standard output, and the text to standard error. A pipe that its reader has closed,
    as with `| head`, is not an error. Raises OutputError if standard output or the file cannot be written.
    """
    to_stdout = json_file == STDOUT
    try:
        if always or not verbosity.quiet:
            typer.echo(text, err=to_stdout)
        if json is not None and to_stdout:
            typer.echo(json().decode(), nl=False)
    except BrokenPipeError:
        terminal.discard_stdout()
    except OSError as error:
        raise terminal.stdout_error(error) from None
    if json is not None and json_file is not None and not to_stdout:
        write_output_file("--json", json_file, json())


def warn(text: str) -> None:
    """Print a sentence on standard error."""
    terminal.warn(f"octprep: {text}")


@contextmanager
def progress_bars(unit: str) -> Iterator[Progress]:
    """Show a bar on standard error for each stage, with the rate and the time left.

    unit: what is counted, such as `img`. No bars are shown if standard error is not a terminal, or with --quiet; with
    --verbose, there is a line for each stage instead.
    """
    from tqdm import tqdm

    bars: dict[str, tqdm[NoReturn]] = {}
    started = time.monotonic()

    def advance(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            close()
            if verbosity.verbose and not sys.stderr.isatty():
                warn(f"{stage} ({total:,} {unit}), {time.monotonic() - started:.1f} s after the start")
            disable = True if verbosity.quiet else None  # None: unless standard error is a terminal
            bars[stage] = tqdm(total=total, desc=stage, unit=unit, disable=disable, smoothing=0.05)
        bars[stage].update(done)

    def close() -> None:
        for bar in bars.values():
            bar.close()

    try:
        yield advance
    finally:
        close()
