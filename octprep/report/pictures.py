"""The pictures of the report: sources as they are, cleaned, and as they were stored, each as JPEG inside a data URI.

What cannot be shown becomes a sentence in its place; no picture ever stops a report.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep import preprocessing
from octprep.arrays import Gray
from octprep.format import files
from octprep.format.config import PREPROCESSING_VERSION, Preprocessing
from octprep.format.errors import UnreadableImage
from octprep.format.files import text_to_path
from octprep.format.images_csv import ExcludedRow, ImageRow
from octprep.format.manifest import AFFINE, IMAGE, PATH, ROW_OFFSET
from octprep.shards import tfrecord
from octprep.shards.records import unpacked
from octprep.shards.tfrecord import RecordError

LARGE, SMALL, THUMB = 320, 200, 150  # width of a picture at most, pixels
_QUALITY = 70  # of the JPEG
_CROP = (0, 176, 255)  # amber, as OpenCV orders it: blue, green, red
_NO_SOURCE = "not shown: the report was made without the source (octprep report DIR --src SRC adds it)"


@dataclass(frozen=True)
class Picture:
    """A picture, or in words why there is none."""

    alt: str
    uri: str = ""  # data:image/jpeg;base64,...
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Stored:
    """What a record holds of one image."""

    pixels: Gray  # (rows, columns)
    columns: NDArray[np.float64]  # of the source, for each stored column
    shift: NDArray[np.float64]  # rows to add in each stored column to come back from the flattened retina


@dataclass(frozen=True)
class Steps:
    """One scan on its way: the source with its crop, cleaned, as it is stored."""

    source: Picture
    cleaned: Picture | None
    stored: Picture


class SourceImages:
    """The folder that the shards were built from, or its absence."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.known: set[str] = set()  # paths that were read so far and have the SHA-256 asked for
        self.strange: set[str] = set()  # those that have another, or cannot be read

    def read(self, path: str, sha256: str) -> Gray | str:
        """The gray values of a file, or why it cannot be shown. Outside the folder, where a link may lead, only the
        file that was built from is shown.

        sha256: what the file must have, in hex; "" if it is not known.
        """
        data = self._open(path, known=bool(sha256))
        if sha256 and self.folder is not None:
            good = isinstance(data, bytes) and hashlib.sha256(data).hexdigest() == sha256
            (self.known if good else self.strange).add(path)
            if not good and isinstance(data, bytes):
                return "not shown: the file in the source is not the one that was built from"
        if isinstance(data, str):
            return data
        try:
            return preprocessing.decode(data)
        except UnreadableImage as error:
            return f"no picture: {error}"
        except (OSError, MemoryError):
            return "no picture: the machine could not decode it"

    def _open(self, path: str, *, known: bool) -> bytes | str:
        """The bytes of a file inside the folder, or why they cannot be had; known: of any file, as its sum is known."""
        if self.folder is None:
            return _NO_SOURCE
        try:
            inner = Path(text_to_path(path))
            file = (self.folder / inner).resolve(strict=True)
            outside = not known and not file.is_relative_to(self.folder.resolve())
            if outside or inner.is_absolute() or ".." in inner.parts:
                return "not shown: it is not inside the source"
            return files.read_bytes(file, preprocessing.MAX_BYTES)[0]
        except files.NotReadable as error:
            return f"not shown: the file {error}"
        except (OSError, ValueError, RuntimeError):  # a null byte in the name; a loop of links
            return "not shown: the file is not in the source, or cannot be read"


