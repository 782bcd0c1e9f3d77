"""Run tasks on the workers of a Dask cluster, with the interface of `octprep.workers.WorkerPool`.

    tasks ─▶ this program (Dask's client) ─▶ the scheduler ─▶ workers, on machines that share the source and the output

A task is sent with what its worker must have (`WorkerNeeds`), so that a worker which joins late is checked as well.
Dask gives the tasks of a lost worker to others; that a task is done twice, even at the same time, changes nothing, as
its files are written as a whole and depend on the task alone. Only functions import distributed, which takes long.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import octprep
from octprep.crashes import Divisible, allow_time_limit
from octprep.format.errors import Notice, OctError, SettingError, StoppedError
from octprep.wording import number

Task = TypeVar("Task")
Result = TypeVar("Result")

WAIT = 60.0  # seconds to wait while a cluster has no workers
_CONNECT = 10.0  # seconds in which the scheduler must answer
_LOOK = 1.0  # seconds between two looks at whether the scheduler and workers are there
_CLOSE = 1.0  # seconds for taking leave of the scheduler; it drops the tasks of a client that is gone, too
_RETRIES = 2  # of a task that fails for a reason that is not the user's to repair
_PYTHON = ".".join(map(str, sys.version_info[:3]))
_ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:[0-9]+")
_SHARED = "Source and output must be on storage that this program and all workers share, under the same paths."
_AGAIN = "Run the same command again; a build resumes, on the cluster or without it."


@dataclass(frozen=True)
class WorkerNeeds:
    """What is checked on each worker before it does a task. Paths must be absolute."""

    versions: Callable[[], Mapping[str, str]] = dict  # gives versions, by library, that must be the same as here
    folders: tuple[Path, ...] = ()  # it must see these
    files: tuple[Path, ...] = ()  # it must see these with the same content as here
    writes_to: Path | None = None  # it must see what is written to this folder here


@dataclass(frozen=True)
class _Check:
    """What a worker needs, with the answers that it must give."""

    name: str  # of the check: a worker makes it once
    versions: Callable[[], Mapping[str, str]]
    expected: Mapping[str, str]
    folders: tuple[Path, ...]
    files: Mapping[Path, str]  # SHA-256, in hex
    program: tuple[str, int]  # the host and the process id of the program whose tasks these are


class ClusterPool:
    """The workers of a Dask cluster, connected for one `with` block.

    When the block ends, whatever the reason, tasks that have not begun are dropped. Those under way on a worker end
    there by themselves.
    """

    def __init__(
        self,
        scheduler: str,
        wait: float,
        needs: WorkerNeeds,
        workers: int,
        do_here: Callable[[Callable[[Any], Any], Divisible], Any],
    ) -> None:
        """scheduler: tcp://HOST:PORT, tls://HOST:PORT or a scheduler file. wait: seconds, while it has no worker.

        workers: threads for work that stays on this machine. do_here: gives the result of work(task) for a task that
        killed several workers, on this machine; it finds out which part of it did. Raises SettingError if wait is not
        positive.
        """
        if not wait > 0:
            raise SettingError(f"cluster_wait must be a number of seconds above 0; got {wait}")
        self.workers = workers
        self._scheduler = scheduler
        self._wait = wait
        self._needs = needs
        self._do_here = do_here
        self._client: Any = None

    def __enter__(self) -> ClusterPool:
        """Connect, wait for a worker and check all that are there.

        Raises SettingError if distributed is not installed, the scheduler cannot be reached or a worker does not have
        what it needs, and StoppedError if no worker joins in time.
        """
        self._client = _connect(self._scheduler)
        try:
            with self._explained():
                self._await_workers()
                self._require_workers(self._check({}))
                threads = self._client.nthreads()
            dashboard = self._client.dashboard_link
            size = f"{number(len(threads), 'worker')} with {number(sum(threads.values()), 'thread')}"
            text = f"--cluster {self._scheduler}: {size}"
            warnings.warn(f"{text}{f'; dashboard: {dashboard}' if dashboard else ''}.", Notice, stacklevel=3)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def would_start(self) -> bool:
        """Whether several tasks make it start processes: the workers of a cluster are there."""
        return False

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The results of work(task) for every task, in the order of completion.

        A Divisible task that has killed one worker after the other is done on this machine, without the parts that end
        a process there too.

        Raises StoppedError if the scheduler is lost, if no worker is left for longer than `wait`, or if another task
        has killed one worker after the other; SettingError for a worker that does not have what it needs; and whatever
        `work` raises. Tasks that have not begun are dropped then.
        """
        if not tasks:
            return
        executor = self._client.get_executor(pure=False, retries=_RETRIES)
        with self._explained(), _token(self._needs.writes_to) as token:
            check = self._check(token)
            pending = iter(tasks)
            running: dict[Future[Result | OctError], Task] = {}
            looked = last_seen = time.monotonic()
            threads = sum(self._client.nthreads().values())
            while True:
                while len(running) < 4 * max(threads, 1) and (task := next(pending, None)) is not None:
                    running[executor.submit(_run, check, work, task)] = task
                if not running:
                    return
                for future in wait(running, timeout=_LOOK, return_when=FIRST_COMPLETED).done:
                    yield self._result(future, check, work, running.pop(future))
                now = time.monotonic()
                if now >= looked + _LOOK:
                    looked = now
                    if self._client.status != "running":
                        raise self._lost()
                    threads = sum(self._client.nthreads().values())
                    last_seen = now if threads else last_seen
                    if now > last_seen + self._wait:
                        raise self._no_workers()

    def _result(
        self, future: Future[Result | OctError], check: _Check, work: Callable[[Task], Result], task: Task
    ) -> Result:
        """The result of work(task). Raises what the task raised, or StoppedError if that was not its own error."""
        from distributed.scheduler import KilledWorker

        try:
            result = future.result()
        except KilledWorker as error:
            if isinstance(task, Divisible):
                return cast(Result, self._do_here(work, task))
            raise StoppedError(
                f"{number(error.allowed_failures + 1, 'worker')} died one after the other with the same task, the last "
                f"of them {error.last_worker.address} (usually out of memory). {_AGAIN}"
            ) from None
        except (CancelledError, OSError, MemoryError):
            raise
        except Exception:
            self._require_workers(check)  # one that has another octprep cannot even read its tasks
            raise
        if isinstance(result, OctError):
            raise result
        return result

    def _check(self, token: Mapping[Path, str]) -> _Check:
        files = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in self._needs.files}
        folders = self._needs.folders
        name = f"{time.time_ns()} {socket.gethostname()} {sorted(map(str, token))}"
        program = (socket.gethostname(), os.getpid())
        return _Check(name, self._needs.versions, _versions(self._needs.versions), folders, {**files, **token}, program)

    def _await_workers(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=self._wait)
        except TimeoutError:
            raise self._no_workers() from None

    def _require_workers(self, check: _Check) -> None:
        """Raise SettingError if a worker that is there does not have what it needs."""
        for address, info in self._client.get_versions()["workers"].items():
            found = ".".join(info["host"]["python"].split(".")[:3])
            if found != _PYTHON:  # it may not even be able to read what is sent to it
                raise SettingError(f"the worker {address} {_other_version('Python', found, _PYTHON)}")
        for address, answer in self._client.run(_check_worker, check, on_error="return").items():
            if isinstance(answer, OctError):
                raise answer
            if isinstance(answer, Exception):
                raise SettingError(
                    f"the worker {address} cannot run octprep {octprep.__version__} ({type(answer).__name__}: "
                    f"{answer}). Install the same octprep there as here, and start it again."
                )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise what distributed raises when the scheduler is lost as StoppedError."""
        try:
            yield
        except (CancelledError, OSError) as error:
            own = isinstance(error, OSError) and type(error).__module__ == "builtins" and error.errno is not None
            if own and self._client.status == "running":
                raise  # of a task
            raise self._lost() from None

    def _lost(self) -> StoppedError:
        return StoppedError(
            f"the connection to the Dask scheduler --cluster {self._scheduler} was lost: it has ended, or the network "
            f"failed. What is done is kept. {_AGAIN}"
        )

    def _no_workers(self) -> StoppedError:
        return StoppedError(
            f"--cluster {self._scheduler} has had no worker for {self._wait:g} s. What is done is kept: start workers "
            f"(`dask worker`), or wait longer with --cluster-wait. {_AGAIN}"
        )

    def _close(self) -> None:
        with suppress(Exception):  # whatever a scheduler that is gone leads to
            self._client.close(timeout=_CLOSE)


def _connect(scheduler: str) -> Any:
    """Dask's client. Raises SettingError if distributed is not installed, or the scheduler cannot be reached."""
    address = scheduler if _ADDRESS.fullmatch(scheduler) else _address_in_file(scheduler)
    try:
        import dask
    except ImportError:
        raise _not_installed() from None
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"})
    if "distributed" not in sys.modules:  # a program that has imported it decides on its logging
        names = ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio")
        dask.config.set({"logging": dict.fromkeys(names, logging.CRITICAL + 1)})
    try:
        import distributed
    except ImportError:
        raise _not_installed() from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)  # checked here
            client: Any = distributed.Client
            return client(address, timeout=_CONNECT, set_as_default=False)
    except Exception as error:  # of the network, of TLS, or of what else listens there
        raise SettingError(
            f"--cluster {scheduler}: no Dask scheduler answers at {address} within {_CONNECT:g} s "
            f"({type(error).__name__}). Give the address that `dask scheduler` prints, or its --scheduler-file."
        ) from None


