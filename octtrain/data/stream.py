"""Batches from TFRecord shards by tf.data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf

from octprep.format.errors import ManifestError, StoppedError
from octprep.format.manifest import IMAGE, LABEL, PATH, PATIENT, Manifest
from octprep.format.paths import original
from octprep.format.seeding import derived_seed
from octprep.storage.cache import ShardStream
from octprep.wording import listed
from octtrain import runtime
from octtrain.data.order import PARALLEL_SHARDS

if runtime.selected_backend() == "jax":  # before TensorFlow looks for devices
    runtime.hide_gpu_from_tensorflow()

# Size of the shuffle buffer of serialized records. Records are already mixed within a shard and come from several
# shards at a time, so a modest buffer is enough; four times as much read at a third of the speed (caches, page faults).
SHUFFLE_BYTES = 64_000_000

_IDS = (PATIENT, PATH)
_TYPES = {IMAGE: tf.string, LABEL: tf.int64, PATIENT: tf.string, PATH: tf.string}

# What tf.data raises for a failed CRC, a truncated or missing file, bytes that are not a tf.train.Example with the
# expected features, and more or fewer records than the manifest counts.
_DATA_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.OutOfRangeError,
    tf.errors.NotFoundError,
    tf.errors.FailedPreconditionError,
    tf.errors.InvalidArgumentError,
)
# And for a file that the disk does not give, or that this user may not read.
_MACHINE_ERRORS = (tf.errors.UnknownError, tf.errors.PermissionDeniedError)


def training_batches(
    folder: Path | str,
    split: str | Sequence[str] = "train",
    *,
    batch_size: int = 32,
    seed: int = 0,
    epochs: range = range(1),
    manifest: Manifest | None = None,
    remote: ShardStream | None = None,
    raising: bool = False,
) -> tf.data.Dataset:
    """Shuffled batches (image, label) of a split for the given epochs, one after the other.

    image: (n, height, width, 1) uint8 in 0..255.  label: (n,) int64, index into the manifest's class names.

    folder: of shards, made by `octprep build`.  split: its name, or several, as for a dataset in folds.  epochs: their
    numbers, such as `range(3, 12)` to resume after the third.  manifest: of the folder, if it was loaded already.
    remote: fetches the shards as they are read; the order is the same.  raising: raise its errors, as TensorFlow's,
    where they would otherwise end the dataset, for `data_errors_as_manifest_errors`.

    The order depends on the seed and the epoch's number alone, so a resumed training reads the images in the order of
    an unbroken one. Every epoch has `steps(manifest, split, batch_size)` batches of equal size: an incomplete last one
    is dropped unless it is the only one. Augmentation and class weights are not applied.

    Raises ManifestError if the folder is not one of shards, has no such split, or the split is empty. Damaged shards
    raise TensorFlow's errors while the dataset is iterated; inside `data_errors_as_manifest_errors` they become
    ManifestError.
    """

    def one_epoch(shards_seed: tf.Tensor, records_seed: tf.Tensor) -> tf.data.Dataset:
        # Only in the graph of this function: tf.data mixes the global seed into its own, and fails on a seed that is a
        # tensor if the global seed is 0.
        tf.compat.v1.set_random_seed(1)
        names = tf.data.Dataset.from_tensor_slices(files)
        names = names.shuffle(len(files), seed=shards_seed)  # another order each epoch
        at_once = min(PARALLEL_SHARDS, len(files))  # so that one batch mixes many shards
        records = (
            names.interleave(tf.data.TFRecordDataset, at_once, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            if remote is None
            else _fetched(names, len(files), at_once, remote, raising=raising)
        )
        return (
            records.apply(tf.data.experimental.assert_cardinality(count))  # before anything is dropped
            .shuffle(buffer, seed=records_seed)  # while serialized: decoded images would take more memory
            .batch(batch, drop_remainder=True)  # a partial batch would compile the training step twice
        )

    folder, splits, manifest = _checked(folder, split, manifest)
    files = _files(folder, manifest, splits)
    count = manifest.records(*splits)
    batch = min(batch_size, count)
    buffer = max(1, min(count, SHUFFLE_BYTES // _record_bytes(manifest, splits)))
    seeds = [[derived_seed(seed, purpose, epoch) for epoch in epochs] for purpose in ("shard order", "image order")]
    return (
        tf.data.Dataset.from_tensor_slices(tuple(tf.constant(column, tf.int64) for column in seeds))
        .flat_map(one_epoch)
        .apply(tf.data.experimental.assert_cardinality(len(epochs) * steps(manifest, splits, batch_size)))
        .map(_parser(manifest, (IMAGE, LABEL)), num_parallel_calls=tf.data.AUTOTUNE)  # after batch: one parse a batch
        .prefetch(tf.data.AUTOTUNE)  # across epochs too: the next one is read while this one is validated
    )


def batches(
    folder: Path | str,
    split: str | Sequence[str] = "test",
    *,
    batch_size: int = 64,
    with_ids: bool = False,
    manifest: Manifest | None = None,
    remote: ShardStream | None = None,
) -> tf.data.Dataset:
    """One pass over every image of a split, always in the order in which the shards hold them.

    image: (n, height, width, 1) uint8 in 0..255.  label: (n,) int64, index into the class names. With `with_ids` also
    patient: (n,) bytes and path: (n,) bytes, relative to the source. The last batch may be smaller. Arguments and
    errors as for `training_batches`.
    """
    folder, splits, manifest = _checked(folder, split, manifest)
    files = _files(folder, manifest, splits)
    names = tf.data.Dataset.from_tensor_slices(files)
    records = (
        names.flat_map(tf.data.TFRecordDataset)  # one shard after the other; parsing, not reading, is what takes time
        if remote is None
        else _fetched(names, len(files), 1, remote)
    )
    return (
        records.apply(tf.data.experimental.assert_cardinality(manifest.records(*splits)))
        .batch(batch_size)
        .map(_parser(manifest, (IMAGE, LABEL, *(_IDS if with_ids else ()))), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def steps(manifest: Manifest, split: str | Sequence[str], batch_size: int) -> int:
    """Batches in one training epoch: complete ones only, but at least one."""
    return max(1, manifest.records(*_names(split)) // batch_size)


@contextmanager
def data_errors_as_manifest_errors(folder: Path, remote: ShardStream | None = None) -> Iterator[None]:
    """Turn what TensorFlow raises for a damaged shard inside the block into ManifestError.

    For one that the machine cannot read, which TensorFlow does not try again, StoppedError is raised.
    remote: what fetches the shards; its own error is raised as it is, and it is closed at the end of the block.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if remote is not None and remote.error is not None:
            raise remote.error from None
        if not isinstance(error, _DATA_ERRORS + _MACHINE_ERRORS):
            raise
        # A bad operand inside the model is an InvalidArgumentError too: only those of an iterator are about data.
        if "IteratorGetNext" not in str(error) and not isinstance(error, tf.errors.DataLossError):
            raise
        if isinstance(error, _MACHINE_ERRORS):
            raise StoppedError(
                f"The shards in {original(folder)} cannot be read ({_reason(error)}): that says nothing about the "
                "shards; check the disk, and that this user may read them, then run the same command again."
            ) from None
        raise ManifestError(
            f"The shards in {original(folder)} are damaged or not those of its manifest ({_reason(error)}). "
            "`octprep verify` names them; copy the folder again, or repair it by the `octprep build` that made it."
        ) from None
    finally:
        if remote is not None:
            remote.close()


