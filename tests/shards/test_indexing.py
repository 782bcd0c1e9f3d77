"""The index beside the shards: it says where records and pixels are, can be made again, and no folder needs it."""

import errno
import hashlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import octprep
from octprep.format import images_csv, record_index
from octprep.format.config import BuildConfig
from octprep.format.errors import ManifestError, Notice, OutputError
from octprep.format.files import atomic_write
from octprep.format.locks import locked
from octprep.format.manifest import Manifest
from octprep.pipeline import build
from octprep.shards import indexing, tfrecord
from octprep.shards.indexing import index_folder
from octprep.shards.records import decode_pixels
from octprep.verification import verify
from tests.worlds import builds
from tests.worlds.archive import archive, files_of, write_folder
from tests.worlds.builds import CONFIG
from tests.worlds.edits import restore


@pytest.fixture(scope="module", params=["raw", "png"])
def made(request, tmp_path_factory):
    """A source and its finished folder, in several shards and with repeats in train. Only to be read."""
    folder = tmp_path_factory.mktemp(request.param)
    src = write_folder(folder / "src", archive())
    (src / "train" / "CNV" / "AAA.txt").write_text("a row of images.csv before those of images")
    config = BuildConfig(recipe=CONFIG.recipe, shard_mb=CONFIG.shard_mb, encoding=request.param)
    build(src, folder / "out", config, workers=0)
    return src, folder / "out", config


@pytest.fixture(scope="module")
def copied(made, tmp_path_factory):
    return shutil.copytree(made[1], tmp_path_factory.mktemp("copy") / "out")


@pytest.fixture
def out(made, copied):
    """A copy of the folder; what a test changes is put back after it."""
    yield copied
    restore(made[1], copied)


def index_of(folder):
    return {name: content for name, content in files_of(folder).items() if name.startswith("index/")}


def test_the_index_says_where_every_record_and_its_pixels_are(made):
    _, folder, config = made
    manifest = Manifest.load(folder)
    lines = (folder / "images.csv").read_text().splitlines()
    repeats = 0
    for split, shards in manifest.splits.items():
        entries = record_index.read(folder, manifest, split)
        records = list(octprep.read_records(folder, split))
        for entry, record in zip(entries, records, strict=True):
            content = (folder / shards[entry.shard].name).read_bytes()
            frame = content[entry.record_offset : entry.record_offset + entry.record_bytes]
            assert tfrecord.frame(frame[12:-4]) == frame
            image = content[entry.image_offset : entry.image_offset + entry.image_bytes]
            assert image == record.image
            np.testing.assert_array_equal(decode_pixels(image, 32, 48, config.encoding), record.pixels)
            assert (entry.label, entry.repeat) == (record.label, record.repeat)
            assert lines[1 + entry.row].split(",")[0] == record.path
            repeats += record.repeat > 0
        for number, shard in enumerate(shards):
            offsets = [entry.record_offset for entry in entries if entry.shard == number]
            assert offsets == tfrecord.offsets(folder / shard.name)
    assert repeats


def test_the_index_for_dali_is_what_its_program_writes(made):
    _, folder, _ = made
    for path in folder.glob("*/*.tfrecord"):
        expected, start = "", 0
        with path.open("rb") as file:  # as NVIDIA describes tfrecord2idx: length, its CRC, data, their CRC
            while length := file.read(8):
                file.seek(4 + int.from_bytes(length, "little") + 4, 1)
                expected += f"{start} {file.tell() - start}\n"
                start = file.tell()
        name = path.relative_to(folder).as_posix()
        assert (folder / "index" / f"{name}.idx").read_text() == expected


def test_octprep_index_makes_the_same_bytes_again(made, out):
    before = index_of(out)
    for damage in ("all", "one", "other"):
        if damage == "all":
            shutil.rmtree(out / "index")
        elif damage == "one":
            (out / "index" / "val.csv").unlink()
        else:
            for name in before:
                (out / name).write_bytes(b"other")
            (out / "index" / "train" / "00009-of-00010.tfrecord.idx").write_text("of an earlier build")
            (out / "index" / "train" / ".part-999999-x.csv").write_text("of a killed process")
        assert index_folder(out) == before == index_of(out)
    assert files_of(out) == files_of(made[1])


