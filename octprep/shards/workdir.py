"""The output folder of a build, and the work folder inside it.

The output folder is empty, unfinished, finished, or not written by octprep at all. Unfinished work is kept in
OUT/.octprep-work, a name that no reader takes for shards; finished files are moved from there into OUT at the end, the
manifest last. So an interrupted build never looks finished, and a finished folder that is built again stays
whole until the new files are complete. The folder is read and changed only under its lock.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octprep.format.config import BuildConfig
from octprep.format.errors import LeakError, ManifestError, OutputError, SettingError, SourceError
from octprep.format.files import atomic_write, remove_partial_files, sync
from octprep.format.locks import OWNER_NAME, locked
from octprep.format.manifest import (
    DUPLICATES_NAME,
    IMAGES_NAME,
    MANIFEST_NAME,
    PREPARED_NAME,
    REPORT_NAME,
    WORK_NAME,
    Manifest,
    Shard,
    read_folder_file,
    shard_problem,
)
from octprep.shards.indexing import move_index, remove_partial_index_files
from octprep.shards.tfds import TFDS_NAMES

_OLD_DUPLICATES_NAME = "joins.json"  # what format version 2 called duplicates.json; it holds patient ids
_CONFIG_NAME = "config.json"  # in the work folder: the settings of an unfinished build
_SHARD_NAME = re.compile(r"[0-9]{5}-of-[0-9]{5}\.tfrecord")
_IGNORED = (OWNER_NAME, "lost+found")  # what an output folder may hold and still count as empty


@dataclass(frozen=True)
class Damage:
    """A file of a finished folder that is not as its manifest says."""

    name: str  # relative to the folder
    problem: str  # such as `is missing`
    is_shard: bool

    def __str__(self) -> str:
        return f"{self.name} {self.problem}"


@dataclass(frozen=True)
class ExistingBuild:
    """A finished folder that was built with the same settings from the same list of source files."""

    manifest: Manifest
    damage: tuple[Damage, ...]


@contextmanager
def locked_workdir(out: Path) -> Iterator[Path]:
    """Make the output folder where it is missing, lock it against other builds, and give the path of its work folder.

    If the block fails before a scan was cached, everything that this call created is removed; cached scans are kept,
    whatever the reason. Raises OutputError if the path cannot be a folder, or another build holds its lock.
    """
    if problem := _path_problem(out):
        raise OutputError(f"--out {out} {problem}; give a new folder.")
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    work = out / WORK_NAME
    try:
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(out, "octprep build"))
            except OSError:
                # A disk without locks that is read-only: a finished build there can still be examined.
                if not (out / MANIFEST_NAME).exists() or os.access(out, os.W_OK):
                    raise
            try:
                yield work
            except BaseException as error:
                if not _has_cached_scans(work):
                    shutil.rmtree(work, ignore_errors=True)
                elif isinstance(error, LeakError | SettingError | SourceError):
                    with suppress(OSError):  # the next run has other settings, and can use the cached scans
                        (work / _CONFIG_NAME).unlink()
                raise
    except BaseException:
        for folder in created:  # those that are empty
            with suppress(OSError):
                folder.rmdir()
        raise


def begin(work: Path, config: BuildConfig) -> None:
    """Make the work folder, or keep the one of an interrupted build: its receipts say what of it can be used."""
    work.mkdir(exist_ok=True)
    remove_partial_files(work.parent)
    for folder in work.glob("**/"):
        remove_partial_files(folder)
    if not (work.parent / MANIFEST_NAME).exists():
        for path in _shards(work.parent):  # published by a build that was killed before its manifest
            kept = work / "shards" / path.parent.name / path.name
            if kept.with_suffix(".receipt.json").exists() and not kept.exists():
                path.replace(kept)
    atomic_write(work / _CONFIG_NAME, json.dumps(dataclasses.asdict(config), indent=1).encode())


def existing_build(
    out: Path, config: BuildConfig, listing_sha256: str, pseudonym_key: str, *, overwrite: bool
) -> ExistingBuild | None:
    """The finished build of an output folder, and what is damaged in it; None if everything is to be built.

    The tables are hashed, and every shard that was written to after the manifest; of the other shards only the sizes
    are checked. Raises OutputError if octprep did not write the folder, or if its build, finished or not, has other
    settings, another source or pseudonyms of another key (by its fingerprint, "" for none) and overwrite is not given.
    """
    if (out / MANIFEST_NAME).exists():
        return None if overwrite else _finished_build(out, config, listing_sha256, pseudonym_key)
    if (out / WORK_NAME).is_dir():
        begun = _saved_config(out)
        if begun is not None and not overwrite and (changes := config_differences(begun, config)):
            raise OutputError(
                f"--out {out} holds an unfinished build with other settings: {changes}. Use the same settings to "
                "resume it, --overwrite to build with these, or give another --out."
            )
        return None
    if (out / IMAGES_NAME).exists() and any(_shards(out)):
        if not overwrite:
            raise OutputError(
                f"--out {out} holds shards, but their {MANIFEST_NAME} is missing. Restore it, use --overwrite to build "
                "here anyway, or give another --out."
            )
        return None
    if any(entry.name not in _IGNORED for entry in out.iterdir()):
        raise OutputError(
            f"--out {out} is not empty and holds nothing that octprep built, so it is left alone; give a new folder."
        )
    return None


def _finished_build(out: Path, config: BuildConfig, listing_sha256: str, pseudonym_key: str) -> ExistingBuild:
    """The build that a manifest describes. Raises OutputError if it has other settings or another source."""
    manifest = finished_manifest(
        out, lambda: Manifest.load(out, allow_edited=True), config, listing_sha256, pseudonym_key
    )
    damage = find_damage(out, manifest)
    if not damage:
        with suppress(OSError):
            if read_folder_file(out / MANIFEST_NAME) == manifest.to_bytes():
                os.utime(out / MANIFEST_NAME)  # so that a copied folder, which was hashed now, is not hashed again
            else:
                manifest.save(out)  # it says the same in other bytes, such as with another line at its end
    return ExistingBuild(manifest, tuple(damage))


def finished_manifest(
    out: object, load: Callable[[], Manifest], config: BuildConfig, listing_sha256: str, pseudonym_key: str
) -> Manifest:
    """The manifest of a finished folder or URL of these settings, pseudonyms and source files.

    out: as messages name it. load: reads the manifest, edited or not. Raises OutputError if it cannot be read, or is of
    another build.
    """
    try:
        manifest = load()
    except ManifestError as error:
        raise OutputError(
            f"--out {out} cannot be continued: {error} Use --overwrite to build here anyway, or give another --out."
        ) from None
    if changes := _differences(manifest, config, listing_sha256, pseudonym_key):
        raise OutputError(
            f"--out {out} is finished, but with other settings: {changes}. "
            "Use --overwrite to build with these, or give another --out."
        )
    return manifest


def _differences(manifest: Manifest, config: BuildConfig, listing_sha256: str, pseudonym_key: str) -> str:
    """In words, how settings, pseudonyms or the list of source files differ from those of a finished folder.

    pseudonym_key: the fingerprint of a key, "" for none. Empty if nothing differs.
    """
    changes = config_differences(manifest.config, config)
    if manifest.pseudonym_key != pseudonym_key:
        there, now = (
            f"pseudonyms of the key {key}" if key else "no pseudonyms"
            for key in (manifest.pseudonym_key, pseudonym_key)
        )
        changes = f"{there} there, {now} now"
    if not changes and manifest.source["listing"] != listing_sha256:
        changes = "another list of source files"
    return changes


def find_damage(out: Path, manifest: Manifest) -> list[Damage]:
    """The files of a finished folder that are not as its manifest says."""
    damage = [] if manifest.digest_ok else [Damage(MANIFEST_NAME, "was changed after it was written", False)]
    for name, digest in ((IMAGES_NAME, manifest.images_sha256), (DUPLICATES_NAME, manifest.duplicates_sha256)):
        try:
            if hashlib.sha256(read_folder_file(out / name)).hexdigest() != digest:
                damage.append(Damage(name, "was changed after it was written", False))
        except ValueError as error:
            damage.append(Damage(name, f"cannot be read: {error}", False))
        except FileNotFoundError:
            damage.append(Damage(name, "is missing", False))
    published_ns = (out / MANIFEST_NAME).stat().st_mtime_ns
    for shards in manifest.splits.values():
        for shard in shards:
            if problem := published_shard_problem(out / shard.name, shard, published_ns):
                damage.append(Damage(shard.name, problem, True))
    return damage


def config_differences(before: BuildConfig, now: BuildConfig) -> str:
    """In words, the settings in which two configs differ; empty if in none."""
    return ", ".join(
        f"{name} {old} there, {new} now"
        for (name, old), (_, new) in zip(_flat(before), _flat(now), strict=True)
        if old != new
    )


def newest_source_ns(out: Path) -> int:
    """The time of change of the source's newest file when a folder was built, in ns: see `keep_newest_source_ns`."""
    return (out / IMAGES_NAME).stat().st_mtime_ns


