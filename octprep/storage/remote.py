"""A folder on an object store: its objects are listed, read and written through fsspec.

A request that fails for a moment (a server that does not answer, a connection that breaks) is made again for about a
minute; OCTPREP_RETRY_SECONDS sets another time. What that cannot mend is raised as one sentence.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from octprep.format.errors import SettingError, StoppedError
from octprep.format.files import read_bytes
from octprep.format.paths import is_url, path_to_text, text_to_path, url_of_path

Result = TypeVar("Result")

_RETRY_SECONDS = 60.0
_RETRY_VARIABLE = "OCTPREP_RETRY_SECONDS"
_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between attempts; the last one is repeated
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "'octprep[remote]'"),
    **dict.fromkeys(("gs", "gcs"), "'octprep[remote]' gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "'octprep[remote]' adlfs"),
}
# Libraries whose errors are about the store or the way to it, by the first part of their modules' names.
_CLIENTS = frozenset(
    ("adlfs", "aiobotocore", "aiohttp", "azure", "boto3", "botocore", "fsspec", "gcsfs", "google", "s3fs", "urllib3")
)
# Parts of names of errors that trying again does not mend.
_DENIED = ("credential", "authentication", "auth", "token", "paramvalidation", "invalidregion")


_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)  # errors of this machine


class StorageError(StoppedError):
    """An object store does not do what it is asked to."""


@dataclass(frozen=True)
class RemoteObject:
    """An object as a listing shows it."""

    bytes: int
    changed_ns: int  # the time of change in whole seconds since 1970, as ns, and below that a hash of its ETag


@dataclass(frozen=True, order=True)
class RemoteFolder:
    """The objects whose names begin with a URL and a slash. Names are relative to it, with forward slashes."""

    url: str  # without a slash at its end

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: object) -> RemoteFolder:
        return RemoteFolder(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    def list(self) -> dict[str, RemoteObject]:
        """Every object, by name; none if there is no such folder. Raises StorageError."""
        root = self._key().strip("/")

        def work() -> Mapping[str, Mapping[str, Any]]:
            return dict(_file_system(self.url).find(self._key(), detail=True))

        try:
            found = self._try(work, "listed")
        except FileNotFoundError as error:
            if "bucket" in str(error).lower() or "container" in str(error).lower():
                raise StorageError(f"{self} cannot be listed: there is no such bucket. Check its name.") from None
            return {}
        objects = {}
        for key, info in found.items():
            name = key.strip("/").removeprefix(root).removeprefix("/")
            if name and key.strip("/").startswith(f"{root}/" if root else ""):
                objects[name] = _object(info)
        return objects

    def status(self, name: str) -> RemoteObject:
        """An object's size and change. Raises FileNotFoundError if there is none, and StorageError."""

        def work() -> RemoteObject:
            return _object(_file_system(self.url).info(self._key(name)))

        return self._try(work, "read", name)

    def read(self, name: str) -> bytes:
        """An object's content. Raises FileNotFoundError if there is none, and StorageError."""
        return self._try(lambda: bytes(_file_system(self.url).cat_file(self._key(name))), "read", name)

    def read_part(self, name: str, start: int, size: int) -> bytes:
        """Some bytes of an object, fewer at its end. Raises FileNotFoundError if there is none, and StorageError."""
        return self._try(
            lambda: bytes(_file_system(self.url).cat_file(self._key(name), start=start, end=start + size)), "read", name
        )

    def read_unchanged(self, name: str, listed: RemoteObject) -> bytes | None:
        """An object's content if it is the one that was listed; None if it has changed. Raises as `read` does."""
        data = self.read(name)
        if len(data) != listed.bytes:
            return None
        if listed.changed_ns == -1:  # not known
            return data
        # Many stores give the MD5 as ETag, which saves a second request.
        if _fraction(hashlib.md5(data, usedforsecurity=False).hexdigest()) == listed.changed_ns % 10**9:
            return data
        return data if self.status(name) == listed else None

    def write(self, name: str, data: bytes) -> None:
        """Write an object in one step. Raises StorageError."""
        self._try(lambda: _file_system(self.url).pipe_file(self._key(name), data), "written", name)

    def upload(self, path: Path, name: str) -> None:
        """Write a file's content as an object, which appears when all of it is there. Raises StorageError."""
        self._try(lambda: _file_system(self.url).put_file(str(path), self._key(name)), "written", name)

    def download(self, name: str, path: Path) -> None:
        """Write an object's content to a file. Raises FileNotFoundError if there is none, and StorageError."""
        self._try(lambda: _file_system(self.url).get_file(self._key(name), str(path)), "read", name)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are not there are passed over. Raises StorageError."""
        for name in names:
            with suppress(FileNotFoundError):
                self._try(partial(self._delete, name), "deleted", name)

    def _delete(self, name: str) -> None:
        _file_system(self.url).rm_file(self._key(name))

    def _key(self, name: str = "") -> str:
        """The name that the file system has for an object, or for the folder."""
        root = str(type(_file_system(self.url))._strip_protocol(self.url))
        return f"{root.rstrip('/')}/{name}" if name else root

    def _try(self, work: Callable[[], Result], verb: str, name: str = "") -> Result:
        """What work() returns; it is called again as long as the store fails for reasons that may pass.

        Raises FileNotFoundError as it is, and StorageError, which names the object, for what lasts.
        """
        shown = path_to_text(f"{self}/{name}" if name else str(self))
        deadline = time.monotonic() + retry_seconds()
        attempt = 0
        while True:
            try:
                return work()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise FileNotFoundError(*error.args) from error
            except Exception as error:
                if not _is_of_store(error) or getattr(error, "errno", None) in _OF_DISK:
                    raise
                pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
                if _is_denied(error):
                    raise StorageError(
                        f"{shown} cannot be {verb}: access was denied ({_reason(error)}). Check the credentials for "
                        "this store, and that they allow it."
                    ) from error
                if time.monotonic() + pause > deadline:
                    raise StorageError(
                        f"{shown} cannot be {verb}: the store does not answer, or fails ({_reason(error)}). Check the "
                        "network and the address, then run the same command again."
                    ) from error
            time.sleep(pause)
            attempt += 1


Location = Path | RemoteFolder


@dataclass(frozen=True)
class SourceFolders:
    """Several folders or URLs, each with a name, which is the first part of the paths of its files."""

    folders: tuple[tuple[str, Location], ...]

    def __str__(self) -> str:
        return ", ".join(f"{name}={place}" for name, place in self.folders)


Source = Location | SourceFolders


def places(source: Source) -> list[Location]:
    """The folders and URLs of a source."""
    return [place for _, place in source.folders] if isinstance(source, SourceFolders) else [source]


def locate(source: Source, path: str) -> tuple[Location, str]:
    """The folder that holds a file, and the file's path relative to it, both as text. path: relative to the source.

    Raises FileNotFoundError if the path begins with the name of no folder.
    """
    if not isinstance(source, SourceFolders):
        return source, path
    name, _, inner = path.partition("/")
    place = dict(source.folders).get(name)
    if place is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return place, inner


def location(given: Location | str) -> Location:
    """A folder named by a path or a URL, also by a path that pathlib has made of a URL (`url_of_path`).

    Raises SettingError for a URL of no object store, such as file:///data, and for one without a bucket.
    """
    if isinstance(given, RemoteFolder):
        return given
    url = given if isinstance(given, str) and is_url(given) else url_of_path(Path(given))
    if url is None:
        return Path(given)
    scheme, _, rest = url.partition("://")
    if scheme == "file" or "::" in url or not rest.strip("/"):
        raise SettingError(f"{url} cannot be used; give a path, or the URL of an object store, s3://BUCKET/FOLDER")
    return RemoteFolder(url.rstrip("/"))


def read_file(source: Source, name: str, limit: int) -> bytes:
    """A file's or an object's content, by its name as text (`path_to_text`).

    Raises FileNotFoundError if there is none; NotReadable for a local file that is larger than limit, in bytes, or not
    a regular file; OSError, and StorageError.
    """
    folder, inner = locate(source, name)
    path = text_to_path(inner)
    return folder.read(path) if isinstance(folder, RemoteFolder) else read_bytes(folder / path, limit)[0]


def retry_seconds() -> float:
    """How long a failing request is made again, in seconds. Raises SettingError if the variable is not a number."""
    text = os.environ.get(_RETRY_VARIABLE, "")
    try:
        seconds = float(text or _RETRY_SECONDS)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise SettingError(f"{_RETRY_VARIABLE} must be a number of seconds, 0 or more; got {text!r}")
    return seconds


def _file_system(url: str) -> Any:
    """This process's fsspec file system for a URL. Raises SettingError if what it needs is not installed."""
    scheme, _, rest = url.partition("://")
    return _opened(scheme, rest.partition("/")[0], os.getpid())


