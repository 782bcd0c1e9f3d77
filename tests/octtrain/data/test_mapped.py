"""Images gathered by number out of shards are those of the records, and whatever does not fit is an error."""

import dataclasses
import hashlib
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import octprep
import octtrain
from octprep.format import images_csv, record_index
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import ManifestError
from octprep.format.manifest import Manifest
from octprep.pipeline import build
from octprep.shards.indexing import index_folder
from octtrain.data import mapped, order
from octtrain.data.mapped import MappedImages, batches
from tests.worlds import builds
from tests.worlds.archive import archive, write_folder
from tests.worlds.shards import write_shards

SMALL = Preprocessing(height=32, width=48)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder in several shards whose train split repeats images. Only to be read."""
    folder = tmp_path_factory.mktemp("mapped")
    src = write_folder(folder / "src", archive())
    (src / "train" / "CNV" / "AAA.txt").write_text("a row of images.csv before those of images")
    build(src, folder / "shards", BuildConfig(recipe=SMALL, shard_mb=0.02), workers=1)
    return folder / "shards"


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "s", {"train": 5, "val": 2}, shards=3)
    return tmp_path / "s"


@pytest.fixture(params=["mapped", "read"])
def way(request, monkeypatch):
    """Both ways of gathering: out of maps, and by reads, as of shards that are large."""
    if request.param == "read":
        monkeypatch.setattr(mapped, "_MAPPED_BYTES", 0)
    return request.param


def rewrite(folder, change, split="train"):
    """Edit the records of a split's index, with the digests that would reveal it."""
    manifest = Manifest.load(folder)
    path = folder / record_index.table_name(split)
    records = record_index.decode(path.read_bytes(), manifest.digest)
    path.write_bytes(record_index.encode(change(records), manifest.digest))


def test_records_are_those_of_read_records_in_their_order(built, way):
    images = MappedImages(built, "train")
    assert bool(images._views) == (way == "mapped")
    records = list(octprep.read_records(built, "train"))
    assert any(record.repeat for record in records)
    assert len(images) == len(records)
    gathered = images.gather(images.image_of)
    assert gathered.shape == (len(records), 32, 48, 1) == (len(images), *images.image_shape)
    np.testing.assert_array_equal(gathered[..., 0], np.stack([record.pixels for record in records]))
    assert images.labels.tolist() == [record.label for record in records]
    assert images.labels.dtype == np.int64 and images.image_of.dtype == np.int32
    assert images.paths == [record.path for record in records]
    assert images.ids.tolist() == [record.patient for record in records]
    groups = {row.path: row.patient_group for row in images_csv.read_checked(built, Manifest.load(built)).rows}
    assert images.patients.tolist() == [groups[record.path] for record in records]


def test_repeats_of_an_image_share_its_number(built):
    images = MappedImages(built, "train")
    number_of = {}
    for path, number in zip(images.paths, images.image_of.tolist(), strict=True):
        assert number_of.setdefault(path, number) == number
    assert sorted(number_of.values()) == list(range(images.image_count))
    assert images.image_count < len(images)


def test_several_splits_follow_one_another(built, way):
    parts = [MappedImages(built, split) for split in ("val", "test")]
    both = MappedImages(built, ["val", "test"])
    assert both.image_count == sum(part.image_count for part in parts)
    assert sorted(both.image_of) == list(range(both.image_count))
    np.testing.assert_array_equal(
        both.gather(both.image_of), np.concatenate([part.gather(part.image_of) for part in parts])
    )
    assert both.labels.tolist() == [label for part in parts for label in part.labels]
    assert both.paths == [path for part in parts for path in part.paths]


def test_rows_that_were_read_already_are_not_read_again(built, monkeypatch):
    manifest = Manifest.load(built)
    rows = images_csv.read_checked(built, manifest).rows
    expected = MappedImages(built, "train").patients
    monkeypatch.setattr(images_csv, "read_checked", None)
    assert MappedImages(built, "train", manifest=manifest, rows=rows[::-1]).patients.tolist() == expected.tolist()


