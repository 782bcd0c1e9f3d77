"""A source that changes between builds: only files that are new or have changed are prepared again."""

import dataclasses
import errno
import gzip
import os
import shutil

import numpy as np
import pytest

from octprep.duplicates import lsh, search
from octprep.format import images_csv
from octprep.format.config import Preprocessing
from octprep.format.errors import StoppedError
from octprep.format.manifest import MANIFEST_NAME, PREPARED_NAME, Manifest
from octprep.pipeline import build
from octprep.shards import cache, writer
from octprep.shards.records import read_records
from octprep.source.listing import list_source
from octprep.verification import verify
from tests.worlds.archive import files_of, write_scan
from tests.worlds.builds import CONFIG, damage, record_compared


@pytest.fixture
def prepared(monkeypatch):
    """The paths of the files that are prepared, in order."""
    paths, prepare_scan = [], cache.prepare_scan

    def recorded(src, scan_file, recipe):
        paths.append(scan_file.path)
        return prepare_scan(src, scan_file, recipe)

    monkeypatch.setattr(cache, "prepare_scan", recorded)
    return paths


@pytest.fixture
def out(src, tmp_path):
    """A folder that was built from the source."""
    build(src, tmp_path / "out", CONFIG, workers=0)
    return tmp_path / "out"


def rebuilt(src, out, prepared, config=CONFIG):
    """The files that are prepared when a folder is built again, which ends with what a new folder would hold."""
    prepared.clear()
    assert build(src, out, config, workers=0, overwrite=True).built
    paths = {*prepared}
    assert len(paths) == len(prepared)
    build(src, out.with_name("fresh"), config, workers=0)
    assert files_of(out) == files_of(out.with_name("fresh"))
    shutil.rmtree(out.with_name("fresh"))
    return paths


def all_scans(src):
    """The files that are scans by their names."""
    return {file.path for file in list_source(src).scan_files}


def not_in_shards(out):
    """The scans that were read, but are in no shard: their pixels are not kept."""
    table = images_csv.read_checked(out, Manifest.load(out))
    return {row.path for row in table.excluded if row.scan}


def write_first(src):
    """Write the file that is the first in the list of scans, and return its path."""
    write_scan(src / "test" / "CNV" / "CNV-00-1.jpeg", key="first")
    assert min(all_scans(src)) == "test/CNV/CNV-00-1.jpeg"
    return "test/CNV/CNV-00-1.jpeg"


def test_of_an_unchanged_source_no_scan_in_a_shard_is_prepared_again(src, out, prepared):
    left_out = not_in_shards(out)
    assert 0 < len(left_out) < 5
    assert rebuilt(src, out, prepared) == left_out
    assert rebuilt(src, out, prepared, dataclasses.replace(CONFIG, seed=1)) == left_out
    assert verify(out, workers=0).violations == ()


def test_one_more_scan_is_prepared_alone(src, out, prepared):
    left_out = not_in_shards(out)
    assert rebuilt(src, out, prepared) == left_out
    assert rebuilt(src, out, prepared) | {write_first(src)} == rebuilt(src, out, prepared)


def test_of_a_scan_that_is_the_same_no_record_but_repeats_is_encoded_again(src, out, prepared, monkeypatch):
    encoded, encode = [], writer.encode_with_image_offset

    def recorded(record):
        encoded.append((record.path, record.repeat))
        return encode(record)

    write_scan(src / "train" / "NORMAL" / "NORMAL-700-1.jpeg", key="more")
    with monkeypatch.context() as patch:
        patch.setattr(writer, "encode_with_image_offset", recorded)
        build(src, out, CONFIG, workers=0, overwrite=True)
    assert {path for path, repeat in encoded if repeat == 0} == {"train/NORMAL/NORMAL-700-1.jpeg"}
    assert any(repeat for _, repeat in encoded)
    rebuilt(src, out, prepared)


def identities(out):
    """The device and inode of each shard, with its SHA-256 as the manifest has it, by name."""
    shards = [shard for shards in Manifest.load(out).splits.values() for shard in shards]
    return {(shard.name, shard.sha256): (out / shard.name).stat()[1:3] for shard in shards}


@pytest.mark.parametrize("can_link", [True, False])
def test_shards_that_one_more_scan_does_not_change_are_kept(src, out, prepared, can_link, monkeypatch):
    def refuse(*paths):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    before = identities(out)
    write_first(src)
    with monkeypatch.context() as patch:
        if not can_link:
            patch.setattr(os, "link", refuse)
        rebuilt(src, out, prepared)
    kept = {shard: place for shard, place in identities(out).items() if shard in before}
    assert 0 < len(kept) < len(before)
    assert {shard: place for shard, place in kept.items() if before[shard] == place} == (kept if can_link else {})


def test_of_two_scans_that_are_the_same_the_pixels_are_not_compared_again(src, tmp_path, monkeypatch):
    compared, out = record_compared(monkeypatch), tmp_path / "out"
    build(src, out, CONFIG, workers=0)
    assert len(compared) > 100
    compared.clear()
    first = write_first(src)
    splits = build(src, out, CONFIG, workers=0, overwrite=True).manifest.splits
    records = (record for split in splits for record in read_records(out, split))
    fresh = next(record.pixels.tobytes() for record in records if record.path == first)
    assert compared
    assert all(fresh in pair for pair in compared)
    compared.clear()
    build(src, out, CONFIG, workers=0, overwrite=True)
    assert not compared


