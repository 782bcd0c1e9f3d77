"""Atomic writes, locks on folders, and paths as text."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octprep.format import locks
from octprep.format.errors import OutputError
from octprep.format.files import (
    NotReadable,
    atomic_write,
    read_ahead,
    read_bytes,
    remove_partial_files,
    saving,
    write_output_file,
)
from octprep.format.locks import OWNER_NAME, locked
from octprep.format.paths import path_to_text, text_to_path

HOLD = """
import sys, time
from pathlib import Path
from octprep.format import locks
if sys.argv[2] == "no-flock":
    locks.HAS_FLOCK = False
with locks.locked(Path(sys.argv[1]), "program"):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder, kind):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("kind", ["flock", "no-flock"])
def test_a_folder_is_locked_until_its_process_ends_however_it_ends(tmp_path, monkeypatch, kind):
    if kind == "no-flock":
        monkeypatch.setattr(locks, "HAS_FLOCK", False)
    process = holder(tmp_path, kind)
    try:
        with pytest.raises(OutputError, match="another program is writing to"), locked(tmp_path, "program"):
            pass
    finally:
        process.kill()
        process.communicate()
    with locked(tmp_path, "program"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_machine_is_an_error_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.socket, "gethostname", lambda: "elsewhere")
    (tmp_path / OWNER_NAME).write_text('{"host": "node-7", "pid": 12, "started": ""}')
    with pytest.raises(OutputError, match=r"process 12 on node-7.*delete that file"), locked(tmp_path, "program"):
        pass
    assert (tmp_path / OWNER_NAME).exists()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), saving(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_file_is_synchronised_before_it_is_renamed_and_its_folder_after(tmp_path, monkeypatch):
    order = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (order.append((str(Path(f"/proc/self/fd/{fd}").readlink()), path.exists())), fsync(fd))
    )
    path = tmp_path / "a.json"
    atomic_write(path, b"new")
    (first, named_before), (second, named_after) = order
    assert ".part-" in first and not named_before
    assert second == str(tmp_path) and named_after


def test_a_file_can_be_saved_twice_at_once(tmp_path):
    path = tmp_path / "a.json"
    with saving(path) as first, saving(path) as second:  # as by two machines whose processes have the same id
        first.write_text("same")
        second.write_text("same")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "same"


def test_partial_files_are_removed_and_no_others(tmp_path):
    for name in (".part-12-a.json", ".part-a.json", "part-12-b", "a.json"):
        (tmp_path / name).write_text("x")
    remove_partial_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".part-a.json", "a.json", "part-12-b"]


def test_pipes_and_large_files_are_errors_without_being_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(50_000_000_000)
    (tmp_path / "link").symlink_to("large")
    start = time.monotonic()
    for name, reason in (("pipe", "not a regular file"), ("large", "50,000,000,000 bytes"), (".", "not a regular")):
        with pytest.raises(NotReadable, match=reason):
            read_bytes(tmp_path / name, 1000)
    assert time.monotonic() - start < 5
    with pytest.raises(OSError, match="symbolic"):
        read_bytes(tmp_path / "link", 1000, follow_links=False)


@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw))
def test_any_path_survives_conversion_to_text_and_back(raw):
    path = raw.decode(errors="surrogateescape")
    text = path_to_text(path)
    assert text_to_path(text) == path
    assert not any(ord(character) < 32 for character in text)
    text.encode()


def test_text_with_another_escape_is_an_error():
    for text in (r"a\b", "\\", r"\x4", r"\xZZ"):
        with pytest.raises(ValueError, match="backslash"):
            text_to_path(text)


def test_an_output_file_is_written_through_a_link(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_output_file("--json", tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE)
    write_output_file("--json", tmp_path / "pipe", b"bytes")
    assert reader.communicate(timeout=20)[0] == b"bytes"
    assert (tmp_path / "pipe").is_fifo()


def test_reading_ahead_leaves_what_cannot_be_read_to_the_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "absent", tmp_path / "pipe", tmp_path):
        read_ahead(path)
