"""report.html: one self-contained page that says whether a folder of shards is good, and shows why.

Everything on it comes from images.csv, duplicates.json, the manifest and pictures, so that the page that `octprep build`
leaves and the one that `octprep report DIR --src SRC` writes are the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from octprep.duplicates.file import DuplicatesFile
from octprep.format import images_csv
from octprep.format.errors import OutputError, SourceError
from octprep.format.files import atomic_write
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, REPORT_NAME, Manifest, read_part
from octprep.report.page import render
from octprep.report.pictures import SourceImages
from octprep.source.listing import directory_problem

_PICTURED = b'alt="Source of '  # in a page that shows the source; in a name the quotation mark would be escaped

__all__ = ["SourceImages", "WrittenReport", "render", "write"]


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written, and how well its source fitted."""

    path: Path
    bytes: int
    sources: int  # files of the source that it would show and whose SHA-256 is known
    strange: int  # those of them that are not in the source, or are not the ones built from
    lost: tuple[str, ...] = ()  # in words, which of images.csv and duplicates.json could not be read, and why


def write(folder: Path, src: Path | None = None, *, without_source: bool = False) -> WrittenReport:
    """Write the report of a finished folder anew.

    src: the folder that the shards were built from; without it, the page shows only what the shards hold, and a page
    that shows the source is replaced only if without_source says so. Raises ManifestError if the folder is not
    finished, SourceError if src is not its source, OutputError if the page cannot be written or is left alone.
    """
    manifest = Manifest.load(folder)
    if src is None and not without_source and _shows_source(folder / REPORT_NAME):
        raise OutputError(
            f"{folder / REPORT_NAME} has pictures of the source, which a page made without it would lose, so it was "
            "left alone. Give --src SRC, the folder that the shards were built from, to keep them, or "
            "--without-source to go without."
        )
    if src is not None and (fault := directory_problem(src)):
        raise SourceError(f"--src {src} {fault}; give the folder that {folder} was built from.")
    source = SourceImages(src)
    lost: list[str] = []
    table = _bytes(folder / IMAGES_NAME, images_csv.decode, lost)
    joins = _bytes(folder / DUPLICATES_NAME, DuplicatesFile.from_json, lost)
    page = render(folder, manifest, table, joins, source)
    if source.strange and not source.known:
        raise SourceError(
            f"--src {src} has none of the files that the report would show, or others of the same names; give the "
            f"folder that was --src when {folder} was built."
        )
    path = folder / REPORT_NAME
    try:
        atomic_write(path, page)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from None
    return WrittenReport(path, len(page), len(source.known | source.strange), len(source.strange), tuple(lost))


def _bytes(path: Path, read: Callable[[bytes], object], lost: list[str]) -> bytes | None:
    """A file's content, or None if it cannot be read; the page says so then. `lost` gets the reason."""
    try:
        data = read_part(path)
        read(data)
    except FileNotFoundError:
        lost.append(f"{path} is missing")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        lost.append(f"{path} cannot be read ({why})")
    else:
        return data
    return None


def _shows_source(page: Path) -> bool:
    """Whether there is a page with pictures of the source."""
    try:
        return _PICTURED in read_part(page)
    except (OSError, ValueError):
        return False
