"""Stratified group splits: near the targets, stable, and impossible only where no assignment exists."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.splits import merge_folds, sklearn_folds
from octprep.format.seeding import seeded_hash
from octprep.splits.stratify import NEGLIGIBLE, NoFeasibleSplit, distance, stratified_group_split


@st.composite
def skewed_counts(draw):
    """(groups, classes) scans: most patients small, some of 225, many in several classes, some classes rare."""
    classes = draw(st.integers(2, 6))
    cell = st.sampled_from([0] * draw(st.integers(1, 12)) + [1, 1, 2, 3, 5, 8, 20, 60, 225])
    rows = draw(st.lists(st.lists(cell, min_size=classes, max_size=classes), max_size=60))
    single = draw(st.sampled_from([10, 15, 30]))  # patients of each class alone, with one scan each
    counts = [row for row in rows if any(row)] + np.eye(classes, dtype=int).repeat(single, axis=0).tolist()
    return np.array(counts, dtype=np.int64)


def digests(groups, seed=0):
    return [seeded_hash(str(group), seed) for group in range(groups)]


def covers(counts, part_of, parts):
    """Whether every part has a group of every class."""
    return all((counts[np.array(part_of) == part] > 0).any(axis=0).all() for part in range(parts))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("targets", "folds"),
    [([0.2] * 5, 5), ([1 / 3] * 3, 3), ([0.8, 0.1, 0.1], 10), ([0.6, 0.2, 0.2], 5), ([8 / 9, 1 / 9], 9)],
    ids=["5 folds", "3 folds", "8:1:1", "3:1:1", "8:1"],
)
@settings(max_examples=60, deadline=None)
@given(counts=skewed_counts(), seed=st.integers(0, 3))
def test_shares_are_never_further_from_the_targets_than_those_of_stratified_group_kfold(targets, folds, counts, seed):
    theirs = merge_folds(sklearn_folds(counts, folds), folds, targets)
    try:
        ours = stratified_group_split(counts, digests(len(counts), seed), targets)
    except NoFeasibleSplit:
        return  # too few patients of a class, see below
    if not covers(counts, theirs, len(targets)):
        return  # StratifiedGroupKFold has no rule that every split has every class
    assert distance(counts, ours, targets) <= distance(counts, theirs, targets) + NEGLIGIBLE


@settings(max_examples=200, deadline=None)
@given(
    counts=st.integers(2, 4).flatmap(
        lambda classes: st.lists(
            st.lists(st.integers(0, 2), min_size=classes, max_size=classes), min_size=2, max_size=7
        )
    ),
    parts=st.integers(2, 3),
)
def test_a_split_fails_only_if_no_assignment_gives_every_part_every_class(counts, parts):
    counts = np.array([row for row in counts if any(row)] or [[1]], dtype=np.int64)
    counts = counts[:, counts.sum(axis=0) > 0]
    possible = any(covers(counts, part_of, parts) for part_of in itertools.product(range(parts), repeat=len(counts)))
    try:
        assert covers(counts, stratified_group_split(counts, digests(len(counts)), [1 / parts] * parts), parts)
        assert possible
    except NoFeasibleSplit as error:
        assert not possible
        assert 1 <= error.extra_groups_needed <= parts


def realistic_counts(patients, seed):
    """Patients of one class each, or now and then two, with skewed numbers of scans."""
    shuffler = random.Random(seed)
    counts = np.zeros((patients, 4), dtype=np.int64)
    for row in counts:
        for label in shuffler.sample(range(4), shuffler.choice([1] * 19 + [2])):
            row[label] = min(round(8 * shuffler.lognormvariate(0, 1)) + 1, 225)
    return counts


@pytest.mark.parametrize("targets", [[0.8, 0.1, 0.1], [8 / 9, 1 / 9], [0.2] * 5])
@pytest.mark.parametrize(("added", "bound"), [(10, 0.06), (100, 0.08)])
def test_added_patients_change_few_assignments(targets, added, bound):
    for seed in range(5):
        counts = realistic_counts(1000 + added, seed)
        keys = digests(len(counts), seed)
        before = stratified_group_split(counts[:1000], keys[:1000], targets)
        after = stratified_group_split(counts, keys, targets)
        assert (before != after[:1000]).mean() < bound


def test_the_result_does_not_depend_on_the_order_of_the_groups():
    counts, keys = realistic_counts(200, 0), digests(200)
    part_of = stratified_group_split(counts, keys, [0.8, 0.1, 0.1])
    order = np.random.default_rng(0).permutation(200)
    shuffled = stratified_group_split(counts[order], [keys[group] for group in order], [0.8, 0.1, 0.1])
    assert (shuffled == part_of[order]).all()
