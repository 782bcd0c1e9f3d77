"""Split strategies: no patient and no content is in two splits, whatever the population and the order of its files."""

import dataclasses
import itertools
import random
import re
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from octprep.duplicates.exact import NEAR_IDENTICAL, DuplicatePair
from octprep.format.errors import LeakError, SourceError
from octprep.shards.plan import plan_shards
from octprep.splits.patient_cap import cap_images_per_patient, capped_counts
from octprep.splits.patients import group_patients
from octprep.splits.strategies import (
    assign_groups,
    resolve_auto,
    split_scans,
)
from tests.splits.populations import config, scans, split_file
from tests.worlds.archive import archive, scan


@st.composite
def populations(draw):
    """Skewed patients, some in several classes or two folders, some files with equal bytes, a class of few patients."""
    population = [
        scan(f"{folder}/{label}/{label}-{100 * index + number}-{number}.jpeg")  # enough for every split
        for index, label in enumerate(["CNV", "DME", "NORMAL", "DRUSEN"], 1)
        for number, folder in enumerate(["train", "train", "train", "test"])
    ]
    for patient in range(draw(st.integers(0, 24))):
        common = ["CNV", "DME", "NORMAL"] if patient % 4 else ["CNV", "DME", "NORMAL", "DRUSEN"]
        labels = draw(st.lists(st.sampled_from(common), min_size=1, max_size=3, unique=True))
        usual_folder = draw(st.sampled_from(["train", "train", "train", "val", "test"]))
        for label in labels:
            for number in range(draw(st.sampled_from([1, 1, 2, 3, 20]))):
                folder = draw(st.sampled_from([usual_folder] * 9 + ["train", "test"]))
                content = draw(st.sampled_from([None] * 30 + ["equal", "same"]))
                population.append(scan(f"{folder}/{label}/{label}-{patient}-{number}.jpeg", content=content))
    return population


@st.composite
def near_duplicates(draw, population):
    """Chains of near-duplicates of different patients, of any class and folder, as pairs in any order."""
    chains = draw(st.lists(st.lists(st.sampled_from(population), min_size=2, max_size=5), max_size=4))
    pairs = {
        tuple(sorted((first.path, second.path)))
        for chain in chains
        for first, second in itertools.pairwise(chain)
        if first.patient != second.patient
    }
    return draw(st.permutations([DuplicatePair(*pair, NEAR_IDENTICAL, 0.9) for pair in sorted(pairs)]))


def linked_paths(population, near):
    """Sets of paths that one split must hold, by brute force: by id, by content and by near-duplicates."""
    links = [
        {item.path for item in population if item.patient == patient} for patient in {p.patient for p in population}
    ]
    links += [{item.path for item in population if item.sha256 == sha256} for sha256 in {p.sha256 for p in population}]
    links += [{pair.first, pair.second} for pair in near]
    components = []
    while links:
        component = links.pop()
        while touching := [link for link in links if link & component]:
            links = [link for link in links if not link & component]
            component = component.union(*touching)
        components.append(component)
    return components


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["by-patient", "keep-test", "kfold"])
@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    population=populations(),
    seed=st.integers(0, 5),
    limit=st.sampled_from([0, 0, 1, 2, 7]),
    shuffler=st.randoms(use_true_random=False),
)
def test_guarantees_1_to_4_hold_for_every_population_and_order_of_files(
    strategy, data, population, seed, limit, shuffler
):
    settled = config(strategy, seed=seed, folds=3, max_per_patient=limit)
    near = data.draw(near_duplicates(population))
    try:
        splits = split_scans(population, settled, near=near)
    except SourceError:
        assume(False)  # too few patients of a class, see below
    assert not splits.leaks
    split_of = {item.path: name for name, members in splits.members.items() for item in members}
    for paths in linked_paths(population, near):
        assert len({split_of[path] for path in paths if path in split_of}) <= 1
        assert len({splits.group_of[path] for path in paths}) == 1
    kept = [item.path for members in splits.members.values() for item in members]
    assert sorted(kept + [exclusion.path for exclusion in splits.excluded]) == sorted(item.path for item in population)
    labels = {item.label for members in splits.members.values() for item in members}
    assert all({item.label for item in members} == labels for members in splits.members.values())
    for name, members in splits.members.items():
        balance = "oversample" if name == "train" else "none"
        plans, undersampled = plan_shards(name, members, balance, 100, 1000, seed)
        records = Counter(item.path for plan in plans for item, _ in plan.items)
        assert not undersampled
        assert set(records) == {item.path for item in members}
        assert name == "train" or set(records.values()) == {1}
        counts = [Counter(item.label for item, _ in plan.items) for plan in plans]
        assert name != "train" or all(count == dict.fromkeys(labels, count["CNV"]) for count in counts)
    other_order = list(population)
    shuffler.shuffle(other_order)
    assert split_scans(other_order, settled, near=near[::-1]) == splits


