"""Walking a source: its regular files, with links followed or not, and the entries that were not read."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from octprep.format.errors import SourceError
from octprep.format.files import retry
from octprep.format.paths import path_to_text
from octprep.source.files import Exclusion
from octprep.storage.remote import RemoteFolder

_MAX_LINK_DEPTH = 4  # links to folders, one behind the other, that are followed


@dataclass(frozen=True, slots=True)
class RegularFile:
    """A regular file below the source."""

    key: str  # its path relative to the source, as text
    bytes: int
    modified_ns: int
    changed_ns: int  # when its content or its status was last changed
    linked: bool  # a followed link, or behind one
    real_path: str  # with all links resolved; the key where none are followed


@dataclass(frozen=True, slots=True)
class UnreadEntry:
    """A link that was not followed, or a folder or file that cannot be read."""

    key: str
    reason: str
    is_file: bool  # False: a folder, or not known what it is
    link_target: str = ""  # of a link: its real path


class RemoteWalk:
    """Everything below a URL, by the attributes of `Walk`; it is listed on construction.

    An object's last change is its time in seconds with a hash of its ETag below that (`RemoteObject`). Names that no
    path can have, such as one with an empty part, are in `special_files`. Raises StorageError.
    """

    def __init__(self, src: RemoteFolder) -> None:
        self.src = src
        self.files: list[RegularFile] = []
        self.special_files: list[Exclusion] = []
        for name, found in src.list().items():
            key = path_to_text(name)
            if any(part in ("", ".", "..") for part in name.split("/")):
                if not name.endswith("/"):  # as consoles mark a folder
                    self.special_files.append(Exclusion(key, "not the name of a file"))
                continue
            self.files.append(RegularFile(key, found.bytes, found.changed_ns, found.changed_ns, False, key))


class Walk:
    """Everything below a source folder; it is walked on construction.

    Raises SourceError for an input/output error. What may not be read, or vanished meanwhile, is in `unread`.
    """

    files: list[RegularFile]
    special_files: list[Exclusion]  # pipes, sockets and devices
    unread: list[UnreadEntry]  # sorted by key
    followed_links: list[tuple[str, str]]  # key and real path of each

    def __init__(self, src: Path, follow_links: bool) -> None:
        self.src = src
        self.follow_links = follow_links
        self.real_src = os.path.realpath(src)
        self.files, self.special_files, self.unread, self.followed_links = [], [], [], []
        # Folders still to list: the path below src, and the real paths of the folders that led there through links, its
        # own last.
        self._folders: list[tuple[str, tuple[str, ...]]] = [("", (self.real_src,))]
        while self._folders:
            folder, real_paths = self._folders.pop()
            try:
                entries = retry(partial(_entries, src / folder))
            except OSError as error:
                self._add_unread(folder, error, is_file=False)
                continue
            if isinstance(entries, PermissionError):
                self._add_unread(folder, entries, is_file=False)
                continue
            while entries:  # each is forgotten with its status, of half a kilobyte
                entry = entries.popleft()
                path = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    self._add(entry, path, real_paths)
                except OSError as error:
                    self._add_unread(path, error, is_file=True)
        self.unread.sort(key=lambda entry: entry.key)

    def _add(self, entry: os.DirEntry[str], path: str, real_paths: tuple[str, ...]) -> None:
        if entry.is_symlink():
            self._add_link(entry, path, real_paths)
            return
        real_path = os.path.join(real_paths[-1], entry.name)  # noqa: PTH118 - pathlib takes as long as all else
        if entry.is_dir(follow_symlinks=False):
            self._folders.append((path, (*real_paths[:-1], real_path)))
        else:
            self._add_file(path, entry.stat(follow_symlinks=False), real_path, linked=len(real_paths) > 1)

    def _add_link(self, entry: os.DirEntry[str], path: str, real_paths: tuple[str, ...]) -> None:
        key, target = path_to_text(path), os.path.realpath(entry.path)
        if not self.follow_links:
            try:
                is_file = not stat.S_ISDIR(Path(entry.path).stat().st_mode)
            except OSError:
                is_file = False
            self.unread.append(UnreadEntry(key, "link, not followed", is_file, target))
            return
        try:
            status = Path(entry.path).stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            self.unread.append(UnreadEntry(key, "link that leads nowhere", False, target))
            return
        if not stat.S_ISDIR(status.st_mode):
            self.followed_links.append((key, target))
            self._add_file(path, status, target, linked=True)
        elif any(Path(real_path).is_relative_to(target) for real_path in real_paths):
            self.unread.append(UnreadEntry(key, "link back to a folder above it", False, target))
        elif len(real_paths) > _MAX_LINK_DEPTH:
            self.unread.append(UnreadEntry(key, f"link behind {_MAX_LINK_DEPTH} others", False, target))
        else:
            self.followed_links.append((key, target))
            self._folders.append((path, (*real_paths, target)))

    def _add_file(self, path: str, status: os.stat_result, real_path: str, *, linked: bool) -> None:
        key = path_to_text(path)
        if stat.S_ISREG(status.st_mode):
            changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
            target = real_path if self.follow_links else key
            self.files.append(RegularFile(key, status.st_size, status.st_mtime_ns, changed_ns, linked, target))
        else:
            self.special_files.append(Exclusion(key, "not a regular file"))

    def _add_unread(self, path: str, error: OSError, *, is_file: bool) -> None:
        """Keep what may not be read or vanished, for the listing to decide on; raise SourceError for a failing disk."""
        key, why = path_to_text(path), error.strerror or str(error)
        if path and error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR):
            self.unread.append(UnreadEntry(key, f"cannot be read: {why}", is_file))
            return
        shown = f"--src {path_to_text(str(self.src))}" + (f": {key}" if key else "")
        raise SourceError(f"{shown} cannot be read: {why}. Run the same command again when it can be.") from None


def _entries(folder: Path) -> deque[os.DirEntry[str]] | PermissionError:
    """What is in a folder, sorted by name; a PermissionError is returned, as `retry` would only repeat it."""
    try:
        with os.scandir(folder) as entries:
            return deque(sorted(entries, key=lambda entry: entry.name))
    except PermissionError as error:
        return error
