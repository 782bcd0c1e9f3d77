"""Ctrl-C and SIGTERM end a program within two seconds with one sentence, whatever it is doing.

    signal ─▶ handler, in the main thread ─▶ Interrupted is raised, the command cleans up ─▶ leave()
           └▶ wakeup descriptor ─▶ guard thread waits GRACE seconds ─▶ leave()

Python runs a signal's handler only between two of its own instructions, and a library may catch the exception that the
handler raises. The operating system wakes the guard thread without either, so it ends the process if the first way has
not. That is safe at any time, as every file is written atomically. Further signals change nothing.

Work that has something to save first runs inside `deferred`: there the first signal is only noted, and a second one
does what the first does elsewhere.

Hardly more than the standard library is imported, so that a program can watch from its first import on.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from octprep.terminal.streams import prepare_streams, printable

GRACE = 1.2  # seconds in which the command may clean up
END_WORKERS = 0.2  # seconds for ending worker processes
REPEAT = 0.5  # seconds after the first signal in which another one is the same request: `timeout` sends two at once
POLL = 0.05  # seconds between two looks of the guard at what the main thread does

_NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}


class Interrupted(KeyboardInterrupt):
    """A signal has asked the program to end."""


@dataclass
class _Watch:
    """The state of a program whose signals are watched."""

    program: str
    wakeup: tuple[socket.socket, socket.socket]  # the guard's end, and the one that signals write to
    stderr: int  # a duplicate of standard error, as libraries redirect the stream
    signal: int = 0  # the number of the first signal that came; 0: none has come
    command_runs: bool = False
    noted: float = 0.0  # the time at which a deferred signal was noted
    deferral: float = 0.0  # seconds that a program may go on after a signal; 0: it is not deferred
    deferral_ended: float = 0.0  # the time at which the last deferral ended
    is_ending: bool = False  # Interrupted was raised


_watch: _Watch | None = None
_advice = ""
_keeps_advice = False
_leaving = threading.Lock()  # never released: the thread that takes it ends the process


def is_program(name: str, module: str) -> bool:
    """Whether the module (its `__name__`) is imported as the program of this name, rather than by other code."""
    return module == "__main__" or Path("".join(sys.argv[:1])).stem == name


def watch(program: str) -> None:
    """End the process on Ctrl-C and SIGTERM from here on.

    A signal that is ignored, as in a shell's background, stays ignored. Does nothing outside the main thread, or when
    called again.
    """
    global _watch
    if _watch or threading.current_thread() is not threading.main_thread():
        return
    prepare_streams()  # else a socket could get the descriptor of a standard error that was closed
    stderr = -1
    with suppress(OSError):
        stderr = os.dup(2)
    _watch = _Watch(program, socket.socketpair(), stderr)
    for end in _watch.wakeup:
        end.setblocking(False)
    signal.set_wakeup_fd(_watch.wakeup[1].fileno(), warn_on_full_buffer=False)
    for number in _NAMES:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _handle)
    guard = threading.Thread(target=_guard, args=(_watch,), name="interrupts", daemon=True)
    if hasattr(signal, "pthread_sigmask"):
        # The guard itself takes no signal: where the main thread blocks one, it is to stay pending.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _NAMES)
        guard.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    else:
        guard.start()


def command_runs() -> None:
    """Let the first signal raise Interrupted from here on.

    Before, nothing needs cleaning up, and it ends the process.
    """
    if _watch:
        _watch.command_runs = True


def advise(text: str) -> None:
    """Set how to continue after an interruption from here on, as a clause such as "nothing was written"."""
    global _advice
    if not _keeps_advice:
        _advice = text


@contextmanager
def keep_advising(text: str) -> Iterator[None]:
    """Advise this, whatever the work inside the block advises of its own part."""
    global _advice, _keeps_advice
    _advice, _keeps_advice = text, True
    try:
        yield
    finally:
        _keeps_advice = False


def advice() -> str:
    """The clause that was set last."""
    return _advice


def signal_caught() -> int:
    """The number of the signal that has come, or 0."""
    return _watch.signal if _watch else 0


@contextmanager
def deferred(seconds: float = 25.0) -> Iterator[None]:
    """Let the first signal inside the block be noted only: `signal_caught` tells of it, and nothing is raised.

    The block then has so many seconds from the signal to save its work and to end; Interrupted is raised at its end.
    A second signal raises Interrupted at once. Of the 30 s that job schedulers and containers usually give a program
    after SIGTERM, the default leaves some.

    Blocks do not nest. Raises Interrupted if a signal came before. Does nothing in a program that does not watch.
    """
    watch = _watch
    if not watch:
        yield
        return
    if watch.signal:
        _interrupt(watch)
    watch.deferral = seconds
    try:
        yield
    finally:
        watch.deferral_ended = time.monotonic()
        watch.deferral = 0.0  # a signal that comes from here on is not deferred
        if watch.signal:
            _interrupt(watch)


def leave() -> NoReturn:
    """End the process after a signal with its sentence, at once: the threads of libraries cannot delay it."""
    with _leaving:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        _exit()


def _handle(number: int, frame: FrameType | None) -> None:
    assert _watch
    if _watch.is_ending:
        return
    if not _watch.command_runs:
        _watch.signal = number
        leave()
    if _watch.deferral:
        if not _watch.signal:
            _watch.signal, _watch.noted = number, time.monotonic()
            return
        if time.monotonic() < _watch.noted + REPEAT:
            return
    _watch.signal = _watch.signal or number
    _interrupt(_watch)


def _interrupt(watch: _Watch) -> NoReturn:
    """Raise Interrupted. Where nothing can catch it, it ends the program, or it is dropped and the guard does."""
    watch.is_ending = True
    sys.excepthook = lambda *_: leave()
    sys.unraisablehook = lambda _: None
    threading.excepthook = lambda _: None
    raise Interrupted


def _guard(watch: _Watch) -> None:
    """Wait for a signal, give the program time to end by itself, and end it."""
    end = watch.wakeup[0]
    number = 0
    while not number:
        number = _next_signal(end, None)
    first = time.monotonic()
    again = 0.0  # the time of a second signal in a deferral; 0: none has come
    while time.monotonic() < _limit(watch, first, again):
        if _next_signal(end, POLL) and watch.deferral and not again and time.monotonic() > first + REPEAT:
            again = time.monotonic()
    with _leaving:  # no stream is flushed: another thread may hold it
        watch.signal = watch.signal or number
        _exit()


def _next_signal(end: socket.socket, seconds: float | None) -> int:
    """The number of a signal that comes within so many seconds (None: however long it takes); 0 for any other."""
    if not select.select([end], [], [], seconds)[0]:
        return 0
    return next((byte for byte in end.recv(64) if byte in tuple(_NAMES)), 0)


def _limit(watch: _Watch, first: float, again: float) -> float:
    """The time at which a program must have ended. first: of the first signal; again: of a second one, or 0."""
    if again:
        return again + GRACE
    if watch.deferral:
        return first + watch.deferral
    return max(first, watch.deferral_ended) + GRACE


def _exit() -> NoReturn:
    assert _watch
    text = f"{_watch.program}: {_NAMES[signal.Signals(_watch.signal)]}{'; ' if _advice else ''}{_advice}."
    with suppress(OSError):
        os.write(_watch.stderr, f"{printable(text)}\n".encode())
    if "multiprocessing" in sys.modules:
        workers = threading.Thread(target=_end_workers, daemon=True)
        with suppress(RuntimeError):
            workers.start()
            workers.join(END_WORKERS)
    os._exit(128 + _watch.signal)


def _end_workers() -> None:
    """End worker processes that are left, then remove the locks they shared, which would be reported as leaked."""
    for process in sys.modules["multiprocessing"].active_children():
        process.kill()
    if util := sys.modules.get("multiprocessing.util"):
        util._run_finalizers(0)