_opening = threading.Lock()


def _opened(scheme: str, bucket: str, process: int) -> Any:
    with _opening:  # threads share one file system, and its connections
        return _open(scheme, bucket, process)


@cache
def _open(scheme: str, bucket: str, process: int) -> Any:
    """A file system of its own for each process, as connections do not survive a fork. process: its id."""
    advice = f"install it by `pip install {_PACKAGES.get(scheme, _PACKAGES['s3'])}`"
    try:
        import fsspec
    except ImportError:
        raise SettingError(f"{scheme}:// needs the package fsspec, which is not installed; {advice}") from None
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise SettingError(f"{scheme}:// needs a package that is not installed ({error}); {advice}") from None
    except ValueError:
        raise SettingError(
            f"{scheme}:// is not an address that fsspec knows; use one such as s3://BUCKET/FOLDER"
        ) from None
    options = kind._get_kwargs_from_urls(f"{scheme}://{bucket}")
    for name in ("s3fs", "gcsfs", "adlfs", "botocore", "aiobotocore"):  # what lasts is said by StorageError
        logging.getLogger(name).addHandler(logging.NullHandler())
    if scheme in (
        "s3",
        "s3a",
    ):  # s3fs would ask for the size of each object before it reads it in several parts at once
        options = {"max_concurrency": 1, **options}
    # What another program, or another process of this one, has changed since must be seen.
    return kind(**options, use_listings_cache=False, skip_instance_cache=scheme != "memory")


