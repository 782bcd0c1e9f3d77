"""Run tasks on this machine's cores. The seam is `concurrent.futures`, so a cluster's executor fits as well."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import TypeVar

from octprep.format.errors import Notice, SettingError, StoppedError

Progress = Callable[[str, int, int], None]  # what goes on, units done since the last call, units in all

Task = TypeVar("Task")
Result = TypeVar("Result")


def no_progress(what: str, done: int, total: int) -> None:
    """A Progress that says nothing."""


def default_workers() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerPool:
    """This machine's cores, for as many runs as a `with` block holds: starting processes takes about half a second.

    An interruption (KeyboardInterrupt) of the block ends the worker processes at once, whatever they do; any other
    exception waits for the tasks that are under way. A script needs no `if __name__ == "__main__"` guard.
    """

    def __init__(self, workers: int | None) -> None:
        """None means a worker for each core. Raises SettingError if workers is below 1."""
        self.workers = default_workers() if workers is None else workers
        if self.workers < 1:
            raise SettingError(f"workers must be 1 or more; got {self.workers}")
        self._executor: ProcessPoolExecutor | None = None
        self._alive: Connection | None = None  # closed, it ends the workers

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        executor, self._executor = self._executor, None
        if executor is None:
            return
        assert self._alive is not None
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._alive.close()
        executor.shutdown(cancel_futures=True)
        self._alive.close()

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The results of work(task) for every task, in the order in which they get done.

        With one worker, or one task, everything happens in this process; so it does, with a warning, where the system
        starts no others. Raises StoppedError if a worker dies, and whatever `work` raises; tasks not begun by the end
        of the block are dropped then. Results should be short: see octprep.shards.cache.cache_batch.
        """
        executor = self._start(work) if self.workers > 1 and len(tasks) > 1 else None
        if executor is None:
            yield from map(work, tasks)
            return
        try:
            waiting = iter(tasks)
            running: set[Future[Result]] = set()
            while True:
                for task in waiting:
                    with _sheltered(work):
                        running.add(executor.submit(work, task))
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

    def _start(self, work: Callable[[Task], Result]) -> ProcessPoolExecutor | None:
        """The worker processes, all of them seen to run; None where the system starts none."""
        if self._executor is not None:
            return self._executor
        executor = None
        # spawn: OpenCV's and TensorFlow's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        try:
            ended, self._alive = context.Pipe(duplex=False)
            executor = ProcessPoolExecutor(
                self.workers, mp_context=context, initializer=_start_worker, initargs=(ended,)
            )
            for _ in range(self.workers):
                with _sheltered(work):
                    executor.submit(os.getpid)
        except (OSError, ImportError, NotImplementedError) as error:
            if self._alive is not None:
                self._alive.close()
            if executor is not None:
                executor.shutdown(wait=False, cancel_futures=True)
            # Locks between processes are files in /dev/shm on Linux.
            reason = getattr(error, "strerror", None) or error
            shm = " Is /dev/shm there, writable and not full?" if sys.platform == "linux" else ""
            warnings.warn(
                f"no worker processes can be started ({reason}), so one process does all of the work.{shm}",
                Notice,
                stacklevel=3,
            )
            self.workers = 1
            return None
        self._executor = executor
        return executor


def run(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None) -> Iterator[Result]:
    """`WorkerPool.run` with an engine of its own; raises SettingError if workers is below 1."""
    with WorkerPool(min(default_workers() if workers is None else workers, max(1, len(tasks)))) as engine:
        yield from engine.run(work, tasks)


@contextmanager
def _sheltered(work: Callable[[Task], Result]) -> Iterator[None]:
    """While a process is started: no interruption reaches it, and it does not run the program's main module.

    A process inherits the signals that are blocked, so a Ctrl-C in the terminal is for this process alone from the
    first moment on; here it arrives after the block. What workers run is imported by its module's name, so unless that
    is the main module they need nothing of it; without a guard it would begin all of the work again in each of them.
    """
    main = sys.modules["__main__"]
    blocked = None
    if hasattr(signal, "pthread_sigmask"):
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if work.__module__ != "__main__":
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _start_worker(ended: Connection) -> None:
    """Leave interruptions to the parent, and end with it: a killed one would leave its workers waiting."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(1)  # one process a core is the better use of many cores
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_leave_with, args=(parent.sentinel, ended), daemon=True).start()


def _leave_with(sentinel: int, ended: Connection) -> None:
    wait_for([sentinel, ended])
    os._exit(1)
