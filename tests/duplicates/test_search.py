"""The search for near-duplicates finds planted ones and pairs no other patients, whatever the order and the threads."""

import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks.near_duplicates import RECIPES, turned
from octprep import preprocessing
from octprep.duplicates import DESCRIPTOR_BYTES, MIN_CORRELATION, dct_descriptor, lsh, near_identical, search
from octprep.duplicates.lsh import lsh_candidates
from octprep.duplicates.unique_rows import unique_descriptors
from octprep.synthetic.faults import near_duplicate
from tests.duplicates.images import PLANTED, descriptors_of, pairs_of, random_image
from tests.worlds.archive import SAMPLE, SAMPLE_2


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["default", "crop-none"])
def test_planted_near_duplicates_are_found_and_no_other_pair(recipe, population):
    pairs = {(pair.first, pair.second) for pair in pairs_of(population.stored(recipe), population.patients)}
    assert len(population.planted_pairs & pairs) >= 0.95 * PLANTED
    assert not pairs - population.planted_pairs


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "recall"), [("size-96", 0.9), ("pad", 0.75), ("flatten", 0.9)])
def test_other_recipes_pair_only_scans_of_the_same_patient(recipe, recall, population):
    people, pairs = population.people, pairs_of(population.stored(recipe), population.patients)
    assert all(people[pair.first] == people[pair.second] for pair in pairs)
    assert len({pair.second for pair in pairs}) >= recall * PLANTED


@pytest.mark.slow
def test_neighbouring_scans_under_different_ids_are_not_paired(population):
    images = population.stored("default")[population.genuine]
    assert pairs_of(images, [str(index) for index in range(len(images))]) == []


@pytest.mark.slow
def test_the_order_of_the_scans_has_no_influence(population):
    images, patients = population.stored("default"), population.patients
    expected = pairs_of(images, patients)
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = pairs_of([images[index] for index in order], [patients[index] for index in order])
    back = sorted((*sorted((int(order[pair.first]), int(order[pair.second]))), pair.correlation) for pair in shuffled)
    assert back == [(pair.first, pair.second, pair.correlation) for pair in expected]
    assert expected == sorted(expected)
    assert all(pair.first < pair.second and MIN_CORRELATION <= pair.correlation <= 1 for pair in expected)


@pytest.mark.slow
def test_hashing_finds_every_pair_that_a_search_of_all_pairs_finds(population, monkeypatch):
    images, patients = population.stored("default"), population.patients
    hashed = pairs_of(images, patients)
    monkeypatch.setattr(search, "_ALL_PAIRS", 10_000)
    assert pairs_of(images, patients) == hashed


@pytest.mark.slow
def test_threads_and_a_lower_minimum_leave_the_near_identical_pairs_unchanged(population):
    images, patients = population.stored("default"), population.patients
    descriptors = descriptors_of(images)
    # Patients of ten scans each, and near-duplicates: the result of a comparison decides which others are made.
    large = [f"patient {index // 10}" for index in range(len(patients) - PLANTED)] + patients[-PLANTED:]
    for owners in (patients, large):
        alone = near_identical(descriptors, owners, images.__getitem__, workers=1)
        assert near_identical(descriptors, owners, images.__getitem__, workers=5) == alone
        every = near_identical(descriptors, owners, images.__getitem__, min_correlation=-1.0)
        assert [pair for pair in every if pair.correlation >= MIN_CORRELATION] == alone
        assert len(every) > len(alone)


@pytest.mark.slow
def test_scans_of_one_patient_are_never_paired(population):
    images = population.stored("default")
    assert pairs_of(images, ["one"] * len(images)) == []


@pytest.mark.slow
def test_patients_may_be_numbers(population):
    images, patients = population.stored("default"), population.patients
    numbers = np.unique(patients, return_inverse=True)[1]
    assert near_identical(descriptors_of(images), numbers, images.__getitem__) == pairs_of(images, patients)


@pytest.mark.slow
@pytest.mark.parametrize("others", [0, 1, 30])
def test_a_near_duplicate_is_found_in_a_small_population(others, population):
    images, original = population.stored("default"), population.originals[0]
    few = [images[original], images[-PLANTED]]
    few += [images[index] for index in range(0, 400, 2) if index // 2 != original // 2][:others]
    pairs = pairs_of(few, [str(index) for index in range(len(few))])
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1)]


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is missing")
@pytest.mark.parametrize("recipe", RECIPES)
def test_in_the_real_sample_only_planted_near_duplicates_are_found(recipe):
    paths = sorted(SAMPLE.rglob("*-*-*.jpeg"))
    grays = [preprocessing.decode(path.read_bytes()) for path in paths]
    images = [preprocessing.preprocess(gray, RECIPES[recipe]).pixels for gray in grays]
    patients = [path.stem.split("-")[1] for path in paths]
    assert len(paths) > 30
    assert pairs_of(images, patients) == []
    rng = np.random.default_rng(0)
    planted = [preprocessing.decode(near_duplicate(gray, rng)) for gray in grays]
    images += [preprocessing.preprocess(gray, RECIPES[recipe]).pixels for gray in planted]
    pairs = pairs_of(images, patients + [f"{patient} again" for patient in patients])
    expected = {(index, index + len(paths)) for index in range(len(paths))}
    assert {(pair.first, pair.second) for pair in pairs} <= expected
    assert len(pairs) >= len(expected) - (2 if recipe == "flatten" else 0)


