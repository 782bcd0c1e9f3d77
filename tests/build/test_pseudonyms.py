"""`octprep build --pseudonyms`: no published byte holds a patient id, and the same key gives the same pseudonyms."""

import base64
import dataclasses
import gzip
import itertools
import json
import re
import shutil
import zlib

import pytest

import octprep
from octprep.console import certificate, verification_summary
from octprep.format.config import BuildConfig
from octprep.format.errors import LeakError, Notice, OutputError, SettingError, SourceError
from octprep.format.images_csv import decode
from octprep.format.manifest import PREPARED_NAME, Manifest
from octprep.pipeline import build
from octprep.report import write_report
from octprep.source.pseudonyms import Pseudonyms
from octprep.splits.split_file import SplitFile
from tests.worlds.archive import files_of, write_folder, write_scan
from tests.worlds.builds import damage

# Ids that are no number which a build writes by chance.
IDS = [f"73519{index:02d}846" for index in range(14)]
CONFIG = BuildConfig(shard_mb=0.02)


def names():
    """Scans of six patients in train and two in test of each of two classes, and of one in both folders."""
    for index, patient in enumerate(IDS[:12]):
        folder, label = ("train" if index < 8 else "test"), ("CNV", "NORMAL")[index % 2]
        yield from (f"{folder}/{label}-{patient}-{number}" for number in range(1, 3))
    yield from (f"{folder}/CNV-{IDS[12]}-{number}" for number, folder in ((1, "train"), (2, "test")))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A source with near-duplicates, damaged and other files, a key, and shards with pseudonyms."""
    folder = tmp_path_factory.mktemp("pseudonyms")
    source = write_folder(folder / "source" / IDS[13], names())  # a folder named after a patient
    write_scan(source / f"train/CNV/CNV-{IDS[0]}-9.jpeg", key=f"train/CNV-{IDS[2]}-1")  # the scan of another
    write_scan(source / f"train/CNV/CNV-{IDS[1]}-8.jpeg", key=f"train/CNV-{IDS[2]}-1", quality=60)
    (source / f"train/CNV/CNV-{IDS[4]}-7.jpeg").write_bytes(b"no image")
    (source / f"train/CNV/{IDS[5]}.{IDS[5][:5]}").touch()
    write_scan(source / f"train/NORMAL/CNV-{IDS[6]}-7.jpeg")
    (source / f"about {IDS[7]}.txt").touch()
    (folder / "key").write_bytes(b"0123456789abcdef" * 2)
    build(folder / "source", folder / "shards", CONFIG, workers=1, pseudonyms=folder / "key")
    return folder


def contents(folder):
    """All bytes that can be read out of a folder: files, their names, and what is compressed or encoded in them."""
    for path in folder.rglob("*"):
        yield path.relative_to(folder).as_posix().encode()
        if path.is_file():
            data = path.read_bytes()
            yield data
            if path.suffix == ".gz":
                yield gzip.decompress(data)
            for encoded in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data):
                yield base64.b64decode(encoded)
            for start in re.finditer(rb"x[\x01\x9c\xda]", data):
                try:
                    yield zlib.decompressobj().decompress(data[start.start() :], 10_000_000)
                except zlib.error:
                    continue


def holds_ids(folder):
    return {patient for data in contents(folder) for patient in IDS if patient.encode() in data}


def test_no_published_byte_holds_a_patient_id(world, tmp_path):
    assert holds_ids(world / "shards") == set()
    assert not (world / "shards" / PREPARED_NAME).exists()
    build(world / "source", tmp_path / "shards", CONFIG, workers=1)
    assert holds_ids(tmp_path / "shards") == set(IDS)  # so the search finds them where they are


def test_a_folder_that_held_ids_holds_none_after_it_is_built_with_pseudonyms(world, tmp_path):
    shutil.copytree(world / "source", tmp_path / "source")
    build(tmp_path / "source", tmp_path / "shards", CONFIG, workers=1)
    with pytest.raises(OutputError, match=r"no pseudonyms there, pseudonyms of the key [0-9a-f]{16} now"):
        build(tmp_path / "source", tmp_path / "shards", CONFIG, workers=1, pseudonyms=world / "key")
    build(tmp_path / "source", tmp_path / "shards", CONFIG, workers=1, pseudonyms=world / "key", overwrite=True)
    assert holds_ids(tmp_path / "shards") == set()
    assert files_of(tmp_path / "shards") == files_of(world / "shards")


def test_a_build_that_was_interrupted_without_pseudonyms_leaves_no_ids_when_it_is_resumed_with_them(world, tmp_path):
    class Stopped(Exception):
        pass

    def stop(stage, done, total):
        if stage == "writing the report":  # when all else is in the work folder
            raise Stopped

    with pytest.raises(Stopped):
        build(world / "source", tmp_path / "shards", CONFIG, workers=1, progress=stop)
    assert holds_ids(tmp_path / "shards")
    build(world / "source", tmp_path / "shards", CONFIG, workers=1, pseudonyms=world / "key")
    assert holds_ids(tmp_path / "shards") == set()
    assert files_of(tmp_path / "shards") == files_of(world / "shards")


def test_what_verify_checks_holds_and_counts_are_those_without_pseudonyms(world, tmp_path):
    verified = octprep.verify(world / "shards")
    assert verified.violations == ()
    key = f"patient ids are pseudonyms of the key {Pseudonyms.load(world / 'key').fingerprint}"
    assert key in certificate(verified) and key in verification_summary(world / "shards", verified)
    plain = build(world / "source", tmp_path / "shards", CONFIG, workers=1).manifest
    hidden = Manifest.load(world / "shards")
    assert {key: hidden.source[key] for key in ("found", "kept", "excluded")} == {
        key: plain.source[key] for key in ("found", "kept", "excluded")
    }
    tables = [decode((folder / "images.csv").read_bytes()) for folder in (world / "shards", tmp_path / "shards")]
    of_content = [{(row.sha256, row.image_number): row for row in table.scans} for table in tables]
    assert of_content[0].keys() == of_content[1].keys()
    for key, row in of_content[0].items():
        before = of_content[1][key]
        assert (row.label, row.image_number, row.measurements) == (
            before.label, before.image_number, before.measurements
        )  # fmt: skip
        assert re.fullmatch("[0-9]{18}", row.patient)
    groups = [{key: row.patient_group for key, row in table.items()} for table in of_content]
    for key, other in itertools.product(groups[0], repeat=2):
        assert (groups[0][key] == groups[0][other]) == (groups[1][key] == groups[1][other])
    pairs = json.loads((world / "shards" / "duplicates.json").read_text())["pairs"]
    assert len(pairs) == len(json.loads((tmp_path / "shards" / "duplicates.json").read_text())["pairs"]) > 0


def test_the_key_alone_decides_the_pseudonyms(world, tmp_path):
    again = build(world / "source", tmp_path / "again", CONFIG, workers=2, pseudonyms=world / "key").manifest
    assert again.digest == Manifest.load(world / "shards").digest
    assert files_of(tmp_path / "again") == files_of(world / "shards")
    (tmp_path / "key").write_bytes(b"another key of more than 32 bytes")
    other = build(world / "source", tmp_path / "other", CONFIG, workers=1, pseudonyms=tmp_path / "key").manifest
    assert other.digest != again.digest and other.pseudonym_key != again.pseudonym_key
    ids = [
        {(row.sha256, row.image_number): row.patient for row in decode((folder / "images.csv").read_bytes()).scans}
        for folder in (tmp_path / "again", tmp_path / "other")
    ]
    assert not set(ids[0].values()) & set(ids[1].values())
    # a part of the source: the same patients have the same pseudonyms
    part = tmp_path / "part"
    shutil.copytree(world / "source" / IDS[13], part)
    shutil.rmtree(part / "test")
    config = dataclasses.replace(CONFIG, split="by-patient", fractions=(0.5, 0.25, 0.25))
    build(part, tmp_path / "parts", config, workers=1, pseudonyms=world / "key")
    for row in decode((tmp_path / "parts" / "images.csv").read_bytes()).scans:
        assert row.patient == ids[0][row.sha256, row.image_number]
    key = (world / "key").read_bytes()
    assert not any(key in data or key.hex().encode() in data for data in contents(world / "shards"))


def test_a_finished_folder_is_kept_repaired_and_refuses_another_key(world, tmp_path, recwarn):
    shutil.copytree(world / "shards", tmp_path / "shards")
    result = build(world / "source", tmp_path / "shards", CONFIG, workers=1, pseudonyms=world / "key")
    assert not result.built and not recwarn.list
    (tmp_path / "key").write_bytes(b"another key of more than 32 bytes")
    with pytest.raises(OutputError, match=r"finished, but with other settings: pseudonyms of the key .* there, pseudo"):
        build(world / "source", tmp_path / "shards", CONFIG, workers=1, pseudonyms=tmp_path / "key")
    with pytest.raises(OutputError, match=r"pseudonyms of the key [0-9a-f]{16} there, no pseudonyms now"):
        build(world / "source", tmp_path / "shards", CONFIG, workers=1)
    shard = next((tmp_path / "shards" / "train").glob("*.tfrecord"))
    damage(shard, "flip")
    (tmp_path / "shards" / "report.html").unlink()
    with pytest.warns(Notice, match="was damaged"):
        build(world / "source", tmp_path / "shards", CONFIG, workers=1, pseudonyms=world / "key")
    assert files_of(tmp_path / "shards") == files_of(world / "shards")


def test_a_changed_file_is_noticed_under_its_pseudonym(world, tmp_path):
    shutil.copytree(world / "source", tmp_path / "source")
    shutil.copytree(world / "shards", tmp_path / "shards")
    changed = tmp_path / "source" / IDS[13] / "train" / "CNV" / f"CNV-{IDS[0]}-1.jpeg"
    size = changed.stat().st_size
    data = bytearray(changed.read_bytes())
    data[-40] ^= 1
    changed.write_bytes(bytes(data))
    assert changed.stat().st_size == size
    changed_notice = pytest.warns(Notice, match="1 source file changed")
    with pytest.warns(Notice, match="another dataset than before"), changed_notice:
        build(tmp_path / "source", tmp_path / "shards", CONFIG, workers=1, pseudonyms=world / "key")
    assert holds_ids(tmp_path / "shards") == set()


@pytest.mark.parametrize("key", ["path", "patient"])
def test_a_split_file_names_the_ids_of_the_source(world, tmp_path, key):
    source = world / "source" / IDS[13]
    paths = [path.relative_to(source).as_posix() for path in source.rglob("CNV/CNV-*-[12].jpeg")]
    paths += [path.relative_to(source).as_posix() for path in source.rglob("NORMAL/NORMAL-*-[12].jpeg")]
    split_of = {patient: ("train", "val", "test")[index // 2 % 3] for index, patient in enumerate(IDS)}
    split_of[IDS[1]] = split_of[IDS[2]] = split_of[IDS[0]]  # whose scans are the same
    by_path = {path: split_of[path.split("-")[1]] for path in paths}
    splits = by_path if key == "path" else {patient: split_of[patient] for patient in IDS[:13]}
    split_file = SplitFile(key, splits)
    config = dataclasses.replace(CONFIG, split="file", split_file_sha256=split_file.sha256)
    result = build(source, tmp_path / "s", config, split_file=split_file, workers=1, pseudonyms=world / "key")
    assert result.manifest.config.split_file_sha256 != split_file.sha256
    assert set(result.counts.images) == {"train", "val", "test"}
    assert holds_ids(tmp_path / "s") == set()


def test_a_key_that_is_short_missing_or_would_be_published_is_an_error(world, tmp_path):
    (tmp_path / "short").write_bytes(b"x" * 31)
    for file, message in (
        (tmp_path / "short", r"has 31 bytes, and a key needs 32 .* `head -c 32 /dev/urandom"),
        (tmp_path / "none", "cannot be read: No such file"),
        (tmp_path / "out" / "key", "cannot be read|lies in"),
    ):
        with pytest.raises(SettingError, match=message):
            build(world / "source", tmp_path / "out", CONFIG, workers=1, pseudonyms=file)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "key").write_bytes(b"x" * 32)
    with pytest.raises(SettingError, match=r"lies in .*out; keep the key elsewhere"):
        build(world / "source", tmp_path / "out", CONFIG, workers=1, pseudonyms=tmp_path / "out" / "key")


def test_a_leak_is_reported_by_the_ids_that_the_user_knows(world, tmp_path):
    config = dataclasses.replace(CONFIG, split="as-given")
    with pytest.raises(LeakError, match=IDS[12]):
        build(world / "source", tmp_path / "out", config, workers=1, pseudonyms=world / "key")
    assert not (tmp_path / "out").exists()


def test_the_report_of_such_shards_cannot_be_written_from_the_source_later(world, tmp_path):
    shutil.copytree(world / "shards", tmp_path / "shards")
    with pytest.raises(SourceError, match=r"built with pseudonyms.*--without-source"):
        write_report(tmp_path / "shards", world / "source")
    write_report(tmp_path / "shards", without_source=True)
