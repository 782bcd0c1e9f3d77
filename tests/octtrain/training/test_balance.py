"""Class weights."""

import dataclasses

import pytest

from octtrain.training.balance import class_weights
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
