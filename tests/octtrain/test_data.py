import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from octprep.format.errors import ManifestError  # noqa: E402
from octprep.format.manifest import Manifest  # noqa: E402
from octtrain.data import stream  # noqa: E402
from tests.worlds.shards import write_shards  # noqa: E402

ROOT = Path(__file__).parents[2]


def scans_in(batches):
    return [scan.decode() for batch in batches for scan in batch[3].numpy()]


def training_order(folder, manifest, seed, epochs):
    """The images of each epoch, as bytes."""
    steps = stream.steps(manifest, ["train"], 4)
    images = [batch[0].numpy() for batch in stream.training_batches(folder, manifest, ["train"], 4, seed, epochs)]
    assert len(images) == steps * len(epochs)
    return [
        [image.tobytes() for batch in images[start : start + steps] for image in batch]
        for start in range(0, len(images), steps)
    ]


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_reading_gives_what_was_written(tmp_path, encoding):
    manifest, written = write_shards(tmp_path / "s", {"test": 5}, encoding=encoding, height=24, width=40)
    found = []
    for images, labels, patients, scans in stream.batches(tmp_path / "s", manifest, ["test"], 6, keys=True):
        assert images.shape[1:] == (24, 40, 1)
        assert images.dtype == tf.uint8
        for image, label, patient, scan in zip(images, labels, patients, scans, strict=True):
            assert patient.numpy().decode() == scan.numpy().decode().split("-")[-2]
            found.append((scan.numpy().decode(), int(label), image.numpy()[..., 0].tobytes()))
    assert found == [(scan, label, image.tobytes()) for scan, label, image in written["test"]]


def test_evaluation_sees_every_image_once_and_in_the_same_order_each_time(tmp_path):
    manifest, written = write_shards(tmp_path / "s", {"val": 3, "test": 7}, shards=3)
    first = scans_in(stream.batches(tmp_path / "s", manifest, ["val", "test"], 8, keys=True))
    again = scans_in(stream.batches(tmp_path / "s", manifest, ["val", "test"], 8, keys=True))
    assert first == again
    assert first == [row[0] for split in ("val", "test") for row in written[split]]


def test_training_order_differs_by_epoch_and_by_seed_and_repeats_by_both(tmp_path):
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
    manifest, _ = write_shards(tmp_path / "s", {"train": 3})  # 12 images
    sizes = {
        n: [len(labels) for _, labels in stream.training_batches(tmp_path / "s", manifest, ["train"], n, 0)]
        for n in (5, 12, 50)
    }
    assert sizes == {5: [5, 5], 12: [12], 50: [12]}


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
def test_a_damaged_shard_is_one_sentence_that_names_the_folder(tmp_path, how):
    manifest, _ = write_shards(tmp_path / "s", {"test": 6})
    damage(tmp_path / "s", manifest, how)
    with pytest.raises(ManifestError, match="`octprep build` that made it") as caught, stream.readable(tmp_path / "s"):
        list(stream.batches(tmp_path / "s", manifest, ["test"], 4))
    assert str(tmp_path / "s") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_another_size_than_the_manifests_are_refused(tmp_path):
    manifest, _ = write_shards(tmp_path / "s", {"test": 2})
    recipe = dataclasses.replace(manifest.recipe, height=30)
    other = dataclasses.replace(manifest, config=dataclasses.replace(manifest.config, recipe=recipe))
    with pytest.raises(ManifestError, match="damaged or not those"), stream.readable(tmp_path / "s"):
        list(stream.batches(tmp_path / "s", other, ["test"], 4))


def test_an_edited_manifest_is_refused(tmp_path):
    write_shards(tmp_path / "s", {"test": 2})
    path = tmp_path / "s" / "manifest.json"
    path.write_text(path.read_text().replace('"records": 4', '"records": 3'))
    with pytest.raises(ManifestError, match=r"changed after it was written|not a manifest that octprep wrote"):
        Manifest.load(tmp_path / "s")


def test_an_error_of_the_model_is_not_blamed_on_the_shards(tmp_path):
    with pytest.raises(tf.errors.InvalidArgumentError), stream.readable(tmp_path):
        tf.reshape(tf.zeros(3), (2, 2))


def test_the_command_line_imports_nothing_heavy():
    absent = ["tensorflow", "keras", "numpy", "cv2", "google_crc32c"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import octtrain.cli as c; c.main(['--help'])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert all(command in shown for command in ("fit", "evaluate", "predict", "leakage"))


@pytest.mark.slow
def test_only_data_speaks_tensorflow():
    for path in sorted((ROOT / "octtrain").rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").split(".")[0])
        assert "cv2" not in names, path
        assert "tensorflow" not in names or path.name in ("data.py", "export.py", "runtime.py"), path


def test_decoding_png_gives_gray_pixels_bit_for_bit(tmp_path):
    manifest, written = write_shards(tmp_path / "s", {"test": 1}, encoding="png", shards=1)
    (images, _), *_ = stream.batches(tmp_path / "s", manifest, ["test"], 4)
    np.testing.assert_array_equal(images[..., 0], np.stack([row[2] for row in written["test"]]))
