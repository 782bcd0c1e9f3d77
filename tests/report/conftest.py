"""Sources and finished folders that the tests of the report share."""

import shutil

import pytest

from octprep.format.config import BuildConfig, Preprocessing
from octprep.pipeline import build
from tests.worlds.archive import archive, write_folder, write_scan
from tests.worlds.edits import restore
from tests.worlds.pages import HOSTILE, SCRIPT

CONFIG = BuildConfig(recipe=Preprocessing(height=32, width=48), shard_mb=0.02)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """An archive with leaks, a duplicate, junk, and hostile file names."""
    src = write_folder(tmp_path_factory.mktemp("report"), [*archive(), "train/CNV-50-7"])
    cnv = src / "train" / "CNV"
    (cnv / "CNV-0-90.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes())
    (cnv / "CNV-0-91.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes()[:-400])
    for name in (HOSTILE, SCRIPT, "x" * 240 + ".jpeg"):
        write_scan(src / "train" / "DME" / name)
    (src / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return src


@pytest.fixture(scope="session")
def built(source, tmp_path_factory):
    """The finished folder of the source; tests only read it."""
    out = tmp_path_factory.mktemp("built") / "shards"
    build(source, out, CONFIG, workers=0)
    return out


@pytest.fixture(scope="session")
def _copy(built, tmp_path_factory):
    return shutil.copytree(built, tmp_path_factory.mktemp("copy") / "shards")


@pytest.fixture
def shards(built, _copy):
    """A copy of the finished folder; what a test changes is put back after it."""
    yield _copy
    restore(built, _copy)
