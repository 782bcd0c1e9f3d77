"""How near the splits came to the wanted shares of every class, and which hold too few patients, as images.csv says."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from octprep.format.config import BuildConfig
from octprep.format.images_csv import ImageRow, Table
from octprep.shards.plan import UNDERSAMPLED
from octprep.splits.strategies import capped_counts, target_fractions

FEW = 5  # patients of a class in a split below which it is named
_MEANING = {
    "train": "a model learns these patients rather than the class",
    "val": "which epoch is best is chosen by these patients",
}


def told(table: Table, config: BuildConfig) -> list[str]:
    """A clause for everything that was dealt: the class whose share in a split is furthest from the wanted one.

    [] for splits as given. Scans count as they did when they were dealt: those that only balancing left out too, and
    with --max-per-patient a patient for no more than that.
    """
    heard: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)  # split, person -> scans by class
    for row in table.rows:
        heard[row.split, row.patient_group][row.label] += 1
    for excluded in table.excluded:
        if excluded.exclusion_reason == UNDERSAMPLED and excluded.scan:
            heard["train", excluded.scan.patient_group][excluded.scan.label] += 1
    test_given = any(row.split == "test" and row.source_split == "test" for row in table.rows)
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for (split, _), counts in heard.items():
        held[split] += Counter(capped_counts(counts, config.max_per_patient))
    held["rest"] = sum((counts for split, counts in held.items() if split.startswith("fold")), Counter())
    clauses = []
    for wanted in target_fractions(config, test_given=test_given):
        if not any(held[name] for name in wanted):
            continue  # somebody edited the table
        worst = largest_deviation(held, wanted)
        of = "the scans" if "test" in wanted else "what the test set leaves"
        points = round(100 * (worst.share - worst.wanted), 2) + 0.0  # no -0.00
        clauses.append(
            f"of {of}, {worst.split} has {worst.share:.2%} of {worst.label} where {worst.wanted:.2%} were "
            f"wanted ({points:+.2f} percentage points), and no class in "
            f"{', '.join(wanted)} is further off"
        )
    return clauses


def scarce(rows: Iterable[ImageRow]) -> list[str]:
    """A sentence for every split that has fewer than FEW patients of a class, with the numbers, and for a lone class.

    Ids that are taken for one person's count as one patient. [] if there is enough of everything, and for a table
    without an image.
    """
    people: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        people[row.split][row.label].add(row.patient_group)
    return few({split: {label: len(ids) for label, ids in classes.items()} for split, classes in people.items()})


def few(patients: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The sentences of `scarce`. patients: how many of each class there are, by split; a class that is absent has 0."""
    labels = sorted({label for classes in patients.values() for label in classes})
    sentences = []
    if len(labels) == 1:
        sentences.append(f"There is only one class, {labels[0]}: a model has nothing to tell apart.")
    for split, classes in sorted(patients.items(), key=lambda item: _rank(item[0])):
        lacking = {label: classes.get(label, 0) for label in labels if classes.get(label, 0) < FEW}
        if lacking:
            counted = ", ".join(f"{number:,} of {label}" for label, number in lacking.items())
            meaning = _MEANING.get(split, "a result on so few says little about others")
            sentences.append(f"{split} has few patients ({counted}): {meaning}.")
    return sentences


def _rank(split: str) -> tuple[int, str]:
    """train, val, then folds by number, then test."""
    return {"train": 0, "val": 1, "test": 3}.get(split, 2), split.rjust(8)


@dataclass(frozen=True)
class ClassDeviation:
    """How far a class's share in a split is from the wanted one."""

    split: str
    label: str
    share: float  # of the class's scans that were dealt, 0..1
    wanted: float  # 0..1


def largest_deviation(held: Mapping[str, Mapping[str, int]], wanted: Mapping[str, float]) -> ClassDeviation:
    """Of all classes and splits, the one whose share is furthest from the wanted one.

    held: scans by split and class; wanted: a fraction for each of these splits, all adding up to 1.
    """
    total = sum((Counter(held[name]) for name in wanted), Counter())
    deviations = [
        ClassDeviation(name, label, held[name].get(label, 0) / number, fraction)
        for name, fraction in wanted.items()
        for label, number in sorted(total.items())
    ]
    return max(deviations, key=lambda one: abs(one.share - one.wanted))
