"""What the records of a folder hold, without their pixels: a row of numbers for each, as there may be millions."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Int64
from octprep.format.sequences import MadeOnAccess

# The columns of a row: name, format for `struct`, type for NumPy. The first four are places in lists of names.
_COLUMNS = (
    ("shard", "I", "<u4"), ("path", "I", "<u4"), ("patient", "I", "<u4"), ("stated", "I", "<u4"),
    ("index", "I", "<u4"), ("label", "i", "<i4"), ("sha256", "32s", "S32"), ("repeat", "i", "<i4"),
    ("image_number", "i", "<i4"), ("source_size", "2i", "<2i4"), ("affine", "6d", "<6f8"), ("offset", "Q", "<u8"),
    ("pixel_digest", "16s", "S16"), ("feature_digest", "16s", "S16"), ("measures", "3d", "<3f8"),
    ("measured", "?", "?"), ("comparable", "?", "?"),
)  # fmt: skip
_ROW = struct.Struct("<" + "".join(code for _, code, _ in _COLUMNS))
_DTYPE = np.dtype([(name, kind) for name, _, kind in _COLUMNS])
_NAMED = ("path", "patient", "stated")
_CONTENTS = ("patient", "sha256", "pixel_digest")  # that no two splits may share
_NOT_MEASURED = (0.0, 0.0, 0.0)

Stated = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class RecordSummary:
    """What one record holds, without its pixels."""

    shard: str
    index: int  # in the shard, from 0
    path: str  # of the source file, the record's key
    patient: str
    label: int  # index into the manifest's class names
    sha256: str  # of the source file, hex
    repeat: int  # 0 for the first occurrence of an image
    image_number: int
    stated: Stated  # source, eye and volume; None where the record has none
    source_size: tuple[int, int]  # height, width in pixels
    affine: tuple[float, ...]  # see `octprep.shards.records.Record`
    offset: int  # of the record's frame in its shard, bytes
    pixel_digest: bytes = field(repr=False)  # of the stored pixels
    feature_digest: bytes = field(repr=False)  # of all features but `image` and `repeat`
    measures: tuple[float, ...] = ()  # `preprocessing.measure_intensity` of the pixels; () for repeats
    comparable: bool = True  # whether the pixels are enough to compare the scan with others

    @property
    def split(self) -> str:
        """The split of its shard."""
        return self.shard.partition("/")[0]

    @property
    def where(self) -> str:
        """The record in words."""
        return f"{self.shard} record {self.index} ({self.path})"


class PackedRecords(NamedTuple):
    """The records of one shard, as a worker process sends them."""

    rows: bytes  # _ROW of each, with the number of the record in place of those of the names
    paths: tuple[str, ...]  # of each
    patients: tuple[str, ...]  # of each
    stated: tuple[Stated, ...]  # of each

    @classmethod
    def of(cls, records: Sequence[RecordSummary]) -> PackedRecords:
        """Pack records."""
        return cls(
            b"".join(_row(number, record) for number, record in enumerate(records)),
            tuple(record.path for record in records),
            tuple(record.patient for record in records),
            tuple(record.stated for record in records),
        )


def _row(number: int, record: RecordSummary) -> bytes:
    return _ROW.pack(
        0, number, number, number, record.index, record.label, bytes.fromhex(record.sha256), record.repeat,
        record.image_number, *record.source_size, *record.affine, record.offset, record.pixel_digest,
        record.feature_digest, *(record.measures or _NOT_MEASURED), bool(record.measures), record.comparable,
    )  # fmt: skip


class Records(MadeOnAccess[RecordSummary]):
    """The records of all shards, each of which is made when it is asked for."""

    def __init__(self, shards: Mapping[str, Sequence[str]], contents: Iterable[tuple[str, PackedRecords]]) -> None:
        """shards: the names of those of each split, in order. contents: of each of them, in any order."""
        self._shards = [name for names in shards.values() for name in names]
        number_of_shard = {name: number for number, name in enumerate(self._shards)}
        numbers: tuple[dict[Any, int], ...] = ({}, {}, {})  # of each path, patient and `stated`
        parts = [np.zeros(0, _DTYPE)] * len(self._shards)
        for shard, packed in contents:
            number = number_of_shard[shard]
            rows = parts[number] = np.frombuffer(bytearray(packed.rows), _DTYPE)
            rows["shard"] = number
            for column, names, number_of in zip(_NAMED, packed[1:], numbers, strict=True):
                rows[column] = [number_of.setdefault(name, len(number_of)) for name in names]
        paths, self.patients, self._stated = map(list, numbers)
        del numbers
        self._rows = np.concatenate(parts or [np.zeros(0, _DTYPE)])
        del parts
        ends = np.searchsorted(self._rows["shard"], np.cumsum([len(names) for names in shards.values()])).tolist()
        self.splits = {  # the numbers of the records of each
            split: range(start, end) for split, start, end in zip(shards, [0, *ends], ends, strict=False)
        }
        self._data = self._rows.view(np.uint8).data
        order = sorted(range(len(paths)), key=paths.__getitem__)
        self.paths: list[str] = [paths[number] for number in order]  # sorted
        rank = np.empty(len(order), np.uint32)
        rank[order] = np.arange(len(order))
        self._rows["path"] = rank[self._rows["path"]]

    def __len__(self) -> int:
        return len(self._rows)

    def make(self, index: int) -> RecordSummary:
        """A record."""
        (
            shard, path, patient, stated, in_shard, label, sha256, repeat, image_number, height, width, *affine,
            offset, pixel_digest, feature_digest, mean, std, sharpness, measured, comparable,
        ) = _ROW.unpack_from(self._data, index * _ROW.size)  # fmt: skip
        return RecordSummary(
            self._shards[shard], in_shard, self.paths[path], self.patients[patient], label, sha256.hex(), repeat,
            image_number, self._stated[stated], (height, width), tuple(affine), offset, pixel_digest, feature_digest,
            (mean, std, sharpness) if measured else (), comparable,
        )  # fmt: skip

    def column(self, name: str) -> NDArray[Any]:
        """A field of all records, (records,): of `path` its place in `paths`, of `patient` that in `patients`."""
        return self._rows[name]

    @cached_property
    def split_numbers(self) -> Int64:
        """The split of each record as a number, (records,)."""
        return np.repeat(np.arange(len(self.splits)), [len(numbers) for numbers in self.splits.values()])

    def first_with_same(self, name: str, among: Int64 | None = None) -> Int64:
        """For each record the number of the first that has the same value in a column, (records,).

        among: the numbers of some records, ascending; then (those,).
        """
        numbers = np.arange(len(self)) if among is None else among
        _, first, inverse = np.unique(self._rows[name][numbers], return_index=True, return_inverse=True)
        return np.asarray(numbers[first[inverse]], np.int64)

    def with_path(self, path: str) -> list[int]:
        """The numbers of the records of an image, ascending."""
        place = bisect_left(self.paths, path)
        if place == len(self.paths) or self.paths[place] != path:
            return []
        order, starts = self._by_path
        return list(order[starts[place] : starts[place + 1]].tolist())

    def first(self, path: str) -> RecordSummary | None:
        """The first record of an image, if there is one."""
        numbers = self.with_path(path)
        return self[numbers[0]] if numbers else None

    def repeated(self, split: str) -> list[list[int]]:
        """The numbers of the records of each image that has several in a split; all sorted."""
        order, starts = self._groups(split)
        several = np.flatnonzero(np.diff(starts) > 1)
        return sorted(np.sort(order[starts[group] : starts[group + 1]]).tolist() for group in several)

    def unusual_repeats(self, split: str) -> Iterator[list[int]]:
        """The numbers of the records, sorted, of each image of a split whose repeats are not 0, 1, ... or not equal."""
        order, starts = self._groups(split)
        first = np.repeat(starts[:-1], np.diff(starts))  # of the image of each
        unusual = self._rows["repeat"][order] != np.arange(len(order)) - first
        for name in ("pixel_digest", "feature_digest"):
            unusual |= self._rows[name][order] != self._rows[name][order[first]]
        for start in np.unique(first[unusual]).tolist():
            yield np.sort(order[start : starts[np.searchsorted(starts, start) + 1]]).tolist()

    def _groups(self, split: str) -> tuple[Int64, Int64]:
        """The records of a split by path and repeat, and where those of each path begin, (images + 1,)."""
        numbers = np.asarray(self.splits[split], np.int64)
        paths = self._rows["path"][numbers]
        order = np.lexsort((self._rows["repeat"][numbers], paths))
        starts = np.flatnonzero(np.diff(paths[order], prepend=-1)) if len(order) else np.zeros(0, np.int64)
        return numbers[order], np.append(starts, len(order))

    @cached_property
    def firsts(self) -> Int64:
        """The number of the first record of each image, ascending."""
        order, starts = self._by_path
        return np.sort(order[starts[:-1]])

    @cached_property
    def _by_path(self) -> tuple[Int64, Int64]:
        """The records by path and number, and where those of each path begin, (paths + 1,)."""
        order = np.argsort(self._rows["path"], kind="stable")
        return order, np.searchsorted(self._rows["path"][order], np.arange(len(self.paths) + 1))

    def that_may_leak(self, split: str, others: AbstractSet[str]) -> list[int]:
        """The numbers of the records of a split that have something in common with another, or are of other images.

        Those of an image are among them all, or none. others: the paths of these images.
        """
        numbers = np.asarray(self.splits[split], np.int64)
        paths = self._rows["path"][numbers]
        shared = np.zeros(len(self.paths), bool)
        shared[paths[self._is_shared[numbers]]] = True
        for path in others:
            shared[self._rows["path"][self.with_path(path)]] = True
        return list(numbers[shared[paths]].tolist())

    @cached_property
    def _is_shared(self) -> NDArray[np.bool_]:
        """Whether the patient, the content or the pixels of each record are in several splits, (records,)."""
        shared = np.zeros(len(self), bool)
        for name in _CONTENTS:
            first = self.first_with_same(name)
            of_several = np.zeros(len(self), bool)  # of the first with each value
            of_several[first[self.split_numbers != self.split_numbers[first]]] = True
            shared |= of_several[first]
        return shared

    def in_several_splits(self) -> Iterator[tuple[str, int, int]]:
        """Each patient, content and stored pixels of a split before which another has it.

        The column, the number of the split's first record with it, and that of the first of all.
        """
        for name in _CONTENTS:
            first = self.first_with_same(name)
            reported: set[tuple[int, int]] = set()
            for number in np.flatnonzero(self.split_numbers != self.split_numbers[first]).tolist():
                key = int(self.split_numbers[number]), int(first[number])
                if key not in reported:
                    reported.add(key)
                    yield name, number, key[1]