def test_auto_keeps_the_test_folder_where_there_is_one_and_else_groups_all_patients():
    assert resolve_auto("auto", scans()) == "keep-test"
    assert resolve_auto("auto", [scan("CNV/CNV-1-1.jpeg")]) == "by-patient"
    assert resolve_auto("kfold", scans()) == "kfold"


# The source's test folder is kept


def test_the_test_folder_is_kept_whole_and_its_patients_are_not_in_training():
    names = [*archive(), "train/CNV-50-7", "val/CNV-50-8", "train/NORMAL-0-9"]
    splits = split_scans(scans(names), config("keep-test"))
    assert {item.path for item in splits.members["test"]} == {
        item.path for item in scans(names) if item.source_split == "test"
    }
    assert {(exclusion.path, exclusion.reason) for exclusion in splits.excluded} == {
        ("train/CNV/CNV-50-7.jpeg", "its patient is in the test set"),
        ("val/CNV/CNV-50-8.jpeg", "its patient is in the test set"),
    }


def test_a_scan_linked_to_a_test_patient_is_excluded_and_its_reason_names_that_patient():
    near = [DuplicatePair("test/CNV/CNV-50-1.jpeg", "train/CNV/CNV-1-1.jpeg", NEAR_IDENTICAL, 0.9)]
    splits = split_scans(scans(), config("keep-test"), near=near)
    assert {exclusion.reason for exclusion in splits.excluded if "CNV-1-" in exclusion.path} == {
        "in one group with a patient of the test set: 50"
    }


def test_kfold_puts_every_training_scan_in_one_fold():
    splits = split_scans(scans(), config("kfold", folds=3))
    assert set(splits.members) == {"fold0", "fold1", "fold2", "test"}
    folds = Counter(item.path for name, members in splits.members.items() if name != "test" for item in members)
    assert set(folds) == {item.path for item in scans() if item.source_split == "train"}
    assert set(folds.values()) == {1}


def test_kfold_without_a_test_folder_assigns_a_test_split_too():
    splits = split_scans([scan(f"CNV/CNV-{patient}-1.jpeg") for patient in range(40)], config("kfold", folds=3))
    assert {name: len(members) for name, members in splits.members.items()} == {
        "fold0": 12, "fold1": 12, "fold2": 12, "test": 4,
    }  # fmt: skip


# Splits as given: by folders


def test_folders_that_leak_are_an_error_that_names_the_patients_unless_leaks_are_allowed():
    names = [*archive(), "train/CNV-50-7", "train/DME-150-8"]
    with pytest.raises(LeakError, match=r"2 patients \(50 and 150\) are .*--split keep-test.*--allow-leaks"):
        split_scans(scans(names), config("as-given"))
    splits = split_scans(scans(names), config("as-given", allow_leaks=True))
    assert splits.leaks.patients == ("50", "150")
    assert {item.source_split for item in splits.members["train"]} == {"train"}
    assert sum(map(len, splits.members.values())) == len(names)
    assert not split_scans(scans(), config("as-given")).leaks


