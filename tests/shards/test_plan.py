"""Shard plans: every shard is balanced, no scan is lost, and scans are repeated only by oversampling."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octprep.shards.plan import plan_shards
from tests.worlds.archive import CLASSES, scan


@st.composite
def populations(draw):
    population = []
    for index, label in enumerate(CLASSES[: draw(st.integers(2, 4))]):
        patients = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
        for patient, images in enumerate(patients):
            population += [scan(f"train/{label}/{label}-{index * 100 + patient}-{n}.jpeg") for n in range(images)]
    return population


def labels(plan):
    return Counter(item.label for item, _ in plan.items)


sizes = st.sampled_from([500, 1_000, 5_000, 1_000_000])


@settings(max_examples=150, deadline=None)
@given(populations(), sizes, st.integers(0, 3))
def test_oversampling_gives_every_shard_the_same_count_of_every_class_and_keeps_every_scan(scans, shard_bytes, seed):
    plans, exclusions = plan_shards("train", scans, "oversample", 100, shard_bytes, seed)
    classes = {item.label for item in scans}
    assert not exclusions
    assert all(set(labels(plan)) == classes and len(set(labels(plan).values())) == 1 for plan in plans)
    items = [item for plan in plans for item in plan.items]
    records = Counter(item.path for item, _ in items)
    assert set(records) == {item.path for item in scans}
    counts = Counter(item.label for item in scans)
    largest = {item.path for item in scans if counts[item.label] == max(counts.values())}
    assert {records[path] for path in largest} == {1}
    per_class = [len(plan.scans) // len(classes) for plan in plans]
    assert sum(per_class) == max(counts.values()) and max(per_class) - min(per_class) <= 1
    assert sorted((item.path, repeat) for item, repeat in items) == sorted(
        (path, repeat) for path, number in records.items() for repeat in range(number)
    )
    smallest = min(Counter(item.label for item in scans).values())
    if smallest >= len(plans):  # repeats of an image are in its shard only, so it is read once
        shards_of = Counter(path for plan in plans for path in {item.path for item, _ in plan.items})
        assert set(shards_of.values()) == {1}


@settings(max_examples=150, deadline=None)
@given(populations(), sizes, st.integers(0, 3))
def test_undersampling_balances_every_shard_without_repeats_and_lists_what_it_excludes(scans, shard_bytes, seed):
    plans, exclusions = plan_shards("train", scans, "undersample", 100, shard_bytes, seed)
    classes = {item.label for item in scans}
    assert all(set(labels(plan)) == classes and len(set(labels(plan).values())) == 1 for plan in plans)
    kept = [item.path for plan in plans for item, repeat in plan.items if repeat == 0]
    assert len(kept) == len(set(kept)) == sum(len(plan.scans) for plan in plans)
    assert sorted(kept + [exclusion.path for exclusion in exclusions]) == sorted(item.path for item in scans)
    smallest = min(Counter(item.label for item in scans).values())
    assert len(kept) == len(classes) * smallest
    per_class = [len(plan.scans) // len(classes) for plan in plans]
    assert max(per_class) - min(per_class) <= 1


@settings(max_examples=150, deadline=None)
@given(populations(), sizes, st.integers(0, 3))
def test_without_balancing_every_scan_has_one_record_and_shards_have_the_same_class_mix(scans, shard_bytes, seed):
    plans, exclusions = plan_shards("val", scans, "none", 100, shard_bytes, seed)
    assert not exclusions
    items = [item for plan in plans for item in plan.items]
    assert sorted(items) == sorted((item, 0) for item in scans)
    for label in {item.label for item in scans}:
        counts = [labels(plan)[label] for plan in plans]
        assert max(counts) - min(counts) <= 1


def test_shards_come_near_the_target_size_and_are_numbered_in_their_names():
    scans = [scan(f"train/CNV/CNV-{patient}-{n}.jpeg") for patient in range(50) for n in range(20)]
    plans, _ = plan_shards("train", scans, "none", 50_000, 5e6, 0)
    assert [plan.name for plan in plans[:2]] == ["train/00000-of-00010.tfrecord", "train/00001-of-00010.tfrecord"]
    assert {len(plan.scans) for plan in plans} == {100}


@pytest.mark.parametrize("balance", ["oversample", "undersample", "none"])
def test_the_plan_depends_on_the_scans_and_the_seed_not_on_their_order(balance):
    scans = [scan(f"train/{label}/{label}-{patient}-1.jpeg") for patient in range(20) for label in CLASSES]
    planned = plan_shards("train", scans, balance, 100, 1000, 0)
    assert plan_shards("train", scans[::-1], balance, 100, 1000, 0) == planned
    assert plan_shards("train", scans, balance, 100, 1000, 1) != planned


@pytest.mark.parametrize("balance", ["oversample", "undersample", "none"])
def test_a_plan_for_a_known_number_of_shards_equals_the_one_that_came_to_that_number(balance):
    scans = [
        scan(f"train/{label}/{label}-{patient}-{n}.jpeg") for label in CLASSES for patient in range(9) for n in (1, 2)
    ]
    plans, _ = plan_shards("train", scans, balance, 100, 1500, 0)
    assert len(plans) > 1
    assert plan_shards("train", scans, balance, 1, 1, 0, shards=len(plans))[0] == plans


@pytest.mark.parametrize(("balance", "most"), [("oversample", 12), ("undersample", 12), ("none", 30)])
@pytest.mark.parametrize("label", ["CNV", "DME", "NORMAL"])
def test_one_more_scan_changes_few_shards(balance, most, label):
    sizes = {"CNV": 370, "DME": 110, "DRUSEN": 90, "NORMAL": 260}
    scans = [scan(f"train/{name}/{name}-{i // 5}-{i % 5}.jpeg") for name, size in sizes.items() for i in range(size)]
    plans, _ = plan_shards("train", scans, balance, 1, 1, 0, shards=60)
    more = [*scans, scan(f"train/{label}/{label}-700-1.jpeg")]
    changed = [
        before.name
        for before, after in zip(plans, plan_shards("train", more, balance, 1, 1, 0, shards=60)[0], strict=True)
        if before != after
    ]
    assert 0 < len(changed) <= most


def test_undersampling_keeps_as_many_patients_as_possible():
    scans = [scan(f"train/CNV/CNV-{patient}-{n}.jpeg") for patient in range(10) for n in range(30)]
    scans += [scan(f"train/NORMAL/NORMAL-{100 + patient}-1.jpeg") for patient in range(10)]
    plans, _ = plan_shards("train", scans, "undersample", 100, 1e6, 0)
    assert len({item.patient for item, _ in plans[0].items if item.label == "CNV"}) == 10
