"""Writing the index of a folder of shards: `octprep.format.record_index` says what it holds.

Only the frames and the features that the index holds are read, not the pixels: 30,000 records a second and more.
"""

from __future__ import annotations

import mmap
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from octprep.format import images_csv
from octprep.format.errors import ManifestError, OutputError, StoppedError
from octprep.format.files import atomic_write, remove_partial_files, sync
from octprep.format.locks import locked
from octprep.format.manifest import IMAGE, LABEL, PATH, REPAIR, REPEAT, Manifest, Shard, open_shard, read_folder_file
from octprep.format.paths import original
from octprep.format.record_index import (
    INDEX_NAME,
    IndexedRecord,
    check_shard,
    dali_name,
    encode_dali,
    encode_lines,
    encode_table,
    read,
    table_name,
)
from octprep.shards import tfrecord
from octprep.shards.plan import ShardPlan
from octprep.shards.tfds import write_tfds_files
from octprep.shards.tfrecord import RecordError
from octprep.shards.writer import RecordPlace, read_places
from octprep.storage.cache import Streaming, reading

_FILE = re.compile(r"[A-Za-z0-9_]{1,64}(\.csv|/[0-9]{5}-of-[0-9]{5}\.tfrecord\.idx)")
_FEATURES = frozenset((IMAGE, LABEL, PATH, REPEAT))


def index_folder(folder: Path) -> dict[str, bytes]:
    """Write the index of a finished folder again; returns its files by their names relative to the folder.

    The files for TensorFlow Datasets (`octprep.shards.tfds`) are written again too.

    Raises ManifestError if the manifest, images.csv or a shard is missing or damaged; OutputError if the index cannot
    be written, or another process writes to the folder.
    """
    manifest = Manifest.load(folder)
    table = images_csv.read_checked(folder, manifest)
    try:
        with locked(folder, "octprep build"):
            files = make_index(folder, manifest, table.paths)
            write_index(folder, files)
            write_tfds_files(folder, manifest)
    except OSError as error:
        raise OutputError(f"{folder / INDEX_NAME} cannot be written: {error.strerror or error}.") from None
    return files


def make_index(
    folder: Path,
    manifest: Manifest,
    paths: Iterable[str],
    streaming: Streaming | None = None,
) -> dict[str, bytes]:
    """The files of an index by their names relative to the folder of shards.

    folder: that holds the shards. paths: of all rows of images.csv, in any order. streaming: how shards are fetched
    that are not there.

    Raises ManifestError, naming the shard, if a shard cannot be read, or is not as the manifest and images.csv say.
    """
    row_of = _row_numbers(paths)

    def read_records(shard: Shard, number: int) -> list[IndexedRecord]:
        try:
            with reading(streaming, folder / shard.name):
                return _index_shard(folder / shard.name, number, row_of)
        except (OSError, RecordError) as error:
            problem = error.strerror if isinstance(error, OSError) and error.strerror else error
            path = folder / shard.name
            raise _damaged(path if isinstance(error, OSError) else original(path), f": {problem}") from None

    return _make_index(folder, manifest, read_records)


def make_index_of_plans(
    folder: Path,
    manifest: Manifest,
    plans: Mapping[str, Sequence[ShardPlan]],
    paths: Iterable[str],
    visit: Callable[[Shard, Sequence[IndexedRecord], Sequence[RecordPlace]], None],
) -> dict[str, bytes]:
    """The same for shards that were just written to a folder, from their plans and receipts: no record is read.

    visit: called with each shard, its records, and where they are by its receipt, which are then forgotten. Raises
    StoppedError for a receipt that was damaged, and otherwise as `make_index` does.
    """
    row_of = _row_numbers(paths)
    plan_of = {plan.name: plan for split_plans in plans.values() for plan in split_plans}
    label_of = {name: label for label, name in enumerate(manifest.class_names)}

    def planned_records(shard: Shard, number: int) -> list[IndexedRecord]:
        records, start = [], 0
        places = read_places(folder, shard)
        for (scan, repeat), place in zip(plan_of[shard.name].items, places, strict=True):
            image, label, row = start + place.image, label_of[scan.label], row_of(scan.path)
            assert row is not None, "every scan has a row"
            records.append(IndexedRecord(number, start, place.bytes, image, place.image_bytes, label, repeat, row))
            start += place.bytes
        visit(shard, records, places)
        return records

    return _make_index(folder, manifest, planned_records)


def _row_numbers(paths: Iterable[str]) -> Callable[[str], int | None]:
    """A function that gives the number of the row of images.csv with a path. paths: of all rows, in any order."""
    in_order = sorted(paths)

    def number_of(path: str) -> int | None:
        number = bisect_left(in_order, path)
        return number if number < len(in_order) and in_order[number] == path else None

    return number_of


