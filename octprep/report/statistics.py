"""Counts, distributions, samples and extremes for the report. Pure functions on rows of images.csv."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float64
from octprep.format.images_csv import ExcludedRow, ImageRow
from octprep.format.manifest import Manifest
from octprep.format.seeding import seeded_hash
from octprep.source.files import reason_kind

SAMPLED = 4  # scans of each class that are shown
LOWEST = 6  # images in each list of extremes
LARGEST = 8  # patients that are named
NAMED = 12  # files that are named for each reason
PICTURED = 4  # files of each reason that are shown
KINDS = 24  # reasons that are listed
SIZES = 10  # source sizes that are listed
_BINS = 36  # of a histogram

PER_PATIENT = (1, 2, 3, 6, 11, 21, 51, 101)  # where each bin of images per patient begins
PER_PATIENT_NAMES = ("1", "2", "3-5", "6-10", "11-20", "21-50", "51-100", ">100")
FILL = (0.0, 1e-9, 0.01, 0.05, 0.1, 0.2, 0.4)  # where each bin of the fill fraction begins
FILL_NAMES = ("none", "<1", "1-5", "5-10", "10-20", "20-40", ">40")  # percent


@dataclass(frozen=True)
class Counts:
    """A line of the table of counts: a split, what is counted, how many in each class and in all."""

    split: str
    what: str  # images, patients or records
    per_class: tuple[int, ...]
    total: int


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


@dataclass(frozen=True)
class Sizes:
    """Source sizes: for each its share of every class, most frequent first."""

    lines: tuple[tuple[str, int, tuple[float, ...]], ...]  # width x height, images, share of each class
    balanced_accuracy: float  # of guessing the class from the size as other patients have it; at least chance
    chance: float  # balanced accuracy of any constant guess


@dataclass(frozen=True)
class ExclusionReason:
    """All files excluded for one kind of reason."""

    kind: str
    count: int
    first: tuple[ExcludedRow, ...]


def counts(kept: Iterable[ImageRow], manifest: Manifest) -> tuple[Counts, ...]:
    """Images, patients and records of every split, by class; patients of several classes count once in all."""
    images: Counter[tuple[str, str]] = Counter()
    patient_ids: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in kept:
        images[row.split, row.label] += 1
        patient_ids[row.split, row.label].add(row.patient)
        patient_ids[row.split, ""].add(row.patient)
    lines = []
    for split in manifest.splits:
        per_class = tuple(images[split, label] for label in manifest.class_names)
        patients = tuple(len(patient_ids[split, label]) for label in manifest.class_names)
        lines.append(Counts(split, "images", per_class, sum(per_class)))
        lines.append(Counts(split, "patients", patients, len(patient_ids[split, ""])))
        records = tuple(manifest.per_class(split).values())
        if records != per_class:
            lines.append(Counts(split, "records", records, sum(records)))
    return tuple(lines)


def absent_classes(lines: Iterable[Counts], labels: Sequence[str]) -> tuple[str, ...]:
    """In words, the classes that a split has no image of."""
    return tuple(
        f"{line.split} has no image of {label}"
        for line in lines
        if line.what == "images"
        for label, count in zip(labels, line.per_class, strict=True)
        if not count
    )


def class_shares(lines: Iterable[Counts]) -> dict[str, tuple[float, ...]]:
    """Each class's share of the images of every split that has any."""
    return {
        line.split: tuple(count / line.total for count in line.per_class)
        for line in lines
        if line.what == "images" and line.total
    }


def per_patient(kept: Iterable[ImageRow], labels: Sequence[str]) -> Histogram:
    """How many images each patient has of each class, as shares of the class's patients."""
    images: dict[str, Counter[str]] = {label: Counter() for label in labels}
    for row in kept:
        images[row.label][row.patient] += 1
    values = {label: list(per_id.values()) for label, per_id in images.items()}
    return _binned(values, PER_PATIENT, PER_PATIENT_NAMES)


def largest_patients(kept: Iterable[ImageRow]) -> tuple[tuple[str, int, str, str], ...]:
    """The patients with most images: id, images, classes, splits."""
    images: Counter[str] = Counter()
    labels: dict[str, set[str]] = defaultdict(set)
    splits: dict[str, set[str]] = defaultdict(set)
    for row in kept:
        images[row.patient] += 1
        labels[row.patient].add(row.label)
        splits[row.patient].add(row.split)
    largest = sorted(images, key=lambda patient: (-images[patient], len(patient), patient))[:LARGEST]
    return tuple((id_, images[id_], ", ".join(sorted(labels[id_])), ", ".join(sorted(splits[id_]))) for id_ in largest)


