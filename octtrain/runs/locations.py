"""Where runs are kept: numbered folders in `runs/`, the latest of them, and the lock on a folder that is written to."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from octprep.format.errors import OutputError, SourceError
from octprep.format.files import NotReadable, read_bytes
from octprep.format.locks import OWNER_NAME, locked
from octprep.format.manifest import MANIFEST_NAME
from octprep.format.paths import path_to_text, require_path
from octprep.storage.remote import Location
from octprep.wording import listed
from octtrain.runs.exposure import EXPOSURE_NAME
from octtrain.runs.history import MAX_BYTES
from octtrain.runs.run import CONFIG_NAME, SETTINGS_NAME

RUNS = Path("runs")  # in the working folder: where runs are made for which no folder is given

# All that a run folder may hold before its config.json: what an interrupted `initialise` leaves, what an empty volume
# holds, and what macOS and Windows put into a folder that was looked at.
_BEFORE_CONFIG = {
    EXPOSURE_NAME, MANIFEST_NAME, OWNER_NAME, SETTINGS_NAME,
    "lost+found", ".DS_Store", "Thumbs.db", "desktop.ini",
}  # fmt: skip
_MAX_NAMED = 3  # entries of a folder, in a message


def new_run(shards: Location, model: str, runs: Path = RUNS) -> Path:
    """Make an empty folder SHARDS-MODEL-NUMBER in the folder of runs, with the next free number.

    Two processes that ask at the same time get two folders. Raises OutputError if none can be made.
    """
    name = (shards.resolve() if isinstance(shards, Path) else shards).name
    stem = f"{name or 'shards'}-{re.sub(r'[^A-Za-z0-9_.-]', '-', model)}"
    try:
        runs.mkdir(exist_ok=True)
        suffixes = [path.name.removeprefix(f"{stem}-") for path in runs.glob(f"{glob.escape(stem)}-*")]
        number = max((int(suffix) for suffix in suffixes if suffix.isascii() and suffix.isdigit()), default=0)
        while True:
            number += 1
            with suppress(FileExistsError):
                (runs / f"{stem}-{number}").mkdir()
                return runs / f"{stem}-{number}"
    except OSError as error:
        raise OutputError(
            f"no run can be made in the folder {runs.absolute()} ({error.strerror or error}); "
            "name another by --run DIR."
        ) from None


def latest_run(runs: Path = RUNS, digest: str | None = None) -> Path:
    """The run in a folder of runs that was started last; with a digest, of those trained on that dataset.

    Raises SourceError if there is none.
    """
    started: list[tuple[str, str, Path]] = []  # when, name, folder
    with suppress(OSError):
        for config in runs.glob(f"*/{CONFIG_NAME}"):
            with suppress(OSError, NotReadable, ValueError, TypeError, KeyError, RecursionError):
                raw = json.loads(read_bytes(config, MAX_BYTES)[0])
                if digest is None or raw["digest"] == digest:
                    when = raw.get("started") or datetime.fromtimestamp(config.stat().st_mtime, UTC).isoformat()
                    started.append((str(when), config.parent.name, config.parent))
    if not started:
        problem = f"the folder {runs} holds no run" if runs.is_dir() else f"there is no folder {runs} here with a run"
        raise SourceError(
            f"{problem}{' on these shards' * (digest is not None)}; make one with `octtrain fit SHARDS`, "
            "or name the folder of a run that lies elsewhere."
        )
    return max(started)[2]


def is_vacant(folder: Path) -> bool:
    """Whether a run may be made in a folder: it does not exist, is empty, or holds what an interrupted start left."""
    if not folder.is_dir():
        return not folder.exists() and not folder.is_symlink()
    names = _names(folder)
    return names <= _BEFORE_CONFIG and (EXPOSURE_NAME in names or MANIFEST_NAME not in names)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".part-")}


def not_vacant(folder: Path, kind: str) -> OutputError:
    """The error of a path that is not vacant, and not a folder of this kind, such as `a run folder`."""
    text = path_to_text(str(folder))
    if not folder.is_dir():
        return OutputError(f"{text} exists and is not a folder; give another --run.")
    names = _names(folder)
    shown = [path_to_text(name) for name in sorted(names - _BEFORE_CONFIG) or sorted(names)]
    return OutputError(f"{text} exists and is not {kind}, as it holds {listed(shown, _MAX_NAMED)}; give another --run.")


def nothing_to_resume(folder: Path) -> SourceError:
    """The error of a folder that is to be resumed and holds no run."""
    state = "holds no run" if folder.exists() else "does not exist"
    return SourceError(
        f"{folder} {state}, so there is nothing to resume; check the name given as --run, or omit --resume to start a "
        "run there."
    )


@contextmanager
def lock_run(folder: Path, *, is_new: bool = False, what: str = "octtrain fit") -> Iterator[None]:
    """Lock a run folder against other trainings; it is made if it is missing.

    what: the program, for messages. A folder that was made here, or with `is_new` by `new_run`, is removed if it stays
    empty. Raises OutputError if it cannot be made, or another program has locked it.
    """
    require_path(folder)
    made = [folder, folder.parent] if is_new else [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder, what))
            except OSError as error:
                raise OutputError(
                    f"--run {folder} cannot be used as a folder to write to ({error.strerror or error}); name another."
                ) from None
            yield
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()