def test_rows_of_another_table_are_an_error(built):
    rows = [row for row in images_csv.read_checked(built, Manifest.load(built)).rows if row.split == "train"]
    other_class = dataclasses.replace(rows[0], label="DRUSEN")
    for others in ([], rows[1:], [other_class, *rows[1:]]):
        with pytest.raises(ManifestError, match=r"train\.csv has other images than images\.csv .*`octprep index"):
            _ = MappedImages(built, "train", rows=others).paths


def test_a_record_is_its_pixels_and_its_label(shards):
    images = MappedImages(shards)
    records = list(octprep.read_records(shards, "train"))
    for index in (0, 7, len(records) - 1, -1, np.int64(3)):
        pixels, label = images[index]
        np.testing.assert_array_equal(pixels[..., 0], records[index].pixels)
        assert label == records[index].label and type(label) is int
        pixels[:] = 0  # a copy
        assert images[index][0].any()
    with pytest.raises(IndexError):
        images[len(records)]


def test_pixels_are_gathered_into_an_array_that_is_given(shards, way):
    images = MappedImages(shards)
    out = np.full((3, 32, 32, 1), 9, np.uint8)
    assert images.gather(np.array([2, -1, 0], np.int32), out) is out
    np.testing.assert_array_equal(out[[0, 2]], images.gather(np.array([2, 0], np.int32)))
    assert not out[1].any()  # -1, with which orders are padded
    for wrong in (out[:2], out.astype(np.int8), np.empty((3, 32, 32, 2), np.uint8)[..., :1]):
        with pytest.raises(ValueError, match=r"need a contiguous \(3, 32, 32, 1\) uint8"):
            images.gather(np.array([2, -1, 0], np.int32), wrong)


def test_several_threads_gather_the_same_images(shards, way, monkeypatch):
    images = MappedImages(shards)
    numbers = np.array([7, -1, 19, 0, 3, 3, 12], np.int32)
    alone = images.gather(numbers)
    together = [threading.Barrier(3)]
    work = MappedImages._copy if way == "mapped" else MappedImages._read

    def noted(*arguments):
        for barrier in together:
            barrier.wait(60)  # until three threads are here
        work(*arguments)

    monkeypatch.setattr(mapped, "_SHARED_BYTES", 0)
    monkeypatch.setattr(mapped, "_gathering_threads", lambda: 3)
    monkeypatch.setattr(MappedImages, work.__name__, noted)
    np.testing.assert_array_equal(images.gather(numbers), alone)
    together.clear()
    assert images.gather(numbers[:1]).shape == (1, 32, 32, 1)  # fewer images than threads
    if way == "read":
        os.truncate(shards / images.manifest.splits["train"][0].name, 100)
        with pytest.raises(ManifestError, match=r"00000-of-00003\.tfrecord became shorter"):
            images.gather(numbers)


@pytest.mark.parametrize("number", [-2, 20, 10**6])
def test_numbers_of_no_image_are_an_error(shards, way, number):
    images = MappedImages(shards)
    assert images.image_count == 20
    with pytest.raises(IndexError, match=f"there is no image {number}; they are numbered from 0 to 19"):
        images.gather(np.array([0, number]))


def test_it_may_be_pickled(shards, way):
    images = MappedImages(shards)
    again = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(again.gather(again.image_of), images.gather(images.image_of))
    assert again.paths == images.paths
    size = len(pickle.dumps(images))
    assert size < sum(shard.bytes for shard in images.manifest.splits["train"])  # the pixels are not in it


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_it_may_be_used_in_a_forked_process(shards, way):
    code = (
        "import os, sys; from octtrain.data import mapped; "
        f"mapped._MAPPED_BYTES = {10**12 * (way == 'mapped')}; images = mapped.MappedImages({str(shards)!r}); "
        "expected = images.gather(images.image_of).sum(); child = os.fork()\n"
        "if not child: os._exit(int(images.gather(images.image_of).sum() != expected))\n"
        "sys.exit(os.waitpid(child, 0)[1] or int(images.gather(images.image_of).sum() != expected))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_neither_tensorflow_nor_keras_is_needed(shards):
    absent = ["tensorflow", "keras", "cv2", "google_crc32c", "typer", "jax"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); import octtrain; "
        f"images = octtrain.MappedImages({str(shards)!r}); images.gather(images.image_of); images.patients"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_pngs_and_splits_that_do_not_exist_are_named(tmp_path, shards):
    write_shards(tmp_path / "png", {"train": 1}, encoding="png")
    with pytest.raises(ManifestError, match=r"holds PNGs .*octtrain\.training_batches.*--encoding raw"):
        MappedImages(tmp_path / "png")
    with pytest.raises(ManifestError, match="has no split 'fold0'; it has train, val"):
        MappedImages(shards, ["train", "fold0"])
    write_shards(tmp_path / "empty", {"train": 1, "val": 0})
    with pytest.raises(ManifestError, match=r"Split 'val' of .* holds no images"):
        MappedImages(tmp_path / "empty", "val")


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "a byte", "a link", "a folder"])
def test_a_damaged_index_is_an_error_that_says_what_to_do(shards, how):
    builds.damage(shards / "index" / "train.csv", how)
    with pytest.raises(ManifestError, match=rf"train\.csv .*`octprep index {shards}`"):
        MappedImages(shards)
    assert len(MappedImages(shards, "val")) == 8
    if how not in ("a link", "a folder"):
        index_folder(shards)
        assert len(MappedImages(shards)) == 20


