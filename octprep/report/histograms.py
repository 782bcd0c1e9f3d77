"""Histograms of one value in every class, and how well the value separates the classes. Pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float64
from octprep.format.images_csv import ImageRow

_BINS = 36  # of a histogram

PER_PATIENT = (1, 2, 3, 6, 11, 21, 51, 101)  # where each bin of images per patient begins
PER_PATIENT_NAMES = ("1", "2", "3-5", "6-10", "11-20", "21-50", "51-100", ">100")
FILL = (0.0, 1e-9, 0.01, 0.05, 0.1, 0.2, 0.4)  # where each bin of the fill fraction begins
FILL_NAMES = ("none", "<1", "1-5", "5-10", "10-20", "20-40", ">40")  # percent


@dataclass(frozen=True)
class Quantiles:
    """The distribution of a value in one class."""

    label: str
    count: int
    low: float  # 5 % of the class lie below
    median: float
    high: float  # 5 % of the class lie above
    auc: float  # of the class against all others by this value alone, 0.5..1: `auc`


@dataclass(frozen=True)
class Histogram:
    """Shares of each class, and of all images, in common bins."""

    shares: Mapping[str, tuple[float, ...]]
    overall: tuple[float, ...]
    ticks: tuple[tuple[float, str], ...]  # position in bins from the left edge, and label
    quantiles: tuple[Quantiles, ...] = ()
    medians: tuple[float, ...] = ()  # of the classes, as positions in bins


def histogram(
    kept: Sequence[ImageRow], labels: Sequence[str], value: Callable[[ImageRow], float], *, log: bool = False
) -> Histogram:
    """A value's histogram in each class, on one axis from the smallest to the largest; log: in bins of equal ratios."""
    values = np.array([value(row) for row in kept], np.float64)
    classes = np.array([labels.index(row.label) for row in kept], np.intp)
    if not values.size:
        return Histogram({}, (), ())
    scaled = np.log10(values) if log else values
    low, high = float(scaled.min()), float(scaled.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    positions = (scaled - low) / (high - low) * _BINS
    bins = np.minimum(positions.astype(np.intp), _BINS - 1)
    present = [index for index in range(len(labels)) if (classes == index).any()]
    ticks = _log_ticks(low, high) if log else _ticks(low, high)
    return Histogram(
        shares={labels[index]: _shares(bins[classes == index], _BINS) for index in present},
        overall=_shares(bins, _BINS),
        ticks=tuple(((tick - low) / (high - low) * _BINS, text) for tick, text in ticks),
        quantiles=tuple(_quantiles(labels[index], values, classes == index) for index in present),
        medians=tuple(float(np.median(positions[classes == index])) for index in present),
    )


def per_patient(kept: Iterable[ImageRow], labels: Sequence[str]) -> Histogram:
    """How many images each patient has of each class, as shares of the class's patients."""
    images: dict[str, Counter[str]] = {label: Counter() for label in labels}
    for row in kept:
        images[row.label][row.patient] += 1
    values = {label: list(per_id.values()) for label, per_id in images.items()}
    return _binned(values, PER_PATIENT, PER_PATIENT_NAMES)


def fill_fractions(kept: Iterable[ImageRow], labels: Sequence[str]) -> Histogram:
    """The fraction of each source that was fill, in bins that separate none from little."""
    values: dict[str, list[float]] = {label: [] for label in labels}
    for row in kept:
        values[row.label].append(row.measurements.fill_fraction)
    return _binned(values, FILL, FILL_NAMES)


def auc(values: Float64, positive: NDArray[np.bool_]) -> float:
    """The area under the ROC curve of a value for one class against all others, 0.5..1.

    1 minus the area where that is more, as a low value may mark the class too; 0.5 where one side is empty. By ranks,
    as the Mann-Whitney U statistic: (sum of the class's ranks - n (n + 1) / 2) / (n m).
    """
    inside, outside = int(positive.sum()), int((~positive).sum())
    if not inside or not outside:
        return 0.5
    _, index, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[index]  # ties share their mean rank
    area = (float(ranks[positive].sum()) - inside * (inside + 1) / 2) / (inside * outside)
    return max(area, 1 - area)


def _binned(values: Mapping[str, Sequence[float]], starts: Sequence[float], names: Sequence[str]) -> Histogram:
    """Shares in bins that begin at `starts`; the last has no end."""
    bins = {
        label: np.searchsorted(np.array(starts), np.array(of_class), side="right") - 1
        for label, of_class in values.items()
        if of_class
    }
    return Histogram(
        shares={label: _shares(of_class, len(starts)) for label, of_class in bins.items()},
        overall=_shares(np.concatenate(list(bins.values())), len(starts)) if bins else (),
        ticks=tuple((index + 0.5, name) for index, name in enumerate(names)),
    )


def _shares(bins: NDArray[np.intp], count: int) -> tuple[float, ...]:
    return tuple((np.bincount(bins, minlength=count) / bins.size).tolist())


def _quantiles(label: str, values: Float64, in_class: NDArray[np.bool_]) -> Quantiles:
    low, median, high = np.quantile(values[in_class], (0.05, 0.5, 0.95)).tolist()
    return Quantiles(label, int(in_class.sum()), low, median, high, auc(values, in_class))


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers between low and high, 2 to 7 of them."""
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    while (high - low) / step > 6:
        step *= 2.5 if f"{step:e}".startswith("2.0") else 2
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(multiple * step, f"{multiple * step:g}") for multiple in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """1, 2 and 5 times powers of ten as bytes, kB and MB; low and high are decimal logarithms.

    If fewer than two of these are in the range, other round numbers.
    """
    ticks = [
        (math.log10(lead) + power, _format_bytes(lead * 10**power))
        for power in range(math.floor(low), math.ceil(high) + 1)
        for lead in ((1, 2, 5) if high - low < 2.5 else (1,))
    ]
    inside = [(tick, text) for tick, text in ticks if low <= tick <= high]
    if len(inside) < 2:
        return [(math.log10(size), _format_bytes(size)) for size, _ in _ticks(10**low, 10**high)]
    return inside


def _format_bytes(size: float) -> str:
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.9g} {unit}"
    return f"{size:.9g} B"
