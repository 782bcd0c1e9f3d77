"""The cache of datasets that lie on an S3 server: what is fetched, checked, kept and evicted."""

import hashlib
import json
import pickle
import subprocess
import sys

import pytest

from octprep.format import images_csv
from octprep.format.errors import ManifestError, OutputError
from octprep.format.manifest import Manifest
from octprep.interchange import export
from octprep.shards.records import read_records
from octprep.shards.remote_index import index_url
from octprep.storage import cache
from octprep.storage.cache import fetch_shards, open_dataset
from octprep.storage.remote import RemoteFolder
from tests.storage.conftest import put, set_cap, tables
from tests.worlds.runs import quiet


def fetched(store, place):
    """How often each object below a URL was fetched, without the manifest."""
    counts = store.requests("GET", f"{place.url.removeprefix('s3://')}/")
    return {key.split("/", 2)[2]: count for key, count in counts.items() if not key.endswith("manifest.json")}


def all_splits(place):
    folder = open_dataset(place)
    manifest = Manifest.load(folder)
    fetch_shards(place, folder, manifest, manifest.splits)
    return folder, manifest


def test_each_shard_is_fetched_once_for_all_epochs_and_runs(store, remote_shards, shards):
    mapped = pytest.importorskip("octtrain.data.mapped")
    for _ in range(2):
        images = mapped.MappedImages(str(remote_shards), "train")
        local = mapped.MappedImages(shards, "train")
        for _ in range(2):
            assert (images.gather(images.image_of) == local.gather(local.image_of)).all()
        assert images.paths == local.paths
    counts = fetched(store, remote_shards)
    train = {shard.name for shard in images.manifest.splits["train"]}
    assert {name for name in counts if name.endswith(".tfrecord")} == train, "and none of another split"
    assert set(counts.values()) == {1}


def test_opening_a_dataset_again_writes_nothing(store, remote_shards):
    """A file that is replaced lies there twice for a moment, and the cache may be full."""
    folder, _ = all_splits(remote_shards)
    before = {path: path.stat().st_ino for path in folder.rglob("*")}
    assert open_dataset(remote_shards) == folder
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == before


