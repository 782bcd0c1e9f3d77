"""Scans that several modules share."""

import pytest

from octprep import preprocessing
from octprep.synthetic import scans
from octprep.synthetic.faults import QUALITY
from tests.worlds.archive import SAMPLE
from tests.worlds.layers import jpeg


@pytest.fixture(scope="session")
def synthetic_scans():
    """Scans of 200 synthetic patients with the archive's faults, as JPEG gives them back, and the truth about each."""
    drawn = scans(200, seed=5, max_scans=1)
    return [(preprocessing.decode(jpeg(truth.pixels, QUALITY)), truth) for _, truth in drawn]


def pytest_generate_tests(metafunc):
    """Each test that takes `sample_path` runs on every genuine scan of the sample, where there is one."""
    if "sample_path" in metafunc.fixturenames:
        paths = sorted(SAMPLE.rglob("*.jpeg")) if SAMPLE.is_dir() else []
        absent = pytest.param(None, marks=pytest.mark.skip(reason="the sample of real scans is missing"))
        metafunc.parametrize("sample_path", paths or [absent], ids=lambda path: path.stem if path else "absent")
