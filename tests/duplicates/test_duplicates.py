from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.likeness import RECIPES
from octprep import duplicates, preprocessing
from octprep.duplicates import DESCRIPTOR, THRESHOLD, correlation, describe, distances, near_identical
from octprep.duplicates.descriptors import _drawn
from octprep.synthetic import CLASSES, draw_disease, draw_look, draw_scan
from octprep.synthetic.faults import add_fill, encode, near_duplicate
from tests.worlds.archive import SAMPLE

pytestmark = pytest.mark.slow

COPIES = 60


def rows_of(pictures: Sequence[np.ndarray]) -> np.ndarray:
    data = b"".join(describe(pixels) for pixels in pictures)
    return np.frombuffer(data, np.uint8).reshape(-1, DESCRIPTOR)


def pairs_of(pictures: Sequence[np.ndarray], patients: Sequence[str]) -> list[duplicates.Pair]:
    return near_identical(rows_of(pictures), patients, pictures.__getitem__)


def volumes(patients: int, scans: int) -> tuple[list[np.ndarray], list[str]]:
    """Scans next to each other in the volumes of some phantoms, as the archive would hold them."""
    grays, owners = [], []
    for number in range(patients):
        rng = np.random.default_rng([5, number])
        look = draw_look(rng)
        disease = draw_disease(CLASSES[number % 4], look, rng)
        for turn in range(scans):
            phantom, _ = add_fill(draw_scan(look, disease, 0.4 + turn / 16, rng), rng)
            grays.append(preprocessing.decode(encode(phantom.pixels)))
            owners.append(f"patient {number}")
    return grays, owners


@pytest.fixture(scope="module")
def world():
    """Source scans of 300 patients, two of each, then copies of some; patients; and the number of each original."""
    grays, owners = volumes(300, 2)
    rng = np.random.default_rng(6)
    originals = [int(number) for number in rng.choice(len(grays), COPIES, replace=False)]
    copies = [preprocessing.decode(near_duplicate(grays[number], rng)) for number in originals]
    return grays + copies, owners + [f"stranger {number}" for number in range(COPIES)], originals


@pytest.fixture(scope="module")
def stored(world):
    cache: dict[str, list[np.ndarray]] = {}

    def prepare(recipe: str) -> list[np.ndarray]:
        if recipe not in cache:
            cache[recipe] = [preprocessing.preprocess(gray, RECIPES[recipe]).pixels for gray in world[0]]
        return cache[recipe]

    return prepare


@pytest.mark.parametrize("recipe", ["default", "crop-none"])
def test_planted_copies_are_found_and_nobody_else_is_joined(recipe, world, stored):
    _, patients, originals = world
    first = len(patients) - COPIES
    found = {(pair.first, pair.second) for pair in pairs_of(stored(recipe), patients)}
    planted = {(original, first + turn) for turn, original in enumerate(originals)}
    assert len(planted & found) >= 0.99 * COPIES
    assert not found - planted


@pytest.mark.parametrize("recipe", ["size-96", "pad", "flatten"])
def test_other_recipes_join_nobody_but_the_patients_of_a_copy(recipe, world, stored):
    _, patients, originals = world
    whose = patients[:-COPIES] + [patients[original] for original in originals]
    pairs = pairs_of(stored(recipe), patients)
    assert all(whose[pair.first] == whose[pair.second] for pair in pairs)
    assert len({pair.second for pair in pairs}) >= {"size-96": 0.99, "pad": 0.75, "flatten": 0.9}[recipe] * COPIES


def test_a_scan_next_door_under_another_id_is_not_the_same_scan(world, stored):
    pictures = stored("default")[:-COPIES]
    assert pairs_of(pictures, [str(number) for number in range(len(pictures))]) == []
    closest = max(correlation(pictures[at], pictures[at + 1]) for at in range(0, 120, 2))
    assert closest < THRESHOLD - 0.1


def test_what_is_found_does_not_depend_on_the_order_of_the_scans(world, stored):
    pictures, patients = stored("default"), world[1]
    before = pairs_of(pictures, patients)
    order = np.random.default_rng(0).permutation(len(pictures))
    moved = pairs_of([pictures[at] for at in order], [patients[at] for at in order])
    back = sorted((*sorted((int(order[p.first]), int(order[p.second]))), p.correlation) for p in moved)
    assert back == [(pair.first, pair.second, pair.correlation) for pair in before]
    assert before == sorted(before)
    assert all(pair.first < pair.second and THRESHOLD <= pair.correlation <= 1 for pair in before)


def test_hashing_loses_nothing_that_looking_at_every_pair_finds(world, stored, monkeypatch):
    pictures, patients = stored("default"), world[1]
    hashed = pairs_of(pictures, patients)
    monkeypatch.setattr(duplicates.search, "_ALL_PAIRS", 10_000)
    assert pairs_of(pictures, patients) == hashed


