"""Run tasks on this machine's cores. The seam is `concurrent.futures`, so a cluster's executor fits as well."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import TypeVar

from octprep.schema import SettingError, StoppedError

Progress = Callable[[str, int, int], None]  # what goes on, units done since the last call, units in all

Task = TypeVar("Task")
Result = TypeVar("Result")


def silent(what: str, done: int, total: int) -> None:
    """A Progress that says nothing."""


def default_workers() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Engine:
    """This machine's cores, for as many runs as a `with` block holds: starting processes takes about half a second."""

    def __init__(self, workers: int | None) -> None:
        """None means a worker for each core. Raises SettingError if workers is below 1."""
        self.workers = default_workers() if workers is None else workers
        if self.workers < 1:
            raise SettingError(f"workers must be 1 or more; got {self.workers}")
        self._executor: Executor | None = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The results of work(task) for every task, in the order in which they get done.

        With one worker, or one task, everything happens in this process. Raises StoppedError if a worker dies, and
        whatever `work` raises; tasks not begun by the end of the block are dropped then. Results should be short: see
        octprep.prepared.prepare_batch.
        """
        if self.workers == 1 or len(tasks) < 2:
            yield from map(work, tasks)
            return
        if self._executor is None:
            # spawn: OpenCV's and TensorFlow's threads do not survive a fork.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start_worker)
        try:
            waiting = iter(tasks)
            running: set[Future[Result]] = set()
            while True:
                for task in waiting:
                    running.add(self._executor.submit(work, task))
                    if len(running) >= 4 * self.workers:  # enough to keep all busy, few enough to stop soon
                        break
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except (BrokenProcessPool, BrokenPipeError):
            raise StoppedError(
                "a worker process was ended from outside, most often because memory ran out. "
                "Run the same command again to go on from there, with fewer --workers if memory is short."
            ) from None


def run(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None) -> Iterator[Result]:
    """`Engine.run` with an engine of its own; raises SettingError if workers is below 1."""
    with Engine(min(default_workers() if workers is None else workers, max(1, len(tasks)))) as engine:
        yield from engine.run(work, tasks)


def _start_worker() -> None:
    """OpenCV works on one core, as there is a process for each; and the process ends when its parent is killed."""
    import cv2

    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()


def _leave_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)
