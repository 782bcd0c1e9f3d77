"""Run tasks on this machine's cores. The seam is `concurrent.futures`, so a cluster's executor fits as well."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
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


def run(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None) -> Iterator[Result]:
    """The results of work(task) for every task, in the order in which they get done.

    None means a worker for each core; with one worker, or one task, everything happens in this process. Raises
    SettingError if workers is below 1, StoppedError if a worker dies, and whatever `work` raises; tasks not begun by
    then are dropped. Results should be short: see octprep.prepared.prepare_batch.
    """
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise SettingError(f"workers must be 1 or more; got {workers}")
    if workers == 1 or len(tasks) < 2:
        for task in tasks:
            yield work(task)
        return
    # spawn: OpenCV's and TensorFlow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_start_worker)
    try:
        waiting = iter(tasks)
        running: set[Future[Result]] = set()
        while True:
            for task in waiting:
                running.add(executor.submit(work, task))
                if len(running) >= 4 * workers:  # enough to keep all busy, few enough to stop soon
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
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """End with the parent: a killed one would leave its workers waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()


def _leave_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)
