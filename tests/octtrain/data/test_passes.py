"""One pass over records is the same by number and by TensorFlow, and what cannot be read is an error."""

import shutil

import numpy as np
import pytest

from octprep.format import record_index
from octprep.format.errors import ManifestError
from octprep.format.manifest import Manifest
from octtrain import runtime
from octtrain.data.passes import one_pass
from octtrain.runtime import MissingPackage
from tests.worlds.shards import patient_of, write_folder, write_shards


@pytest.fixture
def without_tensorflow(monkeypatch):
    monkeypatch.setattr(runtime, "is_installed", lambda name: name != "tensorflow")


@pytest.fixture
def repeated(tmp_path):
    """A folder whose splits repeat some images, as balancing does, and its scans in the order of the shards."""
    _, scans = write_shards(tmp_path / "once", {"train": 5, "test": 2})
    repeated = {name: [*rows, *rows[:5]] for name, rows in scans.items()}
    return write_folder(tmp_path / "s", repeated, balance="oversample")


def records_of(folder, splits, batch_size=4):
    manifest = Manifest.load(folder)
    batches = list(one_pass(folder, splits, batch_size=batch_size, manifest=manifest))
    assert [len(batch.labels) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    return [
        (path, label, patient, pixels[..., 0].tobytes())
        for batch in batches
        for pixels, label, patient, path in zip(*batch, strict=True)
    ]


def test_records_are_those_of_the_shards_in_their_order(tmp_path, repeated, without_tensorflow):
    _, scans = repeated
    expected = [
        (path, label, patient_of(path), pixels.tobytes())
        for name in ("test", "train")
        for path, label, pixels in scans[name]
    ]
    assert records_of(tmp_path / "s", ("test", "train")) == expected


@pytest.mark.slow
@pytest.mark.parametrize("state", ["png", "missing", "of another dataset"])
def test_tensorflow_reads_the_same_from_shards_without_a_usable_index(tmp_path, repeated, state):
    pytest.importorskip("tensorflow")
    _, scans = repeated
    expected = records_of(tmp_path / "s", ("train", "test"))
    if state == "png":
        write_folder(tmp_path / "png", scans, shards=1, encoding="png")
        assert sorted(records_of(tmp_path / "png", ("train", "test"))) == sorted(expected)
        return
    shutil.rmtree(tmp_path / "s" / "index")
    if state == "of another dataset":
        shutil.copytree(tmp_path / "once" / "index", tmp_path / "s" / "index")
    assert records_of(tmp_path / "s", ("train", "test")) == expected


def test_without_tensorflow_an_error_says_what_to_do(tmp_path, without_tensorflow):
    manifest, _ = write_shards(tmp_path / "s", {"test": 2})
    (tmp_path / "s" / record_index.table_name("test")).write_text("")
    with pytest.raises(ManifestError, match=r"octprep index .*/s`\. Or install TensorFlow, which needs no index"):
        next(one_pass(tmp_path / "s", ("test",), batch_size=4, manifest=manifest))
    manifest, _ = write_shards(tmp_path / "png", {"test": 2}, encoding="png")
    with pytest.raises(MissingPackage, match=r"only TensorFlow reads the PNGs .*octprep\[train\].* --encoding raw"):
        next(one_pass(tmp_path / "png", ("test",), batch_size=4, manifest=manifest))


def test_a_split_that_is_missing_or_empty_is_an_error(tmp_path, without_tensorflow):
    manifest, _ = write_shards(tmp_path / "s", {"test": 2, "val": 0})
    for split, message in (("train", "has no split 'train'; it has test, val"), ("val", "holds no images")):
        with pytest.raises(ManifestError, match=message):
            next(one_pass(tmp_path / "s", (split,), batch_size=4, manifest=manifest))


def test_pixels_keep_their_form(tmp_path, repeated):
    (batch,) = one_pass(tmp_path / "s", ("test",), batch_size=100, manifest=repeated[0])
    assert (batch.pixels.shape[1:], batch.pixels.dtype, batch.labels.dtype) == ((32, 32, 1), np.uint8, np.int64)
