"""Ctrl-C and SIGTERM end the program within two seconds in one sentence, whatever it is doing.

Python runs a signal's handler only between two of its own instructions, and an exception raised there can be lost in a
library that catches everything. So a second way stands beside it: a thread that the system wakes itself, and that ends
the process if the first way has not. Every file is written whole or not at all, so that is safe at any time.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from octprep import terminal

GRACE = 1.2  # seconds for the program to end by itself

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Stopped(KeyboardInterrupt):
    """A signal came that ends the program."""


class _State:
    signal = 0  # that has come
    running = False  # a command, which may have something to clear up
    advice = ""  # how to go on, for the sentence
    stderr = -1  # where to say it: what standard error was at the start, wherever it leads now
    wake: tuple[socket.socket, socket.socket] | None = None
    leaving = threading.Lock()


def watch() -> None:
    """From here on Ctrl-C and SIGTERM end the process. Does nothing outside the main thread, or a second time."""
    if _State.wake or threading.current_thread() is not threading.main_thread():
        return
    terminal.prepare()  # or a socket would get the number of a standard error that was closed
    with suppress(OSError):
        _State.stderr = os.dup(2)
    _State.wake = socket.socketpair()
    for end in _State.wake:
        end.setblocking(False)
    signal.set_wakeup_fd(_State.wake[1].fileno(), warn_on_full_buffer=False)
    for number in _WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background of a shell
            signal.signal(number, _raise)
    threading.Thread(target=_guard, name="interrupts", daemon=True).start()


def command_runs() -> None:
    """From here on the first signal raises `Stopped`. Before, there is nothing to clear up, and it ends the process."""
    _State.running = True


def advise(text: str) -> None:
    """How to go on if the program is interrupted from here on, such as "nothing was written"."""
    _State.advice = text


def sentence(number: int = 0) -> str:
    """What is said of an interruption."""
    word = _WORDS.get(signal.Signals(number or _State.signal or signal.SIGINT), "interrupted")
    return f"octtrain: {word}{'; ' if _State.advice else ''}{_State.advice}."


def caught() -> int:
    """The number of the signal that has come, or 0."""
    return _State.signal


def leave(text: str, code: int) -> NoReturn:
    """Say a sentence, if any, and end the process at once: threads of libraries cannot hold it up."""
    with _State.leaving:  # never let go of: only one way says something
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        _say(text)
        os._exit(code)


def _say(text: str) -> None:
    if text and _State.stderr >= 0:
        with suppress(OSError):
            os.write(_State.stderr, f"{text}\n".encode(errors="backslashreplace"))


def _raise(number: int, frame: FrameType | None) -> None:
    if _State.signal:
        return
    _State.signal = number
    if not _State.running:
        leave(sentence(number), 128 + number)
    raise Stopped


def _guard() -> None:
    """Wait for a signal, then for the program to end by itself or for a second signal, and end it."""
    assert _State.wake
    end = _State.wake[0]
    number = 0
    deadline: float | None = None
    while deadline is None or time.monotonic() < deadline:
        ready, _, _ = select.select([end], [], [], None if deadline is None else max(0, deadline - time.monotonic()))
        for came in end.recv(64) if ready else b"":
            if came in tuple(_WORDS) and number:
                deadline = 0.0  # a second one: at once
            elif came in tuple(_WORDS):
                number, deadline = came, time.monotonic() + GRACE
    with _State.leaving:  # without flushing: another thread may hold the streams
        _say(sentence(number))
        os._exit(128 + number)


if Path(sys.argv[0] if sys.argv else "").stem == "octtrain":  # the program: from its first imports on
    watch()
