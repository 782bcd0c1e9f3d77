"""A small source folder."""

import pytest

from tests.worlds.archive import archive, write_folder


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "src", archive())
