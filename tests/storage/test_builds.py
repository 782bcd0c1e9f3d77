"""Builds from and to an S3 server: what they leave there, in which order, and what failures cost."""

import dataclasses
import json
import os
import signal
import subprocess
import threading

import numpy as np
import pytest

from octprep.format.errors import OctError, OutputError, SourceError, StoppedError
from octprep.inspection import inspect
from octprep.pipeline import build
from octprep.shards import uploads
from octprep.source.listing import list_source
from octprep.source.reading import read_scan
from octprep.storage import remote
from octprep.storage.cache import build_folder
from octprep.storage.remote import StorageError, location
from octprep.verification import verify
from tests.storage.conftest import put
from tests.worlds.builds import CONFIG, OPTIONS, octprep, wait_until
from tests.worlds.stores import Proxy
from tests.worlds.volume_files import dicom, drawn, reflectance, vol

OWN = (".prepared.gz", ".uploaded.json")  # they hold times of the source and of the objects


def content(place):
    return {name: place.read(name) for name in place.list()}


def local_content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def keys(store, place, method="PUT"):
    """The objects that were written or deleted below a URL, in order; without the marker of an upload."""
    folder = f"{place.url.removeprefix('s3://')}/"
    names = [key.removeprefix(folder) for verb, key in store.changes(folder) if verb == method]
    return [name for name in names if not name.startswith(".writing-")]


def test_a_build_from_and_to_urls_is_the_local_one_and_its_manifest_is_written_last(
    store, remote_source, place, shards, source
):
    result = build(str(remote_source), str(place), CONFIG, workers=2)
    local, there = local_content(shards), content(place)
    assert set(there) - set(local) == {".uploaded.json"}
    assert {name: there[name] for name in local if name not in OWN} == {
        name: data for name, data in local.items() if name not in OWN
    }
    written = keys(store, place)
    assert written[-2:] == [".uploaded.json", "manifest.json"]
    assert sorted(written) == sorted(there)
    assert not build_folder(place).exists()
    assert result.built
    assert not verify(str(place), workers=0).violations
    assert inspect(str(remote_source), quick=True, workers=0).scans == inspect(source, quick=True, workers=0).scans

    reads = store.requests("GET", "/source/")
    again = build(remote_source, place, CONFIG, workers=0)
    assert (again.built, again.manifest, again.counts) == (False, result.manifest, result.counts)
    assert keys(store, place) == written
    assert store.requests("GET", "/source/") == reads
    with pytest.raises(OutputError, match=r"is finished, but with other settings: seed 0 there, 1 now"):
        build(remote_source, place, dataclasses.replace(CONFIG, seed=1), workers=0)


def test_bscans_in_volumes_at_a_url_are_those_of_a_folder(place, tmp_path):
    pytest.importorskip("pydicom")
    for label in ("CNV", "NORMAL"):
        for name, data in (("a.dcm", dicom(drawn(label))), ("b.vol", vol(reflectance(drawn(f"{label} b"))))):
            path = tmp_path / label / "p1" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    put(tmp_path, place)
    here, there = list_source(tmp_path), list_source(place)
    assert len(here.scan_files) == 12
    assert there.scan_files == here.scan_files
    for mine, other in zip(here.scan_files, there.scan_files, strict=True):
        scan, pixels, _ = read_scan(place, other)
        assert scan == read_scan(tmp_path, mine)[0]
        assert np.array_equal(pixels, read_scan(tmp_path, mine)[1])


def test_a_url_lists_the_same_files_as_a_folder(store, remote_source, source):
    there, here = list_source(remote_source), list_source(source)
    assert there.scan_files == here.scan_files
    assert there.exclusions == here.exclusions
    assert there.listing_sha256 == here.listing_sha256


def test_an_object_that_changed_since_it_was_listed_stops_and_is_not_excluded(store, place, source):
    names = [f"train/CNV/CNV-1-{number}.jpeg" for number in (1, 2, 3)]
    data = next((source / "train" / "CNV").glob("CNV-*-1.jpeg")).read_bytes()
    for name in names:
        place.write(name, data)
    same, changed, gone = list_source(place).scan_files
    place.write(changed.path, data[:-1] + b"\0")  # of the same size, and often in the same second
    place.delete([gone.path])
    assert read_scan(place, same)[0].sha256
    with pytest.raises(StoppedError, match="has another size, content or time of change"):
        read_scan(place, changed)
    with pytest.raises(StoppedError, match="is gone, so it is not the file that was listed"):
        read_scan(place, gone)


@pytest.fixture
def proxy(store, monkeypatch, request):
    way = Proxy(store, *getattr(request, "param", ()))
    monkeypatch.setenv("AWS_ENDPOINT_URL", way.environment["AWS_ENDPOINT_URL"])
    remote._open.cache_clear()
    yield way
    way.stop()


def test_a_server_that_cannot_be_reached_for_a_while_costs_nothing(proxy, remote_source, place, shards, monkeypatch):
    def close_way(stage, done, total):
        if stage == "comparing scans":  # the sources are read, and the shards not yet uploaded
            proxy.close_way()

    monkeypatch.setenv("OCTPREP_RETRY_SECONDS", "0")
    with pytest.raises(StorageError, match="the store does not answer, or fails"):
        build(remote_source, place, CONFIG, workers=0, progress=close_way)

    monkeypatch.delenv("OCTPREP_RETRY_SECONDS")
    opening = threading.Timer(2.5, proxy.open_way)
    opening.start()
    result = build(remote_source, place, CONFIG, workers=0)
    opening.join()
    assert place.read("manifest.json") == (shards / "manifest.json").read_bytes()
    assert result.built


