"""Sources and finished folders that the tests of builds share. They are only read; tests that write take a copy."""

import dataclasses
import shutil

import pytest

from octprep.pipeline import build
from tests.worlds.archive import archive, write_folder, write_scan
from tests.worlds.builds import CONFIG


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """An archive with a test patient in train, a patient of two classes, a duplicate and files that are not scans."""
    names = [*archive(3, {"CNV": 3, "DME": 2, "DRUSEN": 1, "NORMAL": 2}), "train/CNV-50-7", "train/DME-0-1"]
    src = write_folder(tmp_path_factory.mktemp("source"), names)
    cnv = src / "train" / "CNV"
    (cnv / "CNV-0-90.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes())
    (cnv / "CNV-0-91.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes()[:-400])  # cut short
    (cnv / "=cmd.jpeg").write_bytes(b"x")
    (src / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    write_scan(src / "train" / "NORMAL" / "NORMAL-0-1, copy.jpeg")
    return src


@pytest.fixture(scope="session")
def shards(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "shards"
    build(source, out, CONFIG, workers=0)
    return out


@pytest.fixture(scope="session")
def older_shards(source, tmp_path_factory):
    """The same source with another seed."""
    out = tmp_path_factory.mktemp("older") / "shards"
    build(source, out, dataclasses.replace(CONFIG, seed=1), workers=0)
    return out


@pytest.fixture
def src(source, tmp_path):
    """A copy of the source, to change."""
    return shutil.copytree(source, tmp_path / "src")


@pytest.fixture
def out(shards, tmp_path):
    """A copy of the finished folder, to change."""
    return shutil.copytree(shards, tmp_path / "out")


@pytest.fixture(scope="session")
def large_source(tmp_path_factory):
    """Several batches of scans, so that a build takes a moment."""
    images = {"CNV": 40, "DME": 30, "DRUSEN": 20, "NORMAL": 30}
    return write_folder(tmp_path_factory.mktemp("large"), archive(3, images))


@pytest.fixture(scope="session")
def large_shards(large_source, tmp_path_factory):
    out = tmp_path_factory.mktemp("large_out") / "shards"
    build(large_source, out, CONFIG, workers=2)
    return out