def _address_in_file(scheduler: str) -> str:
    """The address in a scheduler file. Raises SettingError if there is none."""
    problem = "names no scheduler"
    try:
        if _ADDRESS.fullmatch(address := str(json.loads(Path(scheduler).read_bytes())["address"])):
            return address
    except FileNotFoundError:
        problem = "does not exist"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        pass
    raise SettingError(
        f"--cluster {scheduler} is no address such as tcp://10.0.0.1:8786 or tls://10.0.0.1:8786, and as a scheduler "
        f"file it {problem}. Give the address that `dask scheduler` prints, or the file of its --scheduler-file."
    )


def _not_installed() -> SettingError:
    return SettingError(
        '--cluster needs the package distributed, which is not installed: pip install "octprep[cluster]"'
    )


@contextmanager
def _token(folder: Path | None) -> Iterator[dict[Path, str]]:
    """A new file in a folder, with its SHA-256, which shows that a folder of this name elsewhere is the same one."""
    if folder is None:
        yield {}
        return
    # If it is left behind, it counts as a partly written file.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".part-0-cluster-") as file:
        Path(file.name).chmod(0o644)
        yield {Path(file.name): hashlib.sha256().hexdigest()}


# On the workers


def _run(check: _Check, work: Callable[[Task], Result], task: Task) -> Result | OctError:
    """The result of a task; errors for the user are returned, as Dask would try again what is raised."""
    import cv2
    from distributed import get_worker

    cv2.setNumThreads(1)  # a worker has a thread for each task
    if check.program != (socket.gethostname(), os.getpid()):  # as a worker inside the program has
        allow_time_limit()
    if error := _check_worker(check, worker := get_worker()):
        return error
    try:
        return work(task)
    except OctError as error:
        return type(error)(f"the worker {_name(worker)}: {error}")


