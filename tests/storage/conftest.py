"""A source, its shards built from a local folder, and an S3 server of this machine."""

import uuid

import pytest

from octprep.pipeline import build
from octprep.storage import cache, remote
from octprep.storage.remote import RemoteFolder
from tests.worlds.archive import archive, write_folder
from tests.worlds.builds import CONFIG

pytest.importorskip("moto", reason="moto is the S3 server")
pytest.importorskip("s3fs", reason="s3fs speaks to it")

from tests.worlds.stores import BUCKET, s3_server


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """65 scans, and files that are none, some with names that need care."""
    names = archive(3, {"CNV": 6, "DME": 4, "DRUSEN": 2, "NORMAL": 3})
    src = write_folder(tmp_path_factory.mktemp("source"), names)
    (src / "train" / "CNV" / "a b+c,ä%20.jpeg").write_bytes(b"x")
    (src / "train" / "CNV" / "CNV-50-99.jpeg").write_bytes(b"no image")
    return src


@pytest.fixture(scope="session")
def shards(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "shards"
    build(source, out, CONFIG, workers=0)
    return out


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("server")) as store:
        yield store


@pytest.fixture
def store(server, monkeypatch, tmp_path):
    """The server, for this process and those it starts, and an empty cache."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OCTPREP_CACHE", str(tmp_path / "cache"))
    remote._open.cache_clear()  # an earlier test may have used another way to the server
    with cache.holding():
        yield server


@pytest.fixture
def place(store):
    """A URL that holds nothing."""
    return RemoteFolder(f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="session")
def remote_source(server, source):
    """The source on the server. Only to be read."""
    return put_on(server, source, RemoteFolder(f"s3://{BUCKET}/source"))


def put_on(server, folder, place):
    """Copy a local folder to a URL, outside a test; returns the URL."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        remote._open.cache_clear()
        put(folder, place)
    return place


def put(folder, place):
    """Copy a local folder to a URL, the manifest last."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for name in sorted(names, key=lambda name: name == "manifest.json"):
        place.upload(folder / name, name)


@pytest.fixture
def remote_shards(place, shards):
    """A copy of the shards on the server, to change."""
    put(shards, place)
    return place


def tables(folder):
    """The bytes of what the cache has of a dataset besides its shards. folder: the dataset, without a report."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in (".json", ".csv"))


def set_cap(monkeypatch, size):
    """Let the cache have so many bytes."""
    monkeypatch.setenv("OCTPREP_CACHE_GB", repr(size / 1e9))
