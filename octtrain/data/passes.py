"""One pass over every record of some splits, in the order of the shards: gathered by number, or by TensorFlow.

Shards of pixels that have their index need NumPy alone. TensorFlow reads the others: shards of PNGs, shards whose index
is missing or not theirs, and shards of a URL that are larger than the cache may be. The batches are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octprep.format.errors import ManifestError
from octprep.format.images_csv import ImageRow
from octprep.format.manifest import Manifest
from octprep.format.paths import original
from octprep.storage.cache import CAP_VARIABLE, ShardStream, Streaming
from octtrain import runtime
from octtrain.data.mapped import MappedImages


class Batch(NamedTuple):
    """Some records, one after the other."""

    pixels: NDArray[np.uint8]  # (n, height, width, 1), 0..255
    labels: NDArray[np.int64]  # (n,) index into the class names
    patients: list[str]  # patient ids, as in the files' names
    paths: list[str]  # of the source files, relative to the source


def one_pass(
    folder: Path,
    splits: Sequence[str],
    *,
    batch_size: int,
    manifest: Manifest,
    rows: Sequence[ImageRow] | None = None,
    streaming: Streaming | None = None,
) -> Iterator[Batch]:
    """Every record of some splits, repeats included; the last batch may be smaller.

    folder: of the shards.  manifest: of the folder.  rows: the images in its images.csv, if they were read already.
    streaming: how splits are read that are not all in the cache.

    Raises ManifestError if there is no such split, the splits hold no images, or the shards are so damaged that they
    cannot be read; call `manifest.check_files` before, which finds all damage. Without TensorFlow: MissingPackage for
    shards of PNGs, ManifestError for an index that is missing or not theirs, both with what to do.
    """
    if remote := remote_pass(streaming, splits):
        require_tensorflow_for_streaming(remote.streaming)
        return _streamed(folder, splits, batch_size, manifest, remote)
    images = gathered(folder, splits, manifest, rows)
    return _streamed(folder, splits, batch_size, manifest) if images is None else _gathered(images, batch_size)


def remote_pass(streaming: Streaming | None, splits: Sequence[str]) -> ShardStream | None:
    """What fetches the shards of some splits, for one pass; None if all are there."""
    return ShardStream(streaming) if streaming is not None and not {*splits}.isdisjoint(streaming.splits) else None


def gathered(
    folder: Path, splits: Sequence[str], manifest: Manifest, rows: Sequence[ImageRow] | None
) -> MappedImages | None:
    """The records of some splits by number; None if TensorFlow must read them. Arguments and errors as `one_pass`."""
    if manifest.config.encoding != "raw":
        require_tensorflow_for_pngs(folder, manifest)
        return None
    try:
        images = MappedImages(folder, splits, manifest=manifest, rows=rows)
        _ = images.ids  # an index that is not that of images.csv is an error here
        return images
    except ManifestError as error:
        if not runtime.is_installed("tensorflow"):
            raise ManifestError(
                f'{error} Or install TensorFlow, which needs no index: `pip install "octprep[train]"`.'
            ) from None
        return None


def require_tensorflow_for_pngs(folder: Path, manifest: Manifest) -> None:
    """Raise MissingPackage, with what to do, if TensorFlow, which reads shards of PNGs, is not installed."""
    runtime.require_tensorflow(
        f"only TensorFlow reads the {manifest.config.encoding.upper()}s in the shards of {original(folder)}",
        "build them with --encoding raw",
    )


def require_tensorflow_for_streaming(streaming: Streaming) -> None:
    """Raise MissingPackage, with what to do, if TensorFlow, which reads what is streamed, is not installed."""
    runtime.require_tensorflow(
        f"{streaming.reason}, so only TensorFlow reads them, as they are fetched", f"set {CAP_VARIABLE} to more"
    )


def _gathered(images: MappedImages, batch_size: int) -> Iterator[Batch]:
    patients, paths = images.ids.tolist(), images.paths
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        yield Batch(images.gather(images.image_of[part]), images.labels[part], patients[part], paths[part])


def _streamed(
    folder: Path, splits: Sequence[str], batch_size: int, manifest: Manifest, remote: ShardStream | None = None
) -> Iterator[Batch]:
    from octtrain.data import stream

    with stream.data_errors_as_manifest_errors(folder, remote):
        for pixels, labels, patients, paths in stream.batches(
            folder, splits, batch_size=batch_size, with_ids=True, manifest=manifest, remote=remote
        ):
            yield Batch(pixels.numpy(), labels.numpy(), _texts(patients.numpy()), _texts(paths.numpy()))


def _texts(values: Sequence[bytes]) -> list[str]:
    return [value.decode(errors="backslashreplace") for value in values]
