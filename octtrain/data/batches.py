"""Training batches as a tf.data.Dataset: gathered by number where the shards hold pixels, streamed where PNGs."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from octprep.format.manifest import Manifest
from octprep.storage.cache import Hold, fetch_or_stream, holding, open_dataset
from octprep.storage.remote import Location, location
from octtrain.data import stream
from octtrain.data.mapped import MappedImages
from octtrain.data.order import PARALLEL_SHARDS, in_steps, shuffled
from octtrain.data.passes import remote_pass

GATHERING = 2  # batches gathered at a time


def training_batches(
    folder: Location | str,
    split: str | Sequence[str] = "train",
    *,
    batch_size: int = 32,
    seed: int = 0,
    epochs: range = range(1),
    manifest: Manifest | None = None,
) -> tf.data.Dataset:
    """Shuffled batches (image, label) of a split for the given epochs, one after the other.

    image: (n, height, width, 1) uint8 in 0..255.  label: (n,) int64, index into the manifest's class names.

    folder: of shards, made by `octprep build`, or its URL, which is read through the cache; shards that are larger than
    it may be are fetched as they are read, in every epoch.  split: its name, or
    several, as for a dataset in folds.  epochs: their numbers, such as `range(3, 12)` to resume after the third.
    manifest: of the folder, if it was loaded already.

    Pixels are gathered in an order that is shuffled as a whole; of shards of PNGs, and of those larger than the cache,
    records are read and shuffled in a buffer (`octtrain.data.stream.training_batches`). The order depends on the seed
    and the epoch's number alone, so a resumed training reads the images in the order of an unbroken one. All batches
    have equal size: an incomplete last one of an epoch is dropped unless it is the only one. Augmentation and class
    weights are not applied.

    Raises ManifestError if the folder is not one of shards, has no such split, the split is empty, or the index of
    shards of pixels is missing or not theirs. Damaged shards of PNGs, and shards that cannot be fetched, raise
    TensorFlow's errors while the dataset is iterated.
    """
    place, hold = location(folder), Hold()
    splits = (split,) if isinstance(split, str) else tuple(split)
    with holding(hold):
        folder = open_dataset(place)
        manifest = manifest or Manifest.load(folder)
        _, streaming = fetch_or_stream(place, folder, manifest, splits, PARALLEL_SHARDS)
        if manifest.config.encoding != "raw" or streaming is not None:
            batches = stream.training_batches(
                folder,
                split,
                batch_size=batch_size,
                seed=seed,
                epochs=epochs,
                manifest=manifest,
                remote=remote_pass(streaming, splits),
                raising=True,
            )
        else:
            batches = _gathered(MappedImages(folder, split, manifest=manifest), batch_size, seed, epochs)
    # TensorFlow's iterators, and datasets made of this one, refer to it.
    weakref.finalize(batches, hold.release).atexit = False
    return batches


def _gathered(images: MappedImages, batch_size: int, seed: int, epochs: range) -> tf.data.Dataset:
    """The batches of pixels that are gathered by number. Arguments as for `training_batches`."""
    size = min(batch_size, len(images))

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.numpy_function(
            lambda epoch: in_steps(shuffled(len(images), seed, int(epoch)), size), [epoch], tf.int32
        )
        return tf.data.Dataset.from_tensor_slices(order)

    def gather(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels, labels = tf.numpy_function(gather_records, [records], (tf.uint8, tf.int64))
        return tf.ensure_shape(pixels, (size, *images.image_shape)), tf.ensure_shape(labels, (size,))

    def gather_records(records: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return images.gather(images.image_of[records]), images.labels[records]

    # Not from_generator: it makes the process return memory to the system after every batch.
    return (
        tf.data.Dataset.from_tensor_slices(tf.constant([*epochs], tf.int64))
        .flat_map(one_epoch)
        .apply(tf.data.experimental.assert_cardinality(len(epochs) * (len(images) // size)))
        .map(gather, num_parallel_calls=GATHERING)
        .prefetch(tf.data.AUTOTUNE)
    )
