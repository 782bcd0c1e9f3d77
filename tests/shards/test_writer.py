"""What flattened records carry: the shift of every column, in a feature that any reader understands."""

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
    build(source, out, BuildConfig(recipe=FLAT), workers=1)
    return out


def test_every_record_of_a_flattened_build_says_by_how_much_each_column_was_moved(source, shards):
    import tensorflow as tf

    manifest = Manifest.load(shards)
    files = [str(shards / shard.name) for shard in manifest.splits["test"]]
    keys = {
        "path": tf.io.FixedLenFeature([], tf.string),
        "row_offset": tf.io.FixedLenFeature([FLAT.width], tf.float32),
        "affine": tf.io.FixedLenFeature([6], tf.float32),
    }
    moved = 0
    for record in tf.data.TFRecordDataset(files):
        example = tf.io.parse_single_example(record, keys)
        gray = preprocessing.decode((source / example["path"].numpy().decode()).read_bytes())
        ready = preprocessing.prepare(gray, FLAT)
        wanted = preprocessing.row_offsets(ready.affine, ready.bend, ready.crop, FLAT.width)
        assert np.allclose(example["row_offset"].numpy(), wanted, atol=1e-3)
        moved += bool(ready.bend) and np.abs(wanted).max() > 1
    assert moved >= 4
    assert verify(shards, workers=1).violations == ()


def test_without_flattening_there_is_no_such_feature(source, tmp_path):
    build(source, tmp_path / "out", BuildConfig(recipe=dataclasses.replace(FLAT, flatten=False)), workers=1)
    manifest = Manifest.load(tmp_path / "out")
    for shard in manifest.splits["test"]:
        assert all("row_offset" not in tfrecord.decode(data) for data in tfrecord.read(tmp_path / "out" / shard.name))


def test_a_flattened_record_without_its_shift_breaks_law_5(shards, tmp_path):
    manifest = Manifest.load(shards)
    target = tmp_path / "copy"
    for name in ("images.csv", "duplicates.json"):
        target.mkdir(exist_ok=True)
        (target / name).write_bytes((shards / name).read_bytes())
    splits = {name: tuple(strip(shards, target, shard) for shard in part) for name, part in manifest.splits.items()}
    dataclasses.replace(manifest, splits=splits).save(target)
    broken = [fault for fault in verify(target, workers=1).faults if fault.law == 5]
    assert any("lacks features or has others than it should: row_offset" in fault.what for fault in broken)


def strip(source, target, shard: Shard) -> Shard:
    """The shard without shifts, in another folder, and what the manifest has to say of it."""
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
