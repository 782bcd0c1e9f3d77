"""Pictures of a page, each a JPEG inside a data URI, and the source files that they show.

What cannot be shown becomes a sentence; only an object store that does not answer stops a page.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from octprep import preprocessing
from octprep.arrays import Gray
from octprep.format.errors import UnreadableImage
from octprep.format.files import NotReadable, read_bytes
from octprep.format.paths import split_frame_path, text_to_path
from octprep.preprocessing import volumes
from octprep.preprocessing.limits import MAX_VOLUME_BYTES
from octprep.preprocessing.resizing import resize
from octprep.preprocessing.volumes import Volume
from octprep.storage.remote import RemoteFolder, Source, locate

_QUALITY = 70  # of the JPEG
_NO_SOURCE = "not shown: the report was made without the source (octprep report DIR --src SRC adds it)"


@dataclass(frozen=True)
class Picture:
    """A picture, or in words why there is none."""

    text: str  # what a picture shows, or why there is none
    uri: str = ""  # data:image/jpeg;base64,...
    width: int = 0
    height: int = 0


class SourceImages:
    """The source folder whose files a page shows, or its absence."""

    def __init__(self, folder: Source | None, names: Mapping[str, str] | None = None) -> None:
        """folder: of the source; None: every picture says that the page was made without it.

        names: path as the page has it -> path in the source, where they differ.
        """
        self.folder = folder
        self.names = names or {}
        self.matched: set[str] = set()  # paths read so far whose SHA-256 is the expected one
        self.mismatched: set[str] = set()  # paths with another SHA-256, or that cannot be read

    def read(self, path: str, sha256: str) -> Gray | str:
        """The gray values of a file, (rows, columns), or why it cannot be shown. Raises StorageError.

        sha256: what the file must have, in hex; "" if it is not known. A link may lead out of the folder only to a file
        with the expected SHA-256.
        """
        try:
            found = self._find(self.names.get(path, path), allow_outside=bool(sha256))
            if sha256 and self.folder is not None:
                matches = not isinstance(found, str) and _sha256(found) == sha256
                (self.matched if matches else self.mismatched).add(path)
                if not matches and not isinstance(found, str):
                    return "not shown: the file in the source is not the one that was built from"
            if isinstance(found, str):
                return found
            if isinstance(found, bytes):
                return preprocessing.decode(found, "luminance")  # of whatever was excluded, too
            return volumes.decode_frame(*found, "luminance")[0]
        except UnreadableImage as error:
            return f"no picture: {error}"
        except (OSError, MemoryError):
            return "no picture: the machine could not decode it"

    def _find(self, name: str, *, allow_outside: bool) -> bytes | tuple[Volume, int] | str:
        """A file, or the file that holds a frame and its number, or why there is none. Raises UnreadableImage."""
        data = self._open(name, preprocessing.MAX_BYTES, allow_outside=allow_outside)
        file, frame = split_frame_path(name)
        if isinstance(data, bytes) or not frame:
            return data
        data = self._open(file, MAX_VOLUME_BYTES, allow_outside=allow_outside)
        return (volumes.load_volume(data), frame) if isinstance(data, bytes) else data

    def _open(self, name: str, limit: int, *, allow_outside: bool) -> bytes | str:
        """The bytes of a file of at most `limit` bytes, or why there are none.

        allow_outside: even if a link leads out of the folder.
        """
        if self.folder is None:
            return _NO_SOURCE
        try:
            folder, inner = locate(self.folder, name)
            relative = Path(text_to_path(inner))
            if isinstance(folder, RemoteFolder):
                return folder.read(text_to_path(inner))
            file = (folder / relative).resolve(strict=True)
            outside = not allow_outside and not file.is_relative_to(folder.resolve())
            if outside or relative.is_absolute() or ".." in relative.parts:
                return "not shown: it is not inside the source"
            return read_bytes(file, limit)[0]
        except NotReadable as error:
            return f"not shown: the file {error}"
        except (OSError, ValueError, RuntimeError):  # a null byte in the name; a loop of links
            return "not shown: the file is not in the source, or cannot be read"


def _sha256(found: bytes | tuple[Volume, int]) -> str:
    """SHA-256, in hex, of a file, or of a frame as its file stores it."""
    return hashlib.sha256(found).hexdigest() if isinstance(found, bytes) else volumes.frame_sha256(*found)


def whole(source: SourceImages, path: str, sha256: str, text: str, width: int) -> Picture:
    """A file of the source as it is, at most `width` pixels wide; text: what it shows."""
    gray = source.read(path, sha256)
    if isinstance(gray, str):
        return Picture(f"Source {gray}")
    return jpeg(text, reduced(gray, width))


def reduced(gray: Gray, width: int) -> Gray:
    """At most `width` wide, and at most twice as high."""
    rows, columns = gray.shape
    scale = min(width / columns, 2 * width / rows, 1.0)
    if scale == 1.0:
        return gray
    return resize(gray, max(round(rows * scale), 1), max(round(columns * scale), 1))


def jpeg(text: str, pixels: Any) -> Picture:
    """(rows, columns) uint8, or (rows, columns, 3) in blue, green and red, as a picture; text: what it shows."""
    data = cv2.imencode(".jpeg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    return Picture(text, uri, pixels.shape[1], pixels.shape[0])
