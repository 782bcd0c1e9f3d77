"""Who is in which split, by a CSV file: for those who must reproduce a split that somebody else published."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octprep.format.config import SOURCE_SPLITS
from octprep.format.errors import SourceError
from octprep.source.files import ScanFile

_MOST = 5  # names that an error gives as examples


@dataclass(frozen=True)
class SplitFile:
    """The split of every path or patient that a file names."""

    by: str  # path or patient
    splits: Mapping[str, str]  # path or bare patient id -> train, val or test

    @property
    def sha256(self) -> str:
        """SHA-256, in hex, of who is where: the same whatever the order of the file's rows and its other columns."""
        digest = hashlib.sha256(f"{self.by}\n".encode())
        for name, split in sorted(self.splits.items()):
            digest.update(f"{name}\0{split}\n".encode())
        return digest.hexdigest()

    def split_of(self, scan: ScanFile) -> str | None:
        """Where a scan belongs, or None if it is not named."""
        return self.splits.get(scan.path if self.by == "path" else scan.patient)

    def check(self, named: Sequence[ScanFile]) -> None:
        """Raise SourceError if the file names what is no scan of the source."""
        present = {scan.path if self.by == "path" else scan.patient for scan in named}
        absent = sorted(self.splits.keys() - present)
        if absent:
            examples = ", ".join(absent[:_MOST]) + (f" and {len(absent) - _MOST:,} more" if len(absent) > _MOST else "")
            hint = "paths are relative to --src" if self.by == "path" else "patients are bare ids"
            raise SourceError(
                f"{len(absent):,} of {len(self.splits):,} {self.by}{'s' * (len(self.splits) != 1)} in the file of "
                f"--split-file are not in the source: {examples}. Give the source that the file was made for; {hint}, "
                f"such as {min(present, default='none')}."
            )


def load(file: Path) -> SplitFile:
    """Read a CSV file with a header, a column `split` and a column `path` (relative to --src) or else `patient`.

    Other columns are passed over, and so are rows whose split is empty: images.csv of an earlier build will do. Raises
    SourceError if the file cannot be read, lacks a column, names another split than train, val and test, or puts one
    path or patient in two.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")  # as spreadsheets write it
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except OSError as error:
        raise SourceError(f"--split-file {file} cannot be read: {error.strerror or error}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"--split-file {file} is not a CSV file in UTF-8: {error}.") from None
    columns = list(rows[0]) if rows else []
    by = next((name for name in ("path", "patient") if name in columns), None)
    if by is None or "split" not in columns:
        raise SourceError(
            f"--split-file {file} must have a header with the columns split and path (or patient), and rows below it; "
            f"found {', '.join(map(str, columns)) or 'no rows'}."
        )
    splits: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        name, split = row[by] or "", (row["split"] or "").strip()
        if not split:
            continue
        if split not in SOURCE_SPLITS:
            raise SourceError(
                f"--split-file {file}, row {number}: split must be one of {', '.join(SOURCE_SPLITS)}, or empty to leave "
                f"the {by} out; got {split!r}."
            )
        if not name:
            raise SourceError(f"--split-file {file}, row {number}: {by} is empty, but its split is {split}.")
        if splits.setdefault(name, split) != split:
            raise SourceError(
                f"--split-file {file}, row {number}: {by} {name} is in {split}, but also in {splits[name]}; give it one."
            )
    if not splits:
        raise SourceError(
            f"--split-file {file} puts nobody in a split; give at least one row whose split is not empty."
        )
    return SplitFile(by, splits)
