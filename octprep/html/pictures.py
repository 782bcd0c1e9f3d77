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
import numpy as np

from octprep import preprocessing
from octprep.arrays import Gray
from octprep.format.errors import UnreadableImage
from octprep.format.files import NotReadable, read_bytes
from octprep.format.paths import text_to_path
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
        data = self._open(path, allow_outside=bool(sha256))
        if sha256 and self.folder is not None:
            matches = isinstance(data, bytes) and hashlib.sha256(data).hexdigest() == sha256
            (self.matched if matches else self.mismatched).add(path)
            if not matches and isinstance(data, bytes):
                return "not shown: the file in the source is not the one that was built from"
        if isinstance(data, str):
            return data
        try:
            return preprocessing.decode(data, "luminance")  # of whatever was excluded, too
        except UnreadableImage as error:
            return f"no picture: {error}"
        except (OSError, MemoryError):
            return "no picture: the machine could not decode it"

    def _open(self, path: str, *, allow_outside: bool) -> bytes | str:
        """The bytes of a file, or why there are none; allow_outside: even if a link leads out of the folder."""
        if self.folder is None:
            return _NO_SOURCE
        try:
            folder, inner = locate(self.folder, self.names.get(path, path))
            relative = Path(text_to_path(inner))
            if isinstance(folder, RemoteFolder):
                return folder.read(text_to_path(inner))
            file = (folder / relative).resolve(strict=True)
            outside = not allow_outside and not file.is_relative_to(folder.resolve())
            if outside or relative.is_absolute() or ".." in relative.parts:
                return "not shown: it is not inside the source"
            return read_bytes(file, preprocessing.MAX_BYTES)[0]
        except NotReadable as error:
            return f"not shown: the file {error}"
        except (OSError, ValueError, RuntimeError):  # a null byte in the name; a loop of links
            return "not shown: the file is not in the source, or cannot be read"


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
    size = (max(round(columns * scale), 1), max(round(rows * scale), 1))
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)


def jpeg(text: str, pixels: Any) -> Picture:
    """(rows, columns) uint8, or (rows, columns, 3) in blue, green and red, as a picture; text: what it shows."""
    data = cv2.imencode(".jpeg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    return Picture(text, uri, pixels.shape[1], pixels.shape[0])
