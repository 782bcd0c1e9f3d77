"""The files that a look at a source may write: never under the source, and refused before anything is read."""

from __future__ import annotations

from pathlib import Path

from octprep.format.errors import OutputError
from octprep.format.files import atomic_write, path_to_text


def check(src: Path, option: str, path: Path) -> None:
    """Raise OutputError if a file cannot be written, or must not be because it would lie in the source."""
    what = f"{option} {path_to_text(str(path))}"
    try:
        if path.resolve().is_relative_to(src.resolve()):
            raise OutputError(
                f"{what} lies inside --src {path_to_text(str(src))}, which is only read; name a file outside it."
            )
        if path.is_dir():
            raise OutputError(f"{what} is a folder; name a file.")
        if not path.absolute().parent.is_dir():
            raise OutputError(
                f"{what} cannot be written: there is no folder {path_to_text(str(path.parent))}; make it first."
            )
    except OSError as error:
        raise OutputError(f"{what} cannot be written: {error.strerror or error}; name another file.") from None
    except RuntimeError:
        raise OutputError(f"{what} cannot be written: it is a link that leads to itself; name another file.") from None


def write(option: str, path: Path, data: bytes) -> None:
    """Write a file whole. Raises OutputError if it cannot be written."""
    try:
        atomic_write(path, data)
    except OSError as error:
        raise OutputError(f"{option} {path_to_text(str(path))} cannot be written: {error.strerror or error}.") from None
