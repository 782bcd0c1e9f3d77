"""How images reach the training: resident on the device, gathered from memory-mapped shards, or streamed.

    resident   all images of train and val, each once, are placed on the device; a chunk selects from them
    mapped     a thread gathers the images of the next chunks from the shards' memory maps
    stream     tf.data reads and parses every record: for PNG, for shards without an index, and for those of
               a URL that are larger than the cache may be

Resident and mapped meet the same images in the same order (`octtrain.data.order`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from octprep.format.manifest import Manifest
from octprep.storage.cache import ShardStream, Streaming
from octtrain.data.ahead import ahead
from octtrain.data.chunks import Chunk, words
from octtrain.data.mapped import MappedImages
from octtrain.data.order import Order, in_steps, padded, patient_balanced, shuffled
from octtrain.data.passes import remote_pass

CHUNK_BYTES = 64_000_000  # of images that one chunk has room for, at most, unless a single batch has more
GPU_CHUNK_BYTES = 160_000_000  # the same for a GPU, where every call of a program costs as much as half a step
CHUNK_STEPS = 32  # at most
AHEAD = 2  # chunks that are gathered before they are needed

Chunks = Generator[Chunk, None, None]  # to be closed by who does not read it to its end
Place = Callable[[NDArray[Any]], Any]  # from an array to one of the device


class Feed(Protocol):
    """The chunks of a training and of its validation. Damaged shards raise ManifestError while they are read."""

    name: str
    steps: int  # of an epoch
    batch_size: int

    def training(self, epoch: int, first_step: int = 0) -> Chunks:
        """The chunks of an epoch, from a step on."""

    def validation(self) -> Chunks:
        """The chunks of one pass over val, each image once, in the order of the shards."""


class IndexedFeed:
    """What resident and mapped have in common: batches are numbers of records."""

    name = ""

    def __init__(
        self,
        train: MappedImages,
        val: MappedImages,
        *,
        batch_size: int,
        chunk_steps: int,
        seed: int,
        sampling: Literal["images", "patients"],
        place: Place,
    ) -> None:
        self.train, self.val, self.place = train, val, place
        for images in (train, val):  # else the first epoch waits for a cold disk at every image
            images.read_ahead()
        self.seed, self.sampling = seed, sampling
        self.batch_size = min(batch_size, len(train))
        self.steps = len(train) // self.batch_size
        self.chunk_steps = chunk_steps

    def order(self, epoch: int) -> Order:
        """The records of every step of an epoch: (steps, batch size) int32."""
        if self.sampling == "patients":
            order = patient_balanced(self.train.labels, self.train.patients, self.seed, epoch)
        else:
            order = shuffled(len(self.train), self.seed, epoch)
        return in_steps(order, self.batch_size)

    def training(self, epoch: int, first_step: int = 0) -> Chunks:
        """The chunks of an epoch, from a step on."""
        return self._chunks("train", self.train, self.order(epoch)[first_step:])

    def validation(self) -> Chunks:
        """The chunks of one pass over val, each image once."""
        return self._chunks("val", self.val, padded(len(self.val), self.batch_size))

    def _chunks(self, split: str, images: MappedImages, order: Order) -> Chunks:
        for start in range(0, len(order), self.chunk_steps):
            records = order[start : start + self.chunk_steps]
            labels = np.where(records < 0, -1, images.labels[records]).astype(np.int32)
            rows = np.where(records < 0, 0, images.image_of[records]).astype(np.int32)
            yield self._chunk(
                split, images, _filled(rows, self.chunk_steps, 0), _filled(labels, self.chunk_steps, -1), len(records)
            )

    def _chunk(self, split: str, images: MappedImages, rows: Order, labels: Order, steps: int) -> Chunk:
        raise NotImplementedError


class MappedFeed(IndexedFeed):
    """Images are gathered from the shards' memory maps, some chunks ahead, in a thread."""

    name = "mapped"

    def _chunks(self, split: str, images: MappedImages, order: Order) -> Chunks:
        return ahead(super()._chunks(split, images, order), AHEAD)

    def _chunk(self, split: str, images: MappedImages, rows: Order, labels: Order, steps: int) -> Chunk:
        pixels = np.zeros((*rows.shape, *images.image_shape), np.uint8)
        images.gather(rows[:steps].ravel(), out=pixels[:steps].reshape(-1, *images.image_shape))
        return Chunk(images=self.place(pixels), order=rows, labels=labels, steps=steps)


