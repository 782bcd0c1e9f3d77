"""The public training batches: gathered by number out of shards of pixels, streamed out of shards of PNGs."""

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import octtrain
from octprep.format.errors import ManifestError
from octtrain.data import order, stream
from octtrain.data.mapped import MappedImages
from tests.worlds.shards import write_shards


def contents(batches):
    return [(images.numpy().tobytes(), labels.numpy().tolist()) for images, labels in batches]


def test_pixels_come_in_the_order_of_the_seed_and_the_epoch(tmp_path):
    write_shards(tmp_path / "s", {"train": 5}, shards=3)
    dataset = octtrain.training_batches(tmp_path / "s", batch_size=6, seed=4, epochs=range(2, 4))
    assert dataset.cardinality().numpy() == 6
    images = MappedImages(tmp_path / "s")
    expected = np.concatenate([order.in_steps(order.shuffled(20, 4, epoch), 6) for epoch in (2, 3)])
    given = contents(dataset)
    assert given == contents(dataset)  # it may be iterated again
    assert given == [
        (images.gather(images.image_of[records]).tobytes(), images.labels[records].tolist()) for records in expected
    ]
    assert given[3:] == contents(octtrain.training_batches(tmp_path / "s", batch_size=6, seed=4, epochs=range(3, 4)))


def test_a_batch_that_is_larger_than_the_split_holds_it_once(tmp_path):
    write_shards(tmp_path / "s", {"train": 2, "val": 1})
    (batch,) = octtrain.training_batches(tmp_path / "s", ["train", "val"], batch_size=50)
    assert batch[0].shape == (12, 32, 32, 1)
    assert sorted(batch[1].numpy()) == sorted([0, 1, 2, 3] * 3)


def test_pngs_are_streamed(tmp_path):
    write_shards(tmp_path / "s", {"train": 5}, encoding="png")
    given = contents(octtrain.training_batches(tmp_path / "s", batch_size=6, seed=4))
    assert given == contents(stream.training_batches(tmp_path / "s", batch_size=6, seed=4))


def test_a_missing_index_is_an_error_that_says_how_to_write_it(tmp_path):
    write_shards(tmp_path / "s", {"train": 5})
    (tmp_path / "s" / "index" / "train.csv").unlink()
    with pytest.raises(ManifestError, match=f"Write it with `octprep index {tmp_path / 's'}`"):
        octtrain.training_batches(tmp_path / "s")