def stored(folder: Path, images: Iterable[ImageRow], recipe: Preprocessing) -> dict[str, Stored]:
    """What the shards under a folder hold of some images, by path; those that cannot be read are absent."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for image in images:
        wanted[image.shards[0]].add(image.path)
    found: dict[str, Stored] = {}
    for shard, paths in sorted(wanted.items()):
        try:
            for data in tfrecord.read(folder / shard):
                # Most records are not wanted: look for the path among the bytes before parsing any.
                near = [path for path in paths if path.encode() in data]
                if near and (path := _text(example := tfrecord.decode(data))) in near:
                    found[path] = _stored(example, recipe)
                    paths.discard(path)
                if not paths:
                    break
        except (OSError, RecordError, KeyError, IndexError, TypeError, ValueError, cv2.error):
            continue  # verify says what is wrong with it
    return found


def steps(
    source: SourceImages, image: ImageRow, kept: Stored | None, recipe: Preprocessing, width: int, *, cleaned: bool
) -> Steps:
    """One scan on its way, each picture at most `width` wide; the cleaned one only where it is wanted."""
    gray = source.read(image.path, image.sha256)
    size = f"{image.width} x {image.height} pixels"
    between = None
    if isinstance(gray, str):
        before = Picture(f"Source {gray}")
        if cleaned:
            between = Picture(f"Cleaned {gray}")
    else:
        before = _picture(
            f"Source of {image.path}, {size}, its crop framed", _framed(_reduced(gray, width), gray.shape, image, kept)
        )
        if cleaned:
            between = _cleaned(image, gray, recipe, width)
    if kept is None:
        after = Picture("Stored pixels not shown: the record cannot be read from its shard")
    else:
        rows, columns = kept.pixels.shape
        after = _picture(f"{image.path} as stored, {columns} x {rows} pixels", _reduced(kept.pixels, width))
    return Steps(before, between, after)


def thumbnail(source: SourceImages, left: ExcludedRow, width: int) -> Picture:
    """A file that was left out, at most `width` wide."""
    return whole(
        source,
        left.path,
        left.scan.sha256 if left.scan else "",
        f"{left.path}, left out: {left.exclusion_reason}",
        width,
    )


def whole(source: SourceImages, path: str, sha256: str, alt: str, width: int) -> Picture:
    """A file of the source as it is, at most `width` wide."""
    gray = source.read(path, sha256)
    if isinstance(gray, str):
        return Picture(f"Source {gray}")
    return _picture(alt, _reduced(gray, width))


def _cleaned(image: ImageRow, gray: Gray, recipe: Preprocessing, width: int) -> Picture:
    if not recipe.clean:
        return Picture("Not cleaned: the recipe does not ask for it")
    if recipe.revision != PREPROCESSING_VERSION:
        return Picture("Cleaned not shown: this version of octprep cleans differently from the one that built")
    border = preprocessing.find_border(gray)
    if border is None:
        return _picture(f"{image.path}: no fill at the border, nothing to clean", _reduced(gray, width))
    left, right = border.trim()  # bands at the sides are cut off
    clean = preprocessing.clean(gray, border, border.mask())[:, left:right]
    return _picture(f"{image.path} with the fill at its border painted over", _reduced(clean, width))


def _stored(example: Mapping[str, Any], recipe: Preprocessing) -> Stored:
    data = example[IMAGE][0]
    encoding = "raw" if len(data) == recipe.height * recipe.width else "png"
    pixels = unpacked(data, recipe, encoding)
    if pixels is None:
        raise ValueError(f"has an image that is not {recipe.height} x {recipe.width} gray pixels")
    affine = example[AFFINE]
    columns = affine[0] * np.arange(recipe.width, dtype=np.float64) + affine[2]
    moved = np.array(example[ROW_OFFSET], np.float64) if recipe.flatten else np.zeros(recipe.width)
    return Stored(pixels, columns, moved)


def _text(example: Mapping[str, Any]) -> str:
    return str(bytes(example[PATH][0]).decode())


def _framed(small: Gray, shape: tuple[int, ...], image: ImageRow, kept: Stored | None) -> Any:
    """The reduced source in colour with the crop's frame; (rows, columns, 3). Curved where the scan was flattened."""
    top, bottom, left, right = image.measurements.crop
    scale = small.shape[1] / shape[1]
    at, moved = np.array([left, right - 1], np.float64), np.zeros(2)
    if kept is not None and kept.shift.any():
        inside = (kept.columns >= left) & (kept.columns <= right - 1)
        at, moved = kept.columns[inside], kept.shift[inside]
    upper = np.stack([at, np.clip(top + moved, 0, shape[0] - 1)], axis=1)
    lower = np.stack([at, np.clip(bottom - 1 + moved, 0, shape[0] - 1)], axis=1)[::-1]
    outline = np.concatenate([upper, lower]) * scale
    frame = np.clip(np.rint(outline), 1, (small.shape[1] - 2, small.shape[0] - 2)).astype(np.int32)
    colour = cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)
    line = 2 if small.shape[1] > SMALL else 1
    for width, ink in ((line + 2, (0, 0, 0)), (line, _CROP)):
        cv2.polylines(colour, [frame], isClosed=True, color=ink, thickness=width, lineType=cv2.LINE_AA)
    return colour


def _reduced(gray: Gray, width: int) -> Gray:
    """At most `width` wide, and at most twice as high."""
    rows, columns = gray.shape
    scale = min(width / columns, 2 * width / rows, 1.0)
    if scale == 1.0:
        return gray
    size = (max(round(columns * scale), 1), max(round(rows * scale), 1))
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)


def _picture(alt: str, pixels: Any) -> Picture:
    data = cv2.imencode(".jpeg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    return Picture(alt, uri, pixels.shape[1], pixels.shape[0])
