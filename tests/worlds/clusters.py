"""Dask clusters of real processes on this machine, and a way to make them fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 40  # in which a process must be ready, on a busy machine


class LocalCluster:
    """A scheduler and workers of one thread each, with a log each in a folder; `stop` ends them all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.file = folder / "scheduler.json"
        self.workers: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, workers: int) -> None:
        """Start the scheduler and workers, and wait until these have joined."""
        words = ["scheduler", "--host", "127.0.0.1", "--port", 0, "--dashboard-address", ":0"]
        self.scheduler = self._start([*words, "--scheduler-file", self.file])
        _wait(self.file.exists, self.scheduler)
        self.add_workers(workers)

    def add_workers(self, count: int, variables: dict[str, str] | None = None, prefix: Sequence[object] = ()) -> None:
        """Start workers and wait until they have joined. prefix: words before the command line."""
        words = ["worker", "--scheduler-file", self.file, "--nthreads", 1, "--no-nanny", "--dashboard-address", ":0"]
        new = [self._start(words, variables, prefix) for _ in range(count)]
        self.workers += new
        for process in new:
            _wait(lambda process=process: "Starting established connection" in self.log(process), process)

    def log(self, process: subprocess.Popen[bytes]) -> str:
        """What a process has printed."""
        return (self._folder / f"{self._started.index(process)}.log").read_text()

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process at once, as the system does when memory runs out."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """End all processes."""
        for process in self._started:
            if process.poll() is None:
                self.kill(process)

    def _start(
        self, words: Sequence[object], variables: dict[str, str] | None = None, prefix: Sequence[object] = ()
    ) -> subprocess.Popen[bytes]:
        command = [*map(str, prefix), sys.executable, "-m", "dask", *map(str, words)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | (variables or {})
        with (self._folder / f"{len(self._started)}.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self._folder, start_new_session=True
            )
        self._started.append(process)
        return process


@contextmanager
def local_cluster(folder: Path, workers: int) -> Iterator[LocalCluster]:
    """A cluster that is gone after the block, whatever happens in it."""
    cluster = LocalCluster(folder)
    try:
        cluster.start(workers)
        yield cluster
    finally:
        cluster.stop()


def _wait(ready, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + SECONDS
    while not ready():
        assert process.poll() is None, "a process of the cluster has ended"
        assert time.monotonic() < limit, "a process of the cluster is not ready"
        time.sleep(0.02)
