"""Ctrl-C and SIGTERM end a program within two seconds, with one sentence; what is pressed afterwards changes nothing.

Only the standard library is imported, so that it can be watched for before anything that takes time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

_PATIENCE = 1.5  # seconds in which things are put in order


class Watch:
    """What became of a program's interruptions."""

    def __init__(self, program: str, advice: Callable[[], str]) -> None:
        """advice: how to go on, as a clause."""
        self._program, self._advice = program, advice
        self._before: dict[int, object] = {}
        self._said = False
        self.number = 0  # of the signal that ended the work; 0: none did

    @property
    def exit_code(self) -> int:
        """What shells report for a program that a signal ended."""
        return 128 + self.number

    def start(self) -> None:
        """Raise KeyboardInterrupt for SIGINT and SIGTERM alike, once. Signals that are ignored stay so."""
        if threading.current_thread() is not threading.main_thread() or self._before:
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._stop)
        sys.excepthook = self._excepthook

    def end(self) -> None:
        """Leave the signals as they were, unless one came: then nothing interrupts the way out."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.number else handler)  # type: ignore[arg-type]
        if not self.number:
            self._before = {}
            sys.excepthook = sys.__excepthook__

    def say(self) -> None:
        """Tell the user, once."""
        if not self._said:
            self._said = True
            what = "interrupted" if self.number == signal.SIGINT else "ended by SIGTERM"
            with suppress(OSError):
                os.write(2, f"{self._program}: {what}; {self._advice()}.\n".encode())

    def _stop(self, number: int, _: FrameType | None) -> None:
        for one in self._before:
            signal.signal(one, _pass)
        self.number = number
        sys.unraisablehook = _pass  # an interruption that hits a callback; the timer ends the program then
        threading.excepthook = _pass
        with suppress(RuntimeError):
            timer = threading.Timer(_PATIENCE, self._leave)
            timer.daemon = True
            timer.start()
        raise KeyboardInterrupt

    def _leave(self) -> None:
        self.say()
        if util := sys.modules.get("multiprocessing.util"):  # locks between processes that would be named as left over
            closing = threading.Thread(target=util._run_finalizers, args=(0,), daemon=True)
            closing.start()
            closing.join(0.2)
        os._exit(self.exit_code)

    def _excepthook(self, *error: object) -> None:
        if self.number:
            self._leave()
        sys.__excepthook__(*error)  # type: ignore[arg-type]


def _pass(*_: object) -> None:
    pass
