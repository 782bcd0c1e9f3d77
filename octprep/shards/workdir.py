"""The folder to write to: fresh, unfinished, finished or not ours, and the corner of it where work goes on.

Everything unfinished stands under OUT/.octprep-work, a name that no reader takes for shards. What is finished moves to
its place in the end, the manifest last; so an interrupted build never looks done, and a finished folder that is built
again stays whole until its successor is. Nothing in the folder is believed or changed without its lock.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from octprep.format.config import BuildConfig
from octprep.format.errors import LeakError, ManifestError, OutputError, SettingError, SourceError
from octprep.format.files import OWNER_NAME, atomic_write, clear_parts, locked, sync
from octprep.format.manifest import (
    DUPLICATES_NAME,
    IMAGES_NAME,
    MANIFEST_NAME,
    REPORT_NAME,
    WORK_NAME,
    Manifest,
    Shard,
    read_part,
    shard_problem,
)

_CONFIG_NAME = "config.json"  # in the work folder: the settings of an unfinished build
_SHARD_NAME = re.compile(r"[0-9]{5}-of-[0-9]{5}\.tfrecord")
_NOTHING = (OWNER_NAME, "lost+found")  # what may lie in a folder that holds nothing


@contextmanager
def claimed(out: Path) -> Iterator[Path]:
    """The work folder of a build, in a folder to write to that is made if need be and that no other build has.

    If the block fails before anything was prepared, whatever this call created is removed; prepared work is kept,
    whatever the reason. Raises OutputError if the path cannot be a folder, or another build has it.
    """
    if fault := _path_fault(out):
        raise OutputError(f"--out {out} {fault}; give a new folder.")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    work = out / WORK_NAME
    try:
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(out, "octprep build"))
            except OSError:
                # A disk that has no locks and is read-only: what is finished there can still be looked at.
                if not (out / MANIFEST_NAME).exists() or os.access(out, os.W_OK):
                    raise
            try:
                yield work
            except BaseException as error:
                if not _holds_prepared(work):
                    shutil.rmtree(work, ignore_errors=True)
                elif isinstance(error, LeakError | SettingError | SourceError):
                    with suppress(OSError):  # other settings are the way on, and can use what was prepared
                        (work / _CONFIG_NAME).unlink()
                raise
    except BaseException:
        for folder in made:  # those that are empty
            with suppress(OSError):
                folder.rmdir()
        raise


def begin(work: Path, config: BuildConfig) -> None:
    """Make the work folder, or take over what an interrupted build left: its receipts say what of it can be used."""
    work.mkdir(exist_ok=True)
    clear_parts(work.parent)
    for folder in work.glob("**/"):
        clear_parts(folder)
    if not (work.parent / MANIFEST_NAME).exists():
        for path in _shards(work.parent):  # moved to their place by a build that was killed then
            kept = work / "shards" / path.parent.name / path.name
            if kept.with_suffix(".receipt.json").exists() and not kept.exists():
                path.replace(kept)
    atomic_write(work / _CONFIG_NAME, json.dumps(dataclasses.asdict(config), indent=1).encode())


def finished(out: Path, config: BuildConfig, listing: str, *, overwrite: bool) -> tuple[Manifest, list[str]] | None:
    """The manifest of a folder that holds just this build, and what is damaged in it; None if all is to be done.

    What is damaged is named in words. Contents are hashed where that is quick: the tables, and every shard that was
    written to after the manifest; of the other shards the sizes are looked at. Raises OutputError if the folder is not
    ours, or was begun or finished with other settings or from another source and overwrite is not given.
    """
    if (out / MANIFEST_NAME).exists():
        if overwrite:
            return None
        try:
            manifest = Manifest.load(out, allow_edited=True)
        except ManifestError as error:
            raise OutputError(
                f"--out {out} cannot be continued: {error} Use --overwrite to build here all the same, or give "
                "another --out."
            ) from None
        changes = differences(manifest.config, config)
        if not changes and manifest.source["listing"] != listing:
            changes = "another list of source files"
        if changes:
            raise OutputError(
                f"--out {out} is finished, but with other settings: {changes}. "
                "Use --overwrite to build with these, or give another --out."
            )
        found = damage(out, manifest)
        if not found:
            with suppress(OSError):
                os.utime(out / MANIFEST_NAME)  # what was hashed, as all of a copied folder is, need not be again
        return manifest, found
    if (out / WORK_NAME).is_dir():
        begun = _begun_with(out)
        if begun is not None and not overwrite and (changes := differences(begun, config)):
            raise OutputError(
                f"--out {out} holds an unfinished build with other settings: {changes}. Use the same settings to go "
                "on with it, --overwrite to go on with these, or give another --out."
            )
        return None
    if (out / IMAGES_NAME).exists() and any(_shards(out)):
        if not overwrite:
            raise OutputError(
                f"--out {out} holds shards, but their {MANIFEST_NAME} is missing. Restore it, use --overwrite to build "
                "here all the same, or give another --out."
            )
        return None
    if any(entry.name not in _NOTHING for entry in out.iterdir()):
        raise OutputError(
            f"--out {out} is not empty and holds nothing that octprep built, so it is left alone; give a new folder."
        )
    return None


def damage(out: Path, manifest: Manifest) -> list[str]:
    """What a finished folder lacks of what its manifest says, in words: each begins with the file's name."""
    found = [] if manifest.digest_ok else [f"{MANIFEST_NAME} was changed after it was written"]
    for name, digest in ((IMAGES_NAME, manifest.images_sha256), (DUPLICATES_NAME, manifest.duplicates_sha256)):
        try:
            if hashlib.sha256(read_part(out / name)).hexdigest() != digest:
                found.append(f"{name} was changed after it was written")
        except ValueError as error:
            found.append(f"{name} cannot be read: {error}")
        except FileNotFoundError:
            found.append(f"{name} is missing")
    written = (out / MANIFEST_NAME).stat().st_mtime_ns
    shards = [shard for part in manifest.splits.values() for shard in part]
    found += [f"{shard.name} {fault}" for shard in shards if (fault := _shard_fault(out / shard.name, shard, written))]
    return found


