"""TensorFlow Datasets opens a folder of shards as it is, and reads what octprep reads."""

import dataclasses
import json
import shutil

import pytest

import octprep
from octprep.format.manifest import Manifest
from octprep.pipeline import build
from octprep.shards.indexing import index_folder
from octprep.shards.tfds import TFDS_NAMES, tfds_files
from tests.worlds import builds
from tests.worlds.archive import archive, files_of, write_folder
from tests.worlds.builds import CONFIG, SMALL
from tests.worlds.edits import restore, violations_of

FLATTENED = dataclasses.replace(CONFIG, recipe=dataclasses.replace(SMALL, flatten=True))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("tfds") / "src", archive())


@pytest.fixture(scope="module", params=[FLATTENED, dataclasses.replace(CONFIG, encoding="png")], ids=["raw", "png"])
def made(request, source, tmp_path_factory):
    """A finished folder in several shards, with repeats in train. Only to be read."""
    out = tmp_path_factory.mktemp("made") / "shards"
    build(source, out, request.param, workers=1)
    return out


@pytest.fixture
def raw_only(made):
    if Manifest.load(made).config.encoding == "png":
        pytest.skip("one encoding is enough")


@pytest.fixture(scope="module")
def copied(made, tmp_path_factory):
    return shutil.copytree(made, tmp_path_factory.mktemp("copy") / "shards")


@pytest.fixture
def shards(made, copied):
    """A copy of the folder; what a test changes is put back after it."""
    yield copied
    restore(made, copied)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of TFDS and what it imports
def test_tfds_reads_every_record_with_all_features(made):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    tfds = pytest.importorskip("tensorflow_datasets", reason="TensorFlow Datasets is not installed")
    manifest = Manifest.load(made)
    builder = tfds.builder_from_directory(made)
    assert manifest.digest in builder.info.description
    assert builder.info.features["label"].names == list(manifest.class_names)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        name: manifest.records(name) for name in manifest.splits
    }
    for split in manifest.splits:
        expected = list(octprep.read_records(made, split))
        found = list(
            tfds.as_numpy(builder.as_dataset(split=split, read_config=tfds.ReadConfig(interleave_cycle_length=1)))
        )
        assert len(found) == len(expected) > 0
        for features, record in zip(found, expected, strict=True):  # in the order of the shards
            assert features["image"].shape == (32, 48, 1) and features["image"].dtype == "uint8"
            assert (features["image"][..., 0] == record.pixels).all()
            assert (features["label"], features["repeat"]) == (record.label, record.repeat)
            assert (features["path"].decode(), features["patient"].decode()) == (record.path, record.patient)
            assert (features["number"], features["sha256"].hex()) == (record.number, record.sha256)
            assert tuple(features["source_size"].tolist()) == record.source_size
            assert tuple(features["affine"].tolist()) == record.affine
            assert tuple(features.get("row_offset", ())) == record.row_offset
    assert manifest.records("train") > len({record.path for record in octprep.read_records(made, "train")})


def test_a_split_without_records_is_not_offered(made):
    manifest = Manifest.load(made)
    [empty] = manifest.splits["val"]
    empty = dataclasses.replace(empty, records=0, per_class=(0, 0, 0, 0), bytes=0)
    files = tfds_files(dataclasses.replace(manifest, splits={**manifest.splits, "val": (empty,)}))
    assert [split["name"] for split in json.loads(files["dataset_info.json"])["splits"]] == ["train", "test"]


@pytest.mark.parametrize(("name", "how"), [*zip(TFDS_NAMES, ("a byte", "a link", "missing"), strict=True)])
def test_verify_names_a_file_that_was_changed_and_octprep_index_writes_it_again(raw_only, made, shards, name, how):
    builds.damage(shards / name, how)
    if how == "missing":  # like the index, it follows from the rest
        assert violations_of(shards) == []
    else:
        [(check, where, message)] = violations_of(shards)
        assert (check, where) == (5, name) and "`octprep index` writes it again" in message
    index_folder(shards)
    (shards / "elsewhere").unlink(missing_ok=True)  # what the link led to
    assert files_of(shards) == files_of(made)


def test_a_build_that_finds_a_finished_folder_writes_a_missing_file(raw_only, source, made, shards):
    (shards / "features.json").unlink()
    assert not build(source, shards, Manifest.load(made).config, workers=1).built
    assert files_of(shards) == files_of(made)