def test_threads_change_nothing_and_what_is_listed_below_the_threshold_leaves_the_pairs_above_it(world, stored):
    pictures, rows, patients = stored("default"), rows_of(stored("default")), world[1]
    # Patients of ten scans each, and copies of theirs: what one comparison finds decides which others are made.
    crowded = [f"patient {at // 10}" if at < len(patients) - COPIES else patients[at] for at in range(len(patients))]
    for owners in (patients, crowded):
        alone = near_identical(rows, owners, pictures.__getitem__, workers=1)
        assert near_identical(rows, owners, pictures.__getitem__, workers=5) == alone
        listed = near_identical(rows, owners, pictures.__getitem__, listed=-1.0)
        assert [pair for pair in listed if pair.correlation >= THRESHOLD] == alone
        assert len(listed) > len(alone)


def test_scans_of_one_patient_are_never_paired(world, stored):
    pictures = stored("default")
    assert pairs_of(pictures, ["one"] * len(pictures)) == []


def test_numbers_serve_as_patients_as_well_as_names(world, stored):
    pictures, patients = stored("default"), world[1]
    numbers = np.unique(patients, return_inverse=True)[1]
    assert near_identical(rows_of(pictures), numbers, pictures.__getitem__) == pairs_of(pictures, patients)


@pytest.mark.parametrize("others", [0, 1, 30])
def test_a_copy_is_found_in_a_population_of_two_and_of_a_few(others, world, stored):
    pictures, _, originals = stored("default"), world[1], world[2]
    few = [pictures[originals[0]], pictures[len(pictures) - COPIES]]
    few += [pictures[at] for at in range(0, 600, 2) if at // 2 != originals[0] // 2][:others]
    assert [(p.first, p.second) for p in pairs_of(few, [str(at) for at in range(len(few))])] == [(0, 1)]


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is not here")
@pytest.mark.parametrize("recipe", RECIPES)
def test_no_two_patients_of_the_real_sample_are_joined_and_copies_of_its_scans_are_found(recipe):
    paths = sorted(SAMPLE.rglob("*-*-*.jpeg"))
    grays = [preprocessing.decode(path.read_bytes()) for path in paths]
    pictures = [preprocessing.preprocess(gray, RECIPES[recipe]).pixels for gray in grays]
    patients = [path.stem.split("-")[1] for path in paths]
    assert len(paths) > 30
    assert pairs_of(pictures, patients) == []
    rng = np.random.default_rng(0)
    copies = [preprocessing.decode(near_duplicate(gray, rng)) for gray in grays]
    pictures += [preprocessing.preprocess(gray, RECIPES[recipe]).pixels for gray in copies]
    found = {(pair.first, pair.second) for pair in pairs_of(pictures, patients + [f"{at} again" for at in patients])}
    planted = {(at, at + len(paths)) for at in range(len(paths))}
    assert found <= planted
    assert len(found) >= len(planted) - (2 if recipe == "flatten" else 0)


def picture(seed: int, shape: tuple[int, int] = (120, 130)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), 1)
    coarse = cv2.resize(rng.normal(0, 1, (6, 6)).astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(90 + 40 * coarse + 60 * noise, 0, 255).astype(np.uint8)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.tuples(st.integers(16, 300), st.integers(16, 300)), st.sampled_from([0, 20, 128, 255])
)
def test_equal_pixels_have_equal_descriptors_and_whatever_is_stored_has_one(seed, shape, light):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, light + 1, shape, np.uint8)
    data = describe(pixels)
    assert len(data) == DESCRIPTOR
    assert describe(np.asfortranarray(pixels.copy())) == data


@pytest.mark.parametrize("side", [16, 64, 4096])
def test_the_smallest_and_the_largest_image_can_be_described_and_compared(side):
    one, other = (cv2.resize(picture(seed), (side, side)) for seed in (1, 2))
    assert len(describe(one)) == DESCRIPTOR
    assert correlation(one, other) < THRESHOLD
    assert pairs_of([one, other], ["a", "b"]) == []


def test_brightness_does_not_count_and_bars_of_padding_do_not_either():
    dark = picture(3) // 2
    bright = np.asarray(dark * 2 + 3, np.uint8)
    apart = np.frombuffer(describe(dark), np.int8).astype(int) - np.frombuffer(describe(bright), np.int8)
    assert np.abs(apart).max() <= 8
    padded = cv2.copyMakeBorder(dark, 17, 18, 0, 0, cv2.BORDER_CONSTANT, value=[0.0])
    assert correlation(padded, bright) > 0.95
    assert [(p.first, p.second) for p in pairs_of([padded, dark, picture(4)], ["a", "b", "c"])] == [(0, 1)]


@pytest.mark.parametrize("value", [0, 7, 255])
def test_images_of_one_gray_level_are_in_no_pair(value):
    blank = np.full((100, 100), value, np.uint8)
    assert describe(blank) == bytes(DESCRIPTOR)
    assert correlation(blank, blank) == 0
    assert pairs_of([blank, blank.copy(), picture(0), picture(1)], ["a", "b", "c", "d"]) == []


