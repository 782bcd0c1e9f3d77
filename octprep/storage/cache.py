"""Datasets on this machine's disk that lie on an object store: whole files, each checked when it is fetched.

    CACHE/datasets/DIGEST/       manifest.json, images.csv, duplicates.json, index/, and the shards asked for so far
    CACHE/datasets/DIGEST.lock   held, shared, by every process that uses the dataset; its time is that of the last use
    CACHE/copies/                what `octprep verify` and others read once; removed when they end
    CACHE/builds/                unfinished builds whose output is a URL
    CACHE/lock                   held while files are fetched or evicted: one process at a time does either

CACHE is OCTPREP_CACHE, or octprep in the user's cache folder. The datasets have at most OCTPREP_CACHE_GB together; to
make room, those used longest ago are removed, but none that a process uses.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from octprep.format.errors import ManifestError, OutputError, SettingError
from octprep.format.files import atomic_write, remove_partial_files, saving
from octprep.format.json_types import read_json
from octprep.format.locks import hold_file
from octprep.format.manifest import (
    DUPLICATES_NAME,
    IMAGES_NAME,
    MANIFEST_NAME,
    MAX_BYTES,
    Manifest,
    Shard,
    shard_problem,
)
from octprep.format.record_index import INDEX_NAME, is_intact, table_name
from octprep.storage.remote import Location, RemoteFolder
from octprep.wording import number

CACHE_VARIABLE, CAP_VARIABLE = "OCTPREP_CACHE", "OCTPREP_CACHE_GB"
_CAP_GB = 100.0
PARALLEL = 4  # files that are fetched or sent at once
_REPAIR = "Repair it by the `octprep build` that made it."

Log = Callable[[str], None]

_in_use: dict[Path, int] = {}  # the lock files that this process holds to its end, and their descriptors
_wanted: set[Path] = set()  # the shards that this process has asked for


def cache_folder() -> Path:
    """The folder CACHE, which need not exist."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given).absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "octprep" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "octprep"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "octprep"


def cap_bytes() -> int:
    """What all datasets may have together, bytes. Raises SettingError if the variable is not a number above 0."""
    text = os.environ.get(CAP_VARIABLE, "")
    try:
        gigabytes = float(text or _CAP_GB)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        raise SettingError(f"{CAP_VARIABLE} must be a number of GB above 0; got {text!r}")
    return int(gigabytes * 1e9)


def open_dataset(place: Location) -> Path:
    """The folder to read a dataset from: the given one, or of a URL the one in the cache, still without its shards.

    Of a URL the manifest is fetched, and the tables and the index unless they are there; `fetch_shards` fetches shards.
    The dataset is not evicted as long as this process runs. Raises ManifestError if the URL holds no finished folder,
    or a table that is not that of its manifest; StorageError; OutputError if the cache cannot be written.
    """
    if isinstance(place, Path):
        return place
    manifest, data = read_manifest(place)
    folder = cache_folder() / "datasets" / manifest.digest
    with _writing():
        folder.mkdir(parents=True, exist_ok=True)
        _use(folder)
        for part in (folder, *folder.glob("*/")):
            remove_partial_files(part)
        for name, sha256 in ((IMAGES_NAME, manifest.images_sha256), (DUPLICATES_NAME, manifest.duplicates_sha256)):
            if _sha256(folder / name) != sha256:
                content = _read_table(place, name)
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise ManifestError(f"{place / name} has another SHA-256 than the manifest says. {_REPAIR}")
                atomic_write(folder / name, content, durable=False)
        (folder / INDEX_NAME).mkdir(exist_ok=True)
        for split in manifest.splits:
            path = folder / table_name(split)
            if not path.exists() or not is_intact(path.read_bytes(), manifest.digest):
                with suppress(FileNotFoundError):  # without it there are slower ways to read the shards
                    atomic_write(path, place.read(table_name(split)), durable=False)
        atomic_write(folder / MANIFEST_NAME, data, durable=False)
    return folder


