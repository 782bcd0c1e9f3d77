"""Records of flattened scans: the row offset of every column, in a feature that any reader understands."""

import dataclasses
import hashlib

import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.manifest import Manifest, Shard
from octprep.pipeline import build
from octprep.shards import tfrecord
from octprep.verification import verify
from tests.worlds.archive import archive, write_folder

FLAT = Preprocessing(height=32, width=48, flatten=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("source"), archive())


@pytest.fixture(scope="module")
def shards(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("flat") / "shards"
    build(source, out, BuildConfig(recipe=FLAT), workers=0)
    return out


def test_records_of_a_flattened_build_hold_the_row_offset_of_each_column(source, shards):
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is the reference here")
    manifest = Manifest.load(shards)
    files = [str(shards / shard.name) for shard in manifest.splits["test"]]
    keys = {
        "path": tf.io.FixedLenFeature([], tf.string),
        "row_offset": tf.io.FixedLenFeature([FLAT.width], tf.float32),
        "affine": tf.io.FixedLenFeature([6], tf.float32),
    }
    flattened = 0
    for record in tf.data.TFRecordDataset(files):
        example = tf.io.parse_single_example(record, keys)
        gray = preprocessing.decode((source / example["path"].numpy().decode()).read_bytes())
        geometry = preprocessing.preprocess(gray, FLAT).geometry
        expected = geometry.column_offsets(FLAT.width)
        assert np.allclose(example["row_offset"].numpy(), expected, atol=1e-3)
        flattened += bool(geometry.rpe_curve) and np.abs(expected).max() > 1
    assert flattened >= 4
    assert verify(shards, workers=0).violations == ()


def test_records_of_other_builds_have_no_row_offset(source, tmp_path):
    build(source, tmp_path / "out", BuildConfig(recipe=dataclasses.replace(FLAT, flatten=False)), workers=0)
    manifest = Manifest.load(tmp_path / "out")
    for shard in manifest.splits["test"]:
        assert all("row_offset" not in tfrecord.decode(data) for data in tfrecord.read(tmp_path / "out" / shard.name))


def test_a_flattened_record_without_its_row_offset_violates_guarantee_5(shards, tmp_path):
    manifest = Manifest.load(shards)
    target = tmp_path / "edited"
    target.mkdir()
    for name in ("images.csv", "duplicates.json"):
        (target / name).write_bytes((shards / name).read_bytes())
    splits = {
        name: tuple(without_row_offsets(shards, target, shard) for shard in split_shards)
        for name, split_shards in manifest.splits.items()
    }
    dataclasses.replace(manifest, splits=splits).save(target)
    violations = [violation for violation in verify(target, workers=0).violations if violation.check == 5]
    message = "lacks features or has others than it should: row_offset"
    assert any(message in violation.message for violation in violations)


def without_row_offsets(source, target, shard: Shard) -> Shard:
    """Write the shard without row offsets to another folder; what the manifest has to say of it."""
    (target / shard.name).parent.mkdir(exist_ok=True)
    framed = b""
    for data in tfrecord.read(source / shard.name):
        features = {
            key: values[0] if isinstance(values[0], bytes) else list(values)
            for key, values in tfrecord.decode(data).items()
            if key != "row_offset"
        }
        framed += tfrecord.frame(tfrecord.encode(features))
    (target / shard.name).write_bytes(framed)
    return dataclasses.replace(shard, bytes=len(framed), sha256=hashlib.sha256(framed).hexdigest())
