"""What the programs print reaches any terminal, file or pipe, or ends quietly."""

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
    """A small archive with class folders that no narrow encoding can name."""
    root = tmp_path_factory.mktemp("Übung 図像")
    return write_folder(root / "data", archive(1))


def shell(command, **environment):
    """Run a shell command in which $OCTPREP is the program."""
    start = f"{sys.executable} -c 'from octprep.cli import main; main()'"
    return subprocess.run(
        ["bash", "-c", command.replace("$OCTPREP", start)],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("encoding", ["cp1252", "ascii:strict", "latin-1", "utf-8:strict"])
def test_a_narrow_output_encoding_never_ends_a_program(scans, encoding):
    done = shell(f"$OCTPREP scan --src '{scans}' --workers 1", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b" scans, 0 unusable" in done.stdout


def test_bytes_that_are_no_text_are_printed_as_escapes(tmp_path):
    name = os.fsdecode(b"M\xfcller")
    done = shell(f"$OCTPREP scan --src '{tmp_path}/{name}'", PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 2
    assert b"does not exist" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_reader_that_has_gone_ends_a_program_quietly(scans):
    # The reader ends before the program has started, so its first line already meets a closed pipe.
    done = shell(f"set -o pipefail; $OCTPREP scan --src '{scans}' --workers 1 | true")
    assert done.returncode in (0, 141), done.returncode
    assert done.stderr == b""


def test_closed_output_does_not_keep_a_program_from_its_work(scans, tmp_path):
    done = shell(f"$OCTPREP scan --src '{scans}' --workers 1 --json {tmp_path}/o.json >&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "o.json").stat().st_size > 0


def test_messages_hold_no_control_characters():
    assert printable("data set: ä 図") == "data set: ä 図"
    assert printable("a\x1b[31m\r\nb\udcfc") == "a\\x1b[31m\\r\\nb\\udcfc"
