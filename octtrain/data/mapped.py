"""Images gathered by number out of memory-mapped shards, for a training whose order is arithmetic on numbers.

Needs NumPy alone. `octtrain.data.order` makes the orders, and the index beside the shards says where each image is.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.format import images_csv, record_index
from octprep.format.errors import ManifestError, StoppedError
from octprep.format.files import cannot_be_read, read_again
from octprep.format.images_csv import ImageRow
from octprep.format.manifest import REPAIR, Manifest, open_shard
from octprep.format.paths import original
from octprep.storage.cache import Hold, fetch_shards, holding, open_dataset
from octprep.storage.remote import Location, location
from octprep.wording import listed
from octtrain.data.ahead import ahead as in_thread
from octtrain.data.order import Order

Pixels = NDArray[np.uint8]

_PIECE = 8_000_000  # bytes that reading ahead asks for at a time
_MAPPED_BYTES = 128_000_000  # shards that are larger together are read, not mapped
_SHARED_BYTES = 4_000_000  # images that are more together are gathered by several threads, on machines of many cores


class MappedImages:
    """The records of some splits of a folder of shards; pixels are gathered out of memory-mapped files.

    Records are numbered from 0 in the order of the shards, as `octtrain.data.stream.batches` gives them; images from 0
    to `image_count` - 1, where the repeats of an image share its number. `len()` counts records, and `images[record]`
    is (pixels, label), so that PyTorch's DataLoader and Grain can take an instance as it is. It may be pickled, and
    used in forked processes and in several threads.

    Mapped pages count as memory of the process. Shards that are larger than 128 MB together are therefore read by
    number instead, which takes half as long again and no memory.

    image_shape: (height, width, 1), of uint8 in 0..255.  labels: (records,) index into the manifest's class names.
    image_of: (records,) the image's number.
    """

    image_shape: tuple[int, int, int]
    labels: NDArray[np.int64]
    image_of: NDArray[np.int32]
    image_count: int

    def __init__(
        self,
        folder: Location | str,
        split: str | Sequence[str] = "train",
        *,
        manifest: Manifest | None = None,
        rows: Sequence[ImageRow] | None = None,
    ) -> None:
        """Open the shards of a split, or of several, as for a dataset in folds.

        folder: made by `octprep build`, with its index, or its URL, which is read through the cache.  manifest: of the
        folder, if it was loaded already.  rows: the images in its images.csv, if they were read already; otherwise they
        are read when patients or paths are asked for.

        Raises ManifestError if the folder is not one of shards, has no such split, the splits hold no images, or the
        images are PNGs; if the index is missing or not that of these shards; if a shard is missing or of another size.
        Raises StoppedError if the machine cannot read a file.
        """
        place = location(folder)
        self.splits = (split,) if isinstance(split, str) else tuple(split)
        self._hold = Hold()
        with holding(self._hold):
            self.folder = open_dataset(place)
            self.manifest = manifest = manifest or Manifest.load(self.folder)
            fetch_shards(place, self.folder, manifest, self.splits)
            self._rows = rows
            for name in self.splits:
                if name not in manifest.splits:
                    raise ManifestError(f"{folder} has no split {name!r}; it has {', '.join(manifest.splits)}.")
            if manifest.config.encoding != "raw":
                raise ManifestError(
                    f"{folder} holds PNGs (--encoding {manifest.config.encoding}), not pixels that can be gathered. "
                    "Read it by `octtrain.training_batches` or `octprep.read_records`, or build it with --encoding raw."
                )
            if not any(manifest.records(name) for name in self.splits):
                raise ManifestError(f"Split {listed([*map(repr, self.splits)])} of {folder} holds no images.")
            self.image_shape = (manifest.recipe.height, manifest.recipe.width, 1)
            self._shards = [shard for name in self.splits for shard in manifest.splits[name]]
            self._locate()
            self._open()

    def _locate(self) -> None:
        """Read the index: which image each record has, and where each image is."""
        images, first_shard, parts = 0, 0, []
        self._images_of_split: list[int] = []
        for name in self.splits:
            records = record_index.read(self.folder, self.manifest, name)
            table = np.array(records, np.int64).reshape(len(records), len(record_index.IndexedRecord._fields))
            columns = dict(zip(record_index.IndexedRecord._fields, table.T, strict=True))
            # The rows of images.csv that a split's records have are all that the split has there, in their order.
            rows, first, image_of = np.unique(columns["row"], return_index=True, return_inverse=True)
            parts.append(
                (
                    columns["label"],
                    columns["label"][first],
                    images + image_of,
                    first_shard + columns["shard"][first],
                    columns["image_offset"][first],
                )
            )
            self._images_of_split.append(len(rows))
            images += len(rows)
            first_shard += len(self.manifest.splits[name])
        labels, label_of_image, image_of, shards, offsets = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        self.labels, self.image_of, self.image_count = labels, image_of.astype(np.int32), images
        self._label_of_image: list[int] = label_of_image.tolist()
        self._shard_of_image: list[int] = shards.tolist()
        self._offset_of_image: list[int] = offsets.tolist()

    def _open(self) -> None:
        """Map the shards, or keep them open to be read where they are too large for that."""
        self._views: list[Pixels] = []
        self._descriptors: list[int] = []
        self._close = weakref.finalize(self, _close_all, self._descriptors)
        mapped = sum(shard.bytes for shard in self._shards) <= _MAPPED_BYTES or not hasattr(os, "preadv")
        for shard in self._shards:
            path = self.folder / shard.name
            try:
                with open_shard(path) as file:
                    size = os.fstat(file.fileno()).st_size
                    if size != shard.bytes:  # a shorter file would end the process when its pixels are read
                        raise ValueError(f"has {size:,} bytes where the manifest says {shard.bytes:,}")
                    if not mapped:
                        self._descriptors.append(os.dup(file.fileno()))
                    elif size:
                        mapping = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
                        self._views.append(np.frombuffer(mapping, np.uint8))
                    else:  # an empty file cannot be mapped
                        self._views.append(np.empty(0, np.uint8))
            except (FileNotFoundError, NotADirectoryError):
                raise _damaged(path, "is missing") from None
            except OSError as error:
                raise cannot_be_read(path, error) from error
            except ValueError as error:
                raise _damaged(path, str(error)) from None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_views", "_descriptors", "_close")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def __len__(self) -> int:
        """How many records there are, repeats that balance the classes included."""
        return len(self.labels)

    def __getitem__(self, record: int) -> tuple[Pixels, int]:
        """A record's pixels, (height, width, 1) uint8, and its label."""
        return self.gather(self.image_of[[record]])[0], int(self.labels[record])

    def gather(self, images: NDArray[np.int32], out: Pixels | None = None) -> Pixels:
        """The pixels of images by their numbers: (n, height, width, 1) uint8, in `out` if that is given.

        images: (n,) in 0..image_count - 1; -1, with which `order.padded` fills, gives a black image. Raises IndexError
        for other numbers, ValueError for an `out` of another shape or type, ManifestError if a shard became shorter,
        StoppedError if the machine cannot read one.
        """
        shape = (len(images), *self.image_shape)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.shape} {out.dtype}, but the images need a contiguous {shape} uint8")
        numbers: list[int] = images.tolist()
        lowest, highest = min(numbers, default=0), max(numbers, default=0)
        if lowest < -1 or highest >= self.image_count:
            wrong = lowest if lowest < -1 else highest
            raise IndexError(f"there is no image {wrong}; they are numbered from 0 to {self.image_count - 1}")
        rows = out.reshape(len(numbers), -1)
        work = self._copy if self._views else self._read
        threads = _gathering_threads() if rows.size > _SHARED_BYTES else 1
        if threads == 1:
            work(numbers, rows)
        else:  # new threads in each call: a forked process has none of its parent's
            parts = [len(numbers) * i // threads for i in range(threads + 1)]
            with ThreadPoolExecutor(threads, "gather") as pool:
                [*pool.map(lambda start, end: work(numbers[start:end], rows[start:end]), parts, parts[1:])]
        if lowest < 0:
            out[np.asarray(images) < 0] = 0
        return out

    def _copy(self, numbers: list[int], rows: Pixels) -> None:
        views, shard_of, offset_of, size = self._views, self._shard_of_image, self._offset_of_image, rows.shape[1]
        for row, number in enumerate(numbers):
            offset = offset_of[number]
            rows[row] = views[shard_of[number]][offset : offset + size]

    def _read(self, numbers: list[int], rows: Pixels) -> None:
        descriptors, shard_of, offset_of = self._descriptors, self._shard_of_image, self._offset_of_image
        for row, number in enumerate(numbers):
            if number < 0:
                continue
            place = descriptors[shard_of[number]], [rows[row]], offset_of[number]
            try:
                count = os.preadv(*place)
            except OSError:
                count = read_again(self._path(number), partial(os.preadv, *place))
            if count != rows.shape[1]:
                raise _damaged(self._path(number), "became shorter while it was read")

    def _path(self, image: int) -> Path:
        """The shard that holds an image."""
        return self.folder / self._shards[self._shard_of_image[image]].name

    @cached_property
    def _image_rows(self) -> list[ImageRow]:
        """The row of images.csv of each image, by its number."""
        rows = images_csv.read_checked(self.folder, self.manifest).rows if self._rows is None else self._rows
        found: list[ImageRow] = []
        for name, count in zip(self.splits, self._images_of_split, strict=True):
            of_split = sorted((row for row in rows if row.split == name), key=lambda row: row.path)
            labels = self._label_of_image[len(found) : len(found) + count]
            if [row.label for row in of_split] != [self.manifest.class_names[label] for label in labels]:
                folder = original(self.folder)
                raise ManifestError(
                    f"{folder}/{record_index.table_name(name)} has other images than images.csv has of {name}. Write "
                    f"it again with `octprep index {folder}`."
                )
            found += of_split
        return found

    @cached_property
    def patients(self) -> NDArray[np.str_]:
        """The patient group of each record, (records,) text. Raises ManifestError if images.csv cannot be read."""
        return np.array([row.patient_group for row in self._image_rows], np.str_)[self.image_of]

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """The patient id of each record, as in the file's name: (records,) text. Raises ManifestError as `patients`."""
        return np.array([row.patient for row in self._image_rows], np.str_)[self.image_of]

    @cached_property
    def paths(self) -> list[str]:
        """The path of each record's source file, relative to the source. Raises ManifestError as `patients`."""
        return [self._image_rows[image].path for image in self.image_of.tolist()]

    def read_ahead(self) -> None:
        """Have the system read the shards into its memory, in a thread of its own, which ends by itself.

        A training in random order would wait for each image of a cold disk. Shards are read in their order, one after
        the other, up to half of the machine's memory. Errors are left to `gather`.
        """
        paths = [self.folder / shard.name for shard in self._shards]
        threading.Thread(target=_read_ahead, args=(paths, _memory() // 2), name="read ahead", daemon=True).start()


def batches(
    images: MappedImages, orders: Iterable[Order], ahead: int = 2
) -> Generator[tuple[Pixels, NDArray[np.int64]], None, None]:
    """Batches (pixels, labels), gathered ahead of their use in a thread of its own.

    pixels: (batch, height, width, 1) uint8 in 0..255.  labels: (batch,) index into the class names.

    orders: one (steps, batch) for each epoch, of numbers of records; -1 gives a black image with the label -1.  ahead:
    how many batches are gathered before they are asked for.

    The thread ends with the generator. Its errors are raised here.
    """

    def gather() -> Iterator[tuple[Pixels, NDArray[np.int64]]]:
        for order in orders:
            for records in order:
                padding = records < 0
                pixels = images.gather(np.where(padding, -1, images.image_of[records]))
                yield pixels, np.where(padding, -1, images.labels[records])

    return in_thread(gather(), ahead)


def _read_ahead(paths: Sequence[Path], limit: int) -> None:
    for path in paths:
        try:
            with open_shard(path) as file:
                size = os.fstat(file.fileno()).st_size
                for start in range(0, min(size, limit), _PIECE):
                    if hasattr(os, "posix_fadvise"):
                        os.posix_fadvise(file.fileno(), start, 2 * _PIECE, os.POSIX_FADV_WILLNEED)
                    # Waits until the piece is there, while the system already reads the next one.
                    os.pread(file.fileno(), 1, min(start + _PIECE, size) - 1)
        except (OSError, ValueError, StoppedError):
            return
        limit -= size
        if limit <= 0:
            return


def _gathering_threads() -> int:
    """A quarter of the cores, at most 4. A GPU would wait for one; on few cores, more would delay the training."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, cores // 4))


def _memory() -> int:
    """The machine's memory, bytes; 8 GB where that is not known."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 8_000_000_000


def _close_all(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _damaged(path: Path, problem: str) -> ManifestError:
    return ManifestError(f"{path} {problem}. {REPAIR}")
