"""The measured numbers, the table of them, and the sentence about what limits the training; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NAMES = {  # of a part in the sentence; `host` is another thing for each feed
    "read": "reading the shards",
    "mapped": "gathering images out of the shards",
    "stream": "parsing records",
    "transfer": "copying images to the device",
    "step": "the training step",
}
MOST = 0.5  # share of the step's time from which augmentation is most of it


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So many images took so many seconds."""

    images: float
    seconds: float

    @property
    def per_second(self) -> float:
        """Images per second."""
        return self.images / max(self.seconds, 1e-9)

    def as_json(self) -> dict[str, float]:
        """For json.dumps."""
        return {"images": self.images, "seconds": self.seconds, "images_per_second": self.per_second}


@dataclass(frozen=True, kw_only=True)
class FeedRates:
    """What was measured of one feed. The parts alone: None where the feed does not have them in every epoch."""

    name: str
    read: Rate | None  # the shards' bytes, in order
    host: Rate | None  # images gathered, or records parsed, into the arrays that the device gets
    transfer: Rate | None  # these arrays copied to the device
    augmentation: Rate  # of images that lie on the device already
    step: Rate  # whole training steps, augmentation included, with images that lie on the device already
    together: Rate  # a training as `fit` does it
    waited: float  # seconds of `together` in which the next images were waited for
    load: Rate | None = None  # images placed on the device once, before the first epoch
    memory: int | None = None  # most bytes of the process until the end of this feed's measurement
    device_memory: int | None = None  # the same of the GPU

    @property
    def parts(self) -> dict[str, Rate]:
        """The parts that could limit the training, by field."""
        parts = {"read": self.read, "host": self.host, "transfer": self.transfer, "step": self.step}
        return {name: rate for name, rate in parts.items() if rate}

    @property
    def slowest(self) -> str:
        """The part that is slowest alone, by field."""
        return min(self.parts, key=lambda name: self.parts[name].per_second)

    @property
    def waiting(self) -> float:
        """Share of the time in which the device waits for images, 0 to 1.

        The smaller of two upper bounds: the share in which the host waited, part of which the device may have worked on
        steps that were submitted before; and by how much the whole is slower than the steps alone.
        """
        slower = 1 - self.together.per_second / self.step.per_second
        return max(0.0, min(self.waited / max(self.together.seconds, 1e-9), slower))

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        rates = ("read", "host", "transfer", "augmentation", "step", "together", "load")
        measured = {name: getattr(self, name) for name in rates}
        return {
            "name": self.name,
            **{name: rate and rate.as_json() for name, rate in measured.items()},
            "waited_seconds": self.waited,
            "waiting_share": self.waiting,
            "slowest": self.slowest,
            "peak_memory_bytes": self.memory,
            "device_peak_memory_bytes": self.device_memory,
        }


def conclusion(feeds: Sequence[FeedRates]) -> str:
    """What limits the training with the feed that is fastest, in one sentence."""
    best = max(feeds, key=lambda feed: feed.together.per_second)
    slowest, rate = best.slowest, best.parts[best.slowest].per_second
    part = NAMES[best.name if slowest == "host" else slowest]
    if slowest == "step" and best.step.per_second > MOST * best.augmentation.per_second:
        part += ", most of it augmentation,"
    feed = f"With {best.name}, the fastest feed," if len(feeds) > 1 else f"With the feed {best.name},"
    return (
        f"{feed} {part} limits the training: {_number(rate)} images/s alone, {_number(best.together.per_second)} with "
        f"all the rest, and the device waits for images {_percent(best.waiting)} of the time."
    )


def format_table(feeds: Sequence[FeedRates]) -> str:
    """All numbers as lines of text, a column for each feed."""
    rows = [("images/s", [feed.name for feed in feeds])]
    for title, field in (
        ("shards read in order", "read"),
        ("gathered or parsed", "host"),
        ("copied to the device", "transfer"),
        ("placed once, before epoch 1", "load"),
        ("augmentation", "augmentation"),
        ("training step, with it", "step"),
        ("all together, as in fit", "together"),
    ):
        rates = [getattr(feed, field) for feed in feeds]
        if any(rates):
            rows.append((title, [_number(rate.per_second) if rate else "-" for rate in rates]))
    rows.append(("device waits for images", [_percent(feed.waiting) for feed in feeds]))
    for title, field in (("memory so far, GB", "memory"), ("memory of the GPU so far, GB", "device_memory")):
        sizes = [getattr(feed, field) for feed in feeds]
        if any(sizes):
            rows.append((title, [f"{size / 1e9:.2f}" if size else "-" for size in sizes]))
    width = max(len(title) for title, _ in rows)
    return "\n".join(f"{title:{width}}" + "".join(f"  {cell:>10}" for cell in cells) for title, cells in rows)


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