def test_equal_contents_in_two_folders_under_different_patients_leak():
    population = [*scans(), scan("train/CNV/CNV-900-1.jpeg", content="x"), scan("test/CNV/CNV-901-1.jpeg", content="x")]
    with pytest.raises(LeakError, match="1 file content is in"):
        split_scans(population, config("as-given"))


def test_a_test_folder_without_a_class_is_an_error_and_a_val_folder_without_one_is_not():
    lacking = [item for item in scans() if item.label != "DME" or item.source_split != "test"]
    with pytest.raises(SourceError, match="--split as-given leaves test without a scan of DME; each needs at least 1"):
        split_scans(lacking, config("as-given"))
    assert split_scans([*scans(), scan("val/CNV/CNV-900-1.jpeg")], config("as-given")).members["val"]


# Splits as given: by a file


def test_a_file_assigns_the_splits_and_scans_that_it_does_not_name_are_excluded():
    names = ["CNV-1-1", "DME-1-2", "CNV-2-1", "DME-3-1", "DME-4-1", "CNV-5-1"]
    file = split_file("patient", train=["1"], test=["2", "3", "9"])
    settled = config("file", split_file_sha256=file.sha256)
    splits = split_scans(scans(names), settled, split_file=file)
    assert {name: [item.patient for item in members] for name, members in splits.members.items()} == {
        "train": ["1", "1"],
        "test": ["2", "3"],
    }
    reason = "the file of --split-file gives it no split"
    assert [(exclusion.path, exclusion.reason) for exclusion in splits.excluded] == [
        ("CNV/CNV-5-1.jpeg", reason),
        ("DME/DME-4-1.jpeg", reason),
    ]
    with pytest.raises(SourceError, match="assigns no readable scan to test"):
        split_scans(scans(["CNV-1-1", "DME-4-1"]), settled, split_file=file)
    with pytest.raises(SourceError, match="leaves test without a scan of CNV; each needs at least 1 patient"):
        split_scans(scans(["CNV-1-1", "DME-1-1", "DME-3-1"]), settled, split_file=file)


def test_a_file_that_leaks_is_an_error_unless_leaks_are_allowed():
    population = [*scans(["CNV-1-1", "CNV-1-2", "DME-2-1", "DME-3-1"]), scan("DME/DME-4-1.jpeg", content="a")]
    population.append(scan("CNV/CNV-5-1.jpeg", content="a"))
    file = split_file(
        "path",
        train=["CNV/CNV-1-1.jpeg", "DME/DME-2-1.jpeg", "DME/DME-4-1.jpeg"],
        test=["CNV/CNV-1-2.jpeg", "DME/DME-3-1.jpeg", "CNV/CNV-5-1.jpeg"],
    )
    settled = config("file", split_file_sha256=file.sha256)
    with pytest.raises(
        LeakError, match=r"--split-file would leak: 1 patient \(1\) and 1 file content are in .*--allow-leaks"
    ):
        split_scans(population, settled, split_file=file)
    allowed = dataclasses.replace(settled, allow_leaks=True)
    splits = split_scans(population, allowed, split_file=file)
    assert splits.leaks.patients == ("1",)
    assert splits.leaks.contents == ()  # it has two classes, and so is in no split
    assert {exclusion.reason for exclusion in splits.excluded} == {"same bytes under different classes: CNV and DME"}
    kept = split_scans(population, dataclasses.replace(allowed, label_conflicts="keep"), split_file=file)
    assert len(kept.leaks.contents) == 1
    with pytest.raises(SourceError, match="under different classes"):
        split_scans(population, dataclasses.replace(allowed, label_conflicts="error"), split_file=file)


