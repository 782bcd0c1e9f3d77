"""Which record comes when: the order of an epoch as arithmetic on the records' numbers.

Every order is a function of the seed and the epoch's number alone, so a resumed training meets the images of an
unbroken one, and all feeds that read records by number meet the same images in the same order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octprep.format.seeding import derived_seed

# Shards that a stream reads at a time in training. A constant, because the order of the images depends on it, and must
# not depend on the machine's cores.
PARALLEL_SHARDS = 8

Order = NDArray[np.int32]


def shuffled(count: int, seed: int, epoch: int) -> Order:
    """All numbers from 0 to count - 1 once, in random order: (count,) int32."""
    return _random(seed, epoch).permutation(count).astype(np.int32)


def patient_balanced(labels: NDArray[np.int64], patients: NDArray[np.str_], seed: int, epoch: int) -> Order:
    """As many draws, with replacement, as there are records: (records,) int32.

    Every class is drawn equally often in the mean, in it every patient, and of the patient every record of that class.
    labels: (records,) class index.  patients: (records,) patient group.
    """
    random = _random(seed, epoch)
    _, patient = np.unique(patients, return_inverse=True)
    # Records sorted by class, then patient: each class is a range of patients, each patient a range of records.
    by_patient = np.lexsort((patient, labels))
    pairs = np.stack([labels[by_patient], patient[by_patient]])
    starts = np.flatnonzero(np.r_[True, (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)])  # of a class's patients
    sizes = np.diff(np.r_[starts, len(labels)])
    classes, first, patients_of_class = np.unique(pairs[0, starts], return_index=True, return_counts=True)
    drawn_class = random.integers(len(classes), size=len(labels))
    drawn_patient = first[drawn_class] + _below(random, patients_of_class[drawn_class])
    drawn = starts[drawn_patient] + _below(random, sizes[drawn_patient])
    order: Order = by_patient[drawn].astype(np.int32)
    return order


def in_steps(order: Order, batch_size: int) -> Order:
    """An order cut into complete batches: (steps, min(batch_size, len(order))) int32; an incomplete last is dropped."""
    size = min(batch_size, len(order))
    steps = len(order) // size
    return order[: steps * size].reshape(steps, size)


def padded(count: int, batch_size: int) -> Order:
    """The numbers from 0 to count - 1 in their order, filled with -1 to complete batches: (batches, size) int32."""
    size = min(batch_size, count)
    batches = -(-count // size)
    return np.pad(np.arange(count, dtype=np.int32), (0, batches * size - count), constant_values=-1).reshape(
        batches, size
    )


def _random(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng(derived_seed(seed, "image order", epoch))


def _below(random: np.random.Generator, limits: NDArray[np.int64]) -> NDArray[np.int64]:
    """A random whole number from 0 to each limit - 1."""
    return (random.random(len(limits)) * limits).astype(np.int64)
