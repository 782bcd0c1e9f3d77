"""The codec of records: pixels and features of one B-scan to the bytes of a tf.train.Example, and back.

Bytes from a shard are never trusted: their features, their numbers and the size that a PNG claims are checked before
anything is made of them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from octprep.arrays import Gray
from octprep.format.config import Preprocessing
from octprep.format.errors import ManifestError
from octprep.format.manifest import (
    AFFINE,
    EYE,
    FORMAT_VERSION,
    IMAGE,
    LABEL,
    NUMBER,
    PATH,
    PATIENT,
    REPAIR,
    REPEAT,
    ROW_OFFSET,
    SHA256,
    SOURCE,
    SOURCE_SIZE,
    STATED,
    VOLUME,
    Manifest,
    Shard,
)
from octprep.format.paths import original
from octprep.shards import tfrecord
from octprep.shards.tfrecord import RecordError
from octprep.storage.cache import Hold, fetch_or_stream, holding, open_dataset, reading
from octprep.storage.remote import Location, location

_LIMIT = 1 << 31  # whole numbers of a record are below it
_MAX_NAMES = 200  # characters of the names that a message lists
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">II BB")  # width, height, bits of a channel, kind of colour; 8 bytes after the signature
_GRAY = (8, 0)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One B-scan as a shard holds it: the features of a record."""

    image: bytes  # the pixels, as `encode_pixels` makes them
    label: int  # index into the manifest's class names
    patient: str  # the id, as images.csv has it
    path: str  # of the source file, relative to the source, with forward slashes: the record's key
    number: int  # of the image within its patient; 0 where the source does not state it
    sha256: str  # of the source file, hex
    source_size: tuple[int, int]  # height, width of the source, pixels
    affine: tuple[float, ...]  # row-major 2x3: stored (column, row, 1) -> source (column, row), pixel centres
    row_offset: tuple[float, ...] = ()  # with flatten: rows to add in each stored column to the row by the affine
    repeat: int = 0  # 0 for the first occurrence of an image, 1.. for repeats that balance the classes
    # None in a folder whose records do not have it; "" where it is not known of this image.
    source: str | None = None  # the name of the source, where a build had several
    eye: str | None = None  # OD (right) or OS (left)
    volume: str | None = None  # the examination that the B-scan is of


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedRecord(Record):
    """A record and its pixels."""

    pixels: Gray  # (height, width) uint8, 0 (black) to 255 (white), row 0 on the vitreous side; read-only


def read_records(folder: Location | str, split: str) -> Iterator[DecodedRecord]:
    """The records of a split of a finished folder, for NumPy: without TensorFlow, in the order of the shards.

    folder: what `octprep build` wrote, or its URL, of which the shards are read through the cache; those that are
    larger than it may be are fetched as they are read. split: train, val, test or a fold such as fold0. Of each record,
    `pixels` is (height, width) uint8 in 0..255 with the height and width of the manifest's recipe, and `label` an index
    into its class names, 0 to len(class_names) - 1; the other fields are those of Record. Repeated images come as often
    as they are stored; `record.repeat == 0` selects each image once. One record is in memory at a time.

    The CRC of every record is checked, and its features. Raises ManifestError if the folder has no manifest that can be
    read, the split is not in it, or a shard is missing or damaged; it names the shard, and what was yielded before was
    good. SHA-256 and counts are not checked: `octprep verify` does that.
    """
    place = location(folder)
    hold = Hold()
    with holding(hold):
        folder = open_dataset(place)
        manifest = Manifest.load(folder)
        if split not in manifest.splits:
            raise ManifestError(f"{place} has no split {split!r}; choose one of {', '.join(manifest.splits)}.")
        _, streaming = fetch_or_stream(place, folder, manifest, [split], 1)

    def records() -> Iterator[DecodedRecord]:
        for shard in manifest.splits[split]:
            with reading(streaming, folder / shard.name):
                yield from read_shard(folder, manifest, shard)
        hold.release()  # or when the iterator is not referred to any more

    return records()


def read_shard(folder: Path, manifest: Manifest, shard: Shard) -> Iterator[DecodedRecord]:
    """The records of one shard of a finished folder, as `read_records` yields them. Raises ManifestError as that does.

    manifest: of the folder. shard: one of the manifest.
    """
    count = 0
    try:
        for data in tfrecord.read(folder / shard.name):
            try:
                record = decode_with_pixels(data, manifest)
            except RecordError as error:
                raise RecordError(f"record {count} {error}") from None
            count += 1
            yield record
        if count != shard.records:
            raise RecordError(f"has {count:,} records where the manifest says {shard.records:,}")
    except (OSError, RecordError) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else error
        path = folder / shard.name
        named = path if isinstance(error, OSError) else original(path)
        raise ManifestError(f"{named}: {problem}. {REPAIR}") from None


def encode_pixels(pixels: Gray, encoding: str) -> bytes:
    """(height, width) uint8 as a record's image bytes. encoding: raw (row by row) or png."""
    if encoding == "raw":
        return pixels.tobytes()
    return cv2.imencode(".png", pixels)[1].tobytes()