_passed: set[str] = set()  # names of the checks that this process has passed


def _check_worker(check: _Check, dask_worker: Any) -> SettingError | None:
    """What a worker lacks, or None. dask_worker: Dask's object for it, which Dask gives to a parameter of this name."""
    if check.name not in _passed:
        if problem := _problem(check):
            return SettingError(f"the worker {_name(dask_worker)} {problem}")
        _passed.add(check.name)
    return None


def _problem(check: _Check) -> str:
    """What this worker lacks, as the rest of a sentence; "" if nothing."""
    try:
        versions = _versions(check.versions)
    except SettingError as error:  # a library is not installed
        return f"cannot do this: {error}"
    for library, expected in check.expected.items():
        if versions[library] != expected:
            return _other_version(library, versions[library], expected)
    for folder in check.folders:
        if not folder.is_dir():
            return f"does not see {folder}. {_SHARED}"
    for file, sha256 in check.files.items():
        try:
            same = hashlib.sha256(file.read_bytes()).hexdigest() == sha256
        except OSError:
            same = False
        if not same:
            return f"does not see the files in {file.parent} that this program sees. {_SHARED}"
    return ""


def _versions(libraries: Callable[[], Mapping[str, str]]) -> dict[str, str]:
    """The versions that must be equal, by the name of what has them. Raises SettingError if one is not installed."""
    return {"octprep": octprep.__version__, "Python": _PYTHON, **libraries(), "the code of octprep": _code()}


@cache
def _code() -> str:
    """A digest of octprep's own files, as a version stays the same while octprep is changed."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:12]


def _other_version(library: str, found: str, expected: str) -> str:
    return (
        f"has {library} {found}, and this program {expected}: what they write could differ. Install the same version "
        "on both, and start the worker again."
    )


def _name(worker: Any) -> str:
    """The host and the address of a worker."""
    return f"on {socket.gethostname()} ({worker.address})"
