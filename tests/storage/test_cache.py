"""The cache of datasets that lie on an S3 server: what is fetched, checked, kept and evicted."""

import json
import subprocess
import sys

import pytest

from octprep.format.errors import ManifestError, OutputError
from octprep.format.manifest import Manifest
from octprep.storage import cache
from octprep.storage.cache import fetch_shards, open_dataset
from octprep.storage.remote import RemoteFolder
from tests.storage.conftest import put


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
    manifest = Manifest.from_json(raw, "", allow_edited=True)
    put(shards, place)
    place.write("manifest.json", Manifest.from_json(raw | {"digest": manifest.digest}, "").to_bytes())
    return place


def test_the_dataset_used_longest_ago_makes_room_unless_a_process_uses_it(store, remote_shards, shards, monkeypatch):
    other = other_dataset(shards, RemoteFolder(f"{remote_shards}-other"))
    first, manifest = all_splits(remote_shards)
    size = sum(shard.bytes for of_split in manifest.splits.values() for shard in of_split)
    room = 1.5 * (size + sum(path.stat().st_size for path in first.rglob("*.csv")))
    monkeypatch.setenv("OCTPREP_CACHE_GB", str(room / 1e9))
    cache.release()
    code = "import sys; from octprep.format.locks import hold_file; from pathlib import Path; "
    code += "hold_file(Path(sys.argv[1]), shared=True); print(flush=True); sys.stdin.read()"
    lock = str(first.with_suffix(".lock"))
    with subprocess.Popen([sys.executable, "-c", code, lock], stdin=-1, stdout=-1) as user:
        user.stdout.readline()
        with pytest.raises(OutputError, match=r"has no room for .* as other processes use what is in it"):
            all_splits(other)
        assert (first / "train").is_dir()
        user.stdin.close()
    second, _ = all_splits(other)
    assert not first.exists()
    assert (second / "train").is_dir()

    monkeypatch.setenv("OCTPREP_CACHE_GB", str(size / 2e9))
    with pytest.raises(OutputError, match=r"needed at once have .* GB, and the cache .* set OCTPREP_CACHE_GB to"):
        all_splits(remote_shards)


def test_a_url_without_a_manifest_is_not_a_dataset(store, place):
    place.write("train/00000-of-00001.tfrecord", b"x")
    with pytest.raises(ManifestError, match=r"has no manifest\.json, so it is not a finished folder"):
        open_dataset(place)
