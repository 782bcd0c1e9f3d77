"""A metric with its 95 % interval, as JSON and as text: the one place that formats both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from octtrain.evaluation.intervals import Interval

EXACT = "exact bound on patients"


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval, both None where undefined."""

    value: float | None
    interval: Interval | None = None
    is_exact: bool = False  # an exact bound instead of the bootstrap

    def text(self, digits: int = 3) -> str:
        """Such as `0.912 (0.874-0.941)`, `1.000 (0.930-1.000 exact)`, `0.500 (-)` and `-`."""
        if self.value is None:
            return "-"
        return f"{format_value(self.value, digits)} ({format_interval(self.interval, digits, is_exact=self.is_exact)})"

    def __str__(self) -> str:
        return self.text()

    def as_json(self) -> dict[str, Any]:
        """For json.dumps: the value, its interval and, where that is not from the bootstrap, the method."""
        interval = None if self.interval is None else list(self.interval)
        return {"value": self.value, "interval": interval, **({"method": EXACT} if self.is_exact else {})}


@dataclass(frozen=True, kw_only=True)
class Proportion(Estimate):
    """A number of images, or of cases, out of a total."""

    value: float | None  # 0..1, None if the total is 0
    count: int
    total: int

    def text(self, digits: int = 3) -> str:
        """As of Estimate, with both counts behind it."""
        return f"{super().text(digits)} {self.count:,}/{self.total:,}"

    def as_json(self) -> dict[str, Any]:
        """As of Estimate, with both counts."""
        return {**super().as_json(), "count": self.count, "total": self.total}


def format_value(value: float | None, digits: int = 3) -> str:
    """A number rounded to some decimals; "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def format_interval(interval: Interval | None, digits: int = 3, *, signed: bool = False, is_exact: bool = False) -> str:
    """Such as `0.874-0.941`, with signs `-0.012 to +0.040`; "-" for None."""
    if interval is None:
        return "-"
    sign = "+" if signed else ""
    low, high = (f"{end:{sign}.{digits}f}" for end in interval)
    return f"{low}{' to ' if signed or interval[0] < 0 else '-'}{high}{' exact' if is_exact else ''}"


def format_difference(value: float | None, interval: Interval | None, digits: int = 3) -> str:
    """Such as `+0.014 (-0.012 to +0.040)`; "-" for None."""
    if value is None:
        return "-"
    return f"{value:+.{digits}f} ({format_interval(interval, digits, signed=True)})"
