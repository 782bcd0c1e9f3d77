"""The batches of several steps, as a feed hands them to the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The batches of some steps.

    images: on the device, either (room, batch, height, width, 1) uint8, the images of each step; or resident, (images,
    words) uint32, all images of a split, of which `order` selects.  order, labels: (room, batch) int32; a label of -1
    fills an incomplete batch.  steps: how many of them to do, at most the room.
    """

    images: Any
    order: NDArray[np.int32]
    labels: NDArray[np.int32]
    steps: int


def words(images: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """(n, height, width, 1) uint8 as rows of 32-bit words, (n, words), the last of which may be filled with zeros.

    Arrays of more than 2**31 elements overflow the index arithmetic of some kernels; as words, the whole archive has
    fewer.
    """
    flat = images.reshape(len(images), -1)
    fill = -flat.shape[1] % 4
    flat = np.pad(flat, ((0, 0), (0, fill))) if fill else np.ascontiguousarray(flat)
    return flat.view(np.uint32)