def decode_pixels(image: bytes, height: int, width: int, encoding: str) -> Gray | None:
    """The pixels in a record's image bytes, (height, width) uint8; None for bytes that `encode_pixels` does not write.

    The size in a PNG's header is checked before it is decoded.
    """
    if encoding == "raw":
        return np.frombuffer(image, np.uint8).reshape(height, width) if len(image) == height * width else None
    if image[:8] != _PNG or len(image) < 26 or _HEADER.unpack(image[16:26]) != (width, height, *_GRAY):
        return None
    try:
        decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if decoded is None or decoded.shape != (height, width) or decoded.dtype != np.uint8:
        return None
    return np.asarray(decoded, np.uint8)


def encode_record(record: Record) -> bytes:
    """A record as a serialized tf.train.Example; equal records give equal bytes."""
    return tfrecord.encode(_features(record))


def encode_with_image_offset(record: Record) -> tuple[bytes, int]:
    """As `encode_record`, and the byte at which the image begins."""
    return tfrecord.encode_with_offset(_features(record), IMAGE)


def _features(record: Record) -> dict[str, tfrecord.Value]:
    features: dict[str, tfrecord.Value] = {
        IMAGE: record.image,
        LABEL: [record.label],
        PATIENT: record.patient.encode(),
        PATH: record.path.encode(),
        NUMBER: [record.number],
        SHA256: bytes.fromhex(record.sha256),
        SOURCE_SIZE: record.source_size,
        AFFINE: record.affine,
        REPEAT: [record.repeat],
    }
    if record.row_offset:
        features[ROW_OFFSET] = record.row_offset
    for name in STATED:
        if (text := getattr(record, name)) is not None:
            features[name] = text.encode()
    return features


def decode_record(data: bytes, recipe: Preprocessing) -> Record:
    """The record in a serialized tf.train.Example; floats have the precision of 32 bits.

    recipe: of the folder. Raises RecordError, saying what is wrong, if the bytes are not an Example, or its features
    are not those of Record in kind, length and range. The image is not decoded, and the label not compared with the
    classes.
    """
    try:
        example = tfrecord.decode(data)
    except RecordError as error:
        raise RecordError(f"is not a record of format {FORMAT_VERSION}: {error}") from None
    kinds: dict[str, tuple[type, int]] = {
        IMAGE: (bytes, 1), LABEL: (int, 1), PATIENT: (bytes, 1), PATH: (bytes, 1),
        NUMBER: (int, 1), SHA256: (bytes, 1), SOURCE_SIZE: (int, 2), AFFINE: (float, 6),
        REPEAT: (int, 1), **({ROW_OFFSET: (float, recipe.width)} if recipe.flatten else {}),
    }  # fmt: skip
    kinds |= {name: (bytes, 1) for name in STATED if name in example}
    if example.keys() != kinds.keys():
        names = ", ".join(sorted(example.keys() ^ kinds.keys()))
        raise RecordError(f"lacks features or has others than it should: {names[:_MAX_NAMES]}")
    for key, (kind, length) in kinds.items():
        if len(example[key]) != length or not all(isinstance(value, kind) for value in example[key]):
            raise RecordError(f"has a feature of the wrong kind or length: {key}")
        if kind is int and key != LABEL and not all(0 <= value < _LIMIT for value in example[key]):  # type: ignore[operator]
            raise RecordError(f"has a number out of range: {key}")
        if kind is float and not all(map(math.isfinite, example[key])):  # type: ignore[arg-type]
            raise RecordError(f"has a number that is not finite: {key}")
    features: dict[str, Any] = {key: values[0] if kinds[key][1] == 1 else values for key, values in example.items()}
    try:
        path, patient = (features[key].decode() for key in (PATH, PATIENT))
        stated = {name: features[name].decode() if name in features else None for name in STATED}
    except UnicodeDecodeError:
        raise RecordError("has text that is not UTF-8") from None
    if not path or not patient or len(features[SHA256]) != 32:
        raise RecordError("has a feature of the wrong length")
    return Record(
        image=features[IMAGE],
        label=features[LABEL],
        patient=patient,
        path=path,
        number=features[NUMBER],
        sha256=features[SHA256].hex(),
        source_size=tuple(features[SOURCE_SIZE]),
        affine=tuple(features[AFFINE]),
        row_offset=tuple(features.get(ROW_OFFSET, ())),
        repeat=features[REPEAT],
        source=stated[SOURCE],
        eye=stated[EYE],
        volume=stated[VOLUME],
    )


def decode_with_pixels(data: bytes, manifest: Manifest) -> DecodedRecord:
    """The record in a serialized tf.train.Example, with its pixels.

    manifest: of the folder. Raises RecordError as `decode_record` does, and if the label is not an index of a class, or
    the image is not of the recipe's size.
    """
    recipe, classes = manifest.recipe, len(manifest.class_names)
    record = decode_record(data, recipe)
    if not 0 <= record.label < classes:
        raise RecordError(f"has label {record.label}, but there are {classes} classes")
    pixels = decode_pixels(record.image, recipe.height, recipe.width, manifest.config.encoding)
    if pixels is None:
        form = "gray pixels" if manifest.config.encoding == "raw" else "gray pixels in a PNG"
        raise RecordError(f"has an image that is not {recipe.height} x {recipe.width} {form}")
    pixels.flags.writeable = False
    return DecodedRecord(**vars(record), pixels=pixels)
