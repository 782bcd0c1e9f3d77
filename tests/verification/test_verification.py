"""verify names every shard, record and law that was tampered with."""

import csv
import dataclasses
import hashlib
import json
import shutil

import pytest

from octprep import console
from octprep.format import images_csv
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import ManifestError
from octprep.format.manifest import Leaks, Manifest
from octprep.pipeline import build
from octprep.shards import tfrecord
from octprep.verification import verify
from tests.worlds.archive import archive, write_folder


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    src = write_folder(folder / "src", archive())
    build(src, folder / "out", BuildConfig(recipe=Preprocessing(height=32, width=32), shard_mb=0.02))
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
        fault.law == 1 and "content" in fault.what and stolen["path"][0].decode() in fault.where for fault in faults
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


def resaved(folder, change):
    """Change the manifest and give it the digest that it then has, as somebody would who wants it to pass."""
    dataclasses.replace(manifest := Manifest.load(folder), **change(manifest)).save(folder)


def test_a_manifest_in_which_splits_changed_places_is_none(shards):
    resaved(shards, lambda manifest: {"splits": {**manifest.splits, "val": manifest.splits["test"]}})
    with pytest.raises(ManifestError, match=r"shard 'test/.*' stands in split val"):
        verify(shards, workers=1)


def test_a_table_that_puts_a_scan_in_another_split_than_its_records_are_in_is_named(shards):
    rows = list(csv.DictReader((shards / "images.csv").read_text().splitlines()))
    moved = next(row for row in rows if row["split"] == "test")
    moved["split"] = "train"
    with (shards / "images.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, images_csv.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    digest = hashlib.sha256((shards / "images.csv").read_bytes()).hexdigest()
    resaved(shards, lambda _: {"images_sha256": digest})
    told = [fault.what for fault in verify(shards, workers=1).faults if moved["path"] in fault.where]
    assert "says split train, but its records are in test" in told


def test_another_picture_in_a_copy_is_named(shards):
    def swap(records):
        copy = next(record for record in records if record["repeat"] == [1])
        copy["image"] = [bytes(reversed(copy["image"][0]))]

    rewrite(shards, first(shards, "train"), swap)
    [fault] = verify(shards, workers=1).faults
    assert (fault.law, "has other pixels than" in fault.what) == (3, True)


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: raw["source"].pop("found"),
        lambda raw: raw.update(source=[]),
        lambda raw: raw["class_names"].pop(),
        lambda raw: raw["splits"]["train"][0]["per_class"].pop(),
        lambda raw: raw["splits"]["train"][0].update(bytes="x"),
        lambda raw: raw["splits"]["train"][0].update(records=1.5),
        lambda raw: raw["splits"]["train"][0].update(name=None),
        lambda raw: raw.update(splits=[]),
        lambda raw: raw.update(leaks={"patients": 3}),
    ],
    ids=["no-found", "source", "class", "per-class", "bytes", "records", "name", "splits", "leaks"],
)
def test_a_manifest_that_no_build_writes_is_a_sentence(shards, edit):
    raw = json.loads((shards / "manifest.json").read_text())
    edit(raw)
    (shards / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(ManifestError, match="is not a manifest that octprep wrote"):
        verify(shards, workers=1)


def test_numbers_of_files_that_the_table_does_not_bear_out_are_named(shards):
    resaved(shards, lambda manifest: {"source": {**manifest.source, "kept": 9999, "left_out": 0}})
    assert any("where the manifest says 9,999" in fault.what for fault in verify(shards, workers=1).faults)


def test_what_was_not_compared_is_not_certified(good, tmp_path):
    small = verify(good, workers=1)
    assert small.too_small == sum(count.images for count in small.counts.values())
    assert "near-identical" not in console.certificate(small)
    assert "too small to be compared" in console.verified(good, small)
    assert any("could not be looked for: 32x32 pixels" in line for line in console.join_lines(good, small.manifest))
    src = write_folder(tmp_path / "src", archive())
    for size, near in ((96, True), (96, False)):
        out = tmp_path / f"{near}"
        build(src, out, BuildConfig(recipe=Preprocessing(height=size, width=size), near_duplicates=near), workers=1)
        found = verify(out, workers=1)
        assert ("near-identical scans disjoint" in console.certificate(found)) == near
        assert ("near-identical scans were not looked for" in console.verified(out, found)) != near


def test_every_kind_of_leak_is_in_the_line_that_says_leaky(good):
    manifest = dataclasses.replace(Manifest.load(good), leaks=Leaks(near=(("a.jpeg", "b.jpeg"),)))
    assert console.leak_line(manifest).startswith("LEAKY: in two splits: 1 near-identical pair (a.jpeg = b.jpeg). ")
