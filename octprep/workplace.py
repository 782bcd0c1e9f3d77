"""The folder to write to: fresh, unfinished, finished or somebody else's, and the corner of it where work goes on.

Everything unfinished stands under OUT/.octprep-work, a name that no reader takes for shards. What is finished moves to
its place in the end, the manifest last; so an interrupted build never looks done, and a finished folder that is built
anew with --overwrite stays whole until its successor is.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from octprep.schema import (
    IMAGES_NAME,
    JOINS_NAME,
    MANIFEST_NAME,
    REPORT_NAME,
    BuildConfig,
    Manifest,
    ManifestError,
    OutputError,
    SettingError,
    Shard,
    StoppedError,
    write_whole,
)

WORK_NAME = ".octprep-work"
_SHARD_NAME = re.compile(r"[0-9]{5}-of-[0-9]{5}\.tfrecord")

try:
    import fcntl
except ImportError:  # not on Windows: there two builds into one folder are not kept apart
    fcntl = None  # type: ignore[assignment]


def finished(out: Path, config: BuildConfig, listing: str, *, overwrite: bool) -> Manifest | None:
    """The manifest of a folder that already holds just this build, or None if there is something to do.

    Raises OutputError if the folder is not ours, or was begun or finished with other settings or from another source
    and overwrite is not given.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise OutputError(f"--out {out} is a file; give a new folder.")
    if (out / MANIFEST_NAME).exists():
        if overwrite:
            return None
        try:
            manifest = Manifest.load(out)
        except ManifestError as error:
            raise OutputError(f"--out {out} cannot be continued: {error} Or give another --out.") from None
        changes = differences(manifest.config, config)
        if not changes and manifest.source["listing"] != listing:
            changes = "another list of source files"
        if changes:
            raise OutputError(
                f"--out {out} is finished, but with other settings: {changes}. "
                "Use --overwrite to build it anew, or give another --out."
            )
        return manifest
    if (out / WORK_NAME).is_dir():
        begun = _begun_with(out)
        if begun is not None and not overwrite and (changes := differences(begun, config)):
            raise OutputError(
                f"--out {out} holds an unfinished build with other settings: {changes}. "
                "Use the same settings to go on with it, --overwrite to start anew, or give another --out."
            )
        return None
    if any(out.iterdir()):
        raise OutputError(
            f"--out {out} is not empty and holds nothing that octprep built, so it is left alone; give a new folder."
        )
    return None


def differences(there: BuildConfig, now: BuildConfig) -> str:
    """In words, the settings in which two configs differ; empty if in none."""
    return ", ".join(
        f"{name} {old} there, {new} now"
        for (name, old), (_, new) in zip(_flat(there), _flat(now), strict=True)
        if old != new
    )


@contextmanager
def claimed(out: Path, config: BuildConfig, *, overwrite: bool) -> Iterator[Path]:
    """The work folder of a build, which nobody else writes to meanwhile.

    What an interrupted build with the same settings left is kept, anything else cleared. If the block fails for another
    reason than that the machine stopped it, what this call created is removed again.
    """
    made_out = not out.exists()
    work = out / WORK_NAME
    made_work = not work.exists()
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OutputError(
                    f"another octprep build is writing to {out}; wait for it or give another --out."
                ) from None
        if overwrite and _begun_with(out) != config:
            _empty(work)
        write_whole(work / "config.json", json.dumps(dataclasses.asdict(config), indent=1).encode())
        try:
            yield work
        except (StoppedError, KeyboardInterrupt, OSError):
            raise  # what is done is kept: the same command goes on from here
        except BaseException:
            if made_work:
                shutil.rmtree(work, ignore_errors=True)
            if made_out:
                with suppress(OSError):
                    out.rmdir()
            raise


def seal(out: Path, work: Path, shards: list[Shard], manifest: Manifest) -> None:
    """Move what is finished to its place: shards, table, report, and last the manifest. Then drop the work folder."""
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    for old in out.glob("*/*.tfrecord"):
        if _SHARD_NAME.fullmatch(old.name):
            old.unlink()
            with suppress(OSError):
                old.parent.rmdir()
    for shard in shards:
        (out / shard.name).parent.mkdir(exist_ok=True)
        (work / "shards" / shard.name).replace(out / shard.name)
    for name in (IMAGES_NAME, JOINS_NAME, REPORT_NAME):
        (work / name).replace(out / name)
    manifest.save(out)
    shutil.rmtree(work, ignore_errors=True)


def _begun_with(out: Path) -> BuildConfig | None:
    try:
        return BuildConfig.from_json(json.loads((out / WORK_NAME / "config.json").read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, SettingError):
        return None


def _empty(work: Path) -> None:
    for entry in work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "lock":
            entry.unlink()


def _flat(config: BuildConfig) -> list[tuple[str, Any]]:
    fields = dataclasses.asdict(config)
    recipe = fields.pop("recipe")
    return [*recipe.items(), *fields.items()]
