"""verify reports every edited, repeated, missing or damaged record and shard."""

import hashlib
import os
import shutil

import pytest

from octprep import console
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import ManifestError
from octprep.format.manifest import Manifest
from octprep.pipeline import build
from octprep.shards import tfrecord
from octprep.verification import verify
from tests.worlds.archive import archive, write_folder
from tests.worlds.edits import (
    checks_violated,
    edit_manifest,
    edit_records,
    first_shard,
    read_records,
    update_digests,
    violations_of,
    write_records,
)
from tests.worlds.tables import read_cells


def test_scan_of_a_test_patient_copied_into_train_under_another_id(shards):
    copied = read_records(shards / first_shard(shards, "test"))[0]
    path = copied["path"][0].decode()
    copied["patient"] = [b"999"]
    edit_records(shards, first_shard(shards, "train"), lambda records: records.append(copied))
    violations = violations_of(shards)
    assert {1, 4} <= {check for check, _, _ in violations}
    assert any(check == 1 and "content" in message and path in where for check, where, message in violations)


def test_patient_in_two_splits(shards):
    edit_records(shards, first_shard(shards, "test"), lambda records: records[0].update(patient=[b"0"]))
    assert any(check == 1 and "patient 0 is in" in message for check, _, message in violations_of(shards))


def test_changed_label(shards):
    def change(records):
        paths = [record["path"] for record in records]
        single = next(record for record in records if paths.count(record["path"]) == 1)
        single["label"] = [(single["label"][0] + 1) % 4]

    edit_records(shards, first_shard(shards, "train"), change)
    assert checks_violated(shards) == {2, 4}


def test_repeated_test_image(shards):
    edit_records(shards, first_shard(shards, "test"), lambda records: records.append(records[0]))
    assert {2, 3} <= checks_violated(shards)


def test_missing_record(shards):
    edit_records(shards, first_shard(shards, "val"), lambda records: records.pop())
    assert checks_violated(shards) == {2}


def test_other_pixels_in_a_repeat(shards):
    def change(records):
        repeat = next(record for record in records if record["repeat"] == [1])
        repeat["image"] = [bytes(reversed(repeat["image"][0]))]

    edit_records(shards, first_shard(shards, "train"), change)
    [(check, _, message)] = [violation for violation in violations_of(shards) if violation[0] != 2]
    assert (check, "has other pixels than" in message) == (3, True)


def test_swapped_shards_are_both_named(shards):
    names = [shard.name for shard in Manifest.load(shards).splits["train"][:2]]
    contents = [(shards / name).read_bytes() for name in names]
    for name, content in zip(names, reversed(contents), strict=True):
        (shards / name).write_bytes(content)
    assert set(names) <= {where for check, where, _ in violations_of(shards) if check == 5}


