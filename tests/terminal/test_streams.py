"""Output to any terminal, file or pipe, in any encoding; a closed pipe is not reported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from octprep.terminal import printable
from tests.worlds.archive import archive, write_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A small archive in a folder that no narrow encoding can name."""
    root = tmp_path_factory.mktemp("Übung 図像")
    return write_folder(root / "data", archive(1))


def shell(command, **environment):
    """Run a shell command in which $OCTPREP is the program."""
    program = f"{sys.executable} -c 'from octprep.cli import main; main()'"
    return subprocess.run(
        ["bash", "-c", command.replace("$OCTPREP", program)],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("encoding", ["cp1252", "ascii:strict", "latin-1", "utf-8:strict"])
def test_any_output_encoding_works(scans, encoding):
    done = shell(f"$OCTPREP inspect --quick --src '{scans}' --workers 1", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b" scans, 0 excluded" in done.stdout


def test_undecodable_bytes_are_printed_as_escapes(tmp_path):
    name = os.fsdecode(b"M\xfcller")
    done = shell(f"$OCTPREP inspect --quick --src '{tmp_path}/{name}'", PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 2
    assert b"does not exist" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_closed_pipe_is_not_reported(scans):
    # The reader ends before the program has started, so its first line is written to a closed pipe.
    done = shell(f"set -o pipefail; $OCTPREP inspect --quick --src '{scans}' --workers 1 | true")
    assert done.returncode in (0, 141), done.returncode
    assert done.stderr == b""


def test_the_work_is_done_although_the_output_streams_are_closed(scans, tmp_path):
    done = shell(f"$OCTPREP inspect --quick --src '{scans}' --workers 1 --json {tmp_path}/o.json >&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "o.json").stat().st_size > 0


def test_printable_escapes_control_characters():
    assert printable("data set: ä 図") == "data set: ä 図"
    assert printable("a\x1b[31m\r\nb\udcfc") == "a\\x1b[31m\\r\\nb\\xfc"
