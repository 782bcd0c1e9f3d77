"""A split given by a CSV file: to reproduce one that was published, or that of an earlier build."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octprep.format.config import SOURCE_SPLITS
from octprep.format.errors import SourceError
from octprep.format.names import split_of_folder
from octprep.source.files import ScanFile, SourceListing
from octprep.source.pseudonyms import Pseudonyms
from octprep.source.tables import NAMES, parse_delimited, plain
from octprep.source.tails import PathTails
from octprep.wording import listed, number

_MAX_EXAMPLES = 5  # names that an error lists
_WHOLE_NUMBER = re.compile(r"(\d+)\.0+")  # an id as a table of numbers with gaps writes it


@dataclass(frozen=True)
class SplitFile:
    """The split of every path or patient that a file names."""

    key: str  # path or patient: what the file names
    splits: Mapping[str, str]  # path or bare patient id -> train, val or test

    @property
    def sha256(self) -> str:
        """SHA-256, in hex, of the names and their splits, whatever the file's order of rows and other columns."""
        digest = hashlib.sha256(f"{self.key}\n".encode())
        for name, split in sorted(self.splits.items()):
            digest.update(f"{name}\0{split}\n".encode())
        return digest.hexdigest()

    def split_of(self, scan: ScanFile) -> str | None:
        """The split of a scan, or None if the file does not name it."""
        return self.splits.get(scan.path if self.key == "path" else scan.patient)

    def under(self, pseudonyms: Pseudonyms, listing: SourceListing) -> SplitFile:
        """The same under pseudonyms. listing: of the source, without them. The names are as `resolved` gives them."""
        new_paths = pseudonyms.new_paths(listing)
        new = new_paths.__getitem__ if self.key == "path" else pseudonyms.patient
        return SplitFile(self.key, {new(name): split for name, split in self.splits.items()})

    def resolved(self, files: Sequence[ScanFile]) -> SplitFile:
        """The same with every name as the source has it. files: of the source.

        A path may have backslashes, "./" or blanks at its start; be absolute, of any machine, and end with a path of
        the source; or be the end of a single path of the source, such as a file's name; in any case, and without its
        ending. A patient may be a whole number with a fraction of 0. Raises SourceError if a name is not in the source,
        may mean several of its paths, or means what another name with another split means.
        """
        present = {scan.path if self.key == "path" else scan.patient for scan in files}
        meant = {name: [name] for name in self.splits if name in present}
        others = self.splits.keys() - meant.keys()
        if others:
            find = PathTails(present).find_whole if self.key == "path" else _find_patient
            meant |= {name: [found for found in find(name) if found in present] for name in others}
        self._require_all(meant, present)
        splits: dict[str, str] = {}
        named: dict[str, str] = {}
        for name, split in self.splits.items():
            [found] = meant[name]
            if splits.setdefault(found, split) != split:
                raise SourceError(
                    f"{named[found]} and {name} in the file of --split-file are both {found}, but one is in "
                    f"{splits[found]}, the other in {split}; give it one split."
                )
            named.setdefault(found, name)
        return SplitFile(self.key, splits)

    def _require_all(self, meant: Mapping[str, Sequence[str]], present: set[str]) -> None:
        """Raise SourceError if a name has no meaning in the source, or several."""
        absent = sorted(name for name, found in meant.items() if not found)
        if absent:
            hint = "paths are relative to --src" if self.key == "path" else "patients are bare ids"
            raise SourceError(
                f"{len(absent):,} of {number(len(self.splits), self.key)} in the file of --split-file are not in the "
                f"source: {listed(absent, _MAX_EXAMPLES)}. Give the source that the file was made for; {hint}, such "
                f"as {min(present, default='none')}."
            )
        ambiguous = sorted(name for name, found in meant.items() if len(found) > 1)
        if ambiguous:
            first = ambiguous[0]
            raise SourceError(
                f"{len(ambiguous):,} of {number(len(self.splits), self.key)} in the file of --split-file may mean "
                f"several files of the source: {first} is the end of {listed(sorted(meant[first]), _MAX_EXAMPLES)}. "
                "Give paths relative to --src."
            )


def _find_patient(name: str) -> list[str]:
    """What a patient's id may mean: itself without blanks around it, and without a fraction of 0."""
    bare = name.strip()
    number_of = _WHOLE_NUMBER.fullmatch(bare)
    return [number_of[1]] if number_of else [bare]


def _columns(header: Sequence[str]) -> list[str]:
    """What each column holds: path, patient and split also by the other names that tables give them, else its name."""
    columns = [plain(name) for name in header]
    for what in ("patient", "path", "split"):
        if what == "path" and "patient" in columns:
            continue  # `image` beside it need not be a path
        if what not in columns and (other := next((name for name in NAMES[what] if name in columns), "")):
            columns[columns.index(other)] = what
    return columns


def load(file: Path) -> SplitFile:
    """Read a CSV file with a header, a column `split` and a column `path` or else `patient`.

    The columns may have the other usual names of these (`octprep.source.tables`), and commas, semicolons or tabs may
    separate them. Capitals in the header and in a split do not matter, nor do blanks around them, and `valid`,
    `validation`, `training` and `testing` are understood. Other columns and rows with an empty split are ignored, so
    images.csv of an earlier build can be given. `SplitFile.resolved` finds what the names mean in a source. Raises
    SourceError if the file cannot be read, lacks a column, names another split than train, val and test, or gives one
    path or patient two splits.
    """
    try:
        rows = parse_delimited(file.read_bytes())
    except OSError as error:
        raise SourceError(f"--split-file {file} cannot be read: {error.strerror or error}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"--split-file {file} is not a CSV file in UTF-8 ({error}); save it as 'CSV UTF-8'."
        ) from None
    columns = _columns(rows[0]) if rows[1:] else []
    key = next((name for name in ("path", "patient") if name in columns), None)
    if key is None or "split" not in columns:
        raise SourceError(
            f"--split-file {file} must have a header with the columns split and path (or patient), and rows below it; "
            f"got {', '.join(columns) or 'no rows'}."
        )
    splits: dict[str, str] = {}
    for row_number, row in enumerate(rows[1:], 2):
        cells = dict(zip(columns, row, strict=False))  # a row may end early
        name, given = cells.get(key, ""), cells.get("split", "").strip()
        if not given:
            continue
        split = split_of_folder(given)
        if not split:
            raise SourceError(
                f"--split-file {file}, row {row_number}: split must be one of {', '.join(SOURCE_SPLITS)}, or empty to "
                f"exclude the {key}; got {given!r}."
            )
        if not name.strip():
            raise SourceError(f"--split-file {file}, row {row_number}: {key} is empty, but its split is {split}.")
        if splits.setdefault(name, split) != split:
            raise SourceError(
                f"--split-file {file}, row {row_number}: {key} {name} is in {split}, but also in {splits[name]}; "
                "give it one split."
            )
    if not splits:
        raise SourceError(f"--split-file {file} assigns no {key} to a split; give at least one row with a split.")
    return SplitFile(key, splits)
