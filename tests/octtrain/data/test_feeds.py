"""The feeds of a training."""

import numpy as np
import pytest

from octtrain.data.feeds import MappedFeed, ResidentFeed
from octtrain.data.mapped import MappedImages


@pytest.mark.parametrize("kind", [MappedFeed, ResidentFeed])
def test_shards_are_read_ahead_before_the_first_epoch(shards, monkeypatch, kind):
    read_ahead = []
    monkeypatch.setattr(MappedImages, "read_ahead", lambda images: read_ahead.append(images.splits))
    train, val = MappedImages(shards, "train"), MappedImages(shards, "val")
    kind(train, val, batch_size=8, chunk_steps=2, seed=0, sampling="images", place=np.asarray)
    assert read_ahead == [("train",), ("val",)]
