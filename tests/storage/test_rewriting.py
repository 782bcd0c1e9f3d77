"""`octprep index URL` and `octprep report URL`: what they write to the URL, and what they leave as it is."""

import json

import pytest

from octprep import cli
from octprep.format.errors import ManifestError, OutputError
from octprep.format.manifest import Manifest
from octprep.shards.uploads import Uploaded
from octprep.storage.cache import build_folder, open_dataset
from tests.storage.conftest import set_cap, tables
from tests.storage.test_builds import content, keys, local_content


def octprep(*words):
    cli.app([*map(str, words)], standalone_mode=False)


def write_list(place, digest):
    """The list that an upload leaves, without its objects."""
    place.write(".uploaded.json", json.dumps({"digest": digest, "newest_source_ns": 7, "objects": {}}).encode())


def test_index_writes_that_of_a_build_and_then_the_list_of_objects(
    store, remote_shards, shards, tmp_path, monkeypatch, capsys
):
    place, manifest = remote_shards, Manifest.load(shards)
    write_list(place, manifest.digest)
    place.delete(["index/train.csv", "features.json"])
    place.write("index/val/00000-of-00001.tfrecord.idx", b"damaged")
    place.write("index/of_before.csv", b"")
    largest = max(shard.bytes for of_split in manifest.splits.values() for shard in of_split)
    set_cap(monkeypatch, tables(open_dataset(place)) + 1.2 * largest)  # one shard after the other
    before = len(keys(store, place))
    octprep("index", place)
    records = f"{sum(map(manifest.records, manifest.splits))} records"
    assert capsys.readouterr().out == f"wrote {place}/index ({records})\nnext: octtrain fit {place}\n"
    there, local = content(place), local_content(shards)
    listed = json.loads(there.pop(".uploaded.json"))
    assert there == local
    written = keys(store, place)[before:]
    assert {name.partition("/")[0] for name in written[:-1]} == {
        "index", "dataset_info.json", "features.json", "label.labels.txt",
    }  # fmt: skip
    assert written[-1] == ".uploaded.json"
    assert (listed["digest"], listed["newest_source_ns"]) == (manifest.digest, 7)
    assert sorted(listed["objects"]) == sorted(written[:-1])
    assert all(Uploaded(*known).is_at(place.list()[name]) for name, known in listed["objects"].items())
    assert not build_folder(place).exists()

    digest = "0" * 32
    place.write(f".writing-{digest}.json", b"{}")
    place.delete(["index/train.csv"])
    with pytest.raises(OutputError, match=f"another octprep build is writing to {place}: .writing-{digest}.json"):
        octprep("index", place)
    assert "index/train.csv" not in place.list()


def test_report_writes_the_page_of_a_build_and_fetches_no_shard(store, remote_shards, shards, source, tmp_path):
    place, page = remote_shards, (shards / "report.html").read_bytes()
    with pytest.raises(OutputError, match=rf"^{place}/report\.html has pictures of the source, which a page made with"):
        octprep("report", place)
    place.delete(["report.html"])
    octprep("report", place, "--src", source)
    assert content(place) == local_content(shards)
    assert not (tmp_path / "cache" / "datasets").exists()
    octprep("report", place, "--without-source")
    assert 1000 < len(place.read("report.html")) < len(page)
    place.delete(["index/val.csv"])
    with pytest.raises(ManifestError, match=rf"^{place} has no index that fits its shards.* `octprep index {place}`"):
        octprep("report", place, "--src", source)