@pytest.mark.slow
@pytest.mark.skipif(not (SAMPLE.is_dir() and SAMPLE_2.is_dir()), reason="the samples of real scans are missing")
def test_turned_scans_of_the_real_samples_are_found_and_no_other_pair():
    paths = sorted([*SAMPLE.rglob("*.jpeg"), *SAMPLE_2.rglob("*.jpeg")])
    rng = np.random.default_rng(0)
    grays = [preprocessing.decode(path.read_bytes()) for path in paths]
    grays += [preprocessing.decode(turned(gray, rng)) for gray in grays]
    images = [preprocessing.preprocess(gray, RECIPES["default"]).pixels for gray in grays]
    patients = [path.stem.split("-")[1] for path in paths]
    pairs = pairs_of(images, patients + [f"{patient} again" for patient in patients])
    expected = {(index, index + len(paths)) for index in range(len(paths))}
    assert {(pair.first, pair.second) for pair in pairs} <= expected
    assert len(pairs) >= 0.93 * len(expected)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_images_are_in_no_pair(value):
    constant = np.full((100, 100), value, np.uint8)
    images = [constant, constant.copy(), random_image(0), random_image(1)]
    assert pairs_of(images, ["a", "b", "c", "d"]) == []


def test_zero_scans_and_one_scan_have_no_pairs():
    assert near_identical(np.zeros((0, DESCRIPTOR_BYTES), np.uint8), [], lambda _: random_image(0)) == []
    assert pairs_of([random_image(0)], ["a"]) == []


def test_descriptors_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match=rf"must be \(2, {DESCRIPTOR_BYTES}\).*got \(3, {DESCRIPTOR_BYTES}\)"):
        near_identical(np.zeros((3, DESCRIPTOR_BYTES), np.uint8), ["a", "b"], lambda _: random_image(0))


def counting(pixels: Callable[[int], np.ndarray]) -> tuple[Callable[[int], np.ndarray], list[int]]:
    """A function that gives pixels, and the indices that it was called with."""
    calls: list[int] = []

    def count(index: int) -> np.ndarray:
        calls.append(index)
        return pixels(index)

    return count, calls


def test_thousands_of_equal_scans_are_all_paired_in_linear_time():
    image, count = random_image(0), 4000
    descriptors = np.tile(descriptors_of([image]), (count, 1))
    patients = np.arange(count) % 2
    pixels, calls = counting(lambda _: image)
    pairs = near_identical(descriptors, patients, pixels)
    assert {index for pair in pairs for index in (pair.first, pair.second)} == set(range(count))
    assert all(patients[pair.first] != patients[pair.second] for pair in pairs)
    assert len(pairs) < 1.01 * count
    assert len(calls) < 3 * count


def test_each_of_many_similar_scans_is_compared_with_few_others():
    rng = np.random.default_rng(0)
    count = 1500
    base = np.frombuffer(dct_descriptor(random_image(0)), np.int8)
    descriptors = np.clip(base + rng.integers(-2, 3, (count, DESCRIPTOR_BYTES)), -127, 127).astype(np.int8)
    constant = np.zeros((100, 100), np.uint8)
    pixels, calls = counting(lambda _: constant)
    assert near_identical(descriptors.view(np.uint8), np.arange(count) % 7, pixels) == []
    assert len(calls) <= 2 * search._NEAREST * count


def pairs_of_rows(unique):
    """The pairs of `_near_rows` that are to be compared on pixels, in their order."""
    with ThreadPoolExecutor(1) as threads:
        found = search._near_rows(unique, threads)
    assert len(found.first) <= search._NEAREST * len(unique)
    return [values.tolist() for values in search._nearest(*found)]


def test_pairs_that_are_found_a_few_at_a_time_are_those_that_are_found_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 30, (12, DESCRIPTOR_BYTES))
    rows = centres[rng.integers(0, 12, 900)] + rng.normal(0, 4, (900, DESCRIPTOR_BYTES))
    rows[700:] = rows[:200]  # some of several patients
    descriptors = np.clip(np.rint(rows), -127, 127).astype(np.int8).view(np.uint8)
    unique = unique_descriptors(descriptors, rng.integers(0, 300, 900))
    whole = pairs_of_rows(unique)
    assert len(whole[0]) > 2 * len(unique), "rows have more near ones than are kept"
    monkeypatch.setattr(lsh, "_MAX_HELD", 8000)
    assert len(list(lsh_candidates(unique))) > 3
    assert pairs_of_rows(unique) == whole


def test_memory_does_not_grow_with_the_pairs_of_similar_scans(monkeypatch):
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 60, (540, DESCRIPTOR_BYTES))  # no two are near, but ...
    rows[:, lsh._lowest()] = 40  # ... all have the same hash
    descriptors = np.clip(np.rint(rows), -127, 127).astype(np.int8).view(np.uint8)
    unique = unique_descriptors(descriptors, np.arange(540))
    for name, value in {"_BANDS": 6, "_MAX_HELD": 1 << 16, "_PAIRS_AT_ONCE": 1 << 12}.items():
        monkeypatch.setattr(lsh, name, value)
    batches = [first.size for first, _ in lsh_candidates(unique)]
    assert sum(batches) >= 540 * 539 / 2 and max(batches) < 1.5 * (1 << 16)
    tracemalloc.start()
    try:
        assert pairs_of_rows(unique) == [[], [], []]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000, f"{peak:,} bytes, of which 4 million are for the buckets"


def test_equal_descriptors_of_three_patients_connect_them_all():
    patients = ["c", "c", "a", "b", "a", "c"]
    pairs = pairs_of([random_image(0)] * 6, patients)
    connected = {frozenset((patients[pair.first], patients[pair.second])) for pair in pairs}
    assert all(len(two) == 2 for two in connected)
    assert set().union(*connected) == {"a", "b", "c"} and len(connected) >= 2