def test_the_index_of_other_shards_is_an_error(tmp_path, shards):
    write_shards(tmp_path / "other", {"train": 5}, shards=3, seed=1)
    (tmp_path / "other" / "index" / "train.csv").replace(shards / "index" / "train.csv")
    with pytest.raises(ManifestError, match=r"train\.csv is that of another dataset.*`octprep index"):
        MappedImages(shards)


EDITS = {
    "an image beyond the file": lambda r: [*r[:-1], r[-1]._replace(image_offset=10**12)],
    "an image before the file": lambda r: [r[0]._replace(image_offset=-5000), *r[1:]],
    "an image in another record": lambda r: [r[0]._replace(image_offset=r[1].image_offset), *r[1:]],
    "an image over the end of its frame": lambda r: [r[0]._replace(image_offset=r[0].image_offset + 400), *r[1:]],
    "another size": lambda r: [r[0]._replace(image_bytes=r[0].image_bytes - 1), *r[1:]],
    "a huge number": lambda r: [r[0]._replace(image_offset=10**30), *r[1:]],
    "a record twice": lambda r: [r[0], *r],
    "no last record": lambda r: r[:-1],
    "another order": lambda r: r[::-1],
    "another class": lambda r: [r[0]._replace(label=(r[0].label + 1) % 4), *r[1:]],
    "no such class": lambda r: [r[0]._replace(label=17), *r[1:]],
    "no such shard": lambda r: [*r[:-1], r[-1]._replace(shard=3)],
    "a negative row": lambda r: [r[0]._replace(row=-1), *r[1:]],
    "a huge row": lambda r: [r[0]._replace(row=2**63), *r[1:]],
    "a negative repeat": lambda r: [r[0]._replace(repeat=-1), *r[1:]],
    "nothing": lambda r: [],
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_index_whose_digest_was_made_to_fit_is_an_error(shards, edit):
    rewrite(shards, EDITS[edit])
    with pytest.raises(ManifestError, match=r"train\.csv .*`octprep index"):
        MappedImages(shards)


def test_text_that_is_not_numbers_is_an_error(shards):
    path = shards / "index" / "train.csv"
    header, _, body = path.read_bytes().partition(b"\n")
    for wrong in (b"x,", b"0_0,", b"+0,", b" 0,", b"", b"9" * 5000 + b","):
        other = body.replace(b"\n0,", b"\n" + wrong, 1)
        sha256 = hashlib.sha256(other).hexdigest().encode()
        path.write_bytes(header.rpartition(b" ")[0] + b" " + sha256 + b"\n" + other)
        with pytest.raises(ManifestError, match=r"(not of whole numbers|not written as octprep).*`octprep index"):
            MappedImages(shards)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "a link", "a folder"])
def test_a_damaged_shard_is_an_error_that_names_it(shards, way, how):
    name = Manifest.load(shards).splits["train"][1].name
    builds.damage(shards / name, how)
    with pytest.raises(ManifestError, match=rf"{name} .*`octprep build` that made it"):
        MappedImages(shards)


