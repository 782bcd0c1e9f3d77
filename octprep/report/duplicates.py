"""duplicates.json as the report shows it: counts, the least similar pairs, and the distances of scans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from octprep.duplicates import Distances
from octprep.duplicates.duplicates_json import REASONS, DuplicatesFile
from octprep.duplicates.exact import DuplicatePair
from octprep.html import charts
from octprep.html.charts import Row
from octprep.report.table import Images
from octprep.wording import number

MAX_PAIRS = 12  # that are shown
_SAME_COLOUR, _DIFFERENT_COLOUR = 5, 6  # of the two rows of distances; classes take the first colours


@dataclass(frozen=True)
class DuplicatesSummary:
    """What the page says of duplicates.json."""

    pairs: int
    by_reason: Mapping[str, int]
    threshold: float  # of the correlation from which two scans are near-identical
    linked_ids: int  # patient ids in groups of several, by images.csv
    groups: int  # those groups
    sampled: str  # of how many pairs of scans the distances are; "" without distances
    chart: Markup  # of the distances; "" without


def summarise(file: DuplicatesFile, images: Images) -> DuplicatesSummary:
    """Count the pairs of duplicates.json, and the patient ids that they link by images.csv."""
    reasons = Counter(pair.reason for pair in file.pairs)
    ids: dict[str, set[str]] = {}
    for row in (*images.kept, *(excluded.scan for excluded in images.excluded if excluded.scan)):
        ids.setdefault(row.patient_group, set()).add(row.patient)
    sizes = [len(members) for members in ids.values() if len(members) > 1]
    return DuplicatesSummary(
        pairs=len(file.pairs),
        by_reason={reason: reasons[reason] for reason in REASONS},
        threshold=file.threshold,
        linked_ids=sum(sizes),
        groups=len(sizes),
        sampled=sampled(file.distances) if file.distances else "",
        chart=distance_chart(file.distances) if file.distances else Markup(""),
    )


def least_similar(pairs: Iterable[DuplicatePair]) -> tuple[DuplicatePair, ...]:
    """The pairs that are shown, least similar first."""
    return tuple(sorted(pairs, key=lambda pair: (pair.correlation, -REASONS.index(pair.reason), pair))[:MAX_PAIRS])


def sampled(distances: Distances) -> str:
    """A sentence: of how many pairs of scans the distances are, and how many there are."""
    parts = []
    for counts, total, patients in (
        (distances.within, distances.within_total, "one patient"),
        (distances.between, distances.between_total, "two patients"),
    ):
        count = sum(counts)
        if count == total:
            parts.append(f"{'all ' * (total > 1)}{number(total, 'pair')} of scans of {patients}")
        else:
            parts.append(f"{count:,} of the {total:,} pairs of scans of {patients}, drawn at random")
    return f"Compared were {' and '.join(parts)}."


def distance_chart(distances: Distances) -> Markup:
    """One row of bars for pairs of one patient's scans and one for pairs of two patients', on one scale.

    Empty without a pair.
    """
    bins = len(distances.within)
    rows, medians = [], []
    for name, colour, counts, total in (
        ("same", _SAME_COLOUR, distances.within, distances.within_total),
        ("different", _DIFFERENT_COLOUR, distances.between, distances.between_total),
    ):
        if count := sum(counts):
            subtitle = number(count, "pair") if count == total else f"{count:,} drawn"
            median = _median(counts)
            index = min(int(median), bins - 1)
            width = distances.edges[index + 1] - distances.edges[index]
            rows.append(Row(name, subtitle, [pairs / count for pairs in counts], colour, median))
            plural = "s" if name == "different" else ""
            medians.append(f"{name} patient{plural}: median {distances.edges[index] + (median - index) * width:.2f}")
    ticks = [(float(index), f"{distances.edges[index]:g}") for index in range(0, bins + 1, max(bins // 4, 1))]
    title = "Distances of descriptors within and between patients"
    return charts.histogram("distances", title, "; ".join(medians), "distance of two descriptors", rows, ticks)


def _median(counts: Sequence[int]) -> float:
    """The median of binned values, as a position in bins; there must be at least one count."""
    half, below = sum(counts) / 2, 0
    for index, count in enumerate(counts):
        if count and below + count >= half:
            return index + (half - below) / count
        below += count
    return float(len(counts))