def differences(there: BuildConfig, now: BuildConfig) -> str:
    """In words, the settings in which two configs differ; empty if in none."""
    return ", ".join(
        f"{name} {old} there, {new} now"
        for (name, old), (_, new) in zip(_flat(there), _flat(now), strict=True)
        if old != new
    )


def stamped(out: Path) -> int:
    """When the source's newest file was changed, as a finished folder has it, in nanoseconds: see `stamp`."""
    return (out / IMAGES_NAME).stat().st_mtime_ns


def stamp(folder: Path, newest: int) -> None:
    """Keep when the source's newest file was changed, in nanoseconds, as the time of images.csv.

    Any file that is changed afterwards is newer. No file's content says it, as a copy of the source has other times.
    """
    with suppress(OSError, OverflowError):  # a folder that is read-only: then its files are read again each time
        os.utime(folder / IMAGES_NAME, ns=(newest, newest))


def tidy(out: Path) -> None:
    """Remove what a build left that was killed after all else was done. What cannot be removed stays."""
    shutil.rmtree(out / WORK_NAME, ignore_errors=True)
    clear_parts(out)
    for split in {shard.parent for shard in _shards(out)}:
        clear_parts(split)


def seal(out: Path, work: Path, shards: Sequence[Shard], manifest: Manifest) -> None:
    """Move what is finished to its place: shards, tables, report, and last the manifest. Then drop the work folder.

    Every file is on the disk before the manifest names it, also after a power failure.
    """
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    sync(out)
    for old in _shards(out):
        old.unlink()
        with suppress(OSError):
            old.parent.rmdir()
    place(out, work, shards)
    for name in (IMAGES_NAME, DUPLICATES_NAME, REPORT_NAME):
        (work / name).replace(out / name)
    sync(out)
    with suppress(OSError):  # it may not be readable
        sync(out.absolute().parent)
    manifest.save(out)
    tidy(out)


def place(out: Path, work: Path, shards: Iterable[Shard]) -> None:
    """Move finished shards to their place, and put the folders' lists of names on the disk."""
    folders = set()
    for shard in shards:
        (out / shard.name).parent.mkdir(exist_ok=True)
        (work / "shards" / shard.name).replace(out / shard.name)
        folders.add((out / shard.name).parent)
    for folder in (*folders, out):
        sync(folder)


def _path_fault(out: Path) -> str | None:
    """Why a path can never be a folder to write to."""
    try:
        return None if stat.S_ISDIR(out.stat().st_mode) else "is a file"
    except FileNotFoundError:
        return "is a link to nothing" if out.is_symlink() else None
    except OSError as error:
        return "is a link that leads to itself" if error.errno == errno.ELOOP else None  # said where it is made


def _shard_fault(path: Path, shard: Shard, written: int) -> str | None:
    """What is wrong with a shard by its size, and by its content if it was written to after the manifest."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    return shard_problem(path, shard) if status.st_size != shard.bytes or status.st_mtime_ns > written else None


def _shards(out: Path) -> list[Path]:
    return [path for path in out.glob("*/*.tfrecord") if _SHARD_NAME.fullmatch(path.name)]


def _holds_prepared(work: Path) -> bool:
    return any(path.stat().st_size for path in work.glob("*/*.bin"))


def _begun_with(out: Path) -> BuildConfig | None:
    try:
        return BuildConfig.from_json(json.loads((out / WORK_NAME / _CONFIG_NAME).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, SettingError):
        return None


def _flat(config: BuildConfig) -> list[tuple[str, Any]]:
    fields = dataclasses.asdict(config)
    recipe = fields.pop("recipe")
    return [*recipe.items(), *fields.items()]
