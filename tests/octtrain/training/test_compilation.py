"""Class weights, balanced accuracy, and random states of a training."""

import dataclasses

import pytest

pytest.importorskip("tensorflow")
import numpy as np

from octtrain.training.compilation import BalancedAccuracy, class_weights, reseed
from tests.worlds.shards import write_shards


def test_classes_are_weighted_if_and_only_if_the_shards_are_not_balanced(tmp_path):
    natural, _ = write_shards(tmp_path / "n", {"train": 3}, skip={"train": ["DME"]})
    weights = class_weights(natural, ("train",))
    assert weights == {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}
    uneven = natural.splits["train"][:1]  # one shard: some classes have more than others
    natural = dataclasses.replace(natural, splits={"train": uneven})
    counts = list(natural.per_class("train").values())
    weights = class_weights(natural, ("train",))
    weighted = {counts[i] * weights[i] for i in range(4) if counts[i]}
    assert max(weighted) == pytest.approx(min(weighted))
    assert sum(counts[i] * weights[i] for i in range(4)) == pytest.approx(sum(counts))
    for balance in ("oversample", "undersample"):
        config = dataclasses.replace(natural.config, balance=balance)
        assert class_weights(dataclasses.replace(natural, config=config), ("train",)) is None


def test_balanced_accuracy_counts_every_class_the_same_and_absent_ones_not():
    metric = BalancedAccuracy(4)
    metric.update_state(np.array([0, 0, 0]), np.eye(4)[[0, 0, 1]])
    metric.update_state(np.array([2]), np.eye(4)[[2]], sample_weight=np.array([9.0]))
    assert float(metric.result()) == pytest.approx((2 / 3 + 1) / 2)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_different_seeds_and_epochs_have_different_random_states(networks):
    all_states = set()
    for seed in range(3):
        for epoch in range(4):
            reseed(networks[1], seed, epoch)
            states = [np.asarray(v) for v in networks[1].variables if "seed_generator" in v.path]
            assert len(states) >= 2
            all_states |= {tuple(int(word) for word in state) for state in states}
    assert len(all_states) == 3 * 4 * len(states)
    assert len({key for key, _ in all_states}) == len(all_states)
    reseed(networks[1], 2, 3)
    again = [np.asarray(v) for v in networks[1].variables if "seed_generator" in v.path]
    assert all((a == b).all() for a, b in zip(states, again, strict=True))
