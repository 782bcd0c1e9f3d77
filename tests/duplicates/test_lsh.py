"""LSH with multiprobe finds exactly the candidate pairs of its definition, each once."""

import numpy as np
import pytest

from octprep.duplicates import DESCRIPTOR_BYTES, lsh
from octprep.duplicates.lsh import (
    _bands,
    _frequencies,
    _hamming_distances,
    _lowest,
    _multiprobe_keys,
    _sorted_unique,
    candidates_with,
    lsh_candidates,
    medians_and_deviations,
)
from octprep.duplicates.unique_rows import unique_descriptors


def random_rows(count, patients, seed=0):
    """Descriptors in clusters, so that some are similar."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 30, (count // 6, DESCRIPTOR_BYTES))
    rows = centres[rng.integers(0, len(centres), count)] + rng.normal(0, 6, (count, DESCRIPTOR_BYTES))
    descriptors = np.clip(np.rint(rows), -127, 127).astype(np.int8).view(np.uint8)
    return unique_descriptors(descriptors, np.arange(count) % patients)


def candidates_of(unique):
    """The candidates with what comes several times, in their order."""
    return [(int(first), int(second)) for batch in lsh_candidates(unique) for first, second in zip(*batch, strict=True)]


def low_frequencies(unique):
    return _frequencies(unique, slice(None), _lowest()).astype(int)


def by_definition(unique):
    """The candidates as the module's docstring defines them, pair by pair."""
    low = low_frequencies(unique)
    count = len(low)
    median = np.sort(low, axis=0)[count // 2]
    deviation = 2 ** (np.rint(4 * np.log2(np.abs(low - median).mean(axis=0) + 1e-3)) / 4)
    certainty = np.abs(low - median) / deviation.astype(np.float32)
    bits = low > median
    pairs = set()
    for band in _bands():
        for probing in range(count):
            uncertain = np.argsort(certainty[probing, band], kind="stable")[: lsh._FLIPPED_BITS]
            fixed = np.delete(band, uncertain)
            for probed in np.flatnonzero((bits[:, fixed] == bits[probing, fixed]).all(axis=1)):
                first, second = sorted((probing, int(probed)))
                different = (bits[first] != bits[second]).sum()
                two_patients = first != second and unique.patient[first] != unique.patient[second]
                if two_patients and different <= lsh._MAX_DIFFERENT_BITS:
                    pairs.add((first, second))
    return pairs


def test_of_equally_certain_bits_the_first_are_flipped():
    rng = np.random.default_rng(0)
    low = rng.integers(-3, 4, (500, lsh._BAND_BITS)).astype(np.int8)
    median, scale = np.zeros(lsh._BAND_BITS, np.int16), np.ones(lsh._BAND_BITS, np.float32)
    probes = _multiprobe_keys(low, np.zeros(500, np.int32), median, scale)
    flipped = np.bitwise_or.reduce(probes, axis=1)
    first = np.argsort(np.abs(low), axis=1, kind="stable")[:, : lsh._FLIPPED_BITS]
    assert (flipped == (1 << first).sum(axis=1)).all()


def test_candidates_are_those_of_the_definition():
    unique = random_rows(240, patients=40)
    candidates = candidates_of(unique)
    expected = by_definition(unique)
    assert len(candidates) == len(set(candidates)) > 50
    # Bits that are equally uncertain may be flipped in either order.
    assert len(set(candidates) ^ expected) <= 0.01 * len(expected)
    assert candidates == sorted(candidates)


def test_medians_and_deviations_are_those_of_the_definition():
    unique = random_rows(241, patients=40)
    low = low_frequencies(unique)
    median, deviation = medians_and_deviations(unique)
    assert median.tolist() == np.sort(low, axis=0)[120].tolist()
    assert np.abs(np.log2(deviation / np.abs(low - median).mean(axis=0))).max() < 0.13
    assert np.allclose(4 * np.log2(deviation), np.rint(4 * np.log2(deviation)), atol=1e-5)


@pytest.mark.parametrize("bands", [1, 48])  # in one band many pairs are found by one of the two rows alone
def test_candidates_with_some_rows_are_those_among_all_candidates(bands, monkeypatch):
    monkeypatch.setattr(lsh, "_BANDS", bands)
    unique = random_rows(900, patients=300)
    for rows in ([17], [0, 1, 450, 899], list(range(100, 160))):
        numbers = candidates_with(unique, np.array(rows), *medians_and_deviations(unique))
        expected = [first * 900 + second for first, second in candidates_of(unique) if {first, second} & {*rows}]
        assert len(expected) > len(rows)
        assert numbers.tolist() == expected


def test_where_a_bucket_is_crowded_there_are_no_candidates_with_some_rows_alone(monkeypatch):
    unique = random_rows(240, patients=40)
    monkeypatch.setattr(lsh, "_MAX_BUCKET", 4)
    assert candidates_with(unique, np.array([17]), *medians_and_deviations(unique)) is None


def test_chunks_change_nothing(monkeypatch):
    unique = random_rows(240, patients=40)
    whole = candidates_of(unique)
    monkeypatch.setattr(lsh, "_CHUNK", 64)
    monkeypatch.setattr(lsh, "_PAIRS_AT_ONCE", 100)
    assert candidates_of(unique) == whole
    monkeypatch.setattr(lsh, "_MAX_HELD", 50)
    assert len(list(lsh_candidates(unique))) > 3
    assert sorted(set(candidates_of(unique))) == whole
    assert len(candidates_of(unique)) <= 2 * len(whole)


def test_a_large_bucket_is_capped(monkeypatch):
    rng = np.random.default_rng(0)
    rows = (60 + rng.integers(-2, 3, (600, DESCRIPTOR_BYTES))).astype(np.int8).view(np.uint8)
    unique = unique_descriptors(rows, np.arange(600))
    pairs = len(candidates_of(unique))
    monkeypatch.setattr(lsh, "_MAX_BUCKET", 4)
    assert len(candidates_of(unique)) <= pairs


def test_numbers_are_sorted_and_unique():
    assert _sorted_unique(np.array([3, 1, 3, 2, 1])).tolist() == [1, 2, 3]
    assert _sorted_unique(np.zeros(0, np.int64)).size == 0


def test_hamming_distances_count_different_bits():
    first = np.array([[0, 0xFFFF], [0b101, 1]], np.uint16)
    second = np.array([[0, 0], [0b010, 1]], np.uint16)
    assert _hamming_distances(first, second).tolist() == [16, 3]