@pytest.mark.parametrize("near", [False, True])
def test_two_ids_linked_by_a_scan_in_no_split_leak(near):
    link = scan("CNV/CNV-8-9.jpeg", content=None if near else "a")  # the file does not name it
    ends = [scan("CNV/CNV-1-1.jpeg", content=None if near else "a"), scan("CNV/CNV-8-1.jpeg")]
    population = [*ends, link, *scans(["DME-2-1", "DME-3-1"])]
    pairs = [DuplicatePair(ends[0].path, link.path, NEAR_IDENTICAL, 0.9)] if near else []
    file = split_file("path", train=[ends[0].path, "DME/DME-2-1.jpeg"], test=[ends[1].path, "DME/DME-3-1.jpeg"])
    settled = config("file", split_file_sha256=file.sha256)
    with pytest.raises(LeakError, match=r"2 patients \(1 and 8\) are in more than one split"):
        split_scans(population, settled, split_file=file, near=pairs)
    allowed = dataclasses.replace(settled, allow_leaks=True)
    assert split_scans(population, allowed, split_file=file, near=pairs).leaks.patients == ("1", "8")


# Groups are assigned by target fractions


def test_a_class_with_too_few_patients_is_named_with_what_is_needed():
    message = "class DME has 1 patient to share among train, val and test; at least 3 are needed. Add 2 or more"
    with pytest.raises(SourceError, match=message):
        split_scans([item for item in scans() if item.label != "DME" or item.patient == "100"], config("by-patient"))
    with pytest.raises(SourceError, match=r"the test set has no scan of DME.* it has CNV.*merge the two by --classes"):
        split_scans(
            [item for item in scans() if item.label != "DME" or item.source_split != "test"],
            config("keep-test"),
        )
    with pytest.raises(SourceError, match="it has none; use --split by-patient"):
        split_scans([item for item in scans() if item.source_split != "test"], config("keep-test"))


@pytest.mark.parametrize("strategy", ["keep-test", "kfold"])
def test_what_only_the_test_folder_has_is_named_with_what_helps(strategy):
    tested = [item for item in scans() if item.source_split == "test"]
    with pytest.raises(SourceError, match=r"all patients are in .* test folder.* --split by-patient .* --fractions"):
        split_scans(tested, config(strategy))
    others = [item for item in scans() if item.label != "DME" or item.source_split == "test"]
    with pytest.raises(SourceError, match=r"all patients who have DME are in .* --split by-patient .* by --classes"):
        split_scans(others, config(strategy))


def test_a_class_whose_patients_are_all_needed_for_another_is_named_with_what_is_needed():
    names = ["CNV-1-1", "DME-1-2", "CNV-2-1", "DME-2-2", "CNV-3-1", "DME-4-1", "NORMAL-1-3", "NORMAL-5-1", "NORMAL-6-1"]
    split_scans(scans(names), config("by-patient"))
    few = [name for name in names if name not in ("CNV-3-1", "CNV-2-1", "DME-4-1")] + ["CNV-5-2", "CNV-5-3", "DME-5-4"]
    with pytest.raises(SourceError, match=r"class CNV has 2 patients .* at least 3 are needed\. Add 1 or more"):
        split_scans(scans(few), config("by-patient"))
    tangled = ["CNV-1-1", "DME-1-2", "DME-2-1", "NORMAL-2-2", "CNV-3-1", "NORMAL-3-2"]
    with pytest.raises(SourceError, match=r"has 2 patients .*, but with the other classes.* Add 1 or more") as caught:
        assign_groups(group_patients(scans(tangled)), {"train": 1, "val": 1}, seed=0)
    label = re.search("class ([A-Z]+)", str(caught.value))[1]
    assign_groups(group_patients(scans([*tangled, f"{label}-4-1"])), {"train": 1, "val": 1}, seed=0)


def test_shares_come_near_the_targets_although_patients_are_skewed():
    shuffler = random.Random(0)
    population = []
    for patient in range(400):
        label = shuffler.choice(["CNV", "CNV", "DME", "NORMAL"])
        for number in range(min(1 + int(shuffler.paretovariate(0.9)), 200)):
            population.append(scan(f"train/{label}/{label}-{patient}-{number}.jpeg"))
    assigned = assign_groups(group_patients(population), {"train": 8, "val": 1, "test": 1}, seed=0)
    total = Counter(item.label for item in population)
    for name, target in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        counts = Counter(item.label for group in assigned[name] for item in group.scans)
        assert all(abs(counts[label] / total[label] - target) < 0.002 for label in total)