def test_no_scan_and_one_scan_give_no_pair():
    assert near_identical(np.zeros((0, DESCRIPTOR), np.uint8), [], lambda _: picture(0)) == []
    assert pairs_of([picture(0)], ["a"]) == []


def test_descriptors_and_patients_of_other_numbers_are_refused():
    with pytest.raises(ValueError, match=rf"must be \(2, {DESCRIPTOR}\).*got \(3, {DESCRIPTOR}\)"):
        near_identical(np.zeros((3, DESCRIPTOR), np.uint8), ["a", "b"], lambda _: picture(0))


def asked(pixels: Callable[[int], np.ndarray]) -> tuple[Callable[[int], np.ndarray], list[int]]:
    calls: list[int] = []

    def ask(index: int) -> np.ndarray:
        calls.append(index)
        return pixels(index)

    return ask, calls


def test_thousands_of_equal_scans_of_two_patients_are_all_paired_without_comparing_each_with_each():
    one, count = picture(0), 4000
    rows = np.tile(rows_of([one]), (count, 1))
    patients = np.arange(count) % 2
    ask, calls = asked(lambda _: one)
    pairs = near_identical(rows, patients, ask)
    assert {at for pair in pairs for at in (pair.first, pair.second)} == set(range(count))
    assert all(patients[pair.first] != patients[pair.second] for pair in pairs)
    assert len(pairs) < 1.01 * count
    assert len(calls) < 3 * count


def test_a_crowd_of_almost_equal_descriptors_is_compared_with_few_each():
    rng = np.random.default_rng(0)
    count = 1500
    base = np.frombuffer(describe(picture(0)), np.int8)
    rows = np.clip(base + rng.integers(-2, 3, (count, DESCRIPTOR)), -127, 127).astype(np.int8).view(np.uint8)
    blank = np.zeros((100, 100), np.uint8)
    ask, calls = asked(lambda _: blank)
    assert near_identical(rows, np.arange(count) % 7, ask) == []
    assert len(calls) <= 2 * 16 * count


def test_equal_descriptors_of_three_patients_join_them_all():
    one = picture(0)
    pairs = pairs_of([one] * 6, ["c", "c", "a", "b", "a", "c"])
    joined = {frozenset(("c", "c", "a", "b", "a", "c")[at] for at in (pair.first, pair.second)) for pair in pairs}
    assert all(len(two) == 2 for two in joined)
    assert set().union(*joined) == {"a", "b", "c"} and len(joined) >= 2


def test_correlation_is_the_same_under_another_light_and_falls_with_noise():
    one = picture(5, (224, 224))
    rng = np.random.default_rng(0)
    noisy = [
        np.clip(one * 0.95 + rng.normal(0, deviation, one.shape), 0, 255).astype(np.uint8)
        for deviation in (0, 8, 25, 70)
    ]
    scores = [correlation(one, other) for other in noisy]
    assert scores[0] > 0.98
    assert all(higher > lower for higher, lower in itertools.pairwise(scores))
    assert scores[-1] < THRESHOLD


def test_distances_of_one_patients_scans_are_smaller(world, stored):
    patients = world[1][:-COPIES]
    rows = rows_of(stored("default")[:-COPIES])
    told = distances(rows, patients, seed=1, draws=5000)
    assert told == distances(rows, patients, seed=1, draws=5000)
    assert len(told.edges) == len(told.same) + 1 == len(told.different) + 1
    middles = np.add(told.edges[:-1], told.edges[1:]) / 2
    assert np.average(middles, weights=told.same) < 0.5 * np.average(middles, weights=told.different)
    near = np.array(told.edges[:-1]) < 0.3
    assert np.array(told.different)[near].sum() == 0 < np.array(told.same)[near].sum()


@pytest.mark.parametrize("draws", [100_000, 60, 1])
def test_no_pair_counts_twice_and_how_many_there_are_is_true(draws):
    patients = [str(number % 7) for number in range(30)] + ["lone"]
    pairs = list(itertools.combinations(range(31), 2))
    same = {pair for pair in pairs if patients[pair[0]] == patients[pair[1]]}
    found = list(_drawn(np.array(patients), np.random.default_rng(0), draws))
    for ((one, other), total), every in zip(found, (same, set(pairs) - same), strict=True):
        listed = [tuple(sorted(pair)) for pair in zip(one.tolist(), other.tolist(), strict=True)]
        assert total == len(every)
        assert len(listed) == len(set(listed)) == min(draws, total)
        assert set(listed) <= every
    told = distances(rows_of([picture(number) for number in range(31)]), patients, draws=draws)
    assert (told.same_of, told.different_of) == (len(same), len(pairs) - len(same))
    assert (sum(told.same), sum(told.different)) == (min(draws, told.same_of), min(draws, told.different_of))


def test_distances_of_nothing_and_of_lonely_scans_are_no_pairs():
    for rows, patients in ((np.zeros((0, DESCRIPTOR), np.uint8), []), (rows_of([picture(0), picture(1)]), ["a", "b"])):
        told = distances(rows, patients)
        assert sum(told.same) == 0
