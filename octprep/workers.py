"""Run tasks in worker processes, by default one for each core, or on a Dask cluster; report their progress."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, TypeVar

from octprep.cluster import WAIT, ClusterPool, WorkerNeeds
from octprep.crashes import Divisible, allow_time_limit, crash_reason
from octprep.format.errors import Notice, SettingError, StoppedError
from octprep.terminal import interrupts

Progress = Callable[[str, int, int], None]  # the stage, units done since the last call, units in all

Task = TypeVar("Task")
Result = TypeVar("Result")

# Bytes of one array that come from the heap of a worker process, and those that it keeps of what was freed.
_HEAP_ARRAY, _KEPT_HEAP = 8 << 20, 32 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt

_LIBRARY_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")  # variables of the environment

_KILLED = "a worker process was killed (usually out of memory). Run the same command again to resume"


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

    @property
    def would_start(self) -> bool:
        """Whether several tasks make it start processes, which takes a quarter of a second of CPU for each."""
        ...

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
    what is checked on each of its workers before it does a task. Raises SettingError if workers is below 0 or given
    with a cluster.
    """
    if cluster is None:
        return WorkerPool(workers)
    if workers is not None:
        raise SettingError(
            f"--workers {workers} is for this machine, and --cluster {cluster} has its own workers; give one of them."
        )
    return ClusterPool(str(cluster), wait, needs or WorkerNeeds(), default_workers(), _do_alone)


def _do_alone(work: Callable[[Any], Result], task: Divisible) -> Result:
    """The result of work(task), done in one process of its own."""
    with WorkerPool(1) as pool:
        [result] = pool.run(work, [task])
    return result


class WorkerPool:
    """Worker processes that are kept for all runs of one `with` block: starting them takes about half a second.

    An interruption (KeyboardInterrupt) of the block ends the processes at once, whatever they do; after any other
    exception the tasks under way are finished first. A script needs no `if __name__ == "__main__"` guard.
    """

    def __init__(self, workers: int | None) -> None:
        """workers: how many; None: one for each core; 0: none, this process does everything.

        Raises SettingError if below 0.
        """
        self.workers = default_workers() if workers is None else workers
        if self.workers < 0:
            raise SettingError(f"workers must be 1 or more, or 0 to start no process; got {self.workers}")
        self._executor: ProcessPoolExecutor | None = None
        self._processes: Mapping[int, BaseProcess] = {}  # of the executor, by their ids
        self._keep_alive: Connection | None = None  # closing it ends the workers
        self._begun: Connection | None = None  # gives the id of a worker and the number of the task that it begins
        self._current: dict[int, int] = {}  # the last of these numbers of each worker

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(at_once=kind is not None and issubclass(kind, KeyboardInterrupt))

    def _close(self, *, at_once: bool = False) -> None:
        """End the workers, after the tasks under way unless that is to be at once."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        assert self._keep_alive is not None and self._begun is not None
        if at_once:
            self._keep_alive.close()
        executor.shutdown(cancel_futures=True)
        self._keep_alive.close()
        self._begun.close()

    @property
    def would_start(self) -> bool:
        """Whether several tasks make it start processes: see Pool."""
        return self.workers > 1 and len(self._processes) < 2

    def start(self, work: Callable[[Any], object]) -> None:
        """Start the processes before there are tasks, and do not wait for them."""
        self._start(work, self.workers)

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The results of work(task) for every task, in the order of completion.

        With one worker, or one task, everything runs in this process, unless the tasks are Divisible; so it does, with
        a warning, where the system cannot start others. Raises StoppedError if a worker dies, and whatever `work`
        raises; tasks that have not begun are dropped then. Results should be short: a worker that is killed while it
        sends a long one leaves the pool waiting for the rest, while a short one is sent whole or not at all.

        If a worker crashes with a Divisible task, its parts are tried one at a time. Those that crash again, first in a
        process of their own, are left out of the task, and it is run again, as are all that were under way.
        """
        waiting = list(tasks)
        tried: list[Task] = []  # tasks that crashed although none of their parts crashes alone
        while waiting:
            may_crash = isinstance(tasks[0], Divisible) and self.workers > 0
            executor = self._start(work, len(waiting)) if may_crash or min(self.workers, len(tasks)) > 1 else None
            if executor is None:
                yield from map(work, waiting)
                return
            unfinished = dict(enumerate(waiting))
            try:
                for number, result in self._results(executor, work, unfinished):
                    del unfinished[number]
                    yield result
                return
            except (BrokenProcessPool, BrokenPipeError):
                crashes = self._crashes()
            for number, reason in crashes.items():
                task = unfinished.get(number)
                if not isinstance(task, Divisible) or any(task is other for other in tried):
                    raise StoppedError(
                        f"a worker process {reason}, which no single file does alone. Run the same command again to "
                        "resume; if that happens again, the memory of this machine may be faulty."
                    )
                reasons = _crashing_parts(task)
                if reasons:
                    unfinished[number] = task.without(reasons)
                else:
                    tried.append(task)
            waiting = list(unfinished.values())

    def _results(
        self, executor: ProcessPoolExecutor, work: Callable[[Task], Result], tasks: Mapping[int, Task]
    ) -> Iterator[tuple[int, Result]]:
        """The results of numbered tasks with their numbers. Raises BrokenProcessPool if a worker dies."""
        self._current.clear()
        pending = iter(list(tasks.items()))
        running: dict[Future[Result], int] = {}
        while True:
            for number, task in pending:
                with _process_start(work):
                    running[executor.submit(_begin, number, work, task)] = number
                if len(running) >= 4 * self.workers:  # enough to keep all busy, few enough to stop soon
                    break
            if not running:
                return
            done = wait(running, return_when=FIRST_COMPLETED).done
            self._receive_begun()
            for future in sorted(done, key=lambda future: future.exception() is not None):
                yield running.pop(future), future.result()

    def _receive_begun(self) -> None:
        """Learn which tasks the workers have begun."""
        assert self._begun is not None
        while self._begun.poll():
            process_id, number = self._begun.recv()
            self._current[process_id] = number

    def _crashes(self) -> dict[int, str]:
        """The numbers of the tasks whose workers crashed, and how, after that broke the pool, which is closed.

        Raises StoppedError if a worker died otherwise.
        """
        self._receive_begun()
        self._close()  # waits for the processes, of which the executor ends the others by SIGTERM
        crashes = {}
        for process_id, process in self._processes.items():
            if process.exitcode in (None, 0, -signal.SIGTERM):
                continue
            number, reason = self._current.get(process_id), crash_reason(process.exitcode)
            if number is None or reason is None:
                raise self._killed()
            crashes[number] = reason
        if not crashes:
            raise self._killed()
        return crashes

    def _killed(self) -> StoppedError:
        return StoppedError(
            f"{_KILLED}, with fewer --workers if memory is short." if self.workers > 1 else f"{_KILLED}."
        )

    def _start(self, work: Callable[[Task], Result], tasks: int) -> ProcessPoolExecutor | None:
        """The worker processes, at first no more than tasks; None where the system cannot start them."""
        if self._executor is not None:
            return self._executor
        executor = None
        # spawn: OpenCV's and TensorFlow's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        try:
            closed, self._keep_alive = context.Pipe(duplex=False)
            self._begun, begun = context.Pipe(duplex=False)
            executor = ProcessPoolExecutor(
                self.workers, mp_context=context, initializer=_init_worker, initargs=(closed, begun)
            )
            starting = []
            for _ in range(min(self.workers, tasks)):
                with _process_start(work):
                    starting.append(executor.submit(os.getpid))
            if tasks < self.workers:
                wait(starting)  # while a process starts, the executor starts another for the next task
        except (OSError, ImportError, NotImplementedError) as error:
            for connection in (self._keep_alive, self._begun):
                if connection is not None:
                    connection.close()
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
            self.workers = 0
            return None
        self._executor, self._processes = executor, executor._processes
        return executor


