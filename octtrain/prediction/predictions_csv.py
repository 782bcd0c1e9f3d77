"""A CSV of predictions that grows batch by batch, so that an interrupted command can be resumed.

Every row is one line with the path of its file and the identity of its model: an existing file is continued if all its
rows are of the same model, and left unchanged if it is anything else.
"""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from octprep.format.errors import OutputError, StoppedError
from octprep.format.files import saving
from octprep.format.locks import lock_file
from octprep.wording import number

Row = list[str]


class PredictionsCsv:
    """A CSV of predictions, open and locked. Made by `open_growing`."""

    def __init__(self, path: Path, descriptor: int, header: Sequence[str], model: str) -> None:
        self.path, self.header, self.model = path, list(header), model
        self._descriptor = descriptor
        self.earlier = self._read()  # path as text -> row, from an earlier run of the same command
        self.added = 0

    @property
    def count(self) -> int:
        """Number of rows in the file."""
        return len(self.earlier) + self.added

    def remove(self, paths: Iterable[str]) -> None:
        """Remove the rows of some files. The file is replaced in one step. Raises StoppedError if that fails."""
        removed = set(paths) & set(self.earlier)
        if not removed:
            return
        self.earlier = {path: row for path, row in self.earlier.items() if path not in removed}
        content = _encode([self.header, *self.earlier.values()])
        try:
            with saving(self.path.resolve()) as partial:
                partial.write_bytes(content)
                descriptor = os.open(partial, os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0))
                lock_file(descriptor)
        except OSError as error:
            raise self._not_written(error) from None
        os.close(self._descriptor)
        self._descriptor = descriptor

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows, each without its last cell, the model, which is added.

        Raises StoppedError if they cannot be written or the file was removed; only whole rows are written.
        """
        size = os.fstat(self._descriptor).st_size
        data = _encode([[*row, self.model] for row in rows])
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            status = self.path.stat()
        except FileNotFoundError:
            raise self._lost() from None
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, size)
            raise self._not_written(error) from None
        if not os.path.samestat(status, os.fstat(self._descriptor)):
            raise self._lost()
        self.added += len(rows)

    def close(self) -> None:
        """Synchronise the file to the disk and close it."""
        try:
            with suppress(OSError):
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def _not_written(self, error: OSError) -> StoppedError:
        return StoppedError(
            f"--csv {self.path} cannot be written ({error.strerror or error}); it keeps {number(self.count, 'row')}. "
            "Correct that, then run the same command again to resume."
        )

    def _lost(self) -> StoppedError:
        return StoppedError(
            f"--csv {self.path} was removed or replaced while it was written, and {number(self.count, 'row')} with it. "
            "Name a file that stays, and run the command again."
        )

    def _read(self) -> dict[str, Row]:
        """The rows of the file, after an incomplete last line was cut off. Raises OutputError for any other content."""
        head = _encode([self.header])
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            start = file.read(len(head))
            data = file.read() if start == head else b""
        if head.startswith(start) and start != head:  # empty, or an incomplete header
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, head)
            return {}
        if start != head:
            raise self._unusable("holds something other than predictions of this model")
        whole = data[: data.rfind(b"\n") + 1]
        rows: dict[str, Row] = {}
        for line_number, line in enumerate(whole.split(b"\n")[:-1], 2):
            row = _decode(line, self.header)
            if row is None or row[0] in rows:
                raise self._unusable(f"has a line {line_number} that `octtrain predict` did not write")
            if row[-1] != self.model:
                raise self._unusable(f"holds predictions of another model ({row[-1]}, this one is {self.model})")
            rows[row[0]] = row
        if len(whole) < len(data):
            os.ftruncate(self._descriptor, len(head) + len(whole))
        return rows

    def _unusable(self, problem: str) -> OutputError:
        return OutputError(f"--csv {self.path} exists and {problem}, so it is left unchanged; name another file.")


@contextmanager
def open_growing(path: Path, header: Sequence[str], model: str) -> Iterator[PredictionsCsv]:
    """Open a CSV to append to, new or continued; it can be read at any time and holds whole rows only.

    header: names of the columns; the first is `path`, the last `model`.  model: the last cell of every row.
    Raises OutputError if the file cannot be made, is in use, or holds anything but this model's predictions.
    """
    check(path)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        raise OutputError(f"--csv {path} cannot be written ({error.strerror or error}); name another file.") from None
    table = None
    try:
        if not lock_file(descriptor):
            raise OutputError(
                f"another `octtrain predict` is writing to --csv {path}; wait for it, or name another file."
            )
        try:
            table = PredictionsCsv(path, descriptor, header, model)
        except OSError as error:
            raise OutputError(f"--csv {path} cannot be used ({error.strerror or error}); name another file.") from None
        yield table
    finally:
        if table is None:
            os.close(descriptor)
        else:
            table.close()


def check(path: Path) -> None:
    """Raise OutputError if a CSV cannot be written there: the folder does not exist, or it is not a regular file."""
    try:
        if not path.absolute().parent.is_dir():
            raise OutputError(f"the folder of --csv {path} does not exist; make it first.")
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"--csv {path} cannot be written ({error.strerror or error}); name another file.") from None
    if stat.S_ISDIR(mode):
        raise OutputError(f"--csv {path} is a folder; name a file.")
    if not stat.S_ISREG(mode):
        raise OutputError(f"--csv {path} is not a regular file; name one.")


def _encode(rows: Iterable[Sequence[str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def _decode(line: bytes, header: Sequence[str]) -> Row | None:
    """One line's cells, or None if it is not a row of this header."""
    try:
        (row,) = csv.reader([line.decode()], strict=True)
    except (ValueError, csv.Error):
        return None
    return row if len(row) == len(header) else None
