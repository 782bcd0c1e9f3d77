"""verify names every shard, record and law that was tampered with."""

import csv
import dataclasses
import hashlib
import json
import shutil

import pytest
from world import archive, write_folder

from octprep import tfrecord
from octprep.pipeline import build
from octprep.schema import BuildConfig, Manifest, Recipe
from octprep.verify import verify


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    src = write_folder(folder / "src", archive())
    build(src, folder / "out", BuildConfig(recipe=Recipe(height=32, width=32), shard_mb=0.02))
    return folder / "out"


@pytest.fixture
def shards(good, tmp_path):
    return shutil.copytree(good, tmp_path / "shards")


def rewrite(folder, name, change):
    """Change a shard's records, and the manifest so that its own sums are right: only the laws can tell."""
    path = folder / name
    records = [tfrecord.decode(data) for data in tfrecord.read(path)]
    change(records)
    data = b"".join(
        tfrecord.frame(tfrecord.encode({k: v[0] if isinstance(v[0], bytes) else v for k, v in r.items()}))
        for r in records
    )
    path.write_bytes(data)
    manifest = Manifest.load(folder)
    labels = [record["label"][0] for record in records]
    sums = {
        "records": len(records),
        "per_class": tuple(labels.count(label) for label in range(len(manifest.class_names))),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    splits = {
        split: tuple(dataclasses.replace(shard, **sums) if shard.name == name else shard for shard in part)
        for split, part in manifest.splits.items()
    }
    dataclasses.replace(manifest, splits=splits).save(folder)


def first(folder, split):
    return Manifest.load(folder).splits[split][0].name


def laws(folder):
    return {fault.law for fault in verify(folder, workers=1).faults}


def test_a_test_patients_scan_copied_into_train_under_another_id_is_found_by_its_content(shards):
    stolen = next(tfrecord.decode(data) for data in tfrecord.read(shards / first(shards, "test")))
    stolen["patient"] = [b"999"]
    rewrite(shards, first(shards, "train"), lambda records: records.append(stolen))
    faults = verify(shards, workers=1).faults
    assert {1, 4} <= {fault.law for fault in faults}
    assert any(
        fault.law == 1 and "content" in fault.what and stolen["scan"][0].decode() in fault.where for fault in faults
    )


def test_a_patient_on_two_sides_is_named(shards):
    rewrite(shards, first(shards, "test"), lambda records: records[0].update(patient=[b"0"]))
    assert any(fault.law == 1 and "patient 0 is in" in fault.what for fault in verify(shards, workers=1).faults)


def test_a_flipped_label_is_found(shards):
    def flip(records):
        records[0]["label"] = [(records[0]["label"][0] + 1) % 4]

    rewrite(shards, first(shards, "train"), flip)
    assert laws(shards) == {2, 4}


def test_a_repeated_test_image_is_found(shards):
    rewrite(shards, first(shards, "test"), lambda records: records.append(records[0]))
    assert {2, 3} <= laws(shards)


def test_a_missing_record_is_found(shards):
    rewrite(shards, first(shards, "val"), lambda records: records.pop())
    assert laws(shards) == {2}


def test_two_shards_swapped_are_both_named(shards):
    one, two = (shards / shard.name for shard in Manifest.load(shards).splits["train"][:2])
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)
    named = {fault.where for fault in verify(shards, workers=1).faults if fault.law == 5}
    assert {one.relative_to(shards).as_posix(), two.relative_to(shards).as_posix()} <= named


def test_a_flipped_bit_a_missing_shard_and_a_strange_one_are_named(shards):
    train, test = shards / first(shards, "train"), shards / first(shards, "test")
    data = bytearray(train.read_bytes())
    data[len(data) // 2] ^= 1
    train.write_bytes(data)
    test.rename(test.with_name("stray.tfrecord"))
    faults = {(fault.where, fault.what) for fault in verify(shards, workers=1).faults if fault.law == 5}
    assert (first(shards, "test"), "is missing") in faults
    assert ("test/stray.tfrecord", "is not in the manifest") in faults
    assert any(where == first(shards, "train") and "CRC" in what for where, what in faults)


def test_an_edited_manifest_and_an_edited_table_are_named(shards):
    raw = json.loads((shards / "manifest.json").read_text())
    raw["source"]["found"] += 1
    (shards / "manifest.json").write_text(json.dumps(raw))
    table = shards / "images.csv"
    rows = list(csv.reader(table.read_text().splitlines()))
    table.write_text("\n".join(",".join(row) for row in rows[:-1]) + "\n")
    faults = verify(shards, workers=1).faults
    assert any(fault.law == 5 and fault.where == "manifest.json" for fault in faults)
    assert any(fault.law == 2 and "was changed" in fault.what for fault in faults)