def keep_newest_source_ns(folder: Path, newest: int) -> None:
    """Keep the time of change of the source's newest file, in ns, as that of images.csv: later changes are newer.

    No file's content holds it, as a copy of the source has other times and must give the same bytes.
    """
    with suppress(OSError, OverflowError):  # a folder that is read-only: its source is hashed again each time
        os.utime(folder / IMAGES_NAME, ns=(newest, newest))


def clean_up(out: Path) -> None:
    """Remove the work folder and half-written files of a finished folder. What cannot be removed stays."""
    shutil.rmtree(out / WORK_NAME, ignore_errors=True)
    remove_partial_files(out)
    for split in {shard.parent for shard in _shards(out)}:
        remove_partial_files(split)
    remove_partial_index_files(out)


def publish(out: Path, work: Path, shards: Sequence[Shard], manifest: Manifest) -> None:
    """Move finished files to the output folder: shards, index, tables, report, last the manifest.

    Then the work folder is removed. Every file is on the disk before the manifest names it, also after a power failure.
    """
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    for name in (_OLD_DUPLICATES_NAME, PREPARED_NAME):
        (out / name).unlink(missing_ok=True)
    sync(out)
    for old in _shards(out):
        old.unlink()
        with suppress(OSError):
            old.parent.rmdir()
    move_shards(out, work, shards)
    move_index(work, out)
    for name in (IMAGES_NAME, DUPLICATES_NAME, REPORT_NAME, *TFDS_NAMES):
        (work / name).replace(out / name)
    if not manifest.pseudonym_key:  # it holds the paths in the source
        (work / PREPARED_NAME).replace(out / PREPARED_NAME)
    sync(out)
    with suppress(OSError):  # it may not be readable
        sync(out.absolute().parent)
    manifest.save(out)
    clean_up(out)


