"""Counts, distributions and choices for the report. Pure: rows in, values out."""

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
from octprep.report.table import Images
from octprep.source.files import reason_kind

SAMPLED = 4  # scans of each class that are shown step by step
WORST = 6  # cases in each list
LARGEST = 8  # patients that are named
NAMED = 12  # files that are named for each reason
PICTURED = 4  # files of each reason that are shown
KINDS = 24  # reasons that are listed
SIZES = 10  # source sizes that are listed
_BINS = 36  # of a histogram

PER_PATIENT = (1, 2, 3, 6, 11, 21, 51, 101)  # where each bin of images per patient begins
PER_PATIENT_NAMES = ("1", "2", "3-5", "6-10", "11-20", "21-50", "51-100", ">100")
BORDER = (0.0, 1e-9, 0.01, 0.05, 0.1, 0.2, 0.4)  # where each bin of the border fraction begins
BORDER_NAMES = ("none", "<1", "1-5", "5-10", "10-20", "20-40", ">40")  # percent


@dataclass(frozen=True)
class Counts:
    """A line of the table of counts: a split, what is counted, how many in each class and in all."""

    split: str
    what: str  # images, patients or records
    per_class: tuple[int, ...]
    total: int


@dataclass(frozen=True)
class Spread:
    """How a value is spread in one class."""

    label: str
    number: int
    low: float  # 5 % of the class lie below
    median: float
    high: float  # 5 % of the class lie above
    telling: float  # 0.5..1: how well the value alone parts the class from the others (AUC, either way round)


@dataclass(frozen=True)
class Histogram:
    """Shares of each class, and of all images, in common bins."""

    shares: Mapping[str, tuple[float, ...]]
    everyone: tuple[float, ...]
    ticks: tuple[tuple[float, str], ...]  # place in bins from the left edge, and what stands there
    spreads: tuple[Spread, ...] = ()
    medians: tuple[float, ...] = ()  # of the classes, as places in bins


@dataclass(frozen=True)
class Sizes:
    """Source sizes: for each its share of every class, most frequent first."""

    lines: tuple[tuple[str, int, tuple[float, ...]], ...]  # width x height, images, share of each class
    guess: float  # how often the class is right if guessed from the size as other patients have it; at least chance
    chance: float  # the same without looking; both are means over the classes


@dataclass(frozen=True)
class Reason:
    """All files left out for one kind of reason."""

    kind: str
    number: int
    first: tuple[ExcludedRow, ...]


def counts(kept: Iterable[ImageRow], manifest: Manifest) -> tuple[Counts, ...]:
    """Images, patients and records of every split, by class; patients of several classes count once in all."""
    images: Counter[tuple[str, str]] = Counter()
    people: dict[tuple[str, str], set[str]] = defaultdict(set)
    for image in kept:
        images[image.split, image.label] += 1
        people[image.split, image.label].add(image.patient)
        people[image.split, ""].add(image.patient)
    lines = []
    for split in manifest.splits:
        per_class = tuple(images[split, label] for label in manifest.class_names)
        patients = tuple(len(people[split, label]) for label in manifest.class_names)
        lines.append(Counts(split, "images", per_class, sum(per_class)))
        lines.append(Counts(split, "patients", patients, len(people[split, ""])))
        records = tuple(manifest.per_class(split).values())
        if records != per_class:
            lines.append(Counts(split, "records", records, sum(records)))
    return tuple(lines)


def gaps(lines: Iterable[Counts], labels: Sequence[str]) -> tuple[str, ...]:
    """In words, the classes that a split has no image of."""
    return tuple(
        f"{line.split} has no image of {label}"
        for line in lines
        if line.what == "images"
        for label, number in zip(labels, line.per_class, strict=True)
        if not number
    )


def class_mix(lines: Iterable[Counts]) -> dict[str, tuple[float, ...]]:
    """Each class's share of the images of every split that has any."""
    return {
        line.split: tuple(number / line.total for number in line.per_class)
        for line in lines
        if line.what == "images" and line.total
    }


def per_patient(kept: Iterable[ImageRow], labels: Sequence[str]) -> Histogram:
    """How many images each patient has of each class, as shares of the class's patients."""
    numbers: dict[str, Counter[str]] = {label: Counter() for label in labels}
    for image in kept:
        numbers[image.label][image.patient] += 1
    return _binned(
        {label: list(counter.values()) for label, counter in numbers.items()}, PER_PATIENT, PER_PATIENT_NAMES
    )


