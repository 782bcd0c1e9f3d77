"""Folders of synthetic scans that several tests read."""

import pytest

from octprep.synthetic import MIN_PATIENTS, draw


@pytest.fixture(scope="session")
def faulty(tmp_path_factory):
    """A folder with faults, and its summary. The truth about its scans lies beside it."""
    out = tmp_path_factory.mktemp("synthetic") / "faulty"
    return out, draw(out, patients=MIN_PATIENTS, seed=3, truth=out.with_name("truth.jsonl"), workers=2)


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """A folder without faults, and its summary."""
    out = tmp_path_factory.mktemp("synthetic") / "clean"
    return out, draw(out, patients=40, seed=4, faults=False, workers=2)