def _crashing_parts(task: Divisible) -> dict[int, str]:
    """The parts of a task that make a process crash in which they are the first, and how.

    Raises StoppedError if a process dies otherwise, or cannot be started.
    """
    parts = {index: index for index in range(task.part_count)}
    reasons: dict[int, str] = {}
    while parts:
        first = min(parts)
        with WorkerPool(1) as alone:
            executor = alone._start(task.try_part, 1)
            if executor is None:
                raise alone._killed()
            try:
                for index, _ in alone._results(executor, task.try_part, parts):
                    del parts[index]
            except (BrokenProcessPool, BrokenPipeError):
                crashes = alone._crashes()
                if first in crashes:
                    reasons[first] = crashes[first]
                    del parts[first]
    return reasons


@contextmanager
def _process_start(work: Callable[[Task], Result]) -> Iterator[None]:
    """Around the start of a process: it inherits no interruption, and does not run the program's main module.

    NumPy's BLAS starts a thread for each core in every process that imports it, unless the environment says otherwise;
    with one process a core these threads are of no use, and starting them takes 0.1 s of CPU on two cores.

    Blocked signals are inherited, so a Ctrl-C in the terminal is delivered to this process alone. It is raised after
    the block: a new process prints a traceback if this one ends before it has sent it what to do.
    Workers import `work` by the name of its module, so unless that is the main module they do not need the latter;
    without a guard it would begin all of the work again in each of them.
    """
    main = sys.modules["__main__"]
    one_thread = {name: "1" for name in _LIBRARY_THREADS if name not in os.environ}
    blocked = None
    if hasattr(signal, "pthread_sigmask"):
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if work.__module__ != "__main__":
        sys.modules["__main__"] = types.ModuleType("__main__")
    os.environ.update(one_thread)
    try:
        with interrupts.deferred():  # another thread, such as that of a progress bar, may receive it
            yield
    finally:
        for name in one_thread:
            del os.environ[name]
        sys.modules["__main__"] = main
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _init_worker(closed: Connection, begun: Connection) -> None:
    """Leave interruptions to the parent, and exit with it: a killed parent would leave its workers waiting."""
    global _begun
    _begun = begun
    gc.disable()  # until its modules are imported: see `_begin`
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    allow_time_limit()
    _keep_freed_memory()
    import cv2

    cv2.setNumThreads(1)  # one process a core makes better use of many cores
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_with_parent, args=(parent.sentinel, closed), daemon=True).start()


def _keep_freed_memory() -> None:
    """Let this process keep the memory of a scan's arrays for the next scan, where its C library is glibc.

    By default they are given back to the system, which then clears some hundred pages for every scan.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, _HEAP_ARRAY)
            mallopt(_M_TRIM_THRESHOLD, _KEPT_HEAP)


def _begin(number: int, work: Callable[[Task], Result], task: Task) -> Result:
    """Tell the parent which task this worker begins, and do it."""
    assert _begun is not None
    if not gc.isenabled():  # the first task: what is imported by now stays, and need not be looked through again
        gc.freeze()
        gc.enable()
    _begun.send((os.getpid(), number))  # one write of some bytes, so those of several workers do not mix
    return work(task)


def _exit_with_parent(sentinel: int, closed: Connection) -> None:
    wait_for([sentinel, closed])
    os._exit(1)


_begun: Connection | None = None  # of a worker process
