"""Orders of records: which come, how often, and that seed and epoch alone decide."""

import numpy as np
import pytest

from octtrain.data import order


def population():
    """Labels and patients of records: skewed classes, patients of 1 to 40 records, one of them in two classes."""
    records = []
    for label, sizes in enumerate([(40, 10, 10), (1, 2), (5, 5, 5, 5), (3,)]):
        for patient, size in enumerate(sizes):
            records += [(label, f"{label}-{patient}")] * size
    records += [(0, "both")] * 4 + [(3, "both")] * 2
    records = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    return np.array([label for label, _ in records], np.int64), np.array([patient for _, patient in records])


def many_draws(labels, patients, epochs=400):
    return np.concatenate([order.patient_balanced(labels, patients, 1, epoch) for epoch in range(epochs)])


def within(counts, expected, total):
    """Whether counts are within 5 standard deviations of what is expected of so many draws."""
    share = expected / total
    return np.all(np.abs(np.asarray(counts) - expected) < 5 * np.sqrt(total * share * (1 - share)))


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_shuffled_holds_every_number_once(count):
    shuffled = order.shuffled(count, 0, 0)
    assert shuffled.dtype == np.int32
    assert sorted(shuffled) == list(range(count))


def test_every_class_is_drawn_equally_often():
    labels, patients = population()
    drawn = many_draws(labels, patients)
    counts = np.bincount(labels[drawn])
    assert within(counts, len(drawn) / 4, len(drawn))


def test_every_patient_of_a_class_is_drawn_equally_often():
    labels, patients = population()
    drawn = many_draws(labels, patients)
    for label in range(4):
        of_class = drawn[labels[drawn] == label]
        names, counts = np.unique(patients[of_class], return_counts=True)
        assert set(names) == set(patients[labels == label])
        assert within(counts, len(of_class) / len(names), len(of_class))


def test_every_record_of_a_patient_is_drawn_equally_often():
    labels, patients = population()
    drawn = many_draws(labels, patients)
    for label, patient in sorted(set(zip(labels.tolist(), patients.tolist(), strict=True))):
        members = np.flatnonzero((labels == label) & (patients == patient))
        counts = np.bincount(drawn, minlength=len(labels))[members]
        if len(members) > 1:
            assert within(counts, counts.sum() / len(members), counts.sum()), (label, patient)


def test_as_many_are_drawn_as_there_are_records():
    labels, patients = population()
    drawn = order.patient_balanced(labels, patients, 0, 0)
    assert drawn.shape == labels.shape and drawn.dtype == np.int32
    one = order.patient_balanced(np.array([2]), np.array(["a"]), 0, 0)
    assert one.tolist() == [0]


@pytest.mark.parametrize("make", [lambda *seeds: order.shuffled(96, *seeds),
                                  lambda *seeds: order.patient_balanced(*population(), *seeds)])  # fmt: skip
def test_seed_and_epoch_alone_decide(make):
    np.random.seed(5)
    first = make(3, 4)
    np.random.seed(6)
    assert make(3, 4).tolist() == first.tolist()
    assert make(3, 5).tolist() != first.tolist()
    assert make(4, 4).tolist() != first.tolist()
    assert make(4, 3).tolist() != first.tolist()


def test_orders_stay_what_they_were():
    """A training that is resumed under a later version meets the images that it would have met."""
    assert order.shuffled(8, 0, 0).tolist() == [7, 6, 1, 0, 3, 5, 2, 4]
    labels, patients = population()
    assert order.patient_balanced(labels, patients, 0, 0)[:8].tolist() == [31, 15, 47, 33, 18, 17, 15, 47]


def test_steps_are_complete_batches_of_the_order():
    numbers = np.arange(10, dtype=np.int32)
    assert order.in_steps(numbers, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert order.in_steps(numbers, 5).shape == (2, 5)
    assert order.in_steps(numbers, 50).tolist() == [list(range(10))]  # the only one
    assert order.in_steps(numbers, 4).dtype == np.int32


def test_padded_holds_every_number_once_in_order():
    assert order.padded(5, 2).tolist() == [[0, 1], [2, 3], [4, -1]]
    assert order.padded(4, 2).tolist() == [[0, 1], [2, 3]]
    assert order.padded(3, 50).tolist() == [[0, 1, 2]]
    assert order.padded(5, 2).dtype == np.int32