def _make_index(
    folder: Path,
    manifest: Manifest,
    records_of: Callable[[Shard, int], Sequence[IndexedRecord]],
) -> dict[str, bytes]:
    """The files of an index. records_of: the records of a shard, by its number in its split."""
    files: dict[str, bytes] = {}
    for split, shards in manifest.splits.items():
        lines: list[bytes] = []
        for number, shard in enumerate(shards):
            records = records_of(shard, number)
            try:
                check_shard(records, manifest, shard)
            except ValueError as error:
                raise _damaged(original(folder / split), f" {error}") from None
            lines.append(encode_lines(records))
            files[dali_name(shard)] = encode_dali(records)
        files[table_name(split)] = encode_table(lines, manifest.digest)
    return files


def _dali_files(records: Iterable[IndexedRecord], shards: Sequence[Shard]) -> dict[str, bytes]:
    """The index for DALI of each shard of a split, by name. records: of the split, in the order of the shards."""
    by_shard = {number: tuple(members) for number, members in groupby(records, key=lambda record: record.shard)}
    return {dali_name(shard): encode_dali(by_shard.get(number, ())) for number, shard in enumerate(shards)}


def write_index(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of an index, each complete or absent after a crash, in place of the index that is there."""
    remove_index(folder, keep=files)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / name, content)
    sync(folder)


def move_index(source: Path, target: Path) -> None:
    """Move the index of one folder to another, in place of the index that is there."""
    remove_index(target)
    names = index_names(source)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(target / name)
    for parent in sorted({(target / name).parent for name in names}):
        sync(parent)


def remove_index(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove the files of an index, but for those of the names to keep, and the folders that are empty then."""
    index = folder / INDEX_NAME
    if index.is_symlink():
        index.unlink()
    for path in index.glob("*"):
        if path.is_symlink():
            path.unlink()
    for name in index_names(folder):
        if name not in keep:
            (folder / name).unlink()
    remove_partial_index_files(folder)
    for path in (*index.glob("*/"), index):
        with suppress(OSError):  # it is not empty
            path.rmdir()


def remove_partial_index_files(folder: Path) -> None:
    """Remove files of the index that a killed process was writing; call it only while holding the folder's lock."""
    for path in (folder / INDEX_NAME, *(folder / INDEX_NAME).glob("*/")):
        remove_partial_files(path)


def index_is_current(folder: Path, manifest: Manifest) -> bool:
    """Whether all files of the index are there and were written for the dataset of the manifest; reads no shard."""
    try:
        for split, shards in manifest.splits.items():
            for name, content in _dali_files(read(folder, manifest, split), shards).items():
                if read_folder_file(folder / name) != content:
                    return False
    except (ManifestError, StoppedError, OSError, ValueError):
        return False
    return True


def index_names(folder: Path) -> list[str]:
    """The names, sorted, of the files of an index that are there, relative to the folder of shards."""
    index = folder / INDEX_NAME
    found = (path.relative_to(index).as_posix() for pattern in ("*.csv", "*/*.idx") for path in index.glob(pattern))
    return [f"{INDEX_NAME}/{name}" for name in sorted(found) if _FILE.fullmatch(name)]


def _index_shard(path: Path, number: int, row_of: Callable[[str], int | None]) -> list[IndexedRecord]:
    """The records of a shard's file. Raises RecordError or OSError for one that is damaged or cannot be read."""
    try:
        file = open_shard(path)
    except ValueError as error:
        raise RecordError(str(error)) from None
    with file:
        if not file.seek(0, 2):
            return []  # an empty file cannot be mapped
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return [_index_record(data, frame, number, row_of) for frame in tfrecord.frames(data)]


def _index_record(
    data: mmap.mmap, frame: tuple[int, int], number: int, row_of: Callable[[str], int | None]
) -> IndexedRecord:
    start, end = frame
    try:
        spans = tfrecord.value_spans(data, *tfrecord.data_span(frame), _FEATURES)
        image, path = spans[IMAGE], data[slice(*spans[PATH])].decode()
        label, repeat = (tfrecord.single_int(data[slice(*spans[key])]) for key in (LABEL, REPEAT))
        row = row_of(path)
    except (KeyError, UnicodeDecodeError) as error:
        raise RecordError(
            f"the record at byte {start} lacks a feature, or has text that is not UTF-8: {error}"
        ) from None
    if row is None:
        raise RecordError(f"the record at byte {start} is of {path[:200]!r}, which images.csv does not have")
    return IndexedRecord(number, start, end - start, image[0], image[1] - image[0], label, repeat, row)


def _damaged(path: Path | str, problem: str) -> ManifestError:
    return ManifestError(f"{path}{problem}. {REPAIR}")