def test_octprep_index_leaves_the_files_of_others_alone(out):
    (out / "index" / "notes.txt").write_text("mine")
    index_folder(out)
    indexing.remove_index(out)
    assert index_of(out) == {"index/notes.txt": b"mine"}


def test_octprep_index_follows_no_links(made, out, tmp_path):
    shutil.copytree(out / "index", tmp_path / "elsewhere")
    before = files_of(tmp_path)
    shutil.rmtree(out / "index")
    (out / "index").symlink_to(tmp_path / "elsewhere")
    assert not indexing.index_is_current(out, Manifest.load(out))
    index_folder(out)
    shutil.rmtree(out / "index" / "train")
    (out / "index" / "train").symlink_to(tmp_path / "elsewhere" / "train")
    index_folder(out)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert files_of(out) == files_of(made[1])
    assert files_of(tmp_path) == before


def test_a_folder_without_an_index_is_whole(out):
    shutil.rmtree(out / "index")
    result = verify(out, workers=0)
    assert result.violations == ()
    assert "`octprep index`" in result.notes[0]
    assert len(list(octprep.read_records(out, "train")))


@pytest.mark.parametrize("damage", ["all", "a table", "an index of a shard", "of another dataset"])
def test_a_build_that_finds_a_finished_folder_writes_its_index_again(made, out, damage):
    src, folder, config = made
    if damage == "all":
        shutil.rmtree(out / "index")
    elif damage == "a table":
        builds.damage(out / "index" / "train.csv", "a byte")
    elif damage == "an index of a shard":
        builds.damage(min(out.glob("index/train/*.idx")), "cut")
    else:
        path = out / "index" / "val.csv"
        path.write_bytes(path.read_bytes().replace(Manifest.load(out).digest.encode(), b"0" * 64))
    result = build(src, out, config, workers=0)
    assert (result.built, result.report_written, result.index_written) == (False, False, True)
    assert files_of(out) == files_of(folder)
    times = {path: path.stat().st_mtime_ns for path in out.glob("index/**/*")}
    result = build(src, out, config, workers=0)
    assert (result.built, result.index_written) == (False, False)
    assert times == {path: path.stat().st_mtime_ns for path in out.glob("index/**/*")}


def test_a_build_with_other_settings_replaces_the_index(made, out):
    src, _, config = made
    other = BuildConfig(recipe=config.recipe, shard_mb=0.04, encoding=config.encoding)
    build(src, out, other, workers=0, overwrite=True)
    assert verify(out, workers=0).violations == () == verify(out, workers=0).notes
    names = {shard.name for shards in Manifest.load(out).splits.values() for shard in shards}
    assert {f"index/{name}.idx" for name in names} == {name for name in index_of(out) if name.endswith(".idx")}


def test_an_interrupted_write_leaves_no_half_of_a_file(out, monkeypatch):
    before = index_of(out)
    shutil.rmtree(out / "index")
    written = 0

    def stop_at_the_third(path, data):
        nonlocal written
        written += 1
        if written == 3:
            path.with_name(f".part-999999-{path.name}").write_bytes(data[: len(data) // 2])
            raise KeyboardInterrupt
        atomic_write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "atomic_write", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            index_folder(out)
    left = {name: content for name, content in index_of(out).items() if ".part-" not in name}
    assert len(left) == 2 and left.items() <= before.items()
    index_folder(out)
    assert index_of(out) == before


def test_octprep_index_waits_for_no_one(out):
    with (
        locked(out, "octprep build"),
        pytest.raises(OutputError, match="another octprep build is writing to"),
    ):
        index_folder(out)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "a link", "a folder"])
def test_a_damaged_shard_cannot_be_indexed(out, how):
    name = Manifest.load(out).splits["train"][1].name
    builds.damage(out / name, how)
    with pytest.raises(ManifestError, match=r"train.*`octprep build` that made it"):
        index_folder(out)