def _object(info: Mapping[str, Any]) -> RemoteObject:
    """A file system's description of an object, whose keys differ from store to store."""
    ns = 0
    for key in ("LastModified", "last_modified", "updated", "mtime", "created"):
        value = info.get(key)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime):
            moment = value if value.tzinfo else value.replace(tzinfo=UTC)
            ns = int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
        elif isinstance(value, int | float):
            ns = int(value * 10**9)
        else:
            continue
        break
    tag = _tag(info)
    return RemoteObject(int(info.get("size") or 0), ns // 10**9 * 10**9 + _fraction(tag) if tag else ns)


def _tag(info: Mapping[str, Any]) -> str:
    """What changes with an object's content: its MD5 in hex where the store gives that, or its ETag; "" without."""
    if isinstance(md5 := info.get("md5Hash"), str):
        return base64.b64decode(md5).hex()
    return str(info.get("ETag") or info.get("etag") or "").strip('"')


def _fraction(tag: str) -> int:
    """A tag as a number of nanoseconds below a second."""
    return int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8]) % 10**9


def _is_of_store(error: BaseException) -> bool:
    """Whether an error is about the store or the way to it, rather than a mistake in a program."""
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or not _CLIENTS.isdisjoint(modules)


def _is_denied(error: BaseException) -> bool:
    """Whether to try again would be of no use."""
    name = type(error).__name__.lower()
    return isinstance(error, PermissionError) or any(word in name for word in _DENIED)


def _reason(error: BaseException) -> str:
    """The first line of an error, without a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(". ")
