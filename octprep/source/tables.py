"""A table that says which class, patient and split each file of a source is of: CSV, TSV or an Excel sheet.

File names in such tables come without ending, with the folders of another machine, with backslashes or in another
case; each is matched with the file whose path ends as the name does.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from octprep.format.errors import SettingError, SourceError
from octprep.format.files import NotReadable, read_bytes
from octprep.format.names import without_hash
from octprep.format.paths import path_to_text
from octprep.source.files import Exclusion
from octprep.source.layouts import PathFacts, PatternLayout, facts_of
from octprep.source.tails import PathTails, normal_path
from octprep.wording import listed

MAX_BYTES = 256_000_000  # of a table
_WHOLE = re.compile(r"[0-9]+(\.0+)?")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how a file in UTF-16 begins
_SEPARATOR = re.compile(r"sep=(?P<delimiter>[,;\t])\r?\n", re.IGNORECASE)  # a first line for Excel alone
UNKNOWN = ("", "unknown", "nan", "none", "n/a", "na", "-")  # cells that say nothing, in any case

# What tables call these columns, in lower case with _ for what is neither a letter nor a digit.
NAMES: Mapping[str, tuple[str, ...]] = {
    "path": (
        "path", "file_name", "filename", "file", "image_path", "file_path", "filepath", "image", "image_name",
        "img", "image_id", "directory",
    ),
    "class": ("class", "disease", "diagnosis", "label", "category"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "pid"),
    "eye": ("eye", "laterality"),
    "volume": ("volume", "volume_id", "exam", "exam_id", "study", "study_id", "visit"),
    "number": ("number", "image_number", "b_scan", "bscan", "slice"),
    "axial_um": ("axial_um", "axial_spacing_um", "axial_resolution_um", "row_spacing_um"),
    "split": ("split", "source_split", "subset", "partition", "fold_name"),
}  # fmt: skip
# data_information.csv of NEH has the class of the patient and the label of the scan; patients count within a class.
_NEH = {"patient_id", "class", "eye", "b_scan", "label", "directory"}


@dataclass(frozen=True)
class ScanTable:
    """The rows of a table."""

    file: str  # its path, for messages
    columns: Mapping[str, str]  # what it says -> its column: path, class, patient, eye, volume, number, split
    rows: tuple[Mapping[str, str], ...]  # what it says -> the cell's text, unknown ones left out


@dataclass(frozen=True)
class TableLayout:
    """What a table says of each file of a source."""

    title: str
    facts: Mapping[str, PathFacts | str] = field(repr=False)  # by path: what its row says, or why it is not used
    missing: tuple[Exclusion, ...] = field(repr=False)  # rows without a file
    per_class: bool = False
    own: str = ""  # the path of the table itself, if it lies in the source

    def read(self, path: str) -> PathFacts | str:
        """See `octprep.source.layouts.Layout`."""
        return self.facts.get(path, "the table itself" if path == self.own else "not in the table")


def parse_columns(text: str) -> dict[str, str]:
    """The columns of --columns, such as `path=file_name,class=disease`: what a table says -> its column.

    Raises SettingError for anything else.
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        what, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or not column or what not in NAMES or what in columns:
            raise SettingError(
                f"--columns must be such as path=file_name,class=disease, of {', '.join(NAMES)}, each once; got "
                f"{text!r}"
            )
        columns[what] = column
    return columns


def load_table(file: Path, columns: Mapping[str, str], unknown: Iterable[str] = ()) -> ScanTable:
    """The rows of a table.

    columns: what it says -> its column, for those that are not found by their usual names. unknown: cells that say
    nothing, besides UNKNOWN. Raises SourceError if the file cannot be read as a table, or SettingError if a column is
    missing.
    """
    header, cells = _cells(file)
    if not header or not cells:
        raise SourceError(f"--table {file} has no rows; expected a header, and a row below it for each file.")
    found = _find_columns(file, header, columns)
    is_neh = {plain(name) for name in header} == _NEH and not columns
    if is_neh:
        found = {**found, "class": _column(header, "label")}
    nothing = {word.casefold() for word in (*UNKNOWN, *unknown)}
    index = {name: position for position, name in reversed(list(enumerate(header)))}
    if twice := [column for column in found.values() if header.count(column) > 1]:
        raise SettingError(f"--table {file} has {header.count(twice[0])} columns {twice[0]}; rename one of them.")
    rows = []
    for line in cells:
        texts = {what: line[index[column]].strip() for what, column in found.items() if index[column] < len(line)}
        row = {what: text for what, text in texts.items() if text.casefold() not in nothing}
        if is_neh and "patient" in row:
            row["patient"] = f"{line[index[_column(header, 'class')]].strip().upper()}-{row['patient']}"
        rows.append(row)
    _without_fractions(rows, "patient")
    return ScanTable(str(file), found, tuple(rows))


def _without_fractions(rows: Sequence[dict[str, str]], what: str) -> None:
    """Write whole numbers without a fraction where all cells are numbers: pandas adds it if one of them is empty."""
    if all(_WHOLE.fullmatch(row.get(what, "0")) for row in rows):
        for row in rows:
            if what in row:
                row[what] = row[what].partition(".")[0]