class ResidentFeed(IndexedFeed):
    """All images lie on the device."""

    name = "resident"

    def __init__(self, train: MappedImages, val: MappedImages, **settings: Any) -> None:
        super().__init__(train, val, **settings)
        self.images = {name: self.place(all_words(images)) for name, images in (("train", train), ("val", val))}

    def _chunk(self, split: str, images: MappedImages, rows: Order, labels: Order, steps: int) -> Chunk:
        return Chunk(images=self.images[split], order=rows, labels=labels, steps=steps)


class StreamFeed:
    """Records are read and parsed by tf.data."""

    name = "stream"

    def __init__(
        self,
        shards: Path,
        manifest: Manifest,
        train: Sequence[str],
        val: Sequence[str],
        *,
        batch_size: int,
        chunk_steps: int,
        seed: int,
        place: Place,
        streaming: Streaming | None = None,
    ) -> None:
        """Make the feed. streaming: how shards are fetched that are not all in the cache."""
        from octtrain.data import stream

        self.stream, self.shards, self.manifest = stream, shards, manifest
        self.splits = {"train": tuple(train), "val": tuple(val)}
        self.batch_size = min(batch_size, manifest.records(*train))
        self.steps = stream.steps(manifest, train, batch_size)
        self.chunk_steps, self.seed, self.place, self.streaming = chunk_steps, seed, place, streaming

    def training(self, epoch: int, first_step: int = 0) -> Chunks:
        """The chunks of an epoch, from a step on."""
        remote = self._remote("train")
        batches = self.stream.training_batches(
            self.shards,
            self.splits["train"],
            batch_size=self.batch_size,
            seed=self.seed,
            epochs=range(epoch, epoch + 1),
            manifest=self.manifest,
            remote=remote,
        )
        return ahead(self._chunks(batches.skip(first_step), remote), AHEAD)

    def validation(self) -> Chunks:
        """The chunks of one pass over val, each image once."""
        remote = self._remote("val")
        batches = self.stream.batches(
            self.shards, self.splits["val"], batch_size=self.batch_size, manifest=self.manifest, remote=remote
        )
        return ahead(self._chunks(batches, remote), AHEAD)

    def _remote(self, name: str) -> ShardStream | None:
        """What fetches the shards of train or val, for one pass; None if all are there."""
        return remote_pass(self.streaming, self.splits[name])

    def _chunks(self, batches: Any, remote: ShardStream | None) -> Chunks:
        recipe = self.manifest.recipe
        shape = (self.chunk_steps, self.batch_size, recipe.height, recipe.width, 1)
        order = np.arange(self.chunk_steps * self.batch_size, dtype=np.int32).reshape(shape[:2])
        images, labels, steps = np.zeros(shape, np.uint8), np.full(shape[:2], -1, np.int32), 0
        with self.stream.data_errors_as_manifest_errors(self.shards, remote):
            for pixels, truth in batches:
                count = len(truth)
                images[steps, :count], labels[steps, :count] = pixels.numpy(), truth.numpy()
                steps += 1
                if steps == self.chunk_steps:
                    yield Chunk(images=self.place(images), order=order, labels=labels, steps=steps)
                    images, labels, steps = np.zeros(shape, np.uint8), np.full(shape[:2], -1, np.int32), 0
        if steps:
            yield Chunk(images=self.place(images), order=order, labels=labels, steps=steps)


def chunk_steps(batch_size: int, image_bytes: int, *, limit: int = CHUNK_STEPS, room: int = CHUNK_BYTES) -> int:
    """How many steps a chunk of at most `room` bytes has, and at most `limit`."""
    return max(1, min(limit, room // (batch_size * image_bytes)))


def all_words(images: MappedImages) -> NDArray[np.uint32]:
    """All images, each once, as rows of 32-bit words: (images, words) uint32."""
    block = max(1, CHUNK_BYTES // int(np.prod(images.image_shape)))
    out = np.empty((images.image_count, -(-int(np.prod(images.image_shape)) // 4)), np.uint32)
    for start in range(0, len(out), block):
        rows = np.arange(start, min(start + block, len(out)), dtype=np.int32)
        out[start : start + block] = words(images.gather(rows))
    return out


def _filled(array: Order, length: int, value: int) -> Order:
    """An array with rows of one value added up to a length."""
    return np.pad(array, ((0, length - len(array)), (0, 0)), constant_values=value)
