"""duplicates.json as the report needs it: counted, and the pairs of scans that are worth a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from octprep.duplicates import Distances
from octprep.duplicates.exact import DuplicatePair
from octprep.duplicates.file import REASONS, DuplicatesFile
from octprep.format.images_csv import ExcludedRow, ImageRow
from octprep.report.table import Images

SHOWN = 12  # pairs that are shown


def numbers(found: DuplicatesFile) -> dict[str, int]:
    """How many joins have each reason."""
    counted = Counter(join.reason for join in found.pairs)
    return {reason: counted[reason] for reason in REASONS}


def sampled(found: Distances) -> str:
    """A sentence: of how many pairs of scans the distances are, and of how many there are."""
    parts = []
    for counts, total, whose in (
        (found.within, found.within_total, "one patient"),
        (found.between, found.between_total, "two patients"),
    ):
        number = sum(counts)
        if number == total:
            parts.append(f"{'all ' * (total > 1)}{total:,} pair{'s' * (total != 1)} of scans of {whose}")
        else:
            parts.append(f"{number:,} of the {total:,} pairs of scans of {whose}, drawn at random")
    return f"Compared were {' and '.join(parts)}."


def shown(joins: Iterable[DuplicatePair]) -> tuple[DuplicatePair, ...]:
    """The joins that are shown: those whose scans are least alike come first."""
    return tuple(sorted(joins, key=lambda join: (join.correlation, -REASONS.index(join.reason), join))[:SHOWN])


def scans(joins: Iterable[DuplicatePair], rows: Images) -> dict[str, ImageRow | ExcludedRow]:
    """The rows of some joins' scans by path, where there are any."""
    wanted = {path for join in joins for path in (join.first, join.second)}
    every: tuple[ImageRow | ExcludedRow, ...] = (*rows.excluded, *rows.kept)
    return {row.path: row for row in every if row.path in wanted}


def people(rows: Images) -> tuple[int, int]:
    """How many patient ids are taken together with others, and for how many persons."""
    ids: dict[str, set[str]] = {}
    for row in (*rows.kept, *(excluded.scan for excluded in rows.excluded if excluded.scan)):
        ids.setdefault(row.patient_group, set()).add(row.patient)
    several = [len(members) for members in ids.values() if len(members) > 1]
    return sum(several), len(several)