def largest_patients(kept: Iterable[ImageRow]) -> tuple[tuple[str, int, str, str], ...]:
    """The patients with most images: id, images, classes, splits."""
    numbers: Counter[str] = Counter()
    labels: dict[str, set[str]] = defaultdict(set)
    splits: dict[str, set[str]] = defaultdict(set)
    for image in kept:
        numbers[image.patient] += 1
        labels[image.patient].add(image.label)
        splits[image.patient].add(image.split)
    most = sorted(numbers, key=lambda patient: (-numbers[patient], len(patient), patient))[:LARGEST]
    return tuple((p, numbers[p], ", ".join(sorted(labels[p])), ", ".join(sorted(splits[p]))) for p in most)


def border(kept: Iterable[ImageRow], labels: Sequence[str]) -> Histogram:
    """The fraction of each source that was fill, in bins that part none from little."""
    values: dict[str, list[float]] = {label: [] for label in labels}
    for image in kept:
        values[image.label].append(image.measurements.fill_fraction)
    return _binned(values, BORDER, BORDER_NAMES)


def histogram(
    kept: Sequence[ImageRow], labels: Sequence[str], value: Callable[[ImageRow], float], *, log: bool = False
) -> Histogram:
    """A value's histogram in each class, on one axis from the least to the greatest; log: of equal ratios."""
    values = np.array([value(image) for image in kept], np.float64)
    owners = np.array([labels.index(image.label) for image in kept], np.intp)
    if not values.size:
        return Histogram({}, (), ())
    scaled = np.log10(values) if log else values
    low, high = float(scaled.min()), float(scaled.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    place = (scaled - low) / (high - low) * _BINS
    bins = np.minimum(place.astype(np.intp), _BINS - 1)
    present = [index for index in range(len(labels)) if (owners == index).any()]
    ticks = _log_ticks(low, high) if log else _ticks(low, high)
    return Histogram(
        shares={labels[index]: _shares(bins[owners == index], _BINS) for index in present},
        everyone=_shares(bins, _BINS),
        ticks=tuple(((at - low) / (high - low) * _BINS, text) for at, text in ticks),
        spreads=tuple(_spread(labels[index], values, owners == index) for index in present),
        medians=tuple(float(np.median(place[owners == index])) for index in present),
    )


def sizes(kept: Sequence[ImageRow], labels: Sequence[str]) -> Sizes:
    """Source sizes by class."""
    numbers: Counter[tuple[int, int]] = Counter()
    each: Counter[tuple[int, int, str]] = Counter()
    total: Counter[str] = Counter()
    for image in kept:
        numbers[image.width, image.height] += 1
        each[image.width, image.height, image.label] += 1
        total[image.label] += 1
    present = [label for label in labels if total[label]]

    def shares(found: Iterable[tuple[int, int]]) -> tuple[float, ...]:
        listed = list(found)
        return tuple(sum(each[*size, label] for size in listed) / max(total[label], 1) for label in labels)

    order = sorted(numbers, key=lambda size: (-numbers[size], size))
    lines = [(f"{size[0]} x {size[1]}", numbers[size], shares([size])) for size in order[:SIZES]]
    if rest := order[SIZES:]:
        lines.append((f"{len(rest):,} others", sum(numbers[size] for size in rest), shares(rest)))
    chance = 1 / max(len(present), 1)
    return Sizes(tuple(lines), max(_guessed(kept, each, total), chance), chance)


def _guessed(kept: Sequence[ImageRow], each: Counter[tuple[int, int, str]], total: Counter[str]) -> float:
    """How often the class is right, mean over the classes, if it is guessed from the size.

    The guess for a patient is the class that has the size most often among all other patients; of several such classes,
    any. each: images of every width, height and class. total: images of every class.
    """
    people: dict[str, Counter[tuple[int, int, str]]] = defaultdict(Counter)
    for image in kept:
        people[image.patient][image.width, image.height, image.label] += 1
    right: dict[str, float] = defaultdict(float)
    for own in people.values():
        rest = total.copy()
        for (_, _, label), number in own.items():
            rest[label] -= number
        for (width, height, truth), number in own.items():
            keys = [(width, height, label) for label in total]
            shares = [(each[key] - own[key]) / max(rest[key[-1]], 1) for key in keys]
            best = [label for label, share in zip(total, shares, strict=True) if share == max(shares)]
            right[truth] += number / len(best) if truth in best else 0
    return sum(right[label] / total[label] for label in total) / max(len(total), 1)


def fair_sample(kept: Iterable[ImageRow], manifest: Manifest) -> dict[str, tuple[ImageRow, ...]]:
    """For each class some training scans of different patients, drawn by the seed and their paths alone."""
    learning = [split for split in manifest.splits if split not in ("val", "test")]
    seed = manifest.config.seed
    members: dict[str, list[ImageRow]] = {label: [] for label in manifest.class_names}
    for image in kept:
        if image.split in learning:
            members[image.label].append(image)
    chosen: dict[str, tuple[ImageRow, ...]] = {}
    for label, found in members.items():
        people: dict[str, ImageRow] = {}
        for image in sorted(found, key=lambda image: seeded_hash(image.path, seed)):
            people.setdefault(image.patient, image)
            if len(people) == SAMPLED:
                break
        chosen[label] = tuple(people.values())
    return chosen


def worst(kept: Iterable[ImageRow], value: Callable[[ImageRow], float]) -> tuple[ImageRow, ...]:
    """The images with the smallest value, ties by path."""
    return tuple(sorted(kept, key=lambda image: (value(image), image.path))[:WORST])


def reasons(rows: Images) -> tuple[Reason, ...]:
    """What was left out, by kind of reason, most frequent first."""
    groups: dict[str, list[ExcludedRow]] = defaultdict(list)
    for left in rows.excluded:
        groups[reason_kind(left.exclusion_reason)].append(left)
    order = sorted(groups, key=lambda name: (-len(groups[name]), name))
    return tuple(Reason(name, len(groups[name]), tuple(groups[name][:NAMED])) for name in order)


def _binned(values: Mapping[str, Sequence[float]], starts: Sequence[float], names: Sequence[str]) -> Histogram:
    """Shares in bins that begin at `starts`; the last has no end."""
    places = {
        label: np.searchsorted(np.array(starts), np.array(found), side="right") - 1
        for label, found in values.items()
        if found
    }
    return Histogram(
        shares={label: _shares(found, len(starts)) for label, found in places.items()},
        everyone=_shares(np.concatenate(list(places.values())), len(starts)) if places else (),
        ticks=tuple((place + 0.5, name) for place, name in enumerate(names)),
    )


def _shares(bins: NDArray[np.intp], number: int) -> tuple[float, ...]:
    return tuple((np.bincount(bins, minlength=number) / bins.size).tolist())


def _spread(label: str, values: Float64, mine: NDArray[np.bool_]) -> Spread:
    low, median, high = np.quantile(values[mine], (0.05, 0.5, 0.95)).tolist()
    return Spread(label, int(mine.sum()), low, median, high, _telling(values, mine))


def _telling(values: Float64, mine: NDArray[np.bool_]) -> float:
    """The area under the ROC curve, or 1 minus it if that is more; 0.5 where there is nobody to compare with."""
    inside, outside = int(mine.sum()), int((~mine).sum())
    if not inside or not outside:
        return 0.5
    _, place, number = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(number) - (number - 1) / 2)[place]
    area = (float(ranks[mine].sum()) - inside * (inside + 1) / 2) / (inside * outside)
    return max(area, 1 - area)


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers between low and high, 2 to 7 of them."""
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    while (high - low) / step > 6:
        step *= 2.5 if f"{step:e}".startswith("2.0") else 2
    first = math.ceil(low / step - 1e-9)
    return [(place * step, f"{place * step:g}") for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """1, 2 and 5 times powers of ten as bytes, kB and MB; low and high are decimal logarithms.

    Where there are not two of these, other round numbers.
    """
    ticks = [
        (math.log10(lead) + power, _bytes(lead * 10**power))
        for power in range(math.floor(low), math.ceil(high) + 1)
        for lead in ((1, 2, 5) if high - low < 2.5 else (1,))
    ]
    inside = [(at, text) for at, text in ticks if low <= at <= high]
    if len(inside) < 2:
        return [(math.log10(number), _bytes(number)) for number, _ in _ticks(10**low, 10**high)]
    return inside


def _bytes(number: float) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.9g} {unit}"
    return f"{number:.9g} B"