def test_shards_that_are_not_those_of_the_manifest_cannot_be_indexed(out):
    first, second = (out / shard.name for shard in Manifest.load(out).splits["train"][:2])
    first.write_bytes(second.read_bytes() * 2)
    with pytest.raises(ManifestError, match=r"has other records than .* by the manifest"):
        index_folder(out)


def test_a_table_that_was_changed_cannot_be_indexed(out):
    builds.damage(out / "images.csv", "a byte")
    with pytest.raises(ManifestError, match=r"images\.csv has SHA-256"):
        index_folder(out)


def test_records_that_are_not_in_the_table_cannot_be_indexed(made):
    _, folder, _ = made
    manifest = Manifest.load(folder)
    table = images_csv.read_checked(folder, manifest)
    with pytest.raises(ManifestError, match=r"which images\.csv does not have"):
        indexing.make_index(folder, manifest, table.paths[1:])


def test_tables_are_written_in_one_way(made):
    _, folder, _ = made
    digest = Manifest.load(folder).digest
    data = (folder / "index" / "train.csv").read_bytes()
    records = record_index.decode(data, digest)
    assert record_index.encode(records, digest) == data
    comment, _, body = data.partition(b"\n")
    assert digest in comment.decode() and hashlib.sha256(body).hexdigest() in comment.decode()
    with pytest.raises(ValueError, match="is that of another dataset"):
        record_index.decode(data, "0" * 64)
    for other in (data + b"\n", data[:-2], b"\n" + data, data.replace(b"\n", b"\r\n")):
        with pytest.raises(ValueError, match=r"changed after it was written|not an index"):
            record_index.decode(other, digest)


def test_the_format_needs_the_standard_library_alone(made):
    absent = ["numpy", "cv2", "google_crc32c", "typer"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); from pathlib import Path; "
        "from octprep.format import record_index; from octprep.format.manifest import Manifest; "
        f"folder = Path({str(made[1])!r}); record_index.read(folder, Manifest.load(folder), 'train')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=builds.Path(__file__).parents[2])


@pytest.mark.parametrize("cut", [0, 1, 2, 5, 12, 40])
def test_bytes_that_are_not_as_octprep_encodes_a_record_are_an_error(cut):
    record = tfrecord.encode({"image": b"12345678" * 30, "label": [3], "path": b"a/b", "repeat": [0]})
    wanted = frozenset(("image", "label", "path", "repeat"))
    spans = tfrecord.value_spans(record, 0, len(record), wanted)
    assert {key: record[slice(*span)] for key, span in spans.items()} == {
        "image": b"12345678" * 30,
        "label": b"\x03",
        "path": b"a/b",
        "repeat": b"\x00",
    }
    for data in (record[: len(record) - 1 - cut], record + b"\x0a" * (cut + 1)):
        with pytest.raises(tfrecord.RecordError, match=r"not a tf\.train\.Example"):
            tfrecord.value_spans(data, 0, len(data), wanted)
    for position in range(len(record)):  # whatever a byte is, the spans lie in the record
        for value in (0, 0x0A, 0x7F, 0xFF):
            data = record[:position] + bytes([value]) + record[position + 1 :]
            try:
                spans = tfrecord.value_spans(data, 0, len(data), wanted)
            except tfrecord.RecordError:
                continue
            assert all(0 <= start <= end <= len(data) for start, end in spans.values())


def test_an_index_that_cannot_be_written_is_an_error_but_not_of_a_finished_build(made, out, monkeypatch):
    src, _, config = made
    shutil.rmtree(out / "index")

    def fail(path, data):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(indexing, "atomic_write", fail)
    with pytest.raises(OutputError, match="index cannot be written: Read-only file system"):
        index_folder(out)
    with pytest.warns(Notice, match=r"index could not be written \(Read-only file system\).*`octprep index"):
        result = build(src, out, config, workers=0)
    assert (result.built, result.index_written) == (False, False)