def test_one_more_scan_is_searched_for_among_those_that_were_compared(src, out, prepared, monkeypatch):
    searched, near_rows = [], search._near_rows

    def recorded(unique, threads):
        searched.append(len(unique))
        return near_rows(unique, threads)

    monkeypatch.setattr(search, "_ALL_PAIRS", 4)
    for module in (lsh, search):  # with so few scans they change with every one
        monkeypatch.setattr(
            module, "medians_and_deviations", lambda _: (np.zeros(96, np.int16), np.ones(96, np.float32))
        )
    build(src, out, CONFIG, workers=0, overwrite=True)
    write_first(src)
    monkeypatch.setattr(search, "_near_rows", recorded)
    build(src, out, CONFIG, workers=0, overwrite=True)
    assert searched == []
    rebuilt(src, out, prepared)
    assert len(searched) == 2, "the fresh folder, with all scans and with those in the shards"


def test_records_are_not_copied_where_other_classes_change_their_labels(src, out, prepared):
    before = all_scans(src)
    for patient in range(900, 906):
        folder = src / ("train" if patient < 904 else "test") / "AMD"
        write_scan(folder / f"AMD-{patient}-1.jpeg", key=str(patient))
    assert all_scans(src) - before <= rebuilt(src, out, prepared)
    assert Manifest.load(out).class_names == ("AMD", "CNV", "DME", "DRUSEN", "NORMAL")
    rebuilt(src, out, prepared, dataclasses.replace(CONFIG, classes="AMD=AMD+CNV,DME,DRUSEN,NORMAL"))
    assert Manifest.load(out).class_names == ("AMD", "DME", "DRUSEN", "NORMAL")


def test_one_more_scan_does_not_undo_what_an_interrupted_build_has_prepared(src, tmp_path, prepared, monkeypatch):
    def stop(*_, **__):
        raise StoppedError("here")

    monkeypatch.setattr(cache, "BATCH", 8)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(search, "near_duplicate_pairs", stop)
        build(src, tmp_path / "out", CONFIG, workers=0)
    assert {*prepared} == all_scans(src)
    assert rebuilt(src, tmp_path / "out", prepared) == set()
    first = write_first(src)
    shutil.rmtree(tmp_path / "out")
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(search, "near_duplicate_pairs", stop)
        (src / first).rename(src / "later")
        build(src, tmp_path / "out", CONFIG, workers=0)
    (src / "later").rename(src / first)
    assert rebuilt(src, tmp_path / "out", prepared) == {first}


def test_a_scan_with_other_content_is_prepared_again_though_size_and_time_are_the_same(src, out, prepared):
    before = rebuilt(src, out, prepared)
    path = src / "test" / "CNV" / "CNV-50-1.jpeg"
    status = path.stat()
    data = write_scan(src.with_name("other.jpeg"), quality=5).read_bytes()
    path.write_bytes(data + b"\0" * (status.st_size - len(data)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert rebuilt(src, out, prepared) == before | {"test/CNV/CNV-50-1.jpeg"}


def test_of_files_with_another_time_alone_none_in_a_shard_is_prepared_again(src, out, prepared):
    left_out = not_in_shards(out)
    for path in src.rglob("*.jpeg"):
        os.utime(path, (1, 1))
    unreadable = {"train/CNV/CNV-0-91.jpeg"}
    assert rebuilt(src, out, prepared) == left_out | unreadable


def test_removed_files_are_forgotten(src, out, prepared):
    left_out = not_in_shards(out)
    (src / "test" / "CNV" / "CNV-50-1.jpeg").unlink()
    assert rebuilt(src, out, prepared) <= left_out


def test_another_preprocessing_prepares_everything(src, out, prepared):
    other = dataclasses.replace(CONFIG, recipe=Preprocessing(height=32, width=40))
    assert rebuilt(src, out, prepared, other) == all_scans(src)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "a byte", "of another folder", "not JSON"])
def test_without_what_the_last_build_found_everything_is_prepared(src, out, prepared, how, tmp_path):
    path = out / PREPARED_NAME
    if how == "of another folder":
        build(src, tmp_path / "other", dataclasses.replace(CONFIG, seed=5), workers=0)
        shutil.copy(tmp_path / "other" / PREPARED_NAME, path)
    elif how == "not JSON":
        path.write_bytes(gzip.compress(b"{}\n[]"))
    else:
        damage(path, how)
    assert rebuilt(src, out, prepared) == all_scans(src)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "a byte"])
def test_scans_of_a_damaged_shard_are_prepared_again(src, out, prepared, how):
    manifest = Manifest.load(out)
    damage(out / manifest.splits["test"][0].name, how)
    table = images_csv.read_checked(out, manifest)
    in_shard = {row.path for row in table.rows if row.split == "test"}
    assert len(manifest.splits["test"]) == 1
    assert rebuilt(src, out, prepared) == not_in_shards(out) | in_shard


@pytest.mark.parametrize("byte", [1000, -1], ids=["of an image", "of a CRC"])
def test_a_shard_that_rots_unnoticed_stops_the_build_and_the_next_prepares_everything(src, out, prepared, byte):
    left_out = not_in_shards(out)
    shard = out / Manifest.load(out).splits["test"][0].name
    data = bytearray(shard.read_bytes())
    data[byte] ^= 1
    shard.write_bytes(data)
    os.utime(out / MANIFEST_NAME, ns=(2**62, 2**62))  # as if nothing had been written since
    with pytest.raises(StoppedError, match=r"\.tfrecord was damaged after it was written. Run the same command again"):
        build(src, out, CONFIG, workers=0, overwrite=True)
    assert rebuilt(src, out, prepared) | left_out == all_scans(src)  # the stopped build had prepared those
