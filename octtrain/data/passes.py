"""One pass over every record of some splits, in the order of the shards: gathered by number, or by TensorFlow.

Shards of pixels that have their index need NumPy alone. TensorFlow reads the others: shards of PNGs, and shards whose
index is missing or not theirs. The batches are the same.
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
from octtrain import runtime
from octtrain.data.mapped import MappedImages


class Batch(NamedTuple):
    """Some records, one after the other."""

    pixels: NDArray[np.uint8]  # (n, height, width, 1), 0..255
    labels: NDArray[np.int64]  # (n,) index into the class names
    patients: list[str]  # patient ids, as in the files' names
    paths: list[str]  # of the source files, relative to the source


def one_pass(
    folder: Path, splits: Sequence[str], *, batch_size: int, manifest: Manifest, rows: Sequence[ImageRow] | None = None
) -> Iterator[Batch]:
    """Every record of some splits, repeats included; the last batch may be smaller.

    folder: of the shards.  manifest: of the folder.  rows: the images in its images.csv, if they were read already.

    Raises ManifestError if there is no such split, the splits hold no images, or the shards are so damaged that they
    cannot be read; call `manifest.check_files` before, which finds all damage. Without TensorFlow: MissingPackage for
    shards of PNGs, ManifestError for an index that is missing or not theirs, both with what to do.
    """
    images = gathered(folder, splits, manifest, rows)
    return _streamed(folder, splits, batch_size, manifest) if images is None else _gathered(images, batch_size)


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
        f"only TensorFlow reads the {manifest.config.encoding.upper()}s in the shards of {folder}",
        "build them with --encoding raw",
    )


def _gathered(images: MappedImages, batch_size: int) -> Iterator[Batch]:
    patients, paths = images.ids.tolist(), images.paths
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        yield Batch(images.gather(images.image_of[part]), images.labels[part], patients[part], paths[part])


def _streamed(folder: Path, splits: Sequence[str], batch_size: int, manifest: Manifest) -> Iterator[Batch]:
    from octtrain.data import stream

    with stream.data_errors_as_manifest_errors(folder):
        for pixels, labels, patients, paths in stream.batches(
            folder, splits, batch_size=batch_size, with_ids=True, manifest=manifest
        ):
            yield Batch(pixels.numpy(), labels.numpy(), _texts(patients.numpy()), _texts(paths.numpy()))


def _texts(values: Sequence[bytes]) -> list[str]:
    return [value.decode(errors="backslashreplace") for value in values]