def _fetched(
    names: tf.data.Dataset, count: int, at_once: int, remote: ShardStream, *, raising: bool = False
) -> tf.data.Dataset:
    """The records of shards that are fetched as they are read, `at_once` in turn, in the order of those of local files.

    names: the paths of the shards in the cache, `count` of them. At most `at_once` and those that are fetched ahead are
    kept: an interleave of several threads would open more of them unseen.
    """

    def get(order: Sequence[bytes], index: int) -> bytes:
        if index == 0:  # an earlier pass may not have been read to its end
            remote.release_all()
        try:
            return os.fsencode(remote.get([Path(os.fsdecode(name)) for name in order], index))
        except Exception:
            if raising:
                raise
            # TensorFlow would print it. That there is no such file ends the pass, and `remote` has the error.
            return b""

    def release(name: bytes) -> bool:
        remote.release(Path(os.fsdecode(name)))
        return False

    def fetch(order: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.range(count).map(
            lambda index: tf.ensure_shape(tf.numpy_function(get, [order, index], tf.string), ())
        )

    def records(path: tf.Tensor) -> tf.data.Dataset:
        end = tf.data.Dataset.from_tensors(path)  # is reached when the shard's last record was read; it adds nothing
        end = end.filter(lambda path: tf.ensure_shape(tf.numpy_function(release, [path], tf.bool), ()))
        return tf.data.TFRecordDataset(path).concatenate(end)

    paths = names.batch(count).flat_map(fetch)
    if ahead := remote.streaming.ahead:
        paths = paths.prefetch(ahead)
    return paths.interleave(records, at_once)


def _parser(manifest: Manifest, names: tuple[str, ...]) -> Any:
    """A function from serialized records, (n,) bytes, to the named features."""
    height, width = manifest.recipe.height, manifest.recipe.width
    specification = {name: tf.io.FixedLenFeature([], _TYPES[name]) for name in names}

    def raw(images: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.io.decode_raw(images, tf.uint8), (-1, height, width, 1))

    def png(images: tf.Tensor) -> tf.Tensor:
        pixels = tf.map_fn(lambda data: tf.io.decode_png(data, channels=1), images, fn_output_signature=tf.uint8)
        return tf.ensure_shape(pixels, (None, height, width, 1))

    def parse(records: tf.Tensor) -> tuple[tf.Tensor, ...]:
        features = tf.io.parse_example(records, specification)
        return (decode(features[IMAGE]), *(features[name] for name in names[1:]))

    decode = raw if manifest.config.encoding == "raw" else png
    return parse


def _names(split: str | Sequence[str]) -> tuple[str, ...]:
    return (split,) if isinstance(split, str) else tuple(split)


def _checked(
    folder: Path | str, split: str | Sequence[str], manifest: Manifest | None
) -> tuple[Path, tuple[str, ...], Manifest]:
    """The arguments of a dataset, with the manifest loaded. Raises ManifestError for a missing split or no images."""
    folder, splits = Path(folder), _names(split)
    manifest = manifest or Manifest.load(folder)
    for name in splits:
        if name not in manifest.splits:
            raise ManifestError(f"{original(folder)} has no split {name!r}; it has {', '.join(manifest.splits)}.")
    if not manifest.records(*splits):
        raise ManifestError(f"Split {listed([*map(repr, splits)])} of {original(folder)} holds no images.")
    return folder, splits, manifest


def _files(folder: Path, manifest: Manifest, splits: Sequence[str]) -> list[str]:
    return [str(folder / shard.name) for split in splits for shard in manifest.splits[split] if shard.records]


def _record_bytes(manifest: Manifest, splits: Sequence[str]) -> int:
    """The mean size of a record, at least 1."""
    total = sum(shard.bytes for split in splits for shard in manifest.splits[split])
    return max(1, total // manifest.records(*splits))


def _reason(error: tf.errors.OpError) -> str:
    """The first line of TensorFlow's message, without the names of graph nodes."""
    text = str(error.message).split("[[")[0].split("[Op:")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    specific = [line for line in lines if not line.startswith(("Detected at node", "Graph execution error", "File "))]
    reason = (specific or lines or [type(error).__name__])[0]
    reason = reason.rsplit("}} ", 1)[-1]
    return reason.rstrip(" .")
