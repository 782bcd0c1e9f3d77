"""images.csv, the table of every file found under the source. Only the standard library is imported.

A row is either an image in a split (`ImageRow`) or a file that was excluded, with the reason (`ExcludedRow`).
`encode` writes each value in one way only, and `decode` accepts no other.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

from octprep.format.errors import ManifestError
from octprep.format.flags import MEANINGS
from octprep.format.manifest import IMAGES_NAME, REPAIR, Manifest, read_folder_file
from octprep.format.measurements import ScanMeasurements
from octprep.format.paths import original
from octprep.wording import cut

COLUMNS = (
    "path", "class", "patient", "image_number", "source", "eye", "volume", "source_split",
    "bytes", "width", "height", "sha256",
    "fill_fraction", "crop_top", "crop_bottom", "crop_left", "crop_right", "crop_confidence", "note",
    "flags", "mean_intensity", "std_intensity", "sharpness",
    "patient_group", "split", "shard", "record_count", "exclusion_reason",
)  # fmt: skip

MAX_SIDE = 10**7  # the most pixels of a scan's side, and rows of a crop
UNDERSAMPLED = "undersampled"  # the exclusion reason of a scan that only balancing drops; a code, compared as such
_MAX_COUNT = 10**14  # the largest number of bytes, or number in a file name
_MAX_NOTE = 1000  # characters
_SHOWN = 40  # characters of a cell that a message shows

# The columns of numbers with a fraction: the largest value, and the decimal places they are rounded to.
DECIMALS = {
    "fill_fraction": (1.0, 6), "crop_confidence": (1.0, 4),
    "mean_intensity": (255.0, 2), "std_intensity": (255.0, 2), "sharpness": (1e6, 4),
}  # fmt: skip
# The columns of whole numbers: the smallest and the largest value.
_WHOLE = {
    "image_number": (0, _MAX_COUNT), "bytes": (1, _MAX_COUNT), "width": (1, MAX_SIDE), "height": (1, MAX_SIDE),
    "crop_top": (-MAX_SIDE, MAX_SIDE), "crop_bottom": (-MAX_SIDE, MAX_SIDE),
    "crop_left": (0, MAX_SIDE), "crop_right": (0, MAX_SIDE), "record_count": (1, _MAX_COUNT),
}  # fmt: skip
_SCAN_COLUMNS = COLUMNS[1 : COLUMNS.index("split")]  # empty for a file that could not be read as a scan
_NO_SCAN = ("",) * len(_SCAN_COLUMNS)
_MAY_BE_EMPTY = ("source", "eye", "volume", "source_split", "note", "flags")
_REQUIRED = tuple(column for column in _SCAN_COLUMNS if column not in _MAY_BE_EMPTY)  # of a scan
_REPEATED = tuple(
    COLUMNS.index(column)
    for column in (
        "class",
        "patient",
        "source",
        "eye",
        "volume",
        "source_split",
        "note",
        "flags",
        "patient_group",
        "split",
        "shard",
    )
)  # fmt: skip - the same in many rows
_OTHER_COLUMNS = f"its columns are not {', '.join(COLUMNS)}"
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,14}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanRow:
    """What a row holds of a file that was read, decoded and preprocessed."""

    path: str  # relative to the source, as `octprep.format.paths.path_to_text` writes it
    label: str  # the class, column `class`
    patient: str  # the id: from the file's name, a table or a pattern; the path of an image whose patient is not known
    image_number: int  # within the patient; 0 where the source does not state it
    source: str  # the name of the source where a build has several, else ""
    eye: str  # OD (right), OS (left) or "" where the source does not state it
    volume: str  # the examination that the B-scan is of, or "" where the source does not state it
    source_split: str  # train, val or test where the source has such folders, else ""
    bytes: int  # of the source file
    width: int  # of the source, pixels
    height: int  # of the source, pixels
    sha256: str  # of the source file, hex
    measurements: ScanMeasurements
    patient_group: str  # the smallest of the patient ids that are linked by duplicate pairs, else the patient's own


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRow(ScanRow):
    """An image that is in a split."""

    split: str
    shards: tuple[str, ...]  # names of the shards that hold it, sorted; column `shard`, separated by spaces
    record_count: int  # records that hold it, at least 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ExcludedRow:
    """A file that is in no split."""

    path: str  # as in ScanRow
    exclusion_reason: str
    scan: ScanRow | None = None  # what was read before the exclusion; None if the file is not a usable scan


Row = ImageRow | ExcludedRow
AnyScan = TypeVar("AnyScan", bound=ScanRow)


class RowProblem(NamedTuple):
    """Why a row is not one that a build writes."""

    path: str  # of the row; "" if that is what is wrong
    column: str
    message: str  # such as: column 'width' is not a whole number: 'x'


@dataclass(frozen=True)
class Table:
    """What images.csv holds, each row once: as an image, as an exclusion, or as one or more problems."""

    rows: tuple[ImageRow, ...]  # in the order of the file
    excluded: tuple[ExcludedRow, ...]
    problems: tuple[RowProblem, ...] = ()
    count: int = 0  # rows of the file

    @property
    def paths(self) -> list[str]:
        """Of every row that is sound."""
        return [row.path for rows in (self.rows, self.excluded) for row in rows]

    @property
    def repeated_paths(self) -> dict[str, int]:
        """The paths of several rows that are sound, and how many rows each has."""
        paths = sorted(self.paths)
        more = Counter(path for path, following in pairwise(paths) if path == following)
        return {path: 1 + count for path, count in more.items()}

    @property
    def scans(self) -> Iterator[ScanRow]:
        """Every row that describes a scan, kept or excluded."""
        yield from self.rows
        yield from (row.scan for row in self.excluded if row.scan)


def encode(rows: Iterable[Row]) -> bytes:
    """The bytes of images.csv: UTF-8, a header, and the rows sorted by path."""
    return encode_sorted(sorted(rows, key=lambda row: row.path))


def encode_sorted(rows: Iterable[Row]) -> bytes:
    """The bytes of images.csv of rows that are sorted by path; one after the other is asked for and forgotten."""
    data = io.BytesIO()
    text = io.TextIOWrapper(data, "utf-8", newline="")  # a StringIO needs four bytes for each character
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(_cells, rows))
    text.flush()
    return data.getvalue()


def decode(data: bytes, *, is_checked: bool = False) -> Table:
    """The typed rows of images.csv, and what is wrong with the others.

    is_checked: the bytes are what `encode` gave, so their cells are not examined. Raises ValueError if they are not a
    CSV table in UTF-8 with these columns.
    """
    images: list[ImageRow] = []
    excluded: list[ExcludedRow] = []
    problems: list[RowProblem] = []
    count = 0
    for line in _read(data):
        count += 1
        row = _row(line) if is_checked else _decode_row(line)
        if isinstance(row, ImageRow):
            images.append(row)
        elif isinstance(row, ExcludedRow):
            excluded.append(row)
        else:
            problems += row
    return Table(tuple(images), tuple(excluded), tuple(problems), count)


def read_checked(folder: Path, manifest: Manifest) -> Table:
    """The table of a finished folder.

    Raises ManifestError if it is missing, if its SHA-256 is not the manifest's, or if it is not what octprep writes.
    """
    path = folder / IMAGES_NAME
    try:
        data = read_folder_file(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(
            f"{original(path)} cannot be read ({reason}), but it says which patients are in which split. {REPAIR}"
        ) from None
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != manifest.images_sha256:
        raise ManifestError(
            f"{original(path)} has SHA-256 {sha256[:16]}... where the manifest says {manifest.images_sha256[:16]}..., "
            f"so it is not what was built. {REPAIR}"
        )
    try:
        table = decode(data)
        for problem in table.problems:
            raise ValueError(f"{problem.path}: {problem.message}")
    except ValueError as error:
        raise ManifestError(f"{original(path)} is not a table that octprep wrote ({error}). {REPAIR}") from None
    return table


def _cells(row: Row) -> tuple[object, ...]:
    """The cells of a row, in the order of COLUMNS."""
    if isinstance(row, ExcludedRow):
        scan = _scan_cells(row.scan) if row.scan else _NO_SCAN
        return (row.path, *scan, "", "", 0, row.exclusion_reason)
    return (row.path, *_scan_cells(row), row.split, " ".join(row.shards), row.record_count, "")


def _scan_cells(row: ScanRow) -> tuple[object, ...]:
    """The cells of _SCAN_COLUMNS."""
    measured = row.measurements
    return (
        row.label, row.patient, row.image_number, row.source, row.eye, row.volume, row.source_split,
        row.bytes, row.width, row.height, row.sha256,
        _rounded(measured.fill_fraction, "fill_fraction"),
        *measured.crop,
        _rounded(measured.crop_confidence, "crop_confidence"),
        measured.note, " ".join(measured.flags),
        _rounded(measured.mean_intensity, "mean_intensity"),
        _rounded(measured.std_intensity, "std_intensity"),
        _rounded(measured.sharpness, "sharpness"),
        row.patient_group,
    )  # fmt: skip


def _rounded(value: float, column: str) -> float:
    return round(float(value), DECIMALS[column][1])


def _read(data: bytes) -> Iterator[list[str]]:
    """The cells of each row below the header, in the order of COLUMNS. Raises ValueError as `decode` does."""
    if b"\0" in data:
        raise ValueError("it holds a null byte")
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline=""), strict=True)
    try:
        if tuple(next(reader, ())) != COLUMNS:
            raise ValueError(_OTHER_COLUMNS)
        for line in reader:
            if len(line) != len(COLUMNS):
                raise ValueError(_OTHER_COLUMNS)
            for index in _REPEATED:  # one text for all rows that have it
                line[index] = sys.intern(line[index])
            yield line
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _decode_row(line: list[str]) -> Row | list[RowProblem]:
    """The row, or what is wrong with it."""
    cells = dict(zip(COLUMNS, line, strict=True))
    path, in_shard, excluded = cells["path"], bool(cells["shard"]), bool(cells["exclusion_reason"])
    if not path:
        return [RowProblem("", "path", "column 'path' is empty")]
    if in_shard == excluded:
        message = "has a shard and an exclusion_reason" if in_shard else "has neither a shard nor an exclusion_reason"
        return [RowProblem(path, "shard", message)]
    problems = [
        RowProblem(path, column, f"column {column!r} {why}: {_shown(cells[column])}")
        for column, why in _problems(cells, excluded=excluded)
    ]
    return problems or _row(line)


def _row(line: list[str]) -> Row:
    """The row of cells that are as `encode` writes them."""
    path, *scan, split, shards, record_count, reason = line
    if reason:
        return ExcludedRow(path=path, exclusion_reason=reason, scan=_scan(ScanRow, path, scan) if scan[0] else None)
    return _scan(ImageRow, path, scan, split=split, shards=_names(shards), record_count=int(record_count))


# Values that many of millions of rows have are one object, and read once.
_number = lru_cache(maxsize=1 << 16)(int)
_decimal = lru_cache(maxsize=1 << 16)(float)


@lru_cache(maxsize=1 << 14)
def _names(cell: str) -> tuple[str, ...]:
    return tuple(cell.split(" "))


@lru_cache(maxsize=1 << 16)
def _crop(*sides: str) -> tuple[int, int, int, int]:
    top, bottom, left, right = map(int, sides)
    return top, bottom, left, right


def _scan(kind: Callable[..., AnyScan], path: str, cells: list[str], **more: object) -> AnyScan:
    """The row of the cells of _SCAN_COLUMNS."""
    (
        label, patient, image_number, source, eye, volume, source_split, size, width, height, sha256, fill_fraction,
        top, bottom, left, right, crop_confidence, note, flags, mean_intensity, std_intensity, sharpness, patient_group,
    ) = cells  # fmt: skip
    measurements = ScanMeasurements(
        fill_fraction=_decimal(fill_fraction),
        crop=_crop(top, bottom, left, right),
        crop_confidence=_decimal(crop_confidence),
        note=note,
        flags=_names(flags) if flags else (),
        mean_intensity=_decimal(mean_intensity),
        std_intensity=_decimal(std_intensity),
        sharpness=_decimal(sharpness),
    )
    return kind(
        path=path,
        label=label,
        patient=patient,
        image_number=_number(image_number),
        source=source,
        eye=eye,
        volume=volume,
        source_split=source_split,
        bytes=_number(size),
        width=_number(width),
        height=_number(height),
        sha256=sha256,
        measurements=measurements,
        patient_group=patient_group,
        **more,
    )


def _problems(cells: dict[str, str], *, excluded: bool) -> Iterator[tuple[str, str]]:
    """The columns whose cells no build writes, and what is wrong with each."""
    if excluded:
        if cells["split"]:
            yield "split", "must be empty for a file that is in no shard"
        if cells["record_count"] != "0":
            yield "record_count", "must be 0 for a file that is in no shard"
        if not any(cells[column] for column in _SCAN_COLUMNS):
            return
    else:
        if why := _whole_problem(cells["record_count"], *_WHOLE["record_count"]):
            yield "record_count", why
        if not cells["split"]:
            yield "split", "is empty for a file that is in a shard"
        names = cells["shard"].split(" ")
        if "" in names or names != sorted(set(names)):
            yield "shard", "is not a sorted list of names"
    numbers_are_good = True
    for column in _REQUIRED:
        if not cells[column]:
            numbers_are_good = False
            yield column, "is empty"
    for column, (smallest, largest) in _WHOLE.items():
        if cells[column] and column != "record_count" and (why := _whole_problem(cells[column], smallest, largest)):
            numbers_are_good = False
            yield column, why
    for column, (highest, places) in DECIMALS.items():
        if cells[column] and (why := _decimal_problem(cells[column], highest, places)):
            yield column, why
    if cells["sha256"] and not _SHA256.fullmatch(cells["sha256"]):
        yield "sha256", "is not a SHA-256 in hexadecimal digits"
    if len(cells["note"]) > _MAX_NOTE or not cells["note"].isprintable():
        yield "note", "is not one line of printable text"
    flags = cells["flags"].split(" ") if cells["flags"] else []
    if flags != sorted(set(flags)) or not set(flags) <= MEANINGS.keys():
        yield "flags", "is not a sorted list of flags"
    if numbers_are_good:
        top, bottom, left, right = (int(cells[f"crop_{side}"]) for side in ("top", "bottom", "left", "right"))
        if top >= bottom:
            yield "crop_bottom", f"is not below crop_top {top}"
        if not left < right <= int(cells["width"]):
            yield "crop_right", f"is not between crop_left {left} and width {cells['width']}"


@lru_cache(maxsize=1 << 14)  # many rows have the same
def _whole_problem(cell: str, smallest: int, largest: int) -> str:
    """What is wrong with a whole number, or ""."""
    if not _INTEGER.fullmatch(cell):
        return "is not a whole number"
    return "" if smallest <= int(cell) <= largest else f"is not a number from {smallest:,} to {largest:,}"


def _decimal_problem(cell: str, highest: float, places: int) -> str:
    """What is wrong with a number with a fraction, or ""."""
    try:
        value = float(cell)
    except ValueError:
        return "is not a number"
    if not 0 <= value <= highest:  # NaN is in no range
        return f"is not a number from 0 to {highest:,.0f}"
    return "" if cell == repr(round(value, places)) else f"is not a number with {places} decimal places at most"


def _shown(text: str) -> str:
    return repr(cut(text, _SHOWN))
