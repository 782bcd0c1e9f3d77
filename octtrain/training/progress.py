"""Progress inside an epoch: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

from tqdm import tqdm

INTERVAL = 30.0  # seconds between two lines, and before the first one of an epoch


class Progress:
    """Shows how far an epoch is, with its loss, rate and time left.

        with progress.epoch(3, 12, steps=900, batch_size=32):
            for step in range(900):
                ...
                progress.update(step + 1, loss, images_per_second)

    If standard error is a terminal, it is a bar there, which is gone after the epoch. Otherwise lines go to the log, at
    most one every `interval` seconds and none in the epoch's first ones.

    log: takes lines.  quiet: show nothing.  interval: in seconds.
    """

    def __init__(self, log: Callable[[str], None], *, quiet: bool = False, interval: float = INTERVAL) -> None:
        self.log, self.quiet, self.interval = log, quiet, interval
        self.title = ""
        self.steps = self.batch_size = 0
        self.shown = 0.0  # the time of the last line
        self.bar: tqdm[NoReturn] | None = None

    @contextmanager
    def epoch(self, number: int, epochs: int, steps: int, batch_size: int) -> Iterator[None]:
        """The time of an epoch's steps. number: of the epoch, from 1.  batch_size: images of a step."""
        self.title, self.steps, self.batch_size = f"epoch {number}/{epochs}", steps, batch_size
        self.shown = time.monotonic()
        if not self.quiet and sys.stderr and not sys.stderr.closed and sys.stderr.isatty():
            self.bar = tqdm(
                total=steps,
                desc=self.title,
                file=_AnyTerminal(sys.stderr),
                bar_format="{desc} |{bar}|{percentage:3.0f}%",  # a narrow terminal first shortens the bar
                leave=False,
                dynamic_ncols=True,
                miniters=1,
            )
        try:
            yield
        finally:
            if self.bar is not None:
                self.bar.close()
                self.bar = None

    def update(self, steps_done: int, loss: float, images_per_second: float) -> None:
        """Show the state after some steps of the epoch.

        loss: the mean over these steps.  images_per_second: of training alone; 0 if it is not known yet.
        """
        if self.bar is not None:
            state = self._state(steps_done, loss, images_per_second)
            self.bar.set_description_str(f"{self.title}  {state}", refresh=False)
            self.bar.update(steps_done - self.bar.n)  # draws it ten times a second at most
        elif not self.quiet and time.monotonic() >= self.shown + self.interval:
            self.shown = time.monotonic()
            state = self._state(steps_done, loss, images_per_second)
            self.log(f"{self.title}  step {steps_done:,} of {self.steps:,}  {state}")

    def _state(self, steps_done: int, loss: float, images_per_second: float) -> str:
        if not images_per_second > 0.01:  # nor if it is not a number
            return f"loss {loss:.4f}"
        seconds = (self.steps - steps_done) * self.batch_size / images_per_second
        return f"loss {loss:.4f}  {images_per_second:,.0f} images/s  {tqdm.format_interval(seconds)} left"


class _AnyTerminal:
    """A terminal to which writing never fails, although it may have been closed."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self.stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
