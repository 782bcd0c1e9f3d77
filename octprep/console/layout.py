"""The layout of printed text: aligned tables, lists under a title, and paths and names that are safe to print."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from octprep.format.paths import path_to_text
from octprep.html.text import visible
from octprep.storage.remote import Source
from octprep.wording import first_lines

_MAX_LINES = 12  # of a list


def table(rows: Sequence[Sequence[object]]) -> str:
    """Rows in aligned columns: the first to the left, the others to the right; numbers with thousands' commas."""
    text = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in text
    )


def section(title: str, lines: Sequence[str], total: int | None = None) -> str:
    """A title with a number, and a list below it. total: the number; None: how many lines there are."""
    heading = f"{title}: {len(lines) if total is None else total:,}"
    return f"{heading}\n{indented(lines)}" if lines else heading


def indented(lines: Iterable[str], limit: int = _MAX_LINES) -> str:
    """A list of at most `limit` lines, indented, and how many more there are."""
    return "\n".join(f"  {line}" for line in first_lines(list(lines), limit))


def shown_path(path: Source) -> str:
    """A path of this machine on one line, whatever bytes its name has."""
    return path_to_text(str(path))


def quoted(path: Source) -> str:
    """A path of this machine for a command to copy: on one line, quoted for the shell."""
    return shlex.quote(shown_path(path))


def command_line(words: Iterable[str]) -> str:
    """A command to copy, of its words: on one line, quoted for the shell."""
    return " ".join(shlex.quote(visible(word)) for word in words)


def printable(text: str) -> str:
    """Lines of text with the characters escaped that a terminal would obey or hide."""
    return "\n".join(map(visible, text.split("\n")))
