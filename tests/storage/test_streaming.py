"""Trainings on datasets at a URL that are larger than the cache may be: shards are fetched as they are read."""

import dataclasses
import os
import shutil
import threading
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

import keras

from octprep.format.errors import ManifestError, OutputError, SettingError
from octprep.format.locks import hold_file
from octprep.format.manifest import Manifest
from octprep.interchange import export
from octprep.shards.records import read_records
from octprep.storage import cache
from octprep.storage.cache import ShardStream, fetch_or_stream, open_dataset
from octprep.storage.remote import RemoteFolder
from octtrain.config import FitConfig
from octtrain.data import stream
from octtrain.data.batches import training_batches
from octtrain.evaluation.calibrate import calibrate
from octtrain.evaluation.evaluate import evaluate
from octtrain.experiments.crossval.experiment import crossval
from octtrain.runs.run import Run
from octtrain.training.fit import fit
from tests.storage.conftest import BUCKET, put, put_on, set_cap, tables
from tests.worlds.archive import files_of
from tests.worlds.runs import metrics_of, quiet
from tests.worlds.shards import write_shards

pytestmark = pytest.mark.slow

CONFIG = FitConfig(model="tests.worlds.networks:tiny", epochs=2, batch_size=16, patience=0, seed=3, feed="stream")
SHARDS = 24


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A local folder: 24 shards of 8 or 9 images to train on, 24 of 1 or 2 to validate; and its manifest."""
    folder = tmp_path_factory.mktemp("large") / "shards"
    manifest, _ = write_shards(folder, {"train": 49, "val": 8}, shards=SHARDS)
    (folder / "duplicates.json").touch()
    return folder, manifest


@pytest.fixture(scope="module")
def place(server, large):
    """Its URL. Only to be read."""
    return put_on(server, large[0], RemoteFolder(f"s3://{BUCKET}/large"))


def size_of(manifest, *splits):
    return sum(shard.bytes for split in splits for shard in manifest.splits[split])


class Watch:
    """The largest size that the files of a folder had together, looked at every few ms while the block runs."""

    def __init__(self, folder):
        self.folder, self.most, self._ended = folder, 0, threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _look(self):
        while not self._ended.wait(0.004):
            self.most = max(self.most, cache._size(self.folder))


def weights(folder):
    return keras.models.load_model(folder / "model.keras").get_weights()


def fetched(store, place):
    """How often each shard at a URL was fetched."""
    counts = store.requests("GET", f"{place.url.removeprefix('s3://')}/")
    return {key.split("/", 2)[2]: count for key, count in counts.items() if key.endswith(".tfrecord")}


def test_a_training_larger_than_the_cache_is_that_of_a_local_folder(store, place, large, tmp_path, monkeypatch):
    """Also one that is resumed."""
    folder, manifest = large
    before = fetched(store, place)
    train, val = size_of(manifest, "train"), size_of(manifest, "val")
    cap = tables(folder) + val + 20 * train // SHARDS
    set_cap(monkeypatch, cap)
    lines = []
    with Watch(tmp_path / "cache") as watch:
        fit(str(place), tmp_path / "run", CONFIG, epochs=1, log=lines.append, show_progress=False)
        fit(str(place), tmp_path / "run", resume=True, epochs=2, log=lines.append, show_progress=False)
    assert cap / 2 < watch.most <= cap
    assert lines[0].startswith(
        f"train of {place} has {train / 1e9:.3g} GB, and the cache may have {cap / 1e9:.3g} GB: shards are fetched as "
        f"they are read, up to {train / 1e9:.3g} GB in the first pass, and at least"
    )
    assert lines[1].startswith(f"fetching {SHARDS} shards"), "val has room"
    assert any(line.startswith(f"feed: stream, train of {place} has") for line in lines)
    fit(folder, tmp_path / "local", CONFIG, log=quiet, show_progress=False)
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "local")
    assert all((a == b).all() for a, b in zip(weights(tmp_path / "run"), weights(tmp_path / "local"), strict=True))
    counts = {name: count - before.get(name, 0) for name, count in fetched(store, place).items()}
    assert {counts[shard.name] for shard in manifest.splits["val"]} == {1}
    of_train = [counts[shard.name] for shard in manifest.splits["train"]]
    assert min(of_train) == 1
    assert SHARDS + 4 <= sum(of_train) < 2 * SHARDS, "what is kept of an epoch is used in the next"

    # Calibrated and evaluated with a cache that has no room for val either.
    cap = tables(folder) + val // 2
    set_cap(monkeypatch, cap)
    shutil.rmtree(tmp_path / "cache")
    with Watch(tmp_path / "cache") as watch:
        streamed = calibrate(tmp_path / "run", log=quiet).frozen
        evaluate(tmp_path / "run", "val", log=lines.append)
    assert watch.most <= cap
    assert any(line.startswith(f"val of {place} has {val / 1e9:.3g} GB") for line in lines)
    local = calibrate(tmp_path / "local", log=quiet).frozen
    evaluate(tmp_path / "local", "val", log=quiet)
    assert streamed == dataclasses.replace(local, model_sha256=streamed.model_sha256), "of the same features of train"
    predictions = [(tmp_path / name / "predictions-val.csv").read_bytes() for name in ("run", "local")]
    assert predictions[0] == predictions[1]


def damaged(place, name):
    data = place.read(name)
    place.write(name, data[:-1] + bytes([data[-1] ^ 1]))


def test_a_damaged_object_ends_the_training_with_one_sentence(store, large, tmp_path, monkeypatch, capfd):
    folder, manifest = large
    place = RemoteFolder(f"s3://{BUCKET}/damaged")
    put(folder, place)
    set_cap(monkeypatch, tables(folder) + size_of(manifest, "val") + 20 * size_of(manifest, "train") // SHARDS)
    name = manifest.splits["train"][5].name
    damaged(place, name)
    with pytest.raises(ManifestError) as caught:
        fit(str(place), tmp_path / "run", CONFIG, log=quiet, show_progress=False)
    assert str(caught.value).startswith(f"{place}/{name} has SHA-256")
    assert str(caught.value).endswith("so nothing of it is used. Repair it by the `octprep build` that made it.")
    assert not [*(tmp_path / "cache").rglob(f"train/*{Path(name).name}")]
    assert "Traceback" not in capfd.readouterr().err


def test_a_cache_too_small_for_the_shards_read_at_once_is_refused_with_the_size_needed(
    store, place, large, tmp_path, monkeypatch
):
    folder, manifest = large
    largest = sorted((shard.bytes for of in manifest.splits.values() for shard in of), reverse=True)[:8]
    needed = tables(folder) + sum(largest)
    set_cap(monkeypatch, needed - 1)
    with pytest.raises(OutputError, match=r"too little for the 8 shards that are read at the same time: set") as caught:
        fit(str(place), tmp_path / "run", CONFIG, log=quiet, show_progress=False)
    assert f"OCTPREP_CACHE_GB to more than {needed / 1e9:.3g}, or better" in str(caught.value)
    assert not [*(tmp_path / "cache").rglob("*.tfrecord")]

    set_cap(monkeypatch, needed)
    with pytest.raises(SettingError, match=r"--feed mapped needs all shards at once, but train and val of s3:.* have"):
        fit(str(place), tmp_path / "mapped", CONFIG, feed="mapped", log=quiet, show_progress=False)


def streamed(place, at_once):
    folder = open_dataset(place)
    manifest = Manifest.load(folder)
    _, streaming = fetch_or_stream(place, folder, manifest, ["train"], at_once)
    return folder, manifest, streaming


def test_a_shard_that_is_read_is_not_removed_by_this_process_or_another(store, place, large, monkeypatch):
    folder, manifest = large
    shards = manifest.splits["train"]
    set_cap(monkeypatch, tables(folder) + 3 * max(shard.bytes for shard in shards))
    cached, _, streaming = streamed(place, 2)
    order = [cached / shard.name for shard in shards]
    remote = ShardStream(streaming)
    kept = remote.get(order, 0)
    other = hold_file(remote.get(order, 1), shared=True)  # as another process does
    remote.release(order[1])
    for index in range(2, 8):
        remote.release(remote.get(order, index))
        assert kept.exists()
        assert order[1].exists()
        assert sum(path.exists() for path in order) <= 3
    with ShardStream(streaming) as second, pytest.raises(OutputError, match=r"no room .* as what is in it is in use"):
        for index in range(8, 12):
            second.get(order, index)
    os.close(other)
    remote.close()
    with ShardStream(streaming) as third:
        for index in range(12, 15):
            third.release(third.get(order, index))
    assert not kept.exists()
    with pytest.raises(OutputError, match="ended"):
        third.get(order, 15)


def test_shards_of_a_split_that_was_fetched_as_a_whole_are_not_removed(store, place, large, monkeypatch):
    folder, manifest = large
    cached = open_dataset(place)
    cache.fetch_shards(place, cached, manifest, ["val"])
    largest = max(shard.bytes for shard in manifest.splits["train"])
    set_cap(monkeypatch, tables(folder) + size_of(manifest, "val") + 2 * largest)
    _, _, streaming = streamed(place, 2)
    with ShardStream(streaming) as remote:
        order = [cached / shard.name for shard in manifest.splits["train"]]
        for index in range(len(order)):
            remote.release(remote.get(order, index))
    manifest.check_files(cached, ("val",))


@pytest.mark.parametrize("ahead", [0, 1, 8])
def test_the_order_is_that_of_local_files_whatever_is_fetched_ahead(store, place, large, monkeypatch, ahead):
    folder, manifest = large
    least = sum(sorted((shard.bytes for shard in manifest.splits["train"]), reverse=True)[: 8 + (ahead and ahead + 3)])
    set_cap(monkeypatch, tables(folder) + least)
    cached, _, streaming = streamed(place, stream.PARALLEL_SHARDS)
    assert streaming.ahead == ahead

    local = images_of(stream.training_batches(folder, batch_size=5, seed=4, epochs=range(1, 2)))
    with ShardStream(streaming) as remote, Watch(cached.parent) as watch:
        batches = stream.training_batches(cached, batch_size=5, seed=4, epochs=range(1, 2), remote=remote)
        assert images_of(batches) == local
        assert not remote._held
    assert watch.most <= tables(folder) + least
    with ShardStream(streaming) as remote:
        passed = images_of(stream.batches(cached, "train", remote=remote))
        assert passed == images_of(stream.batches(folder, "train"))


def images_of(batches):
    return [images.numpy().tobytes() for images, *_ in batches]


def test_the_readers_of_python_fetch_the_shards_of_a_split_larger_than_the_cache_as_they_read(
    store, place, large, tmp_path, monkeypatch
):
    folder, manifest = large
    set_cap(monkeypatch, cap := tables(folder) + 10 * size_of(manifest, "train") // SHARDS)
    with Watch(tmp_path / "cache") as watch:
        records = [(record.path, record.image) for record in read_records(str(place), "train")]
        monkeypatch.setattr(stream, "SHUFFLE_BYTES", 8000)
        batches = training_batches(str(place), batch_size=5, seed=4, epochs=range(2))
        for _ in range(2):
            assert len([*batches.take(3)]) == 3, "and passes that are given up hold no shards"
        passed = images_of(batches)
    assert cap / 2 < watch.most <= cap
    assert records == [(record.path, record.image) for record in read_records(folder, "train")]
    assert passed == images_of(stream.training_batches(folder, batch_size=5, seed=4, epochs=range(2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_export_larger_than_the_cache_is_that_of_a_local_folder(store, place, large, tmp_path, monkeypatch, workers):
    folder, manifest = large
    set_cap(monkeypatch, cap := tables(folder) + 5 * size_of(manifest, "train") // SHARDS)
    with Watch(tmp_path / "cache") as watch:
        export(str(place), tmp_path / "out", "webdataset", workers=workers)
    assert watch.most <= cap
    export(folder, tmp_path / "local", "webdataset", workers=0)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "local")


def test_all_trainings_of_a_cross_validation_larger_than_the_cache_stream(store, tmp_path, monkeypatch):
    """The cache may have the folds of each training, but not all: a fold that is not needed any more makes room."""
    manifest, _ = write_shards(tmp_path / "folds", {f"fold{i}": 3 for i in range(3)}, shards=8, split="kfold")
    (tmp_path / "folds" / "duplicates.json").touch()
    place = RemoteFolder(f"s3://{BUCKET}/folds")
    put(tmp_path / "folds", place)
    set_cap(monkeypatch, cap := tables(tmp_path / "folds") + size_of(manifest, *manifest.splits) - 1)
    settings = {"model": CONFIG.model, "epochs": 1, "batch_size": 8, "patience": 0, "folds": (0, 1)}
    with Watch(tmp_path / "cache") as watch:
        result = crossval(str(place), tmp_path / "cv", **settings, log=quiet, show_progress=False)
    assert watch.most <= cap
    assert result.report.accuracy.total == manifest.records("fold0", "fold1")
    assert {Run.load(tmp_path / "cv" / name).config.feed for name in result.by_run} == {"stream"}
