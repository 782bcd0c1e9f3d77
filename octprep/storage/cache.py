"""Datasets on this machine's disk that lie on an object store: whole files, each checked when it is fetched.

    CACHE/datasets/DIGEST/       manifest.json, images.csv, duplicates.json, index/, and the shards asked for so far
        SPLIT.lock               held, shared, by every reader that needs all shards of a split
        SPLIT/*.tfrecord         of a split that is streamed, held, shared, by the processes that read the shard now
    CACHE/datasets/DIGEST.lock   held, shared, by every reader of the dataset; its time is that of the last use
    CACHE/copies/                what `octprep verify` and others read once; removed when they end
    CACHE/builds/                unfinished builds whose output is a URL
    CACHE/lock                   held while files are fetched or evicted: one process at a time does either

CACHE is OCTPREP_CACHE, or octprep in the user's cache folder. The datasets have at most OCTPREP_CACHE_GB together; to
make room, those used longest ago are removed, but none that a reader uses (`Hold`). Splits that are larger than that
are streamed: each pass over them fetches the shards as it reads them, and shards that were read are removed.
"""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Self

from octprep.format.errors import ManifestError, OutputError, SettingError, StoppedError
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
from octprep.format.paths import forget_copy, note_copy
from octprep.format.record_index import INDEX_NAME, is_intact, table_name
from octprep.storage.remote import Location, RemoteFolder
from octprep.wording import listed, number

CACHE_VARIABLE, CAP_VARIABLE = "OCTPREP_CACHE", "OCTPREP_CACHE_GB"
_CAP_GB = 100.0
PARALLEL = 4  # files that are fetched or sent at once
AHEAD = 8  # shards of a stream that are fetched before they are needed, where there is room
_REPAIR = "Repair it by the `octprep build` that made it."

Log = Callable[[str], None]


class _NoRoom(OutputError):
    """What is in the cache is in use, and leaves too little room."""


_in_use: dict[int, Path] = {}  # the lock files that the Holds of this process hold, by their descriptors


class Hold:
    """What a reader uses of the cache: datasets, and splits as a whole. None of it is evicted before `release`.

    A reader that is used after the function that makes it refers to its Hold, which is released when nothing refers to
    it any more; see `holding`. A copy by pickle holds the same, if it is still there.
    """

    def __init__(self, locks: Iterable[Path] = ()) -> None:
        self._locks: dict[Path, int] = {}  # their descriptors, none of which another Hold has
        weakref.finalize(self, _release, self._locks).atexit = False  # other threads may still read then
        for lock in locks:
            with suppress(OSError):  # on another machine
                self.add(lock)

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[Path, ...]]]:
        return type(self), (tuple(self._locks),)

    def add(self, lock: Path) -> None:
        """Hold a lock, shared. Raises OSError."""
        if lock not in self._locks and (descriptor := hold_file(lock, shared=True)) is not None:
            _in_use[descriptor] = lock
            self._locks[lock] = descriptor

    def release(self) -> None:
        """Hold nothing any more."""
        _release(self._locks)


def _release(locks: dict[Path, int]) -> None:
    """Close the descriptors of locks. It may run inside any other function, as Python collects garbage anywhere."""
    while locks:
        descriptor = locks.popitem()[1]
        del _in_use[descriptor]
        os.close(descriptor)


_process = Hold()  # of what is opened outside `holding`: to the end of the process
_hold = ContextVar("_hold", default=_process)


