"""The parts of a training, each run for some seconds after a warm-up."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.format.manifest import Manifest, open_shard
from octtrain.data.chunks import Chunk
from octtrain.data.feeds import Feed
from octtrain.experiments.bench.rates import Rate
from octtrain.training.epochs import Clock, EpochState, train_epoch
from octtrain.training.programs import Totals
from octtrain.training.trainer import Trainer

PIECE = 8_000_000  # bytes that are read at a time


def read_rate(folder: Path, manifest: Manifest, splits: Sequence[str], seconds: float) -> tuple[Rate, float]:
    """Shards read in order, again and again: records, and bytes per second.

    From the disk or, where they were read before, from the system's memory.
    """
    shards = [shard for split in splits for shard in manifest.splits[split] if shard.records]
    buffer = bytearray(PIECE)
    images, size, start = 0.0, 0, time.perf_counter()
    for shard in itertools.cycle(shards):
        with open_shard(folder / shard.name) as file:
            while count := file.readinto(buffer):
                size, images = size + count, images + count * shard.records / shard.bytes
                if (elapsed := time.perf_counter() - start) >= seconds:
                    return Rate(images=images, seconds=elapsed), size / elapsed
    raise AssertionError("there are no shards")


def host_rate(feed: Feed, seconds: float) -> Rate:
    """The chunks of one epoch after the other, as fast as they come. feed: one that leaves them on the host."""
    first_chunk(feed)  # opens files and builds pipelines
    images, start = 0, time.perf_counter()
    for epoch in itertools.count():
        with closing(feed.training(epoch)) as chunks:
            for chunk in chunks:
                images += chunk.steps * feed.batch_size
                if (elapsed := time.perf_counter() - start) >= seconds:
                    return Rate(images=images, seconds=elapsed)
    raise AssertionError("an epoch has no images")


def transfer_rate(trainer: Trainer, pixels: NDArray[np.uint8], seconds: float) -> Rate:
    """The images of a chunk copied to the device, again and again. pixels: (room, batch, height, width, 1)."""
    images = int(np.prod(pixels.shape[:2]))

    def copy() -> int:
        wait_for(trainer.programs.place(pixels))
        return images

    return _repeated(copy, seconds)


def step_rate(trainer: Trainer, chunk: Chunk, seconds: float) -> Rate:
    """The steps of one chunk, whose images lie on the device, again and again."""
    before: Totals = trainer.programs.zeros()

    def train() -> int:
        nonlocal before
        totals = trainer.train(chunk, before, 0, 0)
        np.asarray(before.loss)  # the device works on this chunk while the host waits for the one before, as in fit
        before = totals
        return chunk.steps * int(chunk.labels.shape[1])

    rate = _repeated(train, seconds, warm_up=2)
    trainer.programs.update_variables()
    return rate


def together_rate(trainer: Trainer, feed: Feed, classes: int, seconds: float) -> tuple[Rate, float]:
    """One epoch of a training after the other, and the seconds of it in which images were waited for."""
    total = Clock()
    for epoch in itertools.count():
        done = total.seconds

        def is_enough(_: EpochState, clock: Clock, done: float = done) -> bool:
            return done + clock.seconds >= seconds

        # Nothing is compiled any more, but the first chunk of a measurement that ends early would count for too much.
        clock = train_epoch(trainer, feed, EpochState.begin(epoch, classes), is_enough, is_compiled=epoch > 0)
        total = Clock(
            seconds=total.seconds + clock.seconds,
            waited=total.waited + clock.waited,
            steps=total.steps + clock.steps,
        )
        if total.seconds >= seconds:
            break
    return Rate(images=total.steps * feed.batch_size, seconds=total.seconds), total.waited


def now() -> float:
    """Seconds of a clock that only runs on."""
    return time.perf_counter()


def first_chunk(feed: Feed) -> Chunk:
    """The first chunk of a training."""
    with closing(feed.training(0)) as chunks:
        return next(chunks)


def wait_for(array: Any) -> None:
    """Return when an array of the device is complete."""
    np.asarray(array[(-1,) * (len(array.shape) - 1)])


def peak_memory() -> int | None:
    """Most bytes of memory that this process has had so far; None where the system does not say."""
    with suppress(OSError, ValueError, StopIteration):  # getrusage counts the program that started this one, too
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    with suppress(ImportError):
        import resource

        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
    return None


def free_memory() -> int | None:
    """Free bytes of the machine's memory; None where the system does not say."""
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _repeated(work: Callable[[], int], seconds: float, *, warm_up: int = 1) -> Rate:
    """Do some work, which returns a number of images, until so many seconds have passed."""
    for _ in range(warm_up):
        work()
    images, start = 0, time.perf_counter()
    while True:
        images += work()
        if (elapsed := time.perf_counter() - start) >= seconds:
            return Rate(images=images, seconds=elapsed)
