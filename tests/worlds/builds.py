"""Helpers for tests of builds: small settings, commands as processes, and damage to files."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from octprep.arrays import Gray
from octprep.duplicates import detail_correlation, pixel_comparison, search
from octprep.format.config import BuildConfig, Preprocessing

SMALL = Preprocessing(height=32, width=48)
CONFIG = BuildConfig(recipe=SMALL, shard_mb=0.02)
OPTIONS = ("--size", "32x48", "--shard-mb", "0.02")  # the same on the command line

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finding the workers needs Linux")


def record_compared(monkeypatch: pytest.MonkeyPatch) -> list[set[bytes]]:
    """Let builds compare every scan with its nearest on pixels; the list gets the stored pixels of each two."""
    compared: list[set[bytes]] = []

    def recorded(first: Gray, second: Gray) -> float:
        compared.append({first.tobytes(), second.tobytes()})
        return detail_correlation(first, second)

    monkeypatch.setattr(pixel_comparison, "detail_correlation", recorded)
    for limit in ("MAX_RAW_DISTANCE", "MAX_ALIGNED_DISTANCE"):
        monkeypatch.setattr(search, limit, math.inf)
    return compared


def octprep(*words: object) -> list[str]:
    """The command line of octprep."""
    return [sys.executable, "-m", "octprep.cli", *map(str, words)]


def start_build(source: Path, out: Path, *options: object) -> subprocess.Popen[str]:
    """`octprep build` with small settings, in a process group of its own."""
    return subprocess.Popen(
        octprep("build", "--src", source, "--out", out, *options, *OPTIONS),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True,
    )  # fmt: skip


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Return as soon as the condition holds, or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.002)


def cache_of(out: Path) -> Path:
    """The folder in which an unfinished build keeps the scans that it has prepared."""
    return out / ".octprep-work" / "cache"


def receipts(out: Path) -> list[Path]:
    """The receipts of an unfinished build: one for every batch of scans that it has cached."""
    return sorted(cache_of(out).glob("[0-9]*.json"))


def workers_of(pid: int) -> list[int]:
    """The worker processes that a process has started; Linux only."""
    workers = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            with suppress(OSError):
                workers += [int(child)] * (b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())
    return workers


def damage(path: Path, how: str) -> None:
    """Damage a file: `missing`, `empty`, `cut` (one byte short), `a byte` (one bit flipped), `a link` or `a folder`."""
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        os.truncate(path, path.stat().st_size - 1)
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "a link":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
