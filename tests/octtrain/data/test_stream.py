"""Batches of images from shards: their content and order, and errors of damaged shards."""

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from octprep.format.errors import ManifestError  # noqa: E402
from octprep.format.manifest import Manifest  # noqa: E402
from octtrain.data import stream  # noqa: E402
from tests.worlds.shards import write_shards  # noqa: E402

ROOT = Path(__file__).parents[3]


def paths_in(batches):
    return [path.decode() for batch in batches for path in batch[3].numpy()]


def training_order(folder, manifest, seed, epochs):
    """The images of each epoch, as bytes."""
    steps = stream.steps(manifest, "train", 4)
    images = [
        batch[0].numpy() for batch in stream.training_batches(folder, "train", batch_size=4, seed=seed, epochs=epochs)
    ]
    assert len(images) == steps * len(epochs)
    return [
        [image.tobytes() for batch in images[start : start + steps] for image in batch]
        for start in range(0, len(images), steps)
    ]


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_batches_hold_the_records_of_the_shards(tmp_path, encoding):
    manifest, written = write_shards(tmp_path / "s", {"test": 5}, encoding=encoding, height=24, width=40)
    read = []
    for images, labels, patients, paths in stream.batches(
        tmp_path / "s", ["test"], batch_size=6, manifest=manifest, with_ids=True
    ):
        assert images.shape[1:] == (24, 40, 1)
        assert images.dtype == tf.uint8
        for image, label, patient, path in zip(images, labels, patients, paths, strict=True):
            assert patient.numpy().decode() == path.numpy().decode().split("-")[-2]
            read.append((path.numpy().decode(), int(label), image.numpy()[..., 0].tobytes()))
    assert read == [(path, label, image.tobytes()) for path, label, image in written["test"]]


def test_batches_hold_every_image_once_in_the_order_of_the_shards(tmp_path):
    _, written = write_shards(tmp_path / "s", {"val": 3, "test": 7}, shards=3)
    first = paths_in(stream.batches(tmp_path / "s", ["val", "test"], batch_size=8, with_ids=True))
    again = paths_in(stream.batches(tmp_path / "s", ["val", "test"], batch_size=8, with_ids=True))
    assert first == again
    assert first == [row[0] for split in ("val", "test") for row in written[split]]


def test_training_order_depends_on_epoch_and_seed(tmp_path):
    folder = tmp_path / "s"
    manifest, written = write_shards(folder, {"train": 4}, shards=3)
    everything = sorted(row[2].tobytes() for row in written["train"])
    first, second = training_order(folder, manifest, 0, range(2))
    assert sorted(first) == sorted(second) == everything
    assert first != second
    assert [first, second] == training_order(folder, manifest, 0, range(2))
    assert [second] == training_order(folder, manifest, 0, range(1, 2))  # as a resumed training asks for it
    assert first != training_order(folder, manifest, 1, range(1))[0]


@pytest.mark.parametrize("seed", [0, 7])
def test_training_order_does_not_depend_on_the_global_seed(tmp_path, seed):
    manifest, _ = write_shards(tmp_path / "s", {"train": 4})
    tf.random.set_seed(3)
    order = training_order(tmp_path / "s", manifest, 5, range(1))
    tf.random.set_seed(seed)
    assert training_order(tmp_path / "s", manifest, 5, range(1)) == order


def test_training_drops_the_partial_batch_unless_it_is_the_only_one(tmp_path):
    write_shards(tmp_path / "s", {"train": 3})  # 12 images
    sizes = {
        n: [len(labels) for _, labels in stream.training_batches(tmp_path / "s", "train", batch_size=n, seed=0)]
        for n in (5, 12, 50)
    }
    assert sizes == {5: [5, 5], 12: [12], 50: [12]}


def test_different_seeds_and_epochs_have_different_orders(tmp_path):
    write_shards(tmp_path / "s", {"train": 12})

    def order(seed, epoch):
        batches = stream.training_batches(
            tmp_path / "s", "train", batch_size=16, seed=seed, epochs=range(epoch, epoch + 1)
        )
        return [image.tobytes() for images, _ in batches for image in images.numpy()]

    assert order(0, 100_003) != order(1, 0)
    assert order(1, 0) == order(1, 0)


def test_a_split_that_does_not_exist_or_is_empty_is_named(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {"train": 1})
    with pytest.raises(ManifestError, match=r"has no split 'val'; it has train"):
        stream.training_batches(tmp_path / "s", "val")
    empty = dataclasses.replace(manifest, splits={**manifest.splits, "val": ()})
    with pytest.raises(ManifestError, match=r"Split 'val' of .* holds no images"):
        stream.batches(tmp_path / "s", "val", manifest=empty)


def damage(folder, manifest, how):
    path = folder / manifest.splits["test"][1].name
    content = path.read_bytes()
    match how:
        case "flipped bit":
            path.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
        case "cut short":
            path.write_bytes(content[:-100])
        case "empty":
            path.write_bytes(b"")
        case "twice as long":
            path.write_bytes(content * 2)
        case "missing":
            path.unlink()


@pytest.mark.parametrize("how", ["flipped bit", "cut short", "empty", "twice as long", "missing"])
def test_a_damaged_shard_is_a_one_line_error_with_the_folder(tmp_path, how):
    manifest, _ = write_shards(tmp_path / "s", {"test": 6})
    damage(tmp_path / "s", manifest, how)
    with (
        pytest.raises(ManifestError, match="`octprep build` that made it") as caught,
        stream.data_errors_as_manifest_errors(tmp_path / "s"),
    ):
        list(stream.batches(tmp_path / "s", ["test"], batch_size=4, manifest=manifest))
    assert str(tmp_path / "s") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_another_size_than_in_the_manifest_are_an_error(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {"test": 2})
    recipe = dataclasses.replace(manifest.recipe, height=30)
    other = dataclasses.replace(manifest, config=dataclasses.replace(manifest.config, recipe=recipe))
    with (
        pytest.raises(ManifestError, match="damaged or not those"),
        stream.data_errors_as_manifest_errors(tmp_path / "s"),
    ):
        list(stream.batches(tmp_path / "s", ["test"], batch_size=4, manifest=other))


def test_an_edited_manifest_is_an_error(tmp_path):
    write_shards(tmp_path / "s", {"test": 2})
    path = tmp_path / "s" / "manifest.json"
    path.write_text(path.read_text().replace('"records": 4', '"records": 3'))
    with pytest.raises(ManifestError, match=r"changed after it was written|not a manifest that octprep wrote"):
        Manifest.load(tmp_path / "s")


def test_an_error_of_the_model_is_not_a_data_error(tmp_path):
    with pytest.raises(tf.errors.InvalidArgumentError), stream.data_errors_as_manifest_errors(tmp_path):
        tf.reshape(tf.zeros(3), (2, 2))


TENSORFLOW = ("stream.py", "batches.py", "runtime.py", "devices.py", "programs.py", "tensorflow_programs.py")


def test_tensorflow_is_imported_by_few_modules_alone():
    for path in sorted((ROOT / "octtrain").rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").split(".")[0])
        assert "cv2" not in names, path
        assert "tensorflow" not in names or path.name in TENSORFLOW, path


def test_decoding_png_gives_gray_pixels_bit_for_bit(tmp_path):
    manifest, written = write_shards(tmp_path / "s", {"test": 1}, encoding="png", shards=1)
    (images, _), *_ = stream.batches(tmp_path / "s", ["test"], batch_size=4, manifest=manifest)
    np.testing.assert_array_equal(images[..., 0], np.stack([row[2] for row in written["test"]]))