def match_rows(
    table: ScanTable, paths: Sequence[str], pattern: PatternLayout | None = None, own: str = ""
) -> TableLayout:
    """The files that the rows of a table are of. paths: of all files, relative to the source, as text.

    pattern: says what a row does not, from the file's path, which must match it. own: the path of the table, if it lies
    in the source. Raises SourceError if no row has a file.
    """
    tails = PathTails(paths)
    facts: dict[str, PathFacts | str] = {}
    missing: dict[str, str] = {}
    disagreeing: set[str] = set()  # files of which two rows say something else
    for number, row in enumerate(table.rows, 2):  # after the header
        if "path" not in row:
            missing[f"{Path(table.file).name}, row {number}"] = "names no file"
            continue
        given = normal_path(row["path"])
        best = tails.find(given)
        if not best:
            missing[path_to_text(given)] = "in the table, but there is no such file"
        elif len({_inner_name(path) or path for path in best}) > 1:  # not the copies that a tool made of one scan
            missing[path_to_text(given)] = f"in the table, but {len(best)} files are called so: {listed(best, 2)}"
        else:
            for path in best:
                says = _facts(row, path, pattern)
                first = facts.setdefault(path, says)
                if first != says and path not in disagreeing:
                    facts[path] = _disagreement(first, says)
                    disagreeing.add(path)
    if not facts:
        examples = listed([row["path"] for row in table.rows if "path" in row], 2) or "none"
        raise SourceError(
            f"--table {table.file} names no file of the source: column {table.columns['path']} has {examples}, and the "
            f"source {listed(sorted(paths), 2) or 'no file'}. Give the table of this source, or --columns path=COLUMN."
        )
    known = set(paths)
    return TableLayout(
        title=f"table {Path(table.file).name}: "
        + ", ".join(f"{what} from {column}" for what, column in table.columns.items())
        + (f"; the rest from {pattern.title}" if pattern else ""),
        facts=facts,
        missing=tuple(Exclusion(path, reason) for path, reason in missing.items() if path not in known),
        per_class=pattern is not None and pattern.per_class,
        own=own,
    )


def _facts(row: Mapping[str, str], path: str, pattern: PatternLayout | None) -> PathFacts | str:
    """What a row, and for what it lacks the path of its file, says of a scan; or why it is not one."""
    found = pattern.match(path) if pattern else ({}, _inner_name(path))
    if isinstance(found, str):
        return found
    groups, name = found
    return facts_of(groups | {what: text for what, text in row.items() if what != "path"}, name)


def _inner_name(path: str) -> str:
    """The base name that an annotation tool has put into that of a file, where that is sure; else ""."""
    return without_hash(PurePosixPath(path).name)


def _disagreement(first: PathFacts | str, second: PathFacts | str) -> str:
    """What two rows of one file say."""
    if isinstance(first, str) or isinstance(second, str):
        return "rows of the table disagree"
    values = ((name.replace("label", "class"), getattr(first, name), getattr(second, name)) for name in _FACTS)
    what, one, other = next(triple for triple in values if triple[1] != triple[2])
    return f"rows of the table disagree: {what} {one or 'unknown'} and {other or 'unknown'}"


_FACTS = tuple(one.name for one in dataclasses.fields(PathFacts))


def _find_columns(file: Path, header: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """What a table says -> its column. Raises SettingError as `load_table` does."""
    found = {}
    for what, names in NAMES.items():
        if what in columns:
            if columns[what] not in header:
                raise SettingError(
                    f"--columns {what}={columns[what]}: {file} has no such column; it has {listed(list(header), 20)}."
                )
            found[what] = columns[what]
        elif column := next((_column(header, name) for name in names if _column(header, name)), ""):
            found[what] = column
    for what in ("path", "class"):
        if what not in found:
            raise SettingError(
                f"--table {file} has no column that is known to hold the {what}; say which one by --columns "
                f"{what}=COLUMN. It has {listed(list(header), 20)}."
            )
    return {what: found[what] for what in NAMES if what in found}


def _column(header: Sequence[str], wanted: str) -> str:
    """The first column of this plain name, or ""."""
    return next((name for name in header if plain(name) == wanted), "")


def plain(name: str) -> str:
    """The name of a column in lower case, with _ for what is neither a letter nor a digit."""
    return re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")


def _cells(file: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the other lines of a table, as text. Raises SourceError if it is none."""
    try:
        data, _ = read_bytes(file, MAX_BYTES)
    except (OSError, NotReadable) as error:
        raise SourceError(f"--table {file} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if data[:4] == b"PK\x03\x04":
        lines = _sheet(file, data)
    else:
        try:
            lines = [line for line in parse_delimited(data) if line]
        except (UnicodeDecodeError, csv.Error) as error:
            raise SourceError(
                f"--table {file} is not a CSV file in UTF-8 ({error}); save it as 'CSV UTF-8', or as .xlsx."
            ) from None
    header = [name.strip() for name in lines[0]] if lines else []
    return header, [line for line in lines[1:] if any(cell.strip() for cell in line)]


def parse_delimited(data: bytes) -> list[list[str]]:
    """The cells of a CSV file, line by line, whose columns are separated by commas, semicolons or tabs.

    Raises UnicodeDecodeError if it is not UTF-8, with or without the mark that spreadsheets put before it, nor UTF-16
    with that mark, and csv.Error if it is no table.
    """
    text = data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
    if line := _SEPARATOR.match(text):
        text, delimiter = text[line.end() :], line["delimiter"]
    else:
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))


def _sheet(file: Path, data: bytes) -> list[list[str]]:
    """The cells of the first sheet of an Excel file."""
    try:
        import openpyxl
    except ImportError:
        raise SourceError(
            f"--table {file} is an Excel file, which needs openpyxl: pip install 'octprep[xlsx]', or save it as CSV."
        ) from None
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        rows = book.worksheets[0].iter_rows(values_only=True)
        return [[_text(cell) for cell in row] for row in rows]
    except Exception as error:  # openpyxl raises errors of many kinds for files that are none
        raise SourceError(f"--table {file} cannot be read as an Excel file: {error}.") from None


def _text(cell: object) -> str:
    """A cell of a sheet as a CSV file would have it: whole numbers without a fraction."""
    if cell is None:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
