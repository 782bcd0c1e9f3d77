"""Shards to batches: the one module that speaks tf.data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf

from octprep.format.errors import ManifestError
from octprep.format.manifest import IMAGE, LABEL, PATH, PATIENT, Manifest
from octprep.format.seeding import derived_seed
from octtrain import runtime

if runtime.wanted_backend() == "jax":  # before TensorFlow looks for devices
    runtime.keep_tensorflow_off_the_gpu()

# Of serialized records, in the shuffle buffer. Records come already mixed within a shard and from several shards at a
# time, so a modest buffer is enough; four times as much read at a third of the speed (caches, page faults).
SHUFFLE_BYTES = 64_000_000

# Shards read side by side in training. A constant, because a number that followed the machine's cores would change the
# order of the images with it.
READ_AT_ONCE = 8

_KEYS = (PATIENT, PATH)
_TYPES = {IMAGE: tf.string, LABEL: tf.int64, PATIENT: tf.string, PATH: tf.string}

# What tf.data raises when bytes fail their CRC, are cut short, are missing, are no tf.train.Example with the expected
# features, or are more or fewer records than the manifest counts.
_DAMAGE = (
    tf.errors.DataLossError,
    tf.errors.OutOfRangeError,
    tf.errors.NotFoundError,
    tf.errors.FailedPreconditionError,
    tf.errors.InvalidArgumentError,
)


def training_batches(
    folder: Path, manifest: Manifest, splits: Sequence[str], batch_size: int, seed: int, epochs: range = range(1)
) -> tf.data.Dataset:
    """Batches of (image, label) for the given epochs, one after the other.

    image: (n, height, width, 1) uint8 in 0..255.  label: (n,) int64, index into the class names.
    The order depends on the seed and the epoch's number alone, so a resumed training meets the images as an unbroken
    one would have. Every epoch has `steps(manifest, splits, batch_size)` batches of equal size. Iterate inside
    `readable`, which turns what a damaged shard raises into ManifestError.
    """

    def one_epoch(shards_seed: tf.Tensor, records_seed: tf.Tensor) -> tf.data.Dataset:
        # Only in the graph of this function: the order is to depend on nothing else, and tf.data fails on a seed that
        # is a tensor if the global seed, which it mixes in, is 0.
        tf.compat.v1.set_random_seed(1)
        return (
            tf.data.Dataset.from_tensor_slices(files)
            .shuffle(len(files), seed=shards_seed)  # shards in another order each epoch ...
            .interleave(  # ... and several at a time, so that one batch mixes many shards
                tf.data.TFRecordDataset,
                cycle_length=min(READ_AT_ONCE, len(files)),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            .apply(tf.data.experimental.assert_cardinality(count))  # before anything is dropped
            .shuffle(buffer, seed=records_seed)  # while serialized: decoded images would take more memory
            .batch(batch, drop_remainder=True)  # a partial batch would compile the training step twice
        )

    files = _files(folder, manifest, splits)
    count = _records(manifest, splits)
    batch = min(batch_size, count)
    buffer = max(1, min(count, SHUFFLE_BYTES // _record_bytes(manifest, splits)))
    seeds = [[derived_seed(seed, what, epoch) for epoch in epochs] for what in ("shard order", "image order")]
    return (
        tf.data.Dataset.from_tensor_slices(tuple(tf.constant(column, tf.int64) for column in seeds))
        .flat_map(one_epoch)
        .apply(tf.data.experimental.assert_cardinality(len(epochs) * steps(manifest, splits, batch_size)))
        .map(_parser(manifest, (IMAGE, LABEL)), num_parallel_calls=tf.data.AUTOTUNE)  # after batch: one parse a batch
        .prefetch(tf.data.AUTOTUNE)  # across epochs too: the next one is read while this one is validated
    )


def batches(
    folder: Path, manifest: Manifest, splits: Sequence[str], batch_size: int, *, keys: bool = False
) -> tf.data.Dataset:
    """One pass over every image of some splits, always in the order in which the shards hold them.

    image: (n, height, width, 1) uint8 in 0..255.  label: (n,) int64, index into the class names. With `keys` also
    patient: (n,) bytes and scan: (n,) bytes. The last batch may be smaller. Iterate inside `readable`, which turns
    what a damaged shard raises into ManifestError.
    """
    return (
        tf.data.Dataset.from_tensor_slices(_files(folder, manifest, splits))
        .flat_map(tf.data.TFRecordDataset)  # one shard after the other; parsing, not reading, is what takes time
        .apply(tf.data.experimental.assert_cardinality(_records(manifest, splits)))
        .batch(batch_size)
        .map(_parser(manifest, (IMAGE, LABEL, *(_KEYS if keys else ()))), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def steps(manifest: Manifest, splits: Sequence[str], batch_size: int) -> int:
    """Batches in one training epoch: whole ones only, but at least one."""
    return max(1, _records(manifest, splits) // batch_size)


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Whatever a damaged shard makes TensorFlow raise in here becomes one ManifestError."""
    try:
        yield
    except _DAMAGE as error:
        # A bad operand inside the model is an InvalidArgumentError too: only what came out of an iterator is data.
        if "IteratorGetNext" not in str(error) and not isinstance(error, tf.errors.DataLossError):
            raise
        raise ManifestError(
            f"The shards in {folder} are damaged or not those of its manifest ({_reason(error)}). "
            "`octprep verify` says which; copy the folder again, or repair it by the `octprep build` that made it."
        ) from None


def _parser(manifest: Manifest, names: tuple[str, ...]) -> Any:
    """A function from serialized records, (n,) bytes, to the named features."""
    height, width = manifest.recipe.height, manifest.recipe.width
    wanted = {name: tf.io.FixedLenFeature([], _TYPES[name]) for name in names}

    def raw(images: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.io.decode_raw(images, tf.uint8), (-1, height, width, 1))

    def png(images: tf.Tensor) -> tf.Tensor:
        pixels = tf.map_fn(lambda data: tf.io.decode_png(data, channels=1), images, fn_output_signature=tf.uint8)
        return tf.ensure_shape(pixels, (None, height, width, 1))

    def parse(records: tf.Tensor) -> tuple[tf.Tensor, ...]:
        features = tf.io.parse_example(records, wanted)
        return (decode(features[IMAGE]), *(features[name] for name in names[1:]))

    decode = raw if manifest.config.encoding == "raw" else png
    return parse


def _files(folder: Path, manifest: Manifest, splits: Sequence[str]) -> list[str]:
    return [str(folder / shard.name) for split in splits for shard in manifest.splits[split] if shard.records]


def _records(manifest: Manifest, splits: Sequence[str]) -> int:
    return sum(manifest.records(split) for split in splits)


def _record_bytes(manifest: Manifest, splits: Sequence[str]) -> int:
    total = sum(shard.bytes for split in splits for shard in manifest.splits[split])
    return max(1, total // _records(manifest, splits))


def _reason(error: tf.errors.OpError) -> str:
    """The first line of what TensorFlow says, without the graph's own names."""
    text = str(error.message).split("[[")[0].split("[Op:")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    useful = [line for line in lines if not line.startswith(("Detected at node", "Graph execution error", "File "))]
    reason = (useful or lines or [type(error).__name__])[0]
    reason = reason.rsplit("}} ", 1)[-1]
    return reason.rstrip(" .")