@contextmanager
def holding(hold: Hold | None = None) -> Iterator[None]:
    """Datasets that the block opens, and splits that it fetches, are held by `hold`; without one, to the block's end.

    If the block fails, nothing is held after it. Also as a decorator, `@holding()`, of functions whose results need the
    cache no more.
    """
    own = Hold() if hold is None else hold
    token, has_ended = _hold.set(own), False
    try:
        yield
        has_ended = True
    finally:
        _hold.reset(token)
        if hold is None or not has_ended:  # an error that is kept, as notebooks do, refers to what it came through
            own.release()


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
    The dataset is not evicted as long as it is held (`holding`). Raises ManifestError if the URL holds no finished
    folder, or a table that is not that of its manifest; StorageError; OutputError if the cache cannot be written.
    """
    if isinstance(place, Path):
        return place
    manifest, data = read_manifest(place)
    folder = cache_folder() / "datasets" / manifest.digest
    with _writing():
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder.with_suffix(".lock")
        _hold.get().add(lock)
        os.utime(lock)
        note_copy(folder, place.url)
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
        if _sha256(folder / MANIFEST_NAME) != hashlib.sha256(data).hexdigest():
            atomic_write(folder / MANIFEST_NAME, data, durable=False)
    return folder


def fetch_shards(
    place: Location, folder: Path, manifest: Manifest, splits: Iterable[str], log: Log | None = None
) -> None:
    """Fetch the shards of some splits that the cache lacks, several at a time; nothing is done for a local folder.

    folder: what `open_dataset` gave. Those in the cache are hashed, and fetched again if they are damaged. The splits
    are not evicted as long as they are held (`holding`). Raises ManifestError for an object that is missing or not the
    shard of the manifest, of which nothing is kept; OutputError if the shards are larger than the cache may be, or the
    disk has no room; StorageError.
    """
    if isinstance(place, Path):
        return
    splits = tuple(splits)
    try:
        _fetch_splits(place, folder, manifest, splits, log)
    except _NoRoom:
        # Readers that are not used any more may refer to themselves, or an error to them. This is not done while
        # CACHE/lock is held, as their threads, which end with them, may wait for it.
        gc.collect()
        _fetch_splits(place, folder, manifest, splits, log)


def _fetch_splits(
    place: RemoteFolder, folder: Path, manifest: Manifest, splits: Sequence[str], log: Log | None
) -> None:
    """As `fetch_shards`. Raises _NoRoom if what is in the cache is in use."""
    shards = [shard for split in splits for shard in manifest.splits.get(split, ())]
    with _writing(log):
        for split in splits:
            _hold.get().add(folder / f"{split}.lock")
        with _threads() as threads:
            usable = list(threads.map(lambda shard: _is_usable(folder / shard.name, shard), shards))
        missing = [shard for shard, is_usable in zip(shards, usable, strict=True) if not is_usable]
        if not missing:
            return
        size, needed, cap = _bytes(missing), _bytes(shards) + _tables_bytes(folder), cap_bytes()
        if needed > cap:
            raise OutputError(
                f"the shards of {place} that are needed at once have {needed / 1e9:.3g} GB, and the cache "
                f"{cache_folder()} may have {cap / 1e9:.3g} GB: set {CAP_VARIABLE} to more than {needed / 1e9:.3g}, or "
                "copy them to a local folder."
            )
        _make_room(place, folder, size)
        if log is not None:
            log(f"fetching {number(len(missing), 'shard')} ({size / 1e9:.1f} GB) of {place} into {folder}")
        _fetch_all(place, folder, missing)


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """Splits at a URL that are larger than the cache may be. Each pass over them needs a `ShardStream`."""

    place: RemoteFolder
    folder: Path  # what `open_dataset` gave
    splits: tuple[str, ...]
    shards: Mapping[Path, Shard]  # of these splits, by their paths in the cache, in their order
    bytes: int  # of these shards: what a first pass fetches at most
    bytes_again: int  # what every further pass fetches at least
    at_once: int  # the most shards that one pass reads at the same time
    ahead: int  # shards that are fetched before they are needed
    parallel: int  # shards that are fetched at once
    reason: str  # why they are streamed, as the rest of a sentence


def fetch_or_stream(
    place: Location, folder: Path, manifest: Manifest, splits: Sequence[str], at_once: int, log: Log | None = None
) -> tuple[tuple[str, ...], Streaming | None]:
    """Fetch the splits for which the cache has room, and say how the others are read.

    All are fetched, as by `fetch_shards`, if they fit together. If not, the largest are streamed, as few as leave room
    for the others, and for a stream that fetches ahead. at_once: shards that a pass reads at the same time, at most.

    Returns the splits of which all shards are there, and the others or None. Raises OutputError if the cache may not
    even have the shards that are read at once, with the size needed; errors as `fetch_shards`.
    """
    streaming = streaming_of(place, folder, manifest, splits, at_once)
    whole = tuple(split for split in splits if streaming is None or split not in streaming.splits)
    if log is not None and streaming is not None:
        log(
            f"{streaming.reason}: shards are fetched as they are read, up to {streaming.bytes / 1e9:.3g} GB in the "
            f"first pass, and at least {streaming.bytes_again / 1e9:.3g} GB in each further one (an epoch is a pass)"
        )
    fetch_shards(place, folder, manifest, whole, log)
    return whole, streaming


def streaming_of(
    place: Location, folder: Path, manifest: Manifest, splits: Sequence[str], at_once: int
) -> Streaming | None:
    """The splits for which the cache has no room; None if it has room for all. Nothing is fetched.

    Arguments and errors as for `fetch_or_stream`.
    """
    if isinstance(place, Path):
        return None
    shards = {split: manifest.splits.get(split, ()) for split in splits}
    tables = _tables_bytes(folder)
    cap, everything = cap_bytes(), sum(map(_bytes, shards.values()))
    if everything + tables <= cap:
        return None
    by_size = sorted(shards, key=lambda split: _bytes(shards[split]), reverse=True)
    for count in range(1, len(by_size) + 1):
        streamed, others = by_size[:count], by_size[count:]
        sizes = sorted((shard.bytes for split in streamed for shard in shards[split]), reverse=True)
        room = cap - tables - sum(_bytes(shards[split]) for split in others)
        fitting = sum(total <= room for total in accumulate(sizes))  # however they are chosen
        if fitting >= at_once + AHEAD + PARALLEL - 1:
            break
    at_once = min(at_once, len(sizes))
    if fitting < at_once:
        least = tables + sum(sizes[:at_once])
        read = "one that is read at a time" if at_once == 1 else f"{at_once} shards that are read at the same time"
        raise OutputError(
            f"the shards of {place} that are needed have {everything / 1e9:.3g} GB, and the cache {cache_folder()} may "
            f"have {cap / 1e9:.3g} GB, which is too little for the {read}: set {CAP_VARIABLE} to more than "
            f"{least / 1e9:.3g}, or better {(everything + tables) / 1e9:.3g}, with which each is fetched once."
        )
    parallel = min(PARALLEL, 1 + fitting - at_once)
    return Streaming(
        place=place,
        folder=folder,
        splits=tuple(split for split in splits if split in streamed),
        shards={folder / shard.name: shard for split in splits if split in streamed for shard in shards[split]},
        bytes=sum(sizes),
        bytes_again=sum(sizes) - room,
        at_once=at_once,
        ahead=min(AHEAD, fitting - at_once - (parallel - 1)),
        parallel=parallel,
        reason=(
            f"{listed([split for split in splits if split in streamed])} of {place} {'has' if count == 1 else 'have'} "
            f"{sum(sizes) / 1e9:.3g} GB, and the cache may have {cap / 1e9:.3g} GB"
        ),
    )


class ShardStream:
    """The shards of one pass over what is streamed: fetched as they are asked for, and kept until they are released.

    `error` is the first error, for callers that it reaches in another form. Methods may be called in several threads.
    A stream may be passed over again when its shards were released.
    """

    def __init__(self, streaming: Streaming) -> None:
        self.streaming = streaming
        self.error: BaseException | None = None
        self._held: dict[Path, int] = {}  # shards that were asked for and not released, and their descriptors
        self._guard = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.release_all()

    def get(self, order: Sequence[Path], index: int) -> Path:
        """The path of a shard that is there, and stays until it is released.

        order: the paths in the cache of all shards of the pass, in the order in which they are asked for.  index: of
        the one that is asked for. Raises ManifestError, OutputError and StorageError as `fetch_shards`.
        """
        path = order[index]
        shard = self.streaming.shards.get(path)
        if shard is None:  # of a split that was fetched as a whole
            return path
        try:
            with _writing():
                if self._closed.is_set():
                    raise OutputError("the pass over the shards has ended")
                if not _is_usable(path, shard):
                    self._fetch(order[index:])
                descriptor = hold_file(path, shared=True)
                os.utime(path)
        except BaseException as error:
            self.error = self.error or error
            raise
        if descriptor is not None:
            with self._guard:
                self._held[path] = descriptor
        if self._closed.is_set():
            self.release(path)
        return path

    def release(self, path: Path) -> None:
        """Say that a shard was read to its end."""
        with self._guard:
            if (descriptor := self._held.pop(path, None)) is not None:
                os.close(descriptor)

    def release_all(self) -> None:
        """Release all shards, such as those of a pass that was given up."""
        for path in [*self._held]:
            self.release(path)

    def close(self) -> None:
        """Release all shards; no more can be asked for."""
        self._closed.set()
        self.release_all()

    def _fetch(self, coming: Sequence[Path]) -> None:
        """Fetch the first of these shards, and with it those of the next that are missing. CACHE/lock is held."""
        place, folder, shards = self.streaming.place, self.streaming.folder, self.streaming.shards
        coming[0].unlink(missing_ok=True)  # if it is damaged
        batch = [shards[path] for path in coming[: self.streaming.parallel] if path in shards and not path.exists()]
        while len(batch) > 1 and _evict(folder, _bytes(batch), coming) > 0:
            batch.pop()
        _make_room(place, folder, _bytes(batch), coming)
        _fetch_all(place, folder, batch)


@contextmanager
def reading(streaming: Streaming | None, path: Path) -> Iterator[None]:
    """Around the reading of one shard of many that are read in their order: it is there, and stays.

    streaming: from `fetch_or_stream`; also in several processes at a time, one for each shard that is read `at_once`.
    path: of the shard in the cache. The shards after it are fetched with it where there is room. Raises ManifestError,
    OutputError and StorageError as `fetch_shards`.
    """
    if streaming is None or path not in streaming.shards:
        yield
        return
    order = list(streaming.shards)
    with ShardStream(streaming) as remote:
        remote.get(order, order.index(path))
        yield


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
        note_copy(folder, place.url)
        yield folder
    finally:
        forget_copy(folder)
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


def _is_usable(path: Path, shard: Shard) -> bool:
    """Whether the cache has a shard, undamaged, on a disk that can be read."""
    try:
        return shard_problem(path, shard) is None
    except StoppedError:
        return False


def _fetch_all(place: RemoteFolder, folder: Path, shards: Sequence[Shard]) -> None:
    for parent in {(folder / shard.name).parent for shard in shards}:
        parent.mkdir(exist_ok=True)
    with _threads() as threads:
        for _ in threads.map(lambda shard: _fetch(place, folder, shard), shards):
            pass


def _make_room(place: RemoteFolder, folder: Path, size: int, coming: Sequence[Path] = ()) -> None:
    """Evict as `_evict` until `size` bytes fit. Raises _NoRoom if they do not, and OutputError for a full disk."""
    if (lacking := _evict(folder, size, coming)) > 0:
        raise _NoRoom(
            f"the cache {cache_folder()} has no room for {size / 1e9:.3g} GB of {place}, as what is in it is in use: "
            "wait for other processes, `del` the readers of other datasets in this one, or set "
            f"{CAP_VARIABLE} to more than {(cap_bytes() + lacking) / 1e9:.3g}."
        )
    _require_disk(cache_folder() / "datasets", size, place)


def _evict(folder: Path, size: int, coming: Sequence[Path] = ()) -> int:
    """Remove what was used longest ago until `size` bytes fit: other datasets, then shards of this one, none in use.

    coming: shards that a stream reads next, in order; they are removed last, and those it reads last first. Returns the
    bytes that are still lacking, 0 or less if all fit.
    """
    entries = [entry for entry in (cache_folder() / "datasets").iterdir() if entry.is_dir()]
    lacking = sum(map(_size, entries)) + size - cap_bytes()
    for entry in sorted((entry for entry in entries if entry != folder), key=_last_use):
        if lacking <= 0:
            break
        lock = entry.with_suffix(".lock")
        if lock not in tuple(_in_use.values()) and (held := hold_file(lock)) is not None:
            lacking -= _size(entry)
            shutil.rmtree(entry, ignore_errors=True)
            lock.unlink(missing_ok=True)
            os.close(held)
    turn = {path: number for number, path in enumerate(coming)}
    shards = folder.glob("*/*.tfrecord") if lacking > 0 else ()
    for path in sorted(shards, key=lambda path: (-turn.get(path, len(turn)), path.stat().st_mtime_ns)):
        if lacking <= 0:
            break
        if not _is_in_use(folder / f"{path.parent.name}.lock") and not _is_in_use(path):
            freed = path.stat().st_size
            with suppress(PermissionError):  # on Windows, of a file that is open
                path.unlink()
                lacking -= freed
    return lacking


def _require_disk(folder: Path, size: int, place: RemoteFolder) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OutputError(
            f"{place} needs {size / 1e9:.3g} GB on the disk of the cache {folder}, which has {free / 1e9:.3g} GB free: "
            f"make room, or name another folder by {CACHE_VARIABLE}."
        )


def _bytes(shards: Iterable[Shard]) -> int:
    return sum(shard.bytes for shard in shards)


def _tables_bytes(folder: Path) -> int:
    """Of a dataset in the cache, all but the shards."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".tfrecord")


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


def _is_in_use(lock: Path) -> bool:
    """Whether a process holds a lock. Called while CACHE/lock is held, so that none begins to."""
    if lock in tuple(_in_use.values()):  # where the system has no locks
        return True
    descriptor = hold_file(lock)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


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
