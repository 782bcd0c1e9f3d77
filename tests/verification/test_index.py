"""What verify says of the index beside the shards: nothing of one that fits, and a violation of each other."""

import os
import shutil

import pytest

from octprep import console
from octprep.format import record_index
from octprep.format.manifest import Manifest
from octprep.verification import verify
from tests.worlds import builds
from tests.worlds.edits import edit_manifest, violations_of


def rewrite(folder, change, split="train"):
    """Edit the records of a split's index, with the digests that would reveal it."""
    digest = Manifest.load(folder).digest
    path = folder / record_index.table_name(split)
    path.write_bytes(record_index.encode(change(record_index.decode(path.read_bytes(), digest)), digest))


def test_an_index_that_fits_is_not_mentioned(good):
    result = verify(good, workers=0)
    assert (result.violations, result.notes) == ((), ())
    assert "index" not in console.verification_summary(good, result)


def test_a_missing_index_is_a_note(shards):
    shutil.rmtree(shards / "index")
    result = verify(shards, workers=0)
    assert result.violations == ()
    note = "note: there is no index for readers that take records by number: `octprep index` writes it again"
    assert note in console.verification_summary(shards, result)
    assert b"there is no index" in result.to_json()


@pytest.mark.parametrize("name", ["index/train.csv", "index/val/00000-of-00001.tfrecord.idx"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "a byte", "a link", "a folder"])
def test_a_damaged_file_of_the_index_is_a_violation(shards, name, how):
    builds.damage(shards / name, how)
    [(check, where, message)] = violations_of(shards)
    assert (check, where) == (5, name)
    assert "`octprep index` writes it again" in message


@pytest.mark.parametrize("field", record_index.IndexedRecord._fields)
def test_each_edited_number_is_a_violation(shards, field):
    rewrite(shards, lambda r: [*r[:-1], r[-1]._replace(**{field: getattr(r[-1], field) + 1})])
    [(check, where, message)] = violations_of(shards)
    assert (check, where) == (5, "index/train.csv")
    assert "does not match the shards and images.csv: `octprep index`" in message


def test_records_in_another_order_are_a_violation(shards):
    rewrite(shards, lambda r: [r[1], r[0], *r[2:]])
    assert [(check, where) for check, where, _ in violations_of(shards)] == [(5, "index/train.csv")]


def test_a_file_for_no_shard_is_a_violation(shards):
    (shards / "index" / "val" / "00007-of-00009.tfrecord.idx").write_text("0 10\n")
    (shards / "index" / "val" / "notes.txt").write_text("not ours")
    [(check, where, message)] = violations_of(shards)
    assert (check, where) == (5, "index/val/00007-of-00009.tfrecord.idx")
    assert "of no shard or split" in message


def test_an_index_behind_a_link_is_a_violation(shards, tmp_path):
    shutil.move(shards / "index", tmp_path / "index")
    (shards / "index").symlink_to(tmp_path / "index")
    assert {(check, message) for check, _, message in violations_of(shards)} == {
        (5, "lies behind a link: `octprep index` writes it again")
    }


def test_the_index_of_another_dataset_is_a_violation(shards):
    kept = shutil.copytree(shards / "index", shards.parent / "kept")
    edit_manifest(shards, lambda raw: raw["config"].update(seed=7))
    shutil.copytree(kept, shards / "index")
    found = violations_of(shards)
    shutil.rmtree(kept)
    assert {where for _, where, _ in found} == {f"index/{split}.csv" for split in ("train", "val", "test")}


def test_the_index_of_damaged_shards_is_not_compared(shards):
    name = Manifest.load(shards).splits["train"][0].name
    os.truncate(shards / name, 1000)
    builds.damage(shards / "index" / "train.csv", "a byte")
    result = verify(shards, workers=0)
    assert not [violation for violation in result.violations if violation.where.startswith("index")]
    assert "the index was not checked" in result.notes[0]