def move_shards(out: Path, work: Path, shards: Iterable[Shard]) -> None:
    """Move finished shards to the output folder, so that they survive a power failure under their new names."""
    folders = set()
    for shard in shards:
        (out / shard.name).parent.mkdir(exist_ok=True)
        (work / "shards" / shard.name).replace(out / shard.name)
        folders.add((out / shard.name).parent)
    for folder in (*folders, out):
        sync(folder)


def _path_problem(out: Path) -> str | None:
    """Why a path can never be an output folder."""
    try:
        return None if stat.S_ISDIR(out.stat().st_mode) else "is a file"
    except FileNotFoundError:
        return "is a link to nothing" if out.is_symlink() else None
    except OSError as error:
        return "is a link that leads to itself" if error.errno == errno.ELOOP else None  # others show when it is made


def published_shard_problem(path: Path, shard: Shard, published_ns: int) -> str | None:
    """What is wrong with a shard: by its size, and by its content if it was written or moved after the manifest.

    published_ns: when the manifest was written, ns since 1970. Raises OSError.
    """
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)  # a file that is moved over another keeps the former
    return shard_problem(path, shard) if status.st_size != shard.bytes or changed_ns > published_ns else None


def _shards(out: Path) -> list[Path]:
    return [path for path in out.glob("*/*.tfrecord") if _SHARD_NAME.fullmatch(path.name)]


def _has_cached_scans(work: Path) -> bool:
    return any(path.stat().st_size for path in work.glob("*/*.bin"))


def _saved_config(out: Path) -> BuildConfig | None:
    """The settings of an unfinished build, or None if they cannot be read."""
    try:
        return BuildConfig.from_json(json.loads((out / WORK_NAME / _CONFIG_NAME).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, SettingError):
        return None


def _flat(config: BuildConfig) -> list[tuple[str, Any]]:
    """The settings of a config and of its recipe, by name."""
    fields = dataclasses.asdict(config)
    recipe = fields.pop("recipe")
    return [*recipe.items(), *fields.items()]