def test_damaged_missing_and_unlisted_shards(shards):
    train, test = first_shard(shards, "train"), first_shard(shards, "test")
    data = bytearray((shards / train).read_bytes())
    data[len(data) // 2] ^= 1
    (shards / train).write_bytes(data)
    (shards / test).rename(shards / "test" / "stray.tfrecord")
    violations = {(where, message) for check, where, message in violations_of(shards) if check == 5}
    assert {(test, "is missing"), ("test/stray.tfrecord", "is not in the manifest")} <= violations
    assert any(where == train and "CRC" in message for where, message in violations)


def test_one_damaged_byte_is_one_violation_with_its_cause(shards):
    name = first_shard(shards, "test")
    data = bytearray((shards / name).read_bytes())
    data[len(data) // 3] ^= 1
    (shards / name).write_bytes(data)
    result = verify(shards, workers=0)
    [violation] = result.violations
    assert (violation.check, violation.where) == (5, name)
    assert "CRC; it has SHA-256" in violation.message
    assert result.unread == (name,)
    lines = console.verification_summary(shards, result).splitlines()
    assert lines[0].startswith("guarantee 5 VIOLATED")
    assert name in lines[1]
    assert [line[:20] for line in lines[2:6]] == [f"guarantee {check} unknown " for check in (1, 2, 3, 4)]
    rows = sum(name in row["shard"].split() for row in read_cells(shards))
    assert lines[6].endswith(f"could not be read whole; {rows} rows of images.csv point there")


FEATURE_EDITS = {
    "label": lambda value: [(value[0] + 1) % 4],
    "patient": lambda value: [b"4711"],
    "path": lambda value: [value[0].replace(b"-1", b"-9")],
    "number": lambda value: [value[0] + 1],
    "sha256": lambda value: [bytes(reversed(value[0]))],
    "source_size": lambda value: [value[0], value[1] + 1],
    "affine": lambda value: [*value[:2], value[2] + 1, *value[3:]],
    "image": lambda value: [bytes(byte // 2 for byte in value[0])],
    "repeat": lambda value: [value[0] + 1],
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("feature", FEATURE_EDITS)
def test_edited_feature_is_named_though_all_digests_fit(shards, split, feature):
    paths = []

    def change(records):
        record = next(record for record in records if b"-1.jpeg" in record["path"][0] and record["repeat"] == [0])
        paths.append(record["path"][0].decode())
        record[feature] = FEATURE_EDITS[feature](record[feature])

    edit_records(shards, first_shard(shards, split), change)
    assert any(paths[0] in where + message for check, where, message in violations_of(shards) if check != 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(more=[1]), "lacks features or has others than it should: more"),
        (lambda record: record.pop("number"), "lacks features or has others than it should: number"),
        (lambda record: record.update(affine=[float("nan")] * 6), "has a number that is not finite: affine"),
        (lambda record: record.update(label=[b"1"]), "wrong kind or length: label"),
        (lambda record: record.update(source_size=[3]), "wrong kind or length: source_size"),
        (lambda record: record.update(patient=[b"\xff"]), "has text that is not UTF-8"),
        (lambda record: record.update(repeat=[-1]), "has a number out of range: repeat"),
        (lambda record: record.update(image=[b"x"]), "has an image that is not 32 x 48 gray pixels"),
    ],
)
def test_unreadable_record_is_the_only_violation(shards, change, words):
    """Neither its shard's counts nor the rows that point to the shard are reported."""
    name = first_shard(shards, "test")
    records = read_records(shards / name)
    change(records[1])
    write_records(shards / name, records)
    data = (shards / name).read_bytes()
    digests = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(shards, lambda raw: raw["splits"]["test"][0].update(digests))
    [(check, where, message)] = violations_of(shards)
    assert (check, where) == (5, f"{name} record 1")
    assert words in message


def test_record_with_an_unknown_protobuf_field(shards):
    """Protocol buffers ignore such a field: the record reads the same, but octprep did not write it."""
    name = first_shard(shards, "test")
    records = list(tfrecord.read(shards / name))
    (shards / name).write_bytes(b"".join(map(tfrecord.frame, [records[0] + b"\x12\x01x", *records[1:]])))
    update_digests(shards)
    assert [message for _, _, message in violations_of(shards)] == ["is not encoded as octprep encodes a record"]


def test_equal_stored_pixels_in_two_splits_are_a_leak_without_a_search_for_near_duplicates(tmp_path):
    src = write_folder(tmp_path / "src", archive())
    config = BuildConfig(recipe=Preprocessing(height=32, width=48), near_duplicates=False)
    out = tmp_path / "out"
    build(src, out, config, workers=0)
    trained = read_records(out / first_shard(out, "train"))[0]
    edit_records(out, first_shard(out, "test"), lambda records: records[0].update(image=trained["image"]))
    result = verify(out, workers=0)
    [message] = [violation.message for violation in result.violations if violation.check == 1]
    assert "has the same stored pixels, in test, as" in message
    assert trained["path"][0].decode() in message
    assert "no equal stored pixels are in two splits" in console.verification_summary(out, result)


def link_shard(folder, name):
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")


def link_split(folder, name):
    split = (folder / name).parent
    split.rename(folder.parent / "elsewhere")
    split.symlink_to(folder.parent / "elsewhere")


def pipe_for_shard(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)


def folder_for_shard(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (link_shard, "is a link, not a file"),
        (link_split, "lies in test, which is a link, not a folder"),
        (pipe_for_shard, "is not a regular file"),
        (folder_for_shard, "is not a regular file"),
    ],
)
def test_shard_that_is_a_link_a_pipe_or_a_folder_is_named_and_not_read(good, tmp_path, change, words):
    folder = shutil.copytree(good, tmp_path / "out")
    manifest, name = Manifest.load(folder), first_shard(folder, "test")
    change(folder, name)
    with pytest.raises(ManifestError, match=words):
        manifest.check_files(folder, ("test",))
    assert any(where == name and words in message for _, where, message in violations_of(folder))
    with pytest.raises(tfrecord.RecordError, match=words):
        list(tfrecord.read(folder / name))
