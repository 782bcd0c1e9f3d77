"""Balanced inside every shard, nothing lost, nothing repeated where it must not be."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octprep.shards.plan import plan_split
from tests.worlds.archive import CLASSES, scan


@st.composite
def members(draw):
    found = []
    for index, label in enumerate(CLASSES[: draw(st.integers(2, 4))]):
        patients = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
        for patient, images in enumerate(patients):
            found += [scan(f"train/{label}/{label}-{index * 100 + patient}-{n}.jpeg") for n in range(images)]
    return found


def labels(planned):
    return Counter(one.label for one, _ in planned.items)


sizes = st.sampled_from([500, 1_000, 5_000, 1_000_000])


@settings(max_examples=150, deadline=None)
@given(members(), sizes, st.integers(0, 3))
def test_oversampling_gives_every_shard_the_same_count_of_every_class_and_loses_nothing(scans, shard_bytes, seed):
    plans, rejections = plan_split("train", scans, "oversample", 100, shard_bytes, seed)
    classes = {one.label for one in scans}
    assert not rejections
    assert all(set(labels(planned)) == classes and len(set(labels(planned).values())) == 1 for planned in plans)
    items = [item for planned in plans for item in planned.items]
    copies = Counter(one.path for one, _ in items)
    assert set(copies) == {one.path for one in scans}
    counts = Counter(one.label for one in scans)
    largest = {one.path for one in scans if counts[one.label] == max(counts.values())}
    assert {copies[path] for path in largest} == {1}
    per_class = [len(planned.items) // len(classes) for planned in plans]
    assert sum(per_class) == max(counts.values()) and max(per_class) - min(per_class) <= 1
    assert sorted((one.path, copy) for one, copy in items) == sorted(
        (path, copy) for path, number in copies.items() for copy in range(number)
    )
    smallest = min(Counter(one.label for one in scans).values())
    if smallest >= len(plans):  # repeats of an image are in its shard only, so it is read once
        homes = Counter(path for planned in plans for path in {one.path for one, _ in planned.items})
        assert set(homes.values()) == {1}


@settings(max_examples=150, deadline=None)
@given(members(), sizes, st.integers(0, 3))
def test_undersampling_balances_every_shard_without_repeats_and_says_what_it_leaves_out(scans, shard_bytes, seed):
    plans, rejections = plan_split("train", scans, "undersample", 100, shard_bytes, seed)
    classes = {one.label for one in scans}
    assert all(set(labels(planned)) == classes and len(set(labels(planned).values())) == 1 for planned in plans)
    kept = [one.path for planned in plans for one, copy in planned.items if copy == 0]
    assert len(kept) == len(set(kept)) == sum(len(planned.items) for planned in plans)
    assert sorted(kept + [rejection.path for rejection in rejections]) == sorted(one.path for one in scans)
    smallest = min(Counter(one.label for one in scans).values())
    assert len(kept) == len(classes) * smallest
    per_class = [len(planned.items) // len(classes) for planned in plans]
    assert max(per_class) - min(per_class) <= 1


@settings(max_examples=150, deadline=None)
@given(members(), sizes, st.integers(0, 3))
def test_without_balancing_every_scan_is_there_once_and_shards_have_the_same_mix(scans, shard_bytes, seed):
    plans, rejections = plan_split("val", scans, "none", 100, shard_bytes, seed)
    assert not rejections
    items = [item for planned in plans for item in planned.items]
    assert sorted(items) == sorted((one, 0) for one in scans)
    for label in {one.label for one in scans}:
        counts = [labels(planned)[label] for planned in plans]
        assert max(counts) - min(counts) <= 1


def test_shards_come_near_the_wanted_size_and_their_names_count_them():
    scans = [scan(f"train/CNV/CNV-{patient}-{n}.jpeg") for patient in range(50) for n in range(20)]
    plans, _ = plan_split("train", scans, "none", 50_000, 5e6, 0)
    assert [planned.name for planned in plans[:2]] == ["train/00000-of-00010.tfrecord", "train/00001-of-00010.tfrecord"]
    assert {len(planned.items) for planned in plans} == {100}


@pytest.mark.parametrize("balance", ["oversample", "undersample", "none"])
def test_the_plan_depends_on_who_is_there_and_the_seed_not_on_the_order(balance):
    scans = [scan(f"train/{label}/{label}-{patient}-1.jpeg") for patient in range(20) for label in CLASSES]
    plan = plan_split("train", scans, balance, 100, 1000, 0)
    assert plan_split("train", scans[::-1], balance, 100, 1000, 0) == plan
    assert plan_split("train", scans, balance, 100, 1000, 1) != plan


@pytest.mark.parametrize("balance", ["oversample", "undersample", "none"])
def test_a_plan_of_a_known_number_of_shards_is_the_one_that_has_it(balance):
    scans = [
        scan(f"train/{label}/{label}-{patient}-{n}.jpeg") for label in CLASSES for patient in range(9) for n in (1, 2)
    ]
    plans, _ = plan_split("train", scans, balance, 100, 1500, 0)
    assert len(plans) > 1
    assert plan_split("train", scans, balance, 1, 1, 0, shards=len(plans))[0] == plans


def test_undersampling_keeps_as_many_patients_as_it_can():
    scans = [scan(f"train/CNV/CNV-{patient}-{n}.jpeg") for patient in range(10) for n in range(30)]
    scans += [scan(f"train/NORMAL/NORMAL-{100 + patient}-1.jpeg") for patient in range(10)]
    plans, _ = plan_split("train", scans, "undersample", 100, 1e6, 0)
    assert len({one.patient for one, _ in plans[0].items if one.label == "CNV"}) == 10
