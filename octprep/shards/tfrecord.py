"""tf.train.Example bytes and TFRecord framing, both ways, written by hand.

Importing TensorFlow for this takes seconds and 300 MB in every worker, and preparing scans should not need an install
of 2 GB. The protobuf package would need the generated code of feature.proto. So the few wire types that an Example has
are encoded here; tests compare our bytes with TensorFlow's own, byte for byte and both ways.

An Example is a protocol buffer
(https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto):

    Example  { Features features = 1 }     Features { map<string, Feature> feature = 1 }
    Feature  { oneof: BytesList = 1, FloatList = 2, Int64List = 3 }     each list { repeated value = 1 }

A TFRecord file is a sequence of frames, each the length of the data (uint64), the length's masked CRC-32C (uint32), the
data, and their masked CRC-32C (https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details), where

    masked = ((crc >> 15) | (crc << 17)) + 0xa282ead8.

Keys are written sorted, as TensorFlow's deterministic serialization does, so equal features give equal bytes.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from octprep.format.manifest import open_shard

Value = bytes | Sequence[int] | Sequence[float]
Example = dict[str, list[bytes] | list[int] | list[float]]

_MASK_DELTA = 0xA282EAD8
_HEADER = struct.Struct("<QI")  # length, its masked CRC
_FOOTER = struct.Struct("<I")  # masked CRC of the data
HEADER_BYTES = _HEADER.size  # of a frame, before the data
_MAX_RECORD = 1 << 31  # a protocol buffer holds at most 2 GiB

# The wire type of a field with a length, and the field numbers of feature.proto.
_LENGTH = 2
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_PARTS = 6  # that `_parts` makes of a feature


class RecordError(ValueError):
    """Bytes that are not a TFRecord frame or not a tf.train.Example; the message says what is wrong."""


def masked_crc(data: bytes) -> int:
    """CRC-32C of data, rotated and shifted as TFRecord stores it."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """One record as a TFRecord file holds it."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _FOOTER.pack(masked_crc(length)), data, _FOOTER.pack(masked_crc(data))))


