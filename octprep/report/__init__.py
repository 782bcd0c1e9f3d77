"""report.html: one self-contained page that says whether a folder of shards is good, and shows why.

Everything on it comes from images.csv, the manifest and pictures, so that the page that `octprep build` leaves and the
one that `octprep report DIR --src SRC` writes are the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from octprep.report.page import render
from octprep.report.pictures import Source
from octprep.schema import IMAGES_NAME, REPORT_NAME, Manifest, OutputError, SourceError, write_whole

__all__ = ["Source", "render", "write"]


def write(folder: Path, src: Path | None = None) -> Path:
    """Write the report of a finished folder anew and return its path.

    src: the folder that the shards were built from; without it, the page shows only what the shards hold. Raises
    ManifestError if the folder is not finished, SourceError if src is not its source, OutputError if the page cannot be
    written.
    """
    manifest = Manifest.load(folder)
    if src is not None and not src.is_dir():
        what = "is a file" if src.exists() else "does not exist"
        raise SourceError(f"--src {src} {what}; give the folder that {folder} was built from.")
    try:
        table: bytes | None = (folder / IMAGES_NAME).read_bytes()
    except OSError:
        table = None  # the page says so
    source = Source(src)
    page = render(folder, manifest, table, source)
    if source.absent and not source.opened:
        raise SourceError(
            f"--src {src} has none of the files that the report would show; give the folder that was --src when "
            f"{folder} was built."
        )
    path = folder / REPORT_NAME
    try:
        write_whole(path, page)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from None
    return path
