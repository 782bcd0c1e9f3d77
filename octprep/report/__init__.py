"""report.html: one self-contained page with the guarantees that hold for a folder of shards, and what is in it.

Everything on it comes from images.csv, duplicates.json, the manifest and pictures, so that the page that `octprep
build` leaves and the one that `octprep report DIR --src SRC` writes are the same bytes, also of a URL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from octprep.duplicates.duplicates_json import DuplicatesFile
from octprep.format import images_csv, record_index
from octprep.format.errors import ManifestError, OutputError, SourceError, StoppedError
from octprep.format.files import atomic_write
from octprep.format.manifest import (
    DUPLICATES_NAME,
    IMAGES_NAME,
    MANIFEST_NAME,
    REPORT_NAME,
    Manifest,
    read_folder_file,
)
from octprep.format.record_index import INDEX_NAME
from octprep.html.pictures import SourceImages
from octprep.report.page import render
from octprep.report.pictures import RecordPlaces
from octprep.shards.uploads import replace_files
from octprep.source.listing import directory_problem
from octprep.storage.cache import copied, read_manifest
from octprep.storage.remote import Location, RemoteFolder, Source, places

_SHOWS_SOURCE = b'alt="Source of '  # in a page with pictures of the source; in a name the quotation mark is escaped

__all__ = ["SourceImages", "WrittenReport", "render", "write_report"]


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written, and how well its source matched."""

    path: Location
    bytes: int
    sources: int  # files of the source that the page shows, where images.csv has their SHA-256
    mismatched: int  # those of them that are not in the source, or have another SHA-256
    missing: tuple[str, ...] = ()  # in words, which of images.csv and duplicates.json could not be read, and why


def write_report(
    folder: Location,
    src: Source | None = None,
    *,
    without_source: bool = False,
    names: Mapping[str, str] | None = None,
) -> WrittenReport:
    """Write the report of a finished folder again.

    folder: or its URL, of which the records to show are read by the index, and nothing is cached. src: the folder that
    the shards were built from; without it, the page shows only what the shards hold, and a page that shows the source
    is replaced only with without_source. names: path in images.csv -> path in the source, of shards built with
    pseudonyms. Raises ManifestError if the folder is not finished, and if a URL has no index that fits; SourceError if
    src is not its source, OutputError if the page cannot be written or is left alone; StorageError.
    """
    with copied(folder, _is_needed) as files:
        return _write_report(folder, files, src, without_source=without_source, names=names)


def _is_needed(name: str) -> bool:
    """Whether an object at a URL is read for its report, but for the shards."""
    own = (MANIFEST_NAME, IMAGES_NAME, DUPLICATES_NAME, REPORT_NAME)
    return name in own or (name.startswith(f"{INDEX_NAME}/") and name.endswith(".csv"))


def _write_report(
    folder: Location, files: Path, src: Source | None, *, without_source: bool, names: Mapping[str, str] | None
) -> WrittenReport:
    """As `write_report`. files: the folder, or a copy of what `_is_needed`."""
    manifest = Manifest.load(folder) if isinstance(folder, Path) else read_manifest(folder)[0]
    if src is None and not without_source and _shows_source(files / REPORT_NAME):
        raise OutputError(
            f"{folder / REPORT_NAME} has pictures of the source, which a page made without it would lose, so it was "
            "left alone. Give --src SRC, the folder that the shards were built from, to keep them, or "
            "--without-source to go without."
        )
    for place in places(src) if src is not None else ():
        if isinstance(place, Path) and (problem := directory_problem(place)):
            raise SourceError(f"--src {place} {problem}; give the folder that {folder} was built from.")
    if src is not None and manifest.pseudonym_key and names is None:
        raise SourceError(
            f"{folder} was built with pseudonyms, so it does not say which file of --src {src} is which. Give "
            "--without-source, or delete the report and run the `octprep build` that made it, which writes it again."
        )
    source = SourceImages(src, names)
    missing: list[str] = []
    table = _read(folder, files / IMAGES_NAME, images_csv.decode, missing)
    pairs = _read(folder, files / DUPLICATES_NAME, DuplicatesFile.from_json, missing)
    at = None if isinstance(folder, Path) else _places(folder, files, manifest, table)
    page = render(folder, manifest, table, pairs, source, at)
    if source.mismatched and not source.matched:
        raise SourceError(
            f"--src {src} has none of the files that the report would show, or others of the same names; give the "
            f"folder that was --src when {folder} was built."
        )
    if isinstance(folder, RemoteFolder):
        replace_files(folder, manifest, {REPORT_NAME: page})
    else:
        try:
            atomic_write(folder / REPORT_NAME, page)
        except OSError as error:
            raise OutputError(f"{folder / REPORT_NAME} cannot be written: {error.strerror or error}.") from None
    sources = len(source.matched | source.mismatched)
    return WrittenReport(folder / REPORT_NAME, len(page), sources, len(source.mismatched), tuple(missing))


def _places(place: RemoteFolder, files: Path, manifest: Manifest, table: bytes | None) -> RecordPlaces:
    """Where the records of images are by the index. Raises ManifestError if that is missing, or not of these shards."""
    paths = sorted(images_csv.decode(table).paths) if table is not None else []
    found: dict[str, tuple[str, int, int]] = {}
    try:
        for split, shards in manifest.splits.items() if paths else ():
            for record in record_index.read(files, manifest, split):
                if record.repeat == 0:
                    found[paths[record.row]] = shards[record.shard].name, record.record_offset, record.record_bytes
    except (ManifestError, IndexError):
        raise ManifestError(
            f"{place} has no {INDEX_NAME} that fits its shards, by which their pictures are read. Write it with "
            f"`octprep index {place}`, then run the same command again."
        ) from None
    return lambda path: found.get(path, ("", 0, 0))


def _read(folder: Location, path: Path, decode: Callable[[bytes], object], missing: list[str]) -> bytes | None:
    """A file's content, or None if it cannot be read or decoded; `missing` gets the reason."""
    try:
        data = read_folder_file(path)
        decode(data)
    except FileNotFoundError:
        missing.append(f"{folder / path.name} is missing")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        missing.append(f"{folder / path.name} cannot be read ({reason})")
    else:
        return data
    return None


def _shows_source(page: Path) -> bool:
    """Whether there is a page with pictures of the source."""
    try:
        return _SHOWS_SOURCE in read_folder_file(page)
    except (OSError, ValueError, StoppedError):
        return False