def test_another_seed_assigns_other_patients():
    population = scans(archive(12))
    val = [split_scans(population, config("by-patient", seed=seed)).members["val"] for seed in range(4)]
    assert len({frozenset(item.patient for item in members) for members in val}) > 1


def test_the_order_of_the_groups_does_not_change_their_splits():
    groups = group_patients(scans(archive(6)))
    forwards = assign_groups(groups, {"train": 4, "val": 1}, seed=3)
    backwards = assign_groups(groups[::-1], {"train": 4, "val": 1}, seed=3)
    assert list(forwards) == list(backwards) == ["train", "val"]
    assert {name: {group.key for group in part} for name, part in forwards.items()} == {
        name: {group.key for group in part} for name, part in backwards.items()
    }


# The cap on the scans of a patient


@given(
    counts=st.dictionaries(st.sampled_from(["CNV", "DME", "NORMAL"]), st.integers(1, 300), min_size=1),
    limit=st.integers(1, 40),
)
def test_a_patient_keeps_at_most_the_limit_evenly_spaced_over_the_numbers_of_every_class(counts, limit):
    population = [
        scan(f"train/{label}/{label}-7-{3 * n}.jpeg") for label, number in counts.items() for n in range(number)
    ]
    kept = cap_images_per_patient(population, limit)
    kept_counts = Counter(item.label for item in kept)
    assert len({item.path for item in kept}) == len(kept) == min(limit, len(population))
    assert kept_counts == capped_counts(counts, limit)
    assert len(kept_counts) == min(limit, len(counts)) or len(kept) == len(population)
    for label, number in kept_counts.items():
        indices = sorted(item.image_number // 3 for item in kept if item.label == label)
        steps = {later - earlier for earlier, later in itertools.pairwise(indices)}
        assert steps <= {counts[label] // number, -(-counts[label] // number)}
        assert abs(indices[0] - (counts[label] - 1 - indices[-1])) <= 1
    assert {item.path for item in cap_images_per_patient(population[::-1], limit)} == {item.path for item in kept}


def test_the_cap_is_on_train_and_folds_and_shares_are_computed_with_it():
    names = [*archive(12), *(f"train/CNV-0-{n}" for n in range(100, 325))]
    for strategy in ("keep-test", "as-given", "kfold"):
        uncapped = split_scans(scans(names), config(strategy))
        capped = split_scans(scans(names), config(strategy, max_per_patient=10))
        for name, members in capped.members.items():
            largest = max(Counter(item.patient for item in members).values())
            assert largest <= 10 if name not in ("val", "test") else members
        assert set(capped.members["test"]) == set(uncapped.members["test"])
        beyond = [item for item in capped.excluded if item.reason == "beyond --max-per-patient 10 of its patient"]
        assert len(beyond) == sum(map(len, uncapped.members.values())) - sum(map(len, capped.members.values())) > 200
    counts = {label: Counter() for label in ("CNV", "DME", "DRUSEN", "NORMAL")}
    for name, members in split_scans(scans(names), config("keep-test", max_per_patient=10)).members.items():
        for item in cap_images_per_patient(members, 10):
            counts[item.label][name] += 1
    assert all(abs(part["val"] / (part["val"] + part["train"]) - 1 / 9) < 0.03 for part in counts.values())


def test_the_cap_is_on_a_patient_group_with_several_ids():
    names = [*archive(), *(f"train/CNV-{patient}-{number}" for patient in (7, 8) for number in range(1, 9))]
    near = [DuplicatePair("train/CNV/CNV-7-1.jpeg", "train/CNV/CNV-8-1.jpeg", NEAR_IDENTICAL, 0.9)]
    for pairs, kept in (([], 6), (near, 3)):
        settled = config("by-patient", max_per_patient=3, fractions=(0.98, 0.01, 0.01))
        splits = split_scans(scans(names), settled, near=pairs)
        holding = {name for name, members in splits.members.items() if {"7", "8"} & {item.patient for item in members}}
        assert holding == {"train"}  # val and test would keep all
        assert sum(item.patient in "78" for item in splits.members["train"]) == kept
