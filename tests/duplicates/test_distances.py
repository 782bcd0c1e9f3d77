"""Histograms of distances within and between patients."""

import itertools

import numpy as np
import pytest

from octprep.duplicates import DESCRIPTOR_BYTES, Distances, measure_distances
from octprep.duplicates.distances import _sampled_pairs
from tests.duplicates.images import descriptors_of, random_image


@pytest.mark.slow
def test_distances_within_patients_are_smaller(population):
    patients = population.patients[population.genuine]
    descriptors = descriptors_of(population.stored("default")[population.genuine])
    distances = measure_distances(descriptors, patients, seed=1, max_pairs=5000)
    assert distances == measure_distances(descriptors, patients, seed=1, max_pairs=5000)
    assert len(distances.edges) == len(distances.within) + 1 == len(distances.between) + 1
    middles = np.add(distances.edges[:-1], distances.edges[1:]) / 2
    assert np.average(middles, weights=distances.within) < 0.5 * np.average(middles, weights=distances.between)
    near = np.array(distances.edges[:-1]) < 0.3
    assert np.array(distances.between)[near].sum() == 0 < np.array(distances.within)[near].sum()


@pytest.mark.parametrize("max_pairs", [100_000, 60, 1])
def test_no_pair_counts_twice_and_totals_are_exact(max_pairs):
    patients = [str(number % 7) for number in range(30)] + ["lone"]
    pairs = list(itertools.combinations(range(31), 2))
    within = {pair for pair in pairs if patients[pair[0]] == patients[pair[1]]}
    samples = list(_sampled_pairs(np.array(patients), np.random.default_rng(0), max_pairs))
    for ((first, second), total), every in zip(samples, (within, set(pairs) - within), strict=True):
        sampled = [tuple(sorted(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True)]
        assert total == len(every)
        assert len(sampled) == len(set(sampled)) == min(max_pairs, total)
        assert set(sampled) <= every
    distances = measure_distances(descriptors_of([random_image(n) for n in range(31)]), patients, max_pairs=max_pairs)
    assert (distances.within_total, distances.between_total) == (len(within), len(pairs) - len(within))
    assert sum(distances.within) == min(max_pairs, distances.within_total)
    assert sum(distances.between) == min(max_pairs, distances.between_total)


def test_zero_scans_and_single_scans_have_no_pair_within_a_patient():
    nothing = np.zeros((0, DESCRIPTOR_BYTES), np.uint8)
    for descriptors, patients in ((nothing, []), (descriptors_of([random_image(0), random_image(1)]), ["a", "b"])):
        assert sum(measure_distances(descriptors, patients).within) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"edges": (0, 1)},
        {"edges": (0, 2, 1)},
        {"edges": (0, 1, float("nan"))},
        {"edges": 3},
        {"within": (1, -1)},
        {"within": (1, True)},
        {"between": (0.5, 1)},
        {"between_total": 2},
        {"within_total": "3"},
    ],
)
def test_impossible_distances_are_a_value_error(change):
    fields = {"edges": (0, 1, 2), "within": (1, 2), "between": (0, 3), "within_total": 3, "between_total": 9}
    assert Distances(**fields).between == (0, 3)
    with pytest.raises(ValueError, match="distances"):
        Distances(**fields | change)
