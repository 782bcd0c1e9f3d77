"""A source with planted faults, its full inspection, and the page."""

import shutil

import numpy as np
import pytest

from octprep import preprocessing
from octprep.inspection import inspect, page
from octprep.synthetic import draw
from octprep.synthetic.faults import near_duplicate
from tests.inspection.planted import HOSTILE_FILE, HOSTILE_FOLDER
from tests.worlds.archive import files_of, write_scan


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Synthetic scans with the archive's faults, a content under two classes and hostile names, two folders deep."""
    src = tmp_path_factory.mktemp("inspected") / "src"
    root = src / HOSTILE_FOLDER
    draw(root, patients=24, seed=9, workers=0)
    original = sorted((root / "train" / "CNV").glob("CNV-*-1.jpeg"))[0]
    shutil.copy(original, root / "train" / "DME" / "DME-7777770-1.jpeg")
    other = sorted((root / "train" / "NORMAL").glob("NORMAL-*-1.jpeg"))[0]
    planted = near_duplicate(preprocessing.decode(other.read_bytes()), np.random.default_rng(5))
    (root / "test" / "DRUSEN" / "DRUSEN-7777771-1.jpeg").write_bytes(planted)
    write_scan(root / "train" / "DME" / HOSTILE_FILE)
    return src


@pytest.fixture(scope="session")
def inspection(source):
    before = files_of(source)
    result = inspect(source, workers=0)
    page.render(source, result)
    assert files_of(source) == before
    return result


@pytest.fixture(scope="session")
def html(source, inspection, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "inspection.html"
    path.write_bytes(page.render(source, inspection))
    return path
