"""report.html: one self-contained page that says whether a folder of shards is good, and shows why.

Everything on it comes from images.csv, joins.json, the manifest and pictures, so that the page that `octprep build`
leaves and the one that `octprep report DIR --src SRC` writes are the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from octprep.report.page import render
from octprep.report.pictures import Source
from octprep.scan import folder_fault
from octprep.schema import IMAGES_NAME, JOINS_NAME, REPORT_NAME, Manifest, OutputError, SourceError, write_whole

__all__ = ["Source", "Written", "render", "write"]


@dataclass(frozen=True)
class Written:
    """A report that was written, and how well its source fitted."""

    path: Path
    bytes: int
    sources: int  # files of the source that it would show and whose SHA-256 is known
    strange: int  # those of them that are not in the source, or are not the ones built from


def write(folder: Path, src: Path | None = None) -> Written:
    """Write the report of a finished folder anew.

    src: the folder that the shards were built from; without it, the page shows only what the shards hold. Raises
    ManifestError if the folder is not finished, SourceError if src is not its source, OutputError if the page cannot be
    written.
    """
    manifest = Manifest.load(folder)
    if src is not None and (fault := folder_fault(src)):
        raise SourceError(f"--src {src} {fault}; give the folder that {folder} was built from.")
    source = Source(src)
    page = render(folder, manifest, _bytes(folder / IMAGES_NAME), _bytes(folder / JOINS_NAME), source)
    if source.strange and not source.known:
        raise SourceError(
            f"--src {src} has none of the files that the report would show, or others of the same names; give the "
            f"folder that was --src when {folder} was built."
        )
    path = folder / REPORT_NAME
    try:
        write_whole(path, page)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from None
    return Written(path, len(page), len(source.known | source.strange), len(source.strange))


def _bytes(path: Path) -> bytes | None:
    """A file's content, or None if it cannot be read; the page says so then."""
    try:
        return path.read_bytes()
    except OSError:
        return None
