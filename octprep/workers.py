"""Run tasks in worker processes, by default one for each core, or on a Dask cluster; report their progress."""

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
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Protocol, TypeVar

from octprep.cluster import WAIT, ClusterPool, WorkerNeeds
from octprep.format.errors import Notice, SettingError, StoppedError

Progress = Callable[[str, int, int], None]  # the stage, units done since the last call, units in all

Task = TypeVar("Task")
Result = TypeVar("Result")


def no_progress(stage: str, done: int, total: int) -> None:
    """A Progress that reports nothing."""


def default_workers() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Pool(Protocol):
    """What runs tasks: this machine's cores, or a cluster."""

    workers: int  # processes or threads to use on this machine, for work that stays here

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The results of work(task) for every task, in the order of completion. Raises whatever `work` raises."""
        ...


def open_pool(
    workers: int | None,
    cluster: Path | str | None = None,
    wait: float = WAIT,
    needs: WorkerNeeds | None = None,
) -> AbstractContextManager[Pool]:
    """A WorkerPool, or with `cluster` the workers of a Dask cluster.

    cluster: the address of its scheduler, or its scheduler file. wait: seconds to wait while no worker is there. needs:
    what is checked on each of its workers before it does a task. Raises SettingError if workers is below 1 or given
    with a cluster.
    """
    if cluster is None:
        return WorkerPool(workers)
    if workers is not None:
        raise SettingError(
            f"--workers {workers} is for this machine, and --cluster {cluster} has its own workers; give one of them."
        )
    return ClusterPool(str(cluster), wait, needs or WorkerNeeds(), default_workers())


class WorkerPool:
    """Worker processes that are kept for all runs of one `with` block: starting them takes about half a second.

    An interruption (KeyboardInterrupt) of the block ends the processes at once, whatever they do; after any other
    exception the tasks under way are finished first. A script needs no `if __name__ == "__main__"` guard.
    """

    def __init__(self, workers: int | None) -> None:
        """workers: how many; None: one for each core. Raises SettingError if below 1."""
        self.workers = default_workers() if workers is None else workers
        if self.workers < 1:
            raise SettingError(f"workers must be 1 or more; got {self.workers}")
        self._executor: ProcessPoolExecutor | None = None
        self._keep_alive: Connection | None = None  # closing it ends the workers

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        executor, self._executor = self._executor, None
        if executor is None:
            return
        assert self._keep_alive is not None
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._keep_alive.close()
        executor.shutdown(cancel_futures=True)
        self._keep_alive.close()

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The results of work(task) for every task, in the order of completion.

        With one worker, or one task, everything runs in this process; so it does, with a warning, where the system
        cannot start others. Raises StoppedError if a worker dies, and whatever `work` raises; tasks that have not begun
        are dropped then. Results should be short: a worker that is killed while it sends a long one leaves the pool
        waiting for the rest, while a short one is sent whole or not at all.
        """
        executor = self._start(work, len(tasks)) if self.workers > 1 and len(tasks) > 1 else None
        if executor is None:
            yield from map(work, tasks)
            return
        try:
            pending = iter(tasks)
            running: set[Future[Result]] = set()
            while True:
                for task in pending:
                    with _process_start(work):
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
                "a worker process was killed (usually out of memory). Run the same command again to resume, with fewer "
                "--workers if memory is short."
            ) from None

    def _start(self, work: Callable[[Task], Result], tasks: int) -> ProcessPoolExecutor | None:
        """The worker processes, at first no more than tasks; None where the system cannot start them."""
        if self._executor is not None:
            return self._executor
        executor = None
        # spawn: OpenCV's and TensorFlow's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        try:
            closed, self._keep_alive = context.Pipe(duplex=False)
            executor = ProcessPoolExecutor(
                self.workers, mp_context=context, initializer=_init_worker, initargs=(closed,)
            )
            for _ in range(min(self.workers, tasks)):
                with _process_start(work):
                    executor.submit(os.getpid)
        except (OSError, ImportError, NotImplementedError) as error:
            if self._keep_alive is not None:
                self._keep_alive.close()
            if executor is not None:
                executor.shutdown(wait=False, cancel_futures=True)
            # Locks between processes are files in /dev/shm on Linux.
            reason = getattr(error, "strerror", None) or error
            shm = " Is /dev/shm there, writable and not full?" if sys.platform == "linux" else ""
            warnings.warn(
                f"no worker processes can be started ({reason}), so this process does all of the work.{shm}",
                Notice,
                stacklevel=3,
            )
            self.workers = 1
            return None
        self._executor = executor
        return executor


@contextmanager
def _process_start(work: Callable[[Task], Result]) -> Iterator[None]:
    """Around the start of a process: it inherits no interruption, and does not run the program's main module.

    Blocked signals are inherited, so a Ctrl-C in the terminal is delivered to this process alone, after the block.
    Workers import `work` by the name of its module, so unless that is the main module they do not need the latter;
    without a guard it would begin all of the work again in each of them.
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


def _init_worker(closed: Connection) -> None:
    """Leave interruptions to the parent, and exit with it: a killed parent would leave its workers waiting."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(1)  # one process a core makes better use of many cores
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_with_parent, args=(parent.sentinel, closed), daemon=True).start()


def _exit_with_parent(sentinel: int, closed: Connection) -> None:
    wait_for([sentinel, closed])
    os._exit(1)
