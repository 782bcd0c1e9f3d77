"""A finished folder to verify, and a copy of it to edit."""

import shutil

import pytest

from octprep.format.config import BuildConfig, Preprocessing
from octprep.pipeline import build
from octprep.verification import verify
from tests.worlds.archive import archive, write_folder
from tests.worlds.edits import restore


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A finished folder with linked patients, excluded duplicates, junk, and repeats in train."""
    folder = tmp_path_factory.mktemp("verification")
    src = write_folder(folder / "src", archive())
    cnv, dme = src / "train" / "CNV", src / "train" / "DME"
    (cnv / "CNV-1-90.jpeg").write_bytes((cnv / "CNV-1-1.jpeg").read_bytes())
    (dme / "DME-777-1.jpeg").write_bytes((dme / "DME-100-1.jpeg").read_bytes())
    (src / "notes.txt").write_text("junk")
    build(src, folder / "out", BuildConfig(recipe=Preprocessing(height=32, width=48), shard_mb=0.02), workers=0)
    assert verify(folder / "out", workers=0).violations == ()
    return folder / "out"


@pytest.fixture(scope="session")
def copied(good, tmp_path_factory):
    return shutil.copytree(good, tmp_path_factory.mktemp("copy") / "shards")


@pytest.fixture
def shards(good, copied):
    """A copy of the folder; what a test changes is put back after it."""
    yield copied
    restore(good, copied)
