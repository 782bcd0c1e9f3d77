"""The pictures of the report: sources with the crop, with the fill inpainted, and the stored pixels.

What cannot be shown becomes a sentence; no picture ever stops a report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from octprep import preprocessing
from octprep.arrays import Float64, Gray
from octprep.crashes import is_crash
from octprep.format.config import PREPROCESSING_VERSION, Preprocessing
from octprep.format.images_csv import ExcludedRow, ImageRow
from octprep.format.manifest import Manifest
from octprep.html.pictures import Picture, SourceImages, jpeg, reduced, whole
from octprep.shards import tfrecord
from octprep.shards.records import DecodedRecord, decode_with_pixels
from octprep.shards.tfrecord import RecordError
from octprep.storage.remote import Location, RemoteFolder

LARGE, SMALL, THUMB = 320, 200, 150  # width of a picture at most, pixels
_CROP_COLOUR = (0, 176, 255)  # amber, as OpenCV orders it: blue, green, red


# The path of an image -> the shard that holds it ("": none), the byte at which its record's frame begins, its bytes.
RecordPlaces = Callable[[str], tuple[str, int, int]]


@dataclass(frozen=True)
class StoredScan:
    """What a record holds of one image."""

    pixels: Gray  # (rows, columns)
    source_columns: Float64  # of the source, for each stored column
    row_offsets: Float64  # rows to add in each stored column to undo the flattening; 0 where it was not done


@dataclass(frozen=True)
class Steps:
    """The steps of one scan: the source with its crop, with the fill inpainted, and as it is stored."""

    source: Picture
    inpainted: Picture | None
    stored: Picture


def read_stored(
    folder: Location, rows: Iterable[ImageRow], manifest: Manifest, places: RecordPlaces | None = None
) -> dict[str, StoredScan]:
    """What the shards under a folder hold of some images, by path; those that cannot be read are absent.

    places: where their records are, which a URL needs; without it the shards of a folder are searched for them. Raises
    StorageError.
    """
    if places is not None or isinstance(folder, RemoteFolder):
        assert places is not None
        return _read_stored_at(folder, [row.path for row in rows], manifest, places)
    paths_in: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        paths_in[row.shards[0]].add(row.path)
    stored: dict[str, StoredScan] = {}
    for shard, paths in sorted(paths_in.items()):
        try:
            for data in tfrecord.read(folder / shard):
                # Most records are not needed: look for the path among the bytes before parsing any.
                candidates = [path for path in paths if path.encode() in data]
                if candidates and (record := decode_with_pixels(data, manifest)).path in candidates:
                    stored[record.path] = _stored(record)
                    paths.discard(record.path)
                if not paths:
                    break
        except (OSError, RecordError):
            continue  # verify says what is wrong with it
    return stored


def _read_stored_at(
    folder: Location, paths: Iterable[str], manifest: Manifest, places: RecordPlaces
) -> dict[str, StoredScan]:
    stored: dict[str, StoredScan] = {}
    for path in paths:
        shard, offset, size = places(path)
        if not shard:
            continue
        with suppress(OSError, RecordError):
            if isinstance(folder, RemoteFolder):
                data = tfrecord.unframe(folder.read_part(shard, offset, size))
            else:
                data = tfrecord.read_at(folder / shard, offset)
            record = decode_with_pixels(data, manifest)
            if record.path == path:
                stored[path] = _stored(record)
    return stored


def steps(
    source: SourceImages,
    row: ImageRow,
    stored: StoredScan | None,
    recipe: Preprocessing,
    width: int,
    *,
    inpainted: bool,
) -> Steps:
    """The steps of one scan, each picture at most `width` wide; inpainted: whether that step is shown."""
    gray = source.read(row.path, row.sha256)
    between = None
    if isinstance(gray, str):
        before = Picture(f"Source {gray}")
        if inpainted:
            between = Picture(f"Fill inpainted {gray}")
    else:
        text = f"Source of {row.path}, {row.width} x {row.height} pixels, its crop framed"
        before = jpeg(text, _framed(reduced(gray, width), gray.shape, row, stored))
        if inpainted:
            between = _inpainted(row, gray, recipe, width)
    if stored is None:
        return Steps(before, between, Picture("Stored pixels not shown: the record cannot be read from its shard"))
    rows, columns = stored.pixels.shape
    after = jpeg(f"{row.path} as stored, {columns} x {rows} pixels", reduced(stored.pixels, width))
    return Steps(before, between, after)


def thumbnail(source: SourceImages, row: ExcludedRow, width: int) -> Picture:
    """An excluded file, at most `width` wide; without a picture if it would end this process."""
    if is_crash(row.exclusion_reason):
        return Picture(f"Source not shown: it {row.exclusion_reason}")
    sha256 = row.scan.sha256 if row.scan else ""
    return whole(source, row.path, sha256, f"{row.path}, excluded: {row.exclusion_reason}", width)


def _inpainted(row: ImageRow, gray: Gray, recipe: Preprocessing, width: int) -> Picture:
    if not recipe.inpaint_fill:
        return Picture("Fill not inpainted: the recipe does not ask for it")
    if recipe.version != PREPROCESSING_VERSION:
        return Picture("Inpainting not shown: this version of octprep inpaints differently from the one that built")
    depths = preprocessing.find_fill(gray)
    if depths is None:
        return jpeg(f"{row.path}: no fill to inpaint", reduced(gray, width))
    left, right = depths.kept_columns()  # fill at the sides is cut off
    inpainted = preprocessing.inpaint(gray, depths)[:, left:right]
    return jpeg(f"{row.path} with its fill inpainted", reduced(inpainted, width))


def _stored(record: DecodedRecord) -> StoredScan:
    width = record.pixels.shape[1]
    columns = record.affine[0] * np.arange(width, dtype=np.float64) + record.affine[2]
    offsets = np.array(record.row_offset, np.float64) if record.row_offset else np.zeros(width)
    return StoredScan(record.pixels, columns, offsets)


def _framed(small: Gray, shape: tuple[int, ...], row: ImageRow, stored: StoredScan | None) -> Any:
    """The reduced source in colour with the crop's frame, (rows, columns, 3); curved where the scan was flattened."""
    top, bottom, left, right = row.measurements.crop
    scale = small.shape[1] / shape[1]
    columns, offsets = np.array([left, right - 1], np.float64), np.zeros(2)
    if stored is not None and stored.row_offsets.any():
        inside = (stored.source_columns >= left) & (stored.source_columns <= right - 1)
        columns, offsets = stored.source_columns[inside], stored.row_offsets[inside]
    upper = np.stack([columns, np.clip(top + offsets, 0, shape[0] - 1)], axis=1)
    lower = np.stack([columns, np.clip(bottom - 1 + offsets, 0, shape[0] - 1)], axis=1)[::-1]
    outline = np.concatenate([upper, lower]) * scale
    frame = np.clip(np.rint(outline), 1, (small.shape[1] - 2, small.shape[0] - 2)).astype(np.int32)
    colour = cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)
    line = 2 if small.shape[1] > SMALL else 1
    for thickness, ink in ((line + 2, (0, 0, 0)), (line, _CROP_COLOUR)):
        cv2.polylines(colour, [frame], isClosed=True, color=ink, thickness=thickness, lineType=cv2.LINE_AA)
    return colour
