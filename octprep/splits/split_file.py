"""A split given by a CSV file: to reproduce one that was published, or that of an earlier build."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octprep.format.config import SOURCE_SPLITS
from octprep.format.errors import SourceError
from octprep.source.files import ScanFile, SourceListing
from octprep.source.pseudonyms import Pseudonyms
from octprep.wording import listed, number

_MAX_EXAMPLES = 5  # names that an error lists


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
        """The same under pseudonyms. listing: of the source, without them; `check` must have passed."""
        new_paths = pseudonyms.new_paths(listing)
        new = new_paths.__getitem__ if self.key == "path" else pseudonyms.patient
        return SplitFile(self.key, {new(name): split for name, split in self.splits.items()})

    def check(self, files: Sequence[ScanFile]) -> None:
        """Raise SourceError if the file names a path or patient that the source does not have."""
        present = {scan.path if self.key == "path" else scan.patient for scan in files}
        absent = sorted(self.splits.keys() - present)
        if absent:
            hint = "paths are relative to --src" if self.key == "path" else "patients are bare ids"
            raise SourceError(
                f"{len(absent):,} of {number(len(self.splits), self.key)} in the file of --split-file are not in the "
                f"source: {listed(absent, _MAX_EXAMPLES)}. Give the source that the file was made for; {hint}, such "
                f"as {min(present, default='none')}."
            )


def load(file: Path) -> SplitFile:
    """Read a CSV file with a header, a column `split` and a column `path` (relative to --src) or else `patient`.

    Other columns and rows with an empty split are ignored, so images.csv of an earlier build can be given. Raises
    SourceError if the file cannot be read, lacks a column, names another split than train, val and test, or gives one
    path or patient two splits.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")  # as spreadsheets write it
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except OSError as error:
        raise SourceError(f"--split-file {file} cannot be read: {error.strerror or error}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"--split-file {file} is not a CSV file in UTF-8: {error}.") from None
    columns = list(rows[0]) if rows else []
    key = next((name for name in ("path", "patient") if name in columns), None)
    if key is None or "split" not in columns:
        raise SourceError(
            f"--split-file {file} must have a header with the columns split and path (or patient), and rows below it; "
            f"got {', '.join(map(str, columns)) or 'no rows'}."
        )
    splits: dict[str, str] = {}
    for row_number, row in enumerate(rows, 2):
        name, split = row[key] or "", (row["split"] or "").strip()
        if not split:
            continue
        if split not in SOURCE_SPLITS:
            raise SourceError(
                f"--split-file {file}, row {row_number}: split must be one of {', '.join(SOURCE_SPLITS)}, or empty to "
                f"exclude the {key}; got {split!r}."
            )
        if not name:
            raise SourceError(f"--split-file {file}, row {row_number}: {key} is empty, but its split is {split}.")
        if splits.setdefault(name, split) != split:
            raise SourceError(
                f"--split-file {file}, row {row_number}: {key} {name} is in {split}, but also in {splits[name]}; "
                "give it one split."
            )
    if not splits:
        raise SourceError(f"--split-file {file} assigns no {key} to a split; give at least one row with a split.")
    return SplitFile(key, splits)
