"""The settings of the measurement, checked when they are made. Only the standard library is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from octprep.format.errors import SettingError
from octprep.format.options import option, same_option
from octtrain.config import FitConfig

MAX_SECONDS = 3600  # for one part


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is measured, and how long. Validates on construction; raises SettingError for a value outside its range."""

    model: str = same_option(FitConfig, "model")
    batch_size: int | Literal["auto"] = same_option(FitConfig, "batch_size")
    fold: int | None = same_option(FitConfig, "fold")
    feed: Literal["all", "resident", "mapped", "stream"] = option(
        "all",
        help="Where images come from: held on the device, gathered from memory-mapped shards, or streamed from them. "
        "all: whatever goes with the shards and the device, one after the other.",
        panel="Speed",
    )
    precision: Literal["auto", "float32", "bfloat16"] = same_option(FitConfig, "precision")
    jit: Literal["auto", "on", "off"] = same_option(FitConfig, "jit")
    seconds: float = option(
        3.0,
        help="Time for each part of each feed, at least, after a warm-up in which programs are compiled; above 0.",
        panel="Speed",
        metavar="SECONDS",
    )

    def __post_init__(self) -> None:
        if self.feed not in ("all", "resident", "mapped", "stream"):
            raise SettingError(f"feed must be one of all, resident, mapped, stream; got {self.feed!r}")
        if not 0 < self.seconds <= MAX_SECONDS:
            raise SettingError(f"seconds must be above 0 and at most {MAX_SECONDS}; got {self.seconds}")
        self.fit("auto")

    def fit(self, feed: Literal["auto", "resident", "mapped", "stream"]) -> FitConfig:
        """The training that is measured; what is not set here is as by default."""
        return FitConfig(
            model=self.model,
            batch_size=self.batch_size,
            fold=self.fold,
            feed=feed,
            precision=self.precision,
            jit=self.jit,
        )
