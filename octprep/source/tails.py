"""Finding the file of a source that a table of another machine names: by the end of its path."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from octprep.format.names import unwrapped, without_hash

_DRIVE = re.compile(r"[A-Za-z]:")
# Eight digits before a name may also be a date or a patient's id: these have a letter.
_PREFIX = re.compile(r"(?=[0-9]*[a-f])[0-9a-f]{8}-")


class PathTails:
    """The paths of a source by the names of their files, in any case and with or without their endings.

    Where an annotation tool has put a name into its own, the path is also found by that.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        """paths: relative to the source, with forward slashes, as text."""
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_inner_name: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            name = path.casefold().rpartition("/")[2]
            for key in _with_and_without_ending(name):
                self._by_name[key].append(path)
            if inner := without_hash(name) or (unwrapped(name) if _PREFIX.match(name) else ""):
                for key in _with_and_without_ending(inner):
                    self._by_inner_name[key].append(path)

    def find(self, given: str) -> list[str]:
        """The paths with the name of a file that share most of its last folders. given: a path of any system.

        Where the name is not there, those with the same name and another ending.
        """
        *folders, name = normal_path(given).casefold().split("/")
        stem = name.rpartition(".")[0]
        places = (self._by_name, self._by_inner_name)
        candidates = next((place[key] for place in places for key in (name, stem) if key in place), [])
        if len(candidates) < 2:
            return list(candidates)
        shared = [_shared(path, folders) for path in candidates]
        most = max(shared)
        return [path for path, count in zip(candidates, shared, strict=True) if count == most]

    def find_whole(self, given: str) -> list[str]:
        """The paths of `find` that end with the whole of `given`, or that `given` ends with."""
        folders = normal_path(given).casefold().split("/")[:-1]
        return [path for path in self.find(given) if _shared(path, folders) == min(path.count("/"), len(folders))]


def _with_and_without_ending(name: str) -> tuple[str, ...]:
    stem = name.rpartition(".")[0]
    return (name, stem) if stem else (name,)


def normal_path(text: str) -> str:
    """A path of any system with forward slashes, without blanks around it, a drive, and dots for folders."""
    parts = [part for part in text.strip().replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts[1:] if parts and _DRIVE.fullmatch(parts[0]) else parts)


def _shared(path: str, folders: list[str]) -> int:
    """How many of the last folders of a path are those of another one, in lower case."""
    count = 0
    for ours, theirs in zip(path.casefold().split("/")[-2::-1], reversed(folders), strict=False):
        if ours != theirs:
            break
        count += 1
    return count