def fetch_shards(
    place: Location, folder: Path, manifest: Manifest, splits: Iterable[str], log: Log | None = None
) -> None:
    """Fetch the shards of some splits that the cache lacks, several at a time; nothing is done for a local folder.

    folder: what `open_dataset` gave. Those in the cache are hashed, and fetched again if they are damaged. Raises
    ManifestError for an object that is missing or not the shard of the manifest, of which nothing is kept; OutputError
    if the shards are larger than the cache may be, or the disk has no room; StorageError.
    """
    if isinstance(place, Path):
        return
    shards = [shard for split in splits for shard in manifest.splits.get(split, ())]
    with _writing(log):
        _wanted.update(folder / shard.name for shard in shards)
        with _threads() as threads:
            problems = list(threads.map(lambda shard: shard_problem(folder / shard.name, shard), shards))
        missing = [shard for shard, problem in zip(shards, problems, strict=True) if problem]
        if not missing:
            return
        size = sum(shard.bytes for shard in missing)
        _make_room(place, folder, shards, size)
        if log is not None:
            log(f"fetching {number(len(missing), 'shard')} ({size / 1e9:.1f} GB) of {place} into {folder}")
        for parent in {(folder / shard.name).parent for shard in missing}:
            parent.mkdir(exist_ok=True)
        with _threads() as threads:
            for _ in threads.map(lambda shard: _fetch(place, folder, shard), missing):
                pass


@contextmanager
def copied(place: Location, names: Callable[[str], bool]) -> Iterator[Path]:
    """A local folder with the objects of a URL as they are, unchecked, for the block; a local folder is given itself.

    names: whether an object is wanted, by its name. Raises ManifestError if there is no manifest; StorageError;
    OutputError if the disk has no room.
    """
    if isinstance(place, Path):
        yield place
        return
    objects = {name: found for name, found in place.list().items() if names(name)}
    if MANIFEST_NAME not in objects:
        raise _no_manifest(place)
    with _disk_errors():
        folder, lock = _new_copy()
    try:
        with _disk_errors():
            _require_disk(folder, sum(found.bytes for found in objects.values()), place)
            for name in objects:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with _threads() as threads:
                for _ in threads.map(lambda name: place.download(name, folder / name), objects):
                    pass
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)
        os.close(lock)


def read_manifest(place: RemoteFolder, *, allow_edited: bool = False) -> tuple[Manifest, bytes]:
    """The manifest at a URL, and its bytes. Raises ManifestError as `Manifest.load` does, and StorageError."""
    path = place / MANIFEST_NAME
    try:
        data = _read_table(place, MANIFEST_NAME)
    except ManifestError:
        raise _no_manifest(place) from None
    try:
        raw = read_json(data)
    except ValueError as error:
        raise ManifestError(f"{path} cannot be read ({error}). {_REPAIR}") from None
    return Manifest.from_json(raw, path, allow_edited=allow_edited), data


def release() -> None:
    """Stop using all datasets, so that they may be evicted."""
    while _in_use:
        os.close(_in_use.popitem()[1])
    _wanted.clear()


def build_folder(place: RemoteFolder) -> Path:
    """Where the build of a URL works unless another folder is given."""
    return cache_folder() / "builds" / f"{place.name[:80]}-{hashlib.sha256(place.url.encode()).hexdigest()[:16]}"


def _no_manifest(place: RemoteFolder) -> ManifestError:
    return ManifestError(
        f"{place} has no {MANIFEST_NAME}, so it is not a finished folder of shards. Make one with `octprep build --src "
        f"DIR --out {place}`, which resumes an interrupted build."
    )


def _read_table(place: RemoteFolder, name: str) -> bytes:
    try:
        if place.status(name).bytes > MAX_BYTES:
            raise ManifestError(f"{place / name} has more than the {MAX_BYTES:,} bytes that are read at most.")
        return place.read(name)
    except FileNotFoundError:
        raise ManifestError(f"{place / name} is missing. {_REPAIR}") from None


def _fetch(place: RemoteFolder, folder: Path, shard: Shard) -> None:
    with saving(folder / shard.name, durable=False) as partial:
        try:
            place.download(shard.name, partial)
            problem = shard_problem(partial, shard)
        except FileNotFoundError:
            problem = "is missing"
        if problem:
            raise ManifestError(f"{place / shard.name} {problem}, so nothing of it is used. {_REPAIR}")