def read(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, every CRC checked.

    Raises RecordError with the record's index and offset at the first frame that is cut short or fails its CRC, and
    for a path that is a link, a pipe or anything but a file in a folder. Raises as `open_shard` does for a file that is
    missing, or that the machine cannot read.
    """
    with _open(path) as file:
        yield from _frames(file, os.fstat(file.fileno()).st_size)


def read_at(path: Path, offset: int) -> bytes:
    """The record whose frame begins at an offset. Raises RecordError as `read` does, or if the file ends there."""
    with _open(path) as file:
        file.seek(offset)
        for data in _frames(file, os.fstat(file.fileno()).st_size):
            return data
    raise RecordError(f"no record at byte {offset}")


def unframe(frame: bytes) -> bytes:
    """The record in the bytes of its frame. Raises RecordError as `read` does."""
    records = list(_frames(io.BytesIO(frame), len(frame)))
    if len(records) != 1:
        raise RecordError(f"{len(records)} records where one was expected")
    return records[0]


def offsets(path: Path) -> list[int]:
    """The byte at which each record's frame begins, for `read_at`; only the lengths are read.

    Raises RecordError if a length fails its CRC, or the file ends inside a record.
    """
    frame_offsets: list[int] = []
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            record = f"record {len(frame_offsets)} at byte {offset}"
            length = _length(file.read(_HEADER.size), record)
            frame_offsets.append(offset)
            offset = file.seek(length + _FOOTER.size, 1)
            if offset > size:
                raise RecordError(f"{record}: the file ends inside the record")
    return frame_offsets


def frames(data: mmap.mmap | bytes) -> Iterator[tuple[int, int]]:
    """The first byte of each record's frame in a TFRecord file's content, and the byte after its last.

    Only the lengths are read. Raises RecordError as `offsets` does.
    """
    index, start, size = 0, 0, len(data)
    while start < size:
        record = f"record {index} at byte {start}"
        length = _length(data[start : start + _HEADER.size], record)
        end = start + _HEADER.size + length + _FOOTER.size
        if end > size:
            raise RecordError(f"{record}: the file ends inside the record")
        yield start, end
        index, start = index + 1, end


def data_span(frame: tuple[int, int]) -> tuple[int, int]:
    """The first byte of the data in a frame that `frames` gives, and the byte after its last."""
    return frame[0] + _HEADER.size, frame[1] - _FOOTER.size


def value_spans(data: mmap.mmap | bytes, start: int, end: int, wanted: Collection[str]) -> dict[str, tuple[int, int]]:
    """Where the values of some features of an Example lie: the first byte, and the byte after the last.

    data: the bytes from start to end are an Example that `encode` wrote. Of a feature of bytes it is the span of the
    one value, of integers that of all, packed. Values are not read, nor are other features. Raises RecordError if the
    bytes are not what `encode` writes; features that are missing are not in the result.
    """
    try:
        spans: dict[str, tuple[int, int]] = {}
        index, features_end = _enter(data, start, end, 1)
        if features_end != end:
            raise RecordError("not a tf.train.Example as octprep writes it (bytes after the features)")
        while index < end:
            entry, index = _enter(data, index, end, 1)
            key_start, key_end = _enter(data, entry, index, 1)
            key = data[key_start:key_end].decode()
            if key in wanted:
                feature, feature_end = _enter(data, key_end, index, 2)
                value, list_end = _enter(data, feature, feature_end, data[feature] >> 3)
                value, value_end = _enter(data, value, list_end, 1)
                if not value_end == list_end == feature_end == index or key in spans:
                    raise RecordError(f"not a tf.train.Example as octprep writes it (feature {key})")
                spans[key] = value, value_end
    except (IndexError, UnicodeDecodeError) as error:
        raise RecordError(f"not a tf.train.Example ({type(error).__name__}: {error})") from None
    return spans


def single_int(packed: bytes) -> int:
    """The only number of a packed list of integers. Raises RecordError if there are more, or none."""
    try:
        values = list(_varints(packed))
    except IndexError:
        values = []
    if len(values) != 1:
        raise RecordError("a feature of one number has more, or none")
    return values[0]


def _enter(data: mmap.mmap | bytes, start: int, end: int, number: int) -> tuple[int, int]:
    """The span of the content of the field that begins at start and must not go beyond end."""
    if start >= end or data[start] != number << 3 | _LENGTH:
        raise RecordError(f"not a tf.train.Example as octprep writes it (no field {number} at byte {start})")
    start += 1
    length = data[start]
    start += 1
    if length > 0x7F:
        length, start = _read_varint(data, start - 1)
    if start + length > end:
        raise RecordError("not a tf.train.Example (a field runs past the end)")
    return start, start + length


def framed_size(data: bytes) -> int:
    """How many bytes a record takes in a file."""
    return _HEADER.size + len(data) + _FOOTER.size


def _open(path: Path) -> io.BufferedReader:
    try:
        return open_shard(path)
    except OSError:
        raise
    except ValueError as error:
        raise RecordError(str(error)) from None


def _frames(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The records from where a file is to its end. size: bytes of the whole file."""
    index, offset = 0, file.tell()
    while header := file.read(_HEADER.size):
        record = f"record {index} at byte {offset}"
        length = _length(header, record)
        if length > size - offset - _HEADER.size:  # before so much memory is allocated
            raise RecordError(f"{record}: the file ends inside the record")
        data = file.read(length)
        footer = file.read(_FOOTER.size)
        if len(data) < length or len(footer) < _FOOTER.size:
            raise RecordError(f"{record}: the file ends inside the record")
        if masked_crc(data) != _FOOTER.unpack(footer)[0]:
            raise RecordError(f"{record}: the data fail their CRC")
        yield data
        index += 1
        offset += _HEADER.size + length + _FOOTER.size


def _length(header: bytes, record: str) -> int:
    """The length of a record's data, bytes. Raises RecordError if the header is cut short or damaged."""
    if len(header) < _HEADER.size:
        raise RecordError(f"{record}: the file ends inside a header")
    length, length_crc = _HEADER.unpack(header)
    if masked_crc(header[:8]) != length_crc:
        raise RecordError(f"{record}: the length fails its CRC")
    if length > _MAX_RECORD:
        raise RecordError(f"{record}: a length of {length:,} bytes is more than a record can hold")
    return int(length)


def encode(features: Mapping[str, Value]) -> bytes:
    """A serialized tf.train.Example: bytes become a bytes_list of one, ints an int64_list, floats a float_list.

    Raises TypeError for values of any other kind, ValueError for an empty list, whose type is unknown.
    """
    return b"".join(_parts(features))


def encode_with_offset(features: Mapping[str, Value], key: str) -> tuple[bytes, int]:
    """As `encode`, and the byte at which the value, or the values, of one of the features begin."""
    parts = _parts(features)
    before = 1 + _PARTS * sorted(features).index(key) + _PARTS - 1
    return b"".join(parts), sum(map(len, parts[:before]))


def _parts(features: Mapping[str, Value]) -> list[bytes]:
    """The bytes of an Example: its head, then _PARTS for each feature, of which the last is its value or values.

    They are joined only once, as copying an image takes longer than all else.
    """
    parts = [b""]
    for key in sorted(features):
        kind, content = _packed(key, features[key])
        value = _head(1, len(content))
        values = _head(kind, size := len(value) + len(content))
        feature = _head(2, size := size + len(values))
        name = _key_field(key)
        entry = _head(1, len(name) + len(feature) + size)
        parts += (entry, name, feature, values, value, content)
    if features:
        parts[0] = _head(1, sum(map(len, parts)))
    return parts


def decode(data: bytes) -> Example:
    """The features of a serialized tf.train.Example. Raises RecordError if the bytes are not an Example."""
    try:
        example: Example = {}
        for _, features in _fields(memoryview(data), 1):
            for _, entry in _fields(features, 1):
                key_and_value = dict(_fields(entry, 1, 2))
                example[bytes(key_and_value[1]).decode()] = _values(key_and_value[2])
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise RecordError(f"not a tf.train.Example ({type(error).__name__}: {error})") from None
    return example


def _packed(key: str, value: Value) -> tuple[int, bytes]:
    """The field number of the list that holds a feature's value, and the one value or packed values in it."""
    if isinstance(value, bytes):
        return _BYTES_LIST, value
    if not value:
        raise ValueError(f"feature {key!r} is empty, so its type is unknown")
    kinds = set(map(type, value))
    if all(issubclass(kind, int) for kind in kinds):
        return _INT64_LIST, b"".join([_varint(int(item) & 0xFFFFFFFFFFFFFFFF) for item in value])
    if all(issubclass(kind, float) for kind in kinds):
        return _FLOAT_LIST, struct.pack(f"<{len(value)}f", *value)
    raise TypeError(f"feature {key!r} must be bytes, ints or floats; got {value!r}")


def _values(feature: memoryview) -> list[bytes] | list[int] | list[float]:
    for list_kind, content in _fields(feature, _BYTES_LIST, _FLOAT_LIST, _INT64_LIST):
        if list_kind == _BYTES_LIST:
            return [bytes(item) for _, item in _fields(content, 1)]
        packed = b"".join(item for _, item in _fields(content, 1))
        if list_kind == _FLOAT_LIST:
            return list(struct.unpack(f"<{len(packed) // 4}f", packed))
        return list(_varints(packed))
    return []


_SMALL_VARINTS = tuple(bytes([value]) for value in range(0x80))


@lru_cache(maxsize=64)
def _key_field(key: str) -> bytes:
    """The key of a map's entry."""
    content = key.encode()
    return _head(1, len(content)) + content


@lru_cache(maxsize=1024)  # most lengths are those of all records
def _head(number: int, length: int) -> bytes:
    """What comes before the content of a field with a length."""
    return bytes((number << 3 | _LENGTH,)) + _varint(length)


def _varint(value: int) -> bytes:
    if value <= 0x7F:  # most are
        return _SMALL_VARINTS[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: memoryview | bytes | mmap.mmap, start: int) -> tuple[int, int]:
    """An unsigned integer of 7 bits a byte, lowest first, and the index after it."""
    value, shift, index = 0, 0, start
    while True:
        byte = data[index]
        value |= (byte & 0x7F) << shift
        index += 1
        if byte < 0x80:
            return value, index
        shift += 7
        if shift > 63:
            raise RecordError("not a tf.train.Example (a varint of more than 64 bits)")


def _varints(data: bytes) -> Iterator[int]:
    index = 0
    while index < len(data):
        value, index = _read_varint(data, index)
        yield value - (1 << 64) if value >> 63 else value  # negative numbers are in two's complement of 64 bits


def _fields(data: memoryview, *numbers: int) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message with these numbers, and their content.

    The content of a number that other writers have not packed is the bytes that it has in a packed list.
    """
    index = 0
    while index < len(data):
        tag, index = _read_varint(data, index)
        start = index
        match tag & 7:  # the wire type
            case 0:
                _, index = _read_varint(data, index)
            case 1:
                index += 8
            case 2:
                length, start = _read_varint(data, index)
                index = start + length
            case 5:
                index += 4
            case wire_type:
                raise RecordError(f"not a tf.train.Example (wire type {wire_type})")
        if index > len(data):
            raise RecordError("not a tf.train.Example (a field runs past the end)")
        if tag >> 3 in numbers:
            yield tag >> 3, data[start:index]