def test_processes_that_begin_at_once_fetch_each_object_once(store, remote_shards):
    code = "import sys; from octtrain import MappedImages; print(len(MappedImages(sys.argv[1], 'train')))"
    command = [sys.executable, "-c", code, str(remote_shards)]
    processes = [subprocess.Popen(command, stdout=-1, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == ["60\n"] * 2
    assert set(fetched(store, remote_shards).values()) == {1}


@pytest.mark.slow
def test_a_run_remembers_the_url_and_trains_and_evaluates_from_the_cache(store, remote_shards, tmp_path):
    pytest.importorskip("keras")
    from octtrain.config import FitConfig
    from octtrain.evaluation.evaluate import evaluate
    from octtrain.runs.run import Run
    from octtrain.training.fit import fit

    lines = []
    url, config = str(remote_shards), FitConfig(model="tests.worlds.networks:tiny", epochs=1, batch_size=16)
    fit(url, tmp_path / "run", config, log=lines.append, show_progress=False)
    assert lines[0].startswith(f"fetching 7 shards (0.0 GB) of {url} into {tmp_path / 'cache'}")
    assert Run.load(tmp_path / "run").shards == remote_shards
    evaluate(tmp_path / "run", log=lines.append)
    counts = fetched(store, remote_shards)
    assert {name: count for name, count in counts.items() if name.endswith(".tfrecord")} == {
        shard.name: 1 for of_split in Run.load(tmp_path / "run").manifest.splits.values() for shard in of_split
    }
    assert any(f"on test of {url} (dataset" in line for line in lines)


def test_of_a_damaged_object_nothing_is_kept(store, remote_shards):
    name = "train/00001-of-00006.tfrecord"
    data = remote_shards.read(name)
    remote_shards.write(name, data[:-1] + bytes([data[-1] ^ 1]))
    folder = open_dataset(remote_shards)
    with pytest.raises(ManifestError, match=rf"{remote_shards}/{name} has SHA-256 .* so nothing of it is used"):
        fetch_shards(remote_shards, folder, Manifest.load(folder), ["train"])
    assert not (folder / name).exists()
    assert not list(folder.rglob(".part-*"))
    remote_shards.write(name, data)
    fetch_shards(remote_shards, folder, Manifest.load(folder), ["train"])
    assert (folder / name).read_bytes() == data

    remote_shards.write("images.csv", b"path\n")
    (folder / "images.csv").unlink()
    with pytest.raises(ManifestError, match=r"images\.csv has another SHA-256 than the manifest says"):
        open_dataset(remote_shards)


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(store, remote_shards):
    folder, manifest = all_splits(remote_shards)
    before = fetched(store, remote_shards)
    damaged = folder / "val" / "00000-of-00001.tfrecord"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    (folder / "index" / "train.csv").write_bytes(b"")
    all_splits(remote_shards)
    after = fetched(store, remote_shards)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"val/00000-of-00001.tfrecord", "index/train.csv"}
    manifest.check_files(folder, tuple(manifest.splits))


def other_dataset(shards, place):
    """A second dataset: the same shards under a manifest of another seed."""
    raw = json.loads((shards / "manifest.json").read_bytes())
    raw["config"]["seed"] = 7
    put(shards, place)
    manifest = write_manifest(place, raw)
    for split in manifest.splits:
        index = (shards / "index" / f"{split}.csv").read_bytes()
        place.write(f"index/{split}.csv", index.replace(raw["digest"].encode(), manifest.digest.encode()))
    return place


def test_the_dataset_used_longest_ago_makes_room_unless_a_process_uses_it(store, remote_shards, shards, monkeypatch):
    other = other_dataset(shards, RemoteFolder(f"{remote_shards}-other"))
    with cache.holding():
        first, manifest = all_splits(remote_shards)
    size = sum(shard.bytes for of_split in manifest.splits.values() for shard in of_split)
    room = 1.5 * (size + sum(path.stat().st_size for path in first.rglob("*.csv")))
    monkeypatch.setenv("OCTPREP_CACHE_GB", str(room / 1e9))
    code = "import sys; from octprep.format.locks import hold_file; from pathlib import Path; "
    code += "hold_file(Path(sys.argv[1]), shared=True); print(flush=True); sys.stdin.read()"
    lock = str(first.with_suffix(".lock"))
    with subprocess.Popen([sys.executable, "-c", code, lock], stdin=-1, stdout=-1) as user:
        user.stdout.readline()
        with pytest.raises(OutputError, match=r"has no room for .* as what is in it is in use: wait for"):
            all_splits(other)
        assert (first / "train").is_dir()
        user.stdin.close()
    second, _ = all_splits(other)
    assert not first.exists()
    assert (second / "train").is_dir()

    monkeypatch.setenv("OCTPREP_CACHE_GB", str(size / 2e9))
    with pytest.raises(OutputError, match=r"needed at once have .* GB, and the cache .* set OCTPREP_CACHE_GB to"):
        all_splits(remote_shards)


def record_reader(url):
    records = read_records(url, "train")
    next(records)
    return records


def batches_of_tensorflow(url):
    pytest.importorskip("tensorflow")
    from octtrain.data.batches import training_batches

    return iter(training_batches(url, "train", batch_size=4).take(3))


def copy_by_pickle(url):
    return pickle.loads(pickle.dumps(mapped_images(url)))


def in_a_cycle(url):
    """As in the traceback of an error, or in a notebook's objects."""
    images = mapped_images(url)
    images.itself = images
    return images


def mapped_images(url):
    return pytest.importorskip("octtrain.data.mapped").MappedImages(url, "train")


@pytest.mark.parametrize(
    "reader_of",
    [
        mapped_images,
        copy_by_pickle,
        in_a_cycle,
        record_reader,
        pytest.param(batches_of_tensorflow, marks=pytest.mark.slow),
    ],
)
def test_what_is_read_is_in_the_cache_as_long_as_one_reader_is_referred_to(
    store, remote_shards, shards, monkeypatch, reader_of
):
    """A process that opens one dataset after the other does not fill the cache with those that it is done with."""
    other = other_dataset(shards, RemoteFolder(f"{remote_shards}-other"))
    manifest = Manifest.load(shards)
    needed = sum(shard.bytes for shard in manifest.splits["train"]) + tables(shards)
    set_cap(monkeypatch, 1.5 * needed)
    readers = [reader_of(str(remote_shards)) for _ in range(2)]
    folder = cache.cache_folder() / "datasets" / manifest.digest
    while readers:
        with pytest.raises(OutputError, match=r"as what is in it is in use"):
            reader_of(str(other))
        manifest.check_files(folder, ("train",))
        assert next(iter(readers.pop()))
    assert reader_of(str(other))
    assert not folder.exists()


def test_records_that_were_read_to_the_end_may_be_evicted(store, remote_shards):
    records = read_records(str(remote_shards), "train")
    assert held()
    assert len([*records]) == 60
    assert not held()


@pytest.mark.slow
def test_commands_that_ended_hold_nothing(store, remote_shards, tmp_path):
    """Also those that end with an error."""
    pytest.importorskip("keras")
    from octtrain.config import FitConfig
    from octtrain.evaluation.calibrate import calibrate
    from octtrain.evaluation.evaluate import evaluate
    from octtrain.training.fit import fit

    url, config = str(remote_shards), FitConfig(model="tests.worlds.networks:tiny", epochs=1, batch_size=16)
    held_at_first_epoch = []

    def log(line):
        if line.startswith("epoch"):
            held_at_first_epoch.extend(held())

    fit(url, tmp_path / "run", config, log=log, show_progress=False)
    assert {path.name for path in held_at_first_epoch} >= {"train.lock", "val.lock"}
    assert not held()
    calibrate(tmp_path / "run", log=quiet)
    assert not held()
    evaluate(tmp_path / "run", log=quiet)
    assert not held()
    export(url, tmp_path / "out", "webdataset", workers=0)
    assert not held()
    index_url(remote_shards)
    assert not held()
    with pytest.raises(OutputError):
        fit(url, tmp_path / "run", config, log=quiet, show_progress=False)
    assert not held()


def held():
    """The locks in the cache that this process or another holds."""
    locks = [*cache.cache_folder().glob("datasets/**/*.lock")]
    return [lock for lock in locks if cache._is_in_use(lock)]


@pytest.mark.parametrize("index", [None, b"", b"# octprep index 1; dataset of another"])
def test_without_an_index_that_fits_the_advice_names_the_url(store, remote_shards, index):
    mapped = pytest.importorskip("octtrain.data.mapped")
    remote_shards.delete(["index/train.csv"])
    if index is not None:
        remote_shards.write("index/train.csv", index)
    with pytest.raises(ManifestError) as caught:
        mapped.MappedImages(str(remote_shards), "train")
    assert str(caught.value).startswith(f"{remote_shards}/index/train.csv ")
    assert str(caught.value).endswith(f" with `octprep index {remote_shards}`.")
    assert str(cache.cache_folder()) not in str(caught.value)
    assert not held(), "although the error refers to what was read"


def test_a_table_that_is_damaged_at_the_url_is_named_by_the_url(store, remote_shards, shards):
    """Its SHA-256 is that of the manifest, so the cache takes it."""
    raw = json.loads((shards / "manifest.json").read_bytes())
    raw["images_sha256"] = hashlib.sha256(b"path\n").hexdigest()
    remote_shards.write("images.csv", b"path\n")
    manifest = write_manifest(remote_shards, raw)
    with pytest.raises(ManifestError, match=rf"^{remote_shards}/images\.csv is not a table that octprep wrote"):
        images_csv.read_checked(open_dataset(remote_shards), manifest)


def test_a_shard_that_is_damaged_at_the_url_is_named_by_the_url_and_one_in_the_cache_by_its_path(
    store, remote_shards, shards
):
    raw = json.loads((shards / "manifest.json").read_bytes())
    shard = raw["splits"]["val"][0]
    data = b"x" + (shards / shard["name"]).read_bytes()[1:]  # of the first record's length
    shard["sha256"] = hashlib.sha256(data).hexdigest()
    remote_shards.write(shard["name"], data)
    write_manifest(remote_shards, raw)
    with pytest.raises(ManifestError, match=rf"^{remote_shards}/{shard['name']}: "):
        next(read_records(str(remote_shards), "val"))
    with pytest.raises(ManifestError, match=rf"^{remote_shards}/{shard['name']}: "):
        index_url(remote_shards)

    records = read_records(str(remote_shards), "val")
    [path] = [*cache.cache_folder().rglob("val/*.tfrecord")]
    path.unlink()
    with pytest.raises(ManifestError, match=f"^{path}: No such file"):
        next(records)


def write_manifest(place, raw):
    """Write a manifest of other content to a URL; returns it. raw: its JSON."""
    digest = Manifest.from_json(raw, "", allow_edited=True).digest
    manifest = Manifest.from_json(raw | {"digest": digest}, "")
    place.write("manifest.json", manifest.to_bytes())
    return manifest


def test_a_url_without_a_manifest_is_not_a_dataset(store, place):
    place.write("train/00000-of-00001.tfrecord", b"x")
    with pytest.raises(ManifestError, match=r"has no manifest\.json, so it is not a finished folder"):
        open_dataset(place)