def _make_room(place: RemoteFolder, folder: Path, shards: Sequence[Shard], size: int) -> None:
    """Evict what was used longest ago until `size` bytes fit. Raises OutputError if they do not."""
    cap, needed = cap_bytes(), sum(shard.bytes for shard in shards)
    if needed > cap:
        raise OutputError(
            f"the shards of {place} that are needed have {needed / 1e9:.3g} GB, and the cache {cache_folder()} may "
            f"have {cap / 1e9:.3g} GB: set {CAP_VARIABLE} to more than {needed / 1e9:.3g}, or copy them here."
        )
    datasets = cache_folder() / "datasets"
    used = sum(_size(entry) for entry in datasets.iterdir() if entry.is_dir())
    others = [entry for entry in datasets.iterdir() if entry.is_dir() and entry != folder]
    for entry in sorted(others, key=_last_use):
        if used + size <= cap:
            break
        if (held := hold_file(entry.with_suffix(".lock"))) is not None:
            used -= _size(entry)
            shutil.rmtree(entry, ignore_errors=True)
            entry.with_suffix(".lock").unlink(missing_ok=True)
            os.close(held)
    if used + size > cap and _only_user(folder):
        for path in [*folder.glob("*/*.tfrecord")]:
            if path not in _wanted and used + size > cap:
                used -= path.stat().st_size
                path.unlink()
    if used + size > cap:
        raise OutputError(
            f"the cache {cache_folder()} has no room for {size / 1e9:.3g} GB of {place}, as other processes use what "
            f"is in it: wait for them, or set {CAP_VARIABLE} to more than {(used + size) / 1e9:.3g}."
        )
    _require_disk(datasets, size, place)


def _require_disk(folder: Path, size: int, place: RemoteFolder) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OutputError(
            f"{place} needs {size / 1e9:.3g} GB on the disk of the cache {folder}, which has {free / 1e9:.3g} GB free: "
            f"make room, or name another folder by {CACHE_VARIABLE}."
        )


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _last_use(folder: Path) -> float:
    try:
        return folder.with_suffix(".lock").stat().st_mtime
    except OSError:
        return 0.0


def _use(folder: Path) -> None:
    """Hold a dataset's lock, shared, until the process ends, and note the time."""
    lock = folder.with_suffix(".lock")
    if lock not in _in_use and (descriptor := hold_file(lock, shared=True)) is not None:
        _in_use[lock] = descriptor
    os.utime(lock)


def _only_user(folder: Path) -> bool:
    """Whether no other process uses a dataset. Called while CACHE/lock is held, so that none begins to."""
    lock = folder.with_suffix(".lock")
    if (descriptor := _in_use.pop(lock, None)) is not None:
        os.close(descriptor)
    alone = hold_file(lock)
    if alone is not None:
        os.close(alone)
    _use(folder)
    return alone is not None


def _new_copy() -> tuple[Path, int]:
    """A new folder in CACHE/copies, and the descriptor of its lock; those of killed processes are removed."""
    copies = cache_folder() / "copies"
    copies.mkdir(parents=True, exist_ok=True)
    making = hold_file(copies / "making", wait=True)
    try:
        for lock in copies.glob("*.lock"):
            if (held := hold_file(lock)) is not None:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
                os.close(held)
        folder = copies / uuid.uuid4().hex
        descriptor = hold_file(folder.with_suffix(".lock"))
        assert descriptor is not None  # its name is new
        folder.mkdir()
        return folder, descriptor
    finally:
        if making is not None:
            os.close(making)


@contextmanager
def _writing(log: Log | None = None) -> Iterator[None]:
    """Hold CACHE/lock; another process that holds it is waited for."""
    with _disk_errors():
        cache_folder().mkdir(parents=True, exist_ok=True)
        lock = cache_folder() / "lock"
        held = hold_file(lock)
        if held is None:
            if log is not None:
                log(f"waiting for another process that fetches into {cache_folder()}")
            held = hold_file(lock, wait=True)
        try:
            yield
        finally:
            if held is not None:
                os.close(held)


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads whose waiting tasks are dropped if the block fails."""
    threads = ThreadPoolExecutor(PARALLEL)
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Raise an OSError of the block as OutputError."""
    try:
        yield
    except BrokenPipeError:  # of what is printed, not of a file
        raise
    except OSError as error:
        raise OutputError(
            f"the cache {cache_folder()} cannot be written ({error.strerror or error}); make room, or name another "
            f"folder by {CACHE_VARIABLE}."
        ) from None


def _sha256(path: Path) -> str:
    """Of a file, in hex; "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