@pytest.mark.parametrize("proxy", [("/train/", 6)], indirect=True)
def test_a_killed_upload_is_resumed_and_sends_nothing_twice(proxy, store, source, place, shards):
    command = octprep("build", "--src", source, "--out", place, *OPTIONS, "--workers", "0")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    assert proxy.held.wait(60)
    notes = build_folder(place) / "uploaded.jsonl"
    wait_until(lambda: notes.read_text().count("\n") >= 2, process)  # four are under way, and this is the sixth
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    noted = [json.loads(line)[0] for line in notes.read_text().splitlines()]
    assert len(noted) >= 2
    assert "manifest.json" not in keys(store, place)

    done = subprocess.run(command, env=os.environ | store.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = keys(store, place)
    assert written[-1] == "manifest.json"
    assert [written.count(name) for name in noted] == [1] * len(noted)
    assert not build_folder(place).exists()


def test_of_two_uploads_to_one_url_one_is_refused_until_the_other_has_been_silent(
    store, source, place, shards, monkeypatch
):
    other = f".writing-{'0' * 32}.json"
    place.write(other, b"")
    with pytest.raises(
        OutputError, match=f"another octprep build is writing to {place}: {other} there is less than 10"
    ):
        build(source, place, CONFIG, workers=0)
    assert [*place.list()] == [other]
    monkeypatch.setattr(uploads, "_MARKER_SECONDS", -5)  # as if it had been written long ago
    build(source, place, CONFIG, workers=0)
    assert place.read("manifest.json") == (shards / "manifest.json").read_bytes()
    assert not [name for name in place.list() if name.startswith(".writing-")]


@pytest.mark.parametrize(
    ("name", "message"),
    [(f".writing-{'0' * 32}.json", "another octprep build is writing"), ("images.csv", "images.csv was changed after")],
)
def test_an_upload_that_another_one_disturbs_writes_no_manifest(store, source, place, monkeypatch, name, message):
    def disturb(stage, done, total):
        if stage == "uploading files" and done == 1:
            sent.append(stage)
            if len(sent) == total:
                place.write(name, b"of another build")

    sent = []
    with pytest.raises(OctError, match=message):
        build(source, place, CONFIG, workers=0, progress=disturb)
    assert "manifest.json" not in place.list()
    place.delete([name])
    assert build(source, place, CONFIG, workers=0).built
    assert not verify(place, workers=0).violations


def test_with_overwrite_the_old_manifest_goes_first_and_then_its_shards(store, source, remote_shards):
    other = dataclasses.replace(CONFIG, shard_mb=1.0)
    with pytest.raises(OutputError, match="is finished, but with other settings"):
        build(source, remote_shards, other, workers=0)
    result = build(source, remote_shards, other, workers=0, overwrite=True)
    names = {shard.name for of_split in result.manifest.splits.values() for shard in of_split}
    assert {name for name in remote_shards.list() if name.endswith(".tfrecord")} == names
    folder = f"{remote_shards.url.removeprefix('s3://')}/"
    changes = store.changes(folder)
    first = changes.index(("DELETE", f"{folder}manifest.json"))
    after = [key for verb, key in changes[first + 1 :] if verb == "PUT"]
    assert after[-1] == f"{folder}manifest.json"
    assert all(("PUT", f"{folder}{name}") in changes[first + 1 :] for name in names)
    assert not verify(remote_shards, workers=0).violations


def test_damaged_objects_are_built_again_and_only_they_are_sent(store, source, place, shards, tmp_path):
    work = tmp_path / "work"
    build(source, place, CONFIG, work=work, workers=0)
    assert (work / "shards" / "manifest.json").exists(), "a folder that was named is kept"
    data = place.read("train/00001-of-00006.tfrecord")
    place.write("train/00001-of-00006.tfrecord", data[:-1] + bytes([data[-1] ^ 1]))
    place.delete(["val/00000-of-00001.tfrecord"])
    assert {violation.check for violation in verify(place, workers=0).violations} == {5}
    before = len(keys(store, place))
    with pytest.warns(match=r"was damaged: train/00001-of-00006.tfrecord has SHA-256 .* and val/00000.* is missing"):
        result = build(source, place, CONFIG, work=work, workers=0)
    sent = [name for name in keys(store, place)[before:] if name.endswith(".tfrecord")]
    assert sorted(sent) == ["train/00001-of-00006.tfrecord", "val/00000-of-00001.tfrecord"]
    assert result.built
    assert not verify(place, workers=0).violations


def test_what_octprep_did_not_write_is_left_alone(store, source, place):
    place.write("thesis.pdf", b"x")
    with pytest.raises(OutputError, match=r"holds objects that octprep did not write, such as thesis\.pdf"):
        build(source, place, CONFIG, workers=0, overwrite=True)
    assert list(place.list()) == ["thesis.pdf"]


def test_a_wrong_address_is_one_sentence(store, place, monkeypatch):
    with pytest.raises(SourceError, match="holds nothing; give the folder that holds train/"):
        list_source(place)
    with pytest.raises(StorageError, match="there is no such bucket"):
        list_source(location("s3://no-such-bucket/scans"))
    with pytest.raises(OutputError, match="lie one inside the other"):
        build(place, place / "out", CONFIG)
    monkeypatch.setenv("OCTPREP_RETRY_SECONDS", "0")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    remote._open.cache_clear()
    with pytest.raises(StorageError, match="the store does not answer, or fails"):
        list_source(place)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    remote._open.cache_clear()
    with pytest.raises(StorageError, match=r"access was denied .*Check the credentials"):
        list_source(place)
