"""The steps of an epoch, its validation, and what is counted in both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octtrain.data.chunks import Chunk
from octtrain.data.feeds import Feed
from octtrain.evaluation.metrics import balanced_accuracy
from octtrain.training.programs import Totals
from octtrain.training.trainer import Trainer


@dataclass(kw_only=True)
class EpochState:
    """How far an epoch is, and its sums so far: enough to go on with it after an interruption.

    confusion: (classes, classes) images, true class in rows, predicted in columns.
    """

    epoch: int  # from 0
    confusion: NDArray[np.int64]
    loss: float = 0.0  # sum of the images' losses
    steps: int = 0  # done

    @classmethod
    def begin(cls, epoch: int, classes: int) -> EpochState:
        """An epoch of which no step is done."""
        return cls(epoch=epoch, confusion=np.zeros((classes, classes), np.int64))

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """Mean loss, accuracy and balanced accuracy, by name."""
        images = max(1, int(self.confusion.sum()))
        return {
            f"{prefix}loss": self.loss / images,
            f"{prefix}accuracy": float(np.trace(self.confusion)) / images,
            f"{prefix}balanced_accuracy": balanced_accuracy(self.confusion) or 0.0,
        }


@dataclass(kw_only=True)
class Clock:
    """Seconds that the steps of an epoch took, and of these the ones spent waiting for images.

    Compiling is left out, unless all steps of the epoch were in the chunk that compiled.
    """

    seconds: float = 0.0
    waited: float = 0.0
    steps: int = 0
    has_compiled: bool = False  # whether the seconds are also those of compiling

    def rate(self, batch_size: int) -> float:
        """Images per second; 0 before any step was timed."""
        return self.steps * batch_size / self.seconds if self.seconds > 0 else 0.0


def train_epoch(
    trainer: Trainer,
    feed: Feed,
    state: EpochState,
    after_chunk: Callable[[EpochState, Clock], bool],
    *,
    is_compiled: bool = True,
) -> Clock:
    """Do the steps of an epoch that are left, and add to its state.

    after_chunk: is called after some steps, and ends the epoch early by returning True.  is_compiled: whether the first
    chunk does not compile; otherwise it is not timed, if there are others.

    Raises SettingError if the loss is no longer a number.
    """
    clock = Clock()
    before = (state.loss, state.confusion)
    totals = trainer.programs.zeros()
    pending: tuple[Totals, int] | None = None
    chunks = feed.training(state.epoch, state.steps)
    submitted = state.steps
    start = time.perf_counter()

    def settle(totals: Totals, steps: int) -> bool:
        """Wait for some steps, and take over their sums."""
        nonlocal start, is_compiled
        loss = float(np.asarray(totals.loss))
        if not math.isfinite(loss):
            raise trainer.divergence(state.epoch, state.steps + steps)
        state.loss, state.confusion = before[0] + loss, before[1] + np.asarray(totals.confusion)
        state.steps += steps
        now = time.perf_counter()
        if is_compiled or state.steps == feed.steps:
            clock.has_compiled = not is_compiled
            clock.seconds, clock.steps = clock.seconds + now - start, clock.steps + steps
        else:
            clock.waited = 0.0
        start, is_compiled = now, True
        return after_chunk(state, clock)

    try:
        for chunk in _timed(chunks, clock):
            totals = trainer.train(chunk, totals, state.epoch, submitted)
            submitted += chunk.steps
            if not is_compiled:  # waited for at once, so that its time, with that of compiling, is known exactly
                if settle(totals, chunk.steps):
                    return clock
                continue
            # The device works on this chunk while the host looks at the one before.
            if pending and settle(*pending):
                settle(totals, chunk.steps)
                return clock
            pending = (totals, chunk.steps)
        if pending:
            settle(*pending)
    finally:
        chunks.close()
    return clock


def validate(trainer: Trainer, feed: Feed) -> dict[str, float]:
    """Loss, accuracy and balanced accuracy of the kept model on val, by name; each with the prefix `val_`."""
    totals = trainer.programs.zeros()
    for chunk in feed.validation():
        totals = trainer.evaluate(chunk, totals)
    state = EpochState(epoch=0, confusion=np.asarray(totals.confusion, np.int64), loss=float(np.asarray(totals.loss)))
    return state.metrics("val_")


def _timed(chunks: Iterator[Chunk], clock: Clock) -> Iterator[Chunk]:
    """The same chunks; the time until each comes is added to the clock's `waited`."""
    while True:
        start = time.perf_counter()
        chunk: Any = next(chunks, None)
        clock.waited += time.perf_counter() - start
        if chunk is None:
            return
        yield chunk