def fill_fractions(kept: Iterable[ImageRow], labels: Sequence[str]) -> Histogram:
    """The fraction of each source that was fill, in bins that separate none from little."""
    values: dict[str, list[float]] = {label: [] for label in labels}
    for row in kept:
        values[row.label].append(row.measurements.fill_fraction)
    return _binned(values, FILL, FILL_NAMES)


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


def sizes(kept: Sequence[ImageRow], labels: Sequence[str]) -> Sizes:
    """Source sizes by class, and how well the class can be guessed from them."""
    of_size: Counter[tuple[int, int]] = Counter()
    of_size_and_class: Counter[tuple[int, int, str]] = Counter()
    of_class: Counter[str] = Counter()
    for row in kept:
        of_size[row.width, row.height] += 1
        of_size_and_class[row.width, row.height, row.label] += 1
        of_class[row.label] += 1

    def class_shares(sizes: Sequence[tuple[int, int]]) -> tuple[float, ...]:
        return tuple(
            sum(of_size_and_class[*size, label] for size in sizes) / max(of_class[label], 1) for label in labels
        )

    order = sorted(of_size, key=lambda size: (-of_size[size], size))
    lines = [(f"{size[0]} x {size[1]}", of_size[size], class_shares([size])) for size in order[:SIZES]]
    if others := order[SIZES:]:
        lines.append((f"{len(others):,} others", sum(of_size[size] for size in others), class_shares(others)))
    chance = 1 / max(len(of_class), 1)
    return Sizes(tuple(lines), max(balanced_accuracy(kept, of_size_and_class, of_class), chance), chance)


def balanced_accuracy(
    kept: Sequence[ImageRow], of_size_and_class: Counter[tuple[int, int, str]], of_class: Counter[str]
) -> float:
    """The mean over the classes of the share that is right if the class is guessed from the source size.

    The guess for a patient's images is the class that has the size most often among all other patients; of several such
    classes, any. of_size_and_class: images of every width, height and class. of_class: images of every class.
    """
    of_patient: dict[str, Counter[tuple[int, int, str]]] = defaultdict(Counter)
    for row in kept:
        of_patient[row.patient][row.width, row.height, row.label] += 1
    right: dict[str, float] = defaultdict(float)
    for own in of_patient.values():
        others_of_class = of_class.copy()
        for (_, _, label), count in own.items():
            others_of_class[label] -= count
        for (width, height, true_label), count in own.items():
            keys = {label: (width, height, label) for label in of_class}
            shares = {
                label: (of_size_and_class[key] - own[key]) / max(others_of_class[label], 1)
                for label, key in keys.items()
            }
            guesses = [label for label, share in shares.items() if share == max(shares.values())]
            right[true_label] += count / len(guesses) if true_label in guesses else 0
    return sum(right[label] / of_class[label] for label in of_class) / max(len(of_class), 1)


def sample_patients(kept: Iterable[ImageRow], manifest: Manifest) -> dict[str, tuple[ImageRow, ...]]:
    """For each class a few training scans of different patients, drawn by the seed and their paths alone."""
    seed = manifest.config.seed
    candidates: dict[str, list[ImageRow]] = {label: [] for label in manifest.class_names}
    for row in kept:
        if row.split not in ("val", "test"):
            candidates[row.label].append(row)
    sample = {}
    for label, rows in candidates.items():
        by_patient: dict[str, ImageRow] = {}
        for row in sorted(rows, key=lambda row: seeded_hash(row.path, seed)):
            by_patient.setdefault(row.patient, row)
            if len(by_patient) == SAMPLED:
                break
        sample[label] = tuple(by_patient.values())
    return sample


def lowest(kept: Iterable[ImageRow], value: Callable[[ImageRow], float]) -> tuple[ImageRow, ...]:
    """The images with the lowest value, ties by path."""
    return tuple(sorted(kept, key=lambda row: (value(row), row.path))[:LOWEST])


def exclusion_reasons(excluded: Iterable[ExcludedRow]) -> tuple[ExclusionReason, ...]:
    """The excluded files by kind of reason, most frequent first."""
    by_kind: dict[str, list[ExcludedRow]] = defaultdict(list)
    for row in excluded:
        by_kind[reason_kind(row.exclusion_reason)].append(row)
    order = sorted(by_kind, key=lambda name: (-len(by_kind[name]), name))
    return tuple(ExclusionReason(name, len(by_kind[name]), tuple(by_kind[name][:NAMED])) for name in order)


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


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers between low and high, 2 to 7 of them."""
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    while (high - low) / step > 6:
        step *= 2.5 if f"{step:e}".startswith("2.0") else 2
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(multiple * step, f"{multiple * step:g}") for multiple in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """1, 2 and 5 times powers of ten as bytes, kB and MB; low and high are decimal logarithms.

    Where there are not two of these, other round numbers.
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
