"""Files that end the process which decodes them: which signals say so, and a time limit for one image.

A C library that reads a damaged file may be ended by the system (SIGSEGV and others) or never return. Both end the
worker process: the second by SIGALRM, which a timer sends. `octprep.workers` then does the parts of the task that this
worker had one at a time, to learn which of them ends a process that does nothing else. SIGKILL, usually sent when
memory is short, and a plain exit say nothing about a file.
"""

from __future__ import annotations

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

DECODE_SECONDS = 60.0  # to decode one image, by the clock; a B-scan needs some milliseconds, the largest image a few s

_CRASHES = frozenset({"SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"})
_TIMEOUT = "SIGALRM"
_MADE_CRASH, _TOOK_LONG = "made the image decoder crash", "took the image decoder more than"


class Divisible(ABC):
    """A task of several parts, such as files, of which one may end the process: see `octprep.workers.WorkerPool`."""

    @property
    @abstractmethod
    def part_count(self) -> int:
        """How many parts there are."""

    @abstractmethod
    def try_part(self, index: int) -> None:
        """Do what the task does with one part, 0..part_count-1, and keep nothing of it. Raises what the task raises."""

    @abstractmethod
    def without(self, reasons: Mapping[int, str]) -> Self:
        """The task that no longer touches some parts. reasons: index of a part -> why, as an exclusion's reason."""


def is_crash(reason: str) -> bool:
    """Whether an exclusion's reason is one of `crash_reason`: such a file is decoded in no process that matters."""
    return reason.startswith((_MADE_CRASH, _TOOK_LONG))


def crash_reason(exit_code: int | None) -> str | None:
    """Why a file is excluded with which a worker process ended; None if no file is to blame for its end.

    exit_code: as of multiprocessing.Process: minus the number of a signal; None while it runs.
    """
    name = next((known.name for known in signal.Signals if -known == exit_code), None)
    if name == _TIMEOUT:
        return f"{_TOOK_LONG} {DECODE_SECONDS:g} s"
    return f"{_MADE_CRASH} ({name})" if name in _CRASHES else None


def allow_time_limit() -> None:
    """Let `time_limit` end this process from now on; only for a worker process, which does nothing else.

    Called in another thread than the main one, it changes nothing in a process that handles SIGALRM.
    """
    global _may_end_process
    if hasattr(signal, "setitimer"):
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _may_end_process = signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


@contextmanager
def time_limit() -> Iterator[None]:
    """End this process by SIGALRM if the block takes more than DECODE_SECONDS, whatever C code it runs.

    Several threads may be in such a block. Without effect where `allow_time_limit` was not called.
    """
    if not _may_end_process:
        yield
        return
    block = object()
    with _guard:
        _ends[block] = time.monotonic() + DECODE_SECONDS
        _set_timer()
    try:
        yield
    finally:
        with _guard:
            del _ends[block]
            _set_timer()


def _set_timer() -> None:
    """Set the one timer that a process has to the first of the ends."""
    left = min(_ends.values()) - time.monotonic() if _ends else None
    signal.setitimer(signal.ITIMER_REAL, 0 if left is None else max(left, 0.001))


_may_end_process = False
_guard = threading.Lock()
_ends: dict[object, float] = {}  # when the blocks that threads are in must have ended, by the monotonic clock
