"""Counts, sizes, samples, extremes and exclusion reasons for the report. Pure functions on rows of images.csv."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

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


@dataclass(frozen=True)
class Counts:
    """A line of the table of counts: a split, what is counted, how many in each class and in all."""

    split: str
    what: str  # images, patients or records
    per_class: tuple[int, ...]
    total: int


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
    first: dict[str, dict[str, tuple[bytes, ImageRow]]] = {label: {} for label in manifest.class_names}  # by patient
    for row in kept:
        if row.split not in ("val", "test"):
            drawn, of_label = seeded_hash(row.path, seed), first[row.label]
            if row.patient not in of_label or drawn < of_label[row.patient][0]:
                of_label[row.patient] = drawn, row
    return {
        label: tuple(row for _, row in heapq.nsmallest(SAMPLED, rows.values(), key=itemgetter(0)))
        for label, rows in first.items()
    }


def lowest(kept: Iterable[ImageRow], value: Callable[[ImageRow], float]) -> tuple[ImageRow, ...]:
    """The images with the lowest value, ties by path."""
    return tuple(heapq.nsmallest(LOWEST, kept, key=lambda row: (value(row), row.path)))


def exclusion_reasons(excluded: Iterable[ExcludedRow]) -> tuple[ExclusionReason, ...]:
    """The excluded files by kind of reason, most frequent first."""
    by_kind: dict[str, list[ExcludedRow]] = defaultdict(list)
    for row in excluded:
        by_kind[reason_kind(row.exclusion_reason)].append(row)
    order = sorted(by_kind, key=lambda name: (-len(by_kind[name]), name))
    return tuple(ExclusionReason(name, len(by_kind[name]), tuple(by_kind[name][:NAMED])) for name in order)
