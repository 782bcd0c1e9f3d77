"""How far the class shares of the splits are from their targets, and which splits have few patients of a class."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from octprep.format.config import BuildConfig
from octprep.format.images_csv import UNDERSAMPLED, ImageRow, Table
from octprep.splits.patient_cap import capped_counts
from octprep.splits.strategies import Splits, target_fractions

FEW = 5  # patients of a class; a split with fewer is named
_CONSEQUENCE = {
    "train": "a model learns these patients rather than the class",
    "val": "these patients decide which epoch is best",
}

_GroupCounts = Mapping[tuple[str, str], Counter[str]]  # (split, key of a patient group) -> scans by class


@dataclass(frozen=True)
class ClassDeviation:
    """How far a class's share in a split is from its target."""

    split: str
    label: str
    share: float  # of the class's scans in all of `splits`, 0..1
    target: float  # 0..1
    splits: tuple[str, ...]  # those among which the scans were shared out


def deviations_from_splits(splits: Splits, config: BuildConfig) -> list[ClassDeviation]:
    """For each assignment of groups in a build: the class and split whose share is furthest from its target.

    [] for splits taken as given.
    """
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for split, members in splits.members.items():
        for scan in members:
            counts[split, splits.group_of[scan.path]][scan.label] += 1
    has_test = any(scan.source_split == "test" for scan in splits.members.get("test", ()))
    return _largest_deviations(counts, config, has_test=has_test)


def deviations_from_table(table: Table, config: BuildConfig) -> list[ClassDeviation]:
    """`deviations_from_splits`, from a build's images.csv. Undersampled scans count in train."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in table.rows:
        counts[row.split, row.patient_group][row.label] += 1
    for excluded in table.excluded:
        if excluded.exclusion_reason == UNDERSAMPLED and excluded.scan:
            counts["train", excluded.scan.patient_group][excluded.scan.label] += 1
    has_test = any(row.split == "test" and row.source_split == "test" for row in table.rows)
    return _largest_deviations(counts, config, has_test=has_test)


def _largest_deviations(counts: _GroupCounts, config: BuildConfig, *, has_test: bool) -> list[ClassDeviation]:
    """Scans count as they did for the assignment: with --max-per-patient no group for more than that."""
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for (split, _), by_class in counts.items():
        held[split] += Counter(capped_counts(by_class, config.max_per_patient))
    held["rest"] = sum((by_class for split, by_class in held.items() if split.startswith("fold")), Counter())
    return [
        largest_deviation(held, targets)
        for targets in target_fractions(config, has_test=has_test)
        if any(held[split] for split in targets)  # an edited table may lack them
    ]


def largest_deviation(held: Mapping[str, Mapping[str, int]], targets: Mapping[str, float]) -> ClassDeviation:
    """Of all classes and splits, the one whose share is furthest from its target.

    held: scans by split and class; targets: a fraction for each of these splits, all adding up to 1.
    """
    total = sum((Counter(held[split]) for split in targets), Counter())
    deviations = [
        ClassDeviation(split, label, held[split].get(label, 0) / count, target, tuple(targets))
        for split, target in targets.items()
        for label, count in sorted(total.items())
    ]
    return max(deviations, key=lambda deviation: abs(deviation.share - deviation.target))


def describe_deviation(deviation: ClassDeviation) -> str:
    """A clause such as `of the scans, val has 9.80% of DME where the target is 10.00% (-0.20 percentage points)...`."""
    scope = "the scans" if "test" in deviation.splits else "the scans not in test"
    points = round(100 * (deviation.share - deviation.target), 2) + 0.0  # no -0.00
    return (
        f"of {scope}, {deviation.split} has {deviation.share:.2%} of {deviation.label} where the target is "
        f"{deviation.target:.2%} ({points:+.2f} percentage points), the largest deviation of a class in "
        f"{', '.join(deviation.splits)}"
    )


def count_patients(scans: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, int]]:
    """Patients by split and class. scans: the split, the class and the key of the patient group of every scan."""
    keys: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for split, label, key in scans:
        keys[split][label].add(key)
    return {split: {label: len(members) for label, members in classes.items()} for split, classes in keys.items()}


def patients_from_rows(rows: Iterable[ImageRow]) -> dict[str, dict[str, int]]:
    """Patients by split and class, from the rows of images.csv."""
    return count_patients((row.split, row.label, row.patient_group) for row in rows)


def describe_few_patients(patients: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A sentence for every split that has fewer than FEW patients of a class, and one where there is only one class.

    patients: how many of each class, by split; a class that is absent has 0. [] if there are enough of every class.
    """
    labels = sorted({label for classes in patients.values() for label in classes})
    sentences = []
    if len(labels) == 1:
        sentences.append(f"There is only one class, {labels[0]}: a classifier has nothing to distinguish.")
    for split, classes in sorted(patients.items(), key=lambda item: _split_order(item[0])):
        few = {label: classes.get(label, 0) for label in labels if classes.get(label, 0) < FEW}
        if few:
            counts = ", ".join(f"{count:,} of {label}" for label, count in few.items())
            consequence = _CONSEQUENCE.get(split, "a result on so few says little about others")
            sentences.append(f"{split} has few patients ({counts}): {consequence}.")
    return sentences


def _split_order(split: str) -> tuple[int, str]:
    """train, val, then folds by number, then test."""
    return {"train": 0, "val": 1, "test": 3}.get(split, 2), split.rjust(8)