def test_a_shard_that_shrinks_while_it_is_read_is_an_error(shards, monkeypatch):
    monkeypatch.setattr(mapped, "_MAPPED_BYTES", 0)
    images = MappedImages(shards)
    os.truncate(shards / images.manifest.splits["train"][0].name, 100)
    with pytest.raises(ManifestError, match=r"00000-of-00003\.tfrecord became shorter"):
        images.gather(images.image_of)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counting open files needs Linux")
def test_files_are_closed_with_the_object(shards, way):
    def opened():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = opened()
    images = MappedImages(shards)
    assert opened() == before + 3
    del images
    assert opened() == before


def test_large_shards_are_read_rather_than_mapped(shards, monkeypatch):
    size = sum(shard.bytes for shard in Manifest.load(shards).splits["train"])
    monkeypatch.setattr(mapped, "_MAPPED_BYTES", size)
    assert MappedImages(shards)._views
    monkeypatch.setattr(mapped, "_MAPPED_BYTES", size - 1)
    assert not MappedImages(shards)._views


def test_reading_ahead_reads_all_shards_and_ends(shards, monkeypatch):
    read = []
    monkeypatch.setattr(mapped, "open_shard", lambda path: read.append(path.name) or path.open("rb"))
    images = MappedImages(shards)
    read.clear()
    images.read_ahead()
    for thread in threading.enumerate():
        if thread.name == "read ahead":
            thread.join(10)
    assert read == ["00000-of-00003.tfrecord", "00001-of-00003.tfrecord", "00002-of-00003.tfrecord"]


def gather_threads():
    return [thread for thread in threading.enumerate() if thread.name == "gather"]


def test_batches_are_those_of_the_orders(built):
    images = MappedImages(built, "train")
    orders = [order.in_steps(order.shuffled(len(images), 3, epoch), 7) for epoch in range(2)]
    given = list(batches(images, orders))
    assert not gather_threads()
    for (pixels, labels), records in zip(given, np.concatenate(orders), strict=True):
        np.testing.assert_array_equal(pixels, images.gather(images.image_of[records]))
        assert labels.tolist() == images.labels[records].tolist() and labels.dtype == np.int64


def test_padding_is_black_with_the_label_minus_one(shards):
    images = MappedImages(shards)
    last = list(batches(images, [order.padded(len(images), 8)]))[-1]
    assert last[1].tolist() == [*images.labels[16:], *[-1] * 4]
    np.testing.assert_array_equal(last[0][:4], images.gather(images.image_of[16:]))
    assert not last[0][4:].any()


def test_the_thread_of_batches_ends_with_the_generator(shards):
    images = MappedImages(shards)
    given = batches(images, (order.in_steps(order.shuffled(20, 0, epoch), 4) for epoch in range(10**6)))
    next(given)
    (thread,) = gather_threads()
    given.close()
    assert not thread.is_alive()
    given = batches(images, [order.in_steps(order.shuffled(20, 0, 0), 4)])
    next(given)
    del given
    assert not gather_threads()


def test_batches_are_gathered_ahead_but_not_further(shards, monkeypatch):
    images, gathered, enough = MappedImages(shards), [], threading.Semaphore(0)
    gather = images.gather

    def count(numbers):
        gathered.append(numbers)
        enough.release()
        return gather(numbers)

    monkeypatch.setattr(images, "gather", count)
    given = batches(images, [order.in_steps(order.shuffled(20, 0, 0), 2)], ahead=3)
    next(given)
    for _ in range(4):  # the one that was given, and three
        assert enough.acquire(timeout=10)
    assert not enough.acquire(timeout=0.2)
    given.close()
    assert len(gathered) == 4


def test_an_error_while_gathering_arises_where_the_batches_are_used(shards):
    images = MappedImages(shards)

    def orders():
        yield np.zeros((1, 2), np.int32)
        raise ZeroDivisionError("in an order")

    given = batches(images, orders())
    next(given)
    with pytest.raises(ZeroDivisionError, match="in an order"):
        next(given)
    with pytest.raises(IndexError):
        list(batches(images, [np.full((1, 2), 99, np.int32)]))
    assert not gather_threads()


def test_it_is_part_of_the_public_interface():
    assert octtrain.MappedImages is MappedImages
