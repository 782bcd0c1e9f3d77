"""A folder that is written whole or not at all. Only the standard library is imported."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from octprep.format.errors import OutputError, StoppedError
from octprep.format.locks import OWNER_NAME, locked
from octprep.format.paths import require_path

_PARTIAL_NAME = ".octprep-partial"  # the subfolder from which an existing empty folder is filled
_MOVED_NAME = "moved.json"  # in it: the names that are moved up in the end


@contextlib.contextmanager
def atomic_directory(out: Path, what: str, last: str = "") -> Iterator[Path]:
    """A folder to write in, whose content becomes that of `out` if the block succeeds, and is removed if it fails.

    what: the program, such as `octprep export`, for messages. last: the name of the entry that says that all is there.

    Where `out` is new, the folder lies next to it and is renamed in one step. Where `out` is an empty folder, which may
    be a mounted disk, the folder is a subfolder, and its entries are moved up, `last` as the last one. What a killed
    process left in either way is removed first. Raises OutputError if `out` cannot be written, is a file, or is not
    empty, or if another process is writing to it; StoppedError if the disk is full.
    """
    require_path(out)
    created: list[Path] = []
    partial = None
    try:
        target = out.resolve()  # a link to an empty folder stays, and the folder is filled
        if target.exists() and not target.is_dir():
            raise OutputError(f"{out} is a file, but a new or empty folder is needed: name another, or remove it.")
        created += [folder for folder in (target, *target.parents) if not folder.exists()]
        is_new = target in created
        target.mkdir(parents=True, exist_ok=True)
        with locked(target, what):
            _clear(target)
            if any(entry.name not in (OWNER_NAME, "lost+found") for entry in target.iterdir()):
                raise OutputError(
                    f"{out} is not empty, but a new or empty folder is needed: name another, or remove it."
                )
            partial = target.parent / f".{target.name}.part-{os.getpid()}" if is_new else target / _PARTIAL_NAME
            partial.mkdir()
            yield partial
            if not is_new:
                _move_up(partial, last)
        if is_new:
            target.rmdir()
            partial.rename(target)
    except BaseException as error:
        if partial is not None:
            _clear(target)
            shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in created:
                folder.rmdir()
        if isinstance(error, RuntimeError) and "loop" in str(error):
            raise OutputError(f"{out} is a link that leads to itself; name another folder.") from None
        if isinstance(error, OSError):
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoppedError(
                    f"the disk of {out} is full, so nothing was kept there: free some space and run {what} again."
                ) from error
            reason = error.strerror or error
            raise OutputError(
                f"{out} cannot be written ({reason}); name a folder that can be written to and has room."
            ) from error
        raise


def _move_up(partial: Path, last: str) -> None:
    """Move the entries of a subfolder into its parent, and remove it."""
    names = sorted((entry.name for entry in partial.iterdir()), key=lambda name: (name == last, name))
    (partial / _MOVED_NAME).write_text(json.dumps(names))
    for name in names:
        (partial / name).rename(partial.parent / name)
    shutil.rmtree(partial)


def _clear(target: Path) -> None:
    """Remove what an unfinished process left in or next to a folder."""
    partial = target / _PARTIAL_NAME
    if partial.is_dir():
        with contextlib.suppress(OSError, ValueError):
            for name in json.loads((partial / _MOVED_NAME).read_bytes()):
                shutil.rmtree(target / name, ignore_errors=True)
                (target / name).unlink(missing_ok=True)
        shutil.rmtree(partial)
    with contextlib.suppress(OSError):
        for sibling in target.parent.iterdir():
            if re.fullmatch(rf"\.{re.escape(target.name)}\.part-\d+", sibling.name):
                shutil.rmtree(sibling, ignore_errors=True)
