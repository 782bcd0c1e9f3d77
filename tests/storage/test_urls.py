"""What is taken for a URL, and what is not."""

from pathlib import Path

import pytest

from octprep.format.errors import SettingError
from octprep.storage.remote import RemoteFolder, location
from tests.worlds.environments import Environment


@pytest.mark.parametrize("path", ["shards", "/data/a:b", "s3", "./s3:", "C:/scans", "C:\\scans", "a:/b", "x/s3:/y"])
def test_a_path_stays_a_path(path):
    assert location(path) == Path(path)


@pytest.mark.parametrize("given", ["s3://b/a/c", "s3://b/a/c/", Path("s3://b/a/c")])
def test_a_url_is_never_a_path(given):
    assert location(given) == RemoteFolder("s3://b/a/c")
    assert str(location(given) / "manifest.json") == "s3://b/a/c/manifest.json"


@pytest.mark.parametrize("url", ["file:///data", "s3://", "simplecache::s3://b/a"])
def test_other_urls_are_refused(url):
    with pytest.raises(SettingError, match="give a path, or the URL of an object store"):
        location(url)


@pytest.mark.parametrize(
    "words",
    [
        ("octprep.cli", "synthesize", "s3://b/scans"),
        ("octprep.cli", "build", "s3://b/a", "s3://b/c", "--split-file", "s3://b/splits.csv"),
        ("octprep.cli", "verify", "s3://b/a", "--certificate", "s3://b/c"),
        ("octtrain.cli", "fit", "shards", "--run", "s3://b/run"),
    ],
)
def test_a_url_where_only_a_path_can_be_is_an_error(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    from importlib import import_module

    program = import_module(words[0])
    with pytest.raises(SettingError, match="is a URL; give a path of this machine"):
        program.app(list(words[1:]), standalone_mode=False)
    assert not list(tmp_path.iterdir())


def test_without_the_packages_a_url_says_what_to_install_and_a_path_needs_none(tmp_path):
    without = Environment(tmp_path / "without", "fsspec", "s3fs")
    done = without.python("-m", "octprep.cli", "inspect", "--quick", "s3://b/a")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("which is not installed; install it by `pip install 'octprep[remote]'`")
    assert len(done.stderr.splitlines()) == 1
    done = without.python("-m", "octprep.cli", "inspect", "--quick", tmp_path / "none")
    assert "does not exist" in done.stderr
