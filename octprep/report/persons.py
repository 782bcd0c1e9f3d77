"""joins.json as the report needs it: checked, counted, and the pairs of scans that are worth a look."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from octprep.joined import Joins
from octprep.likeness import Distances
from octprep.patients import NEAR_IDENTICAL, SAME_BYTES, SAME_PIXELS, Join
from octprep.report.rows import Image, LeftOut, Rows

SHOWN = 12  # pairs that are shown
REASONS = (SAME_BYTES, SAME_PIXELS, NEAR_IDENTICAL)


@dataclass(frozen=True)
class Found:
    """joins.json, read."""

    joins: tuple[Join, ...]
    distances: Distances | None  # None where near-identical scans were not looked for
    threshold: float  # correlation from which two scans were taken for one

    @property
    def numbers(self) -> dict[str, int]:
        """How many joins have each reason."""
        counted = Counter(join.reason for join in self.joins)
        return {reason: counted[reason] for reason in REASONS}


def read(data: bytes) -> Found:
    """What a build wrote to joins.json. Raises ValueError if it cannot have been that."""
    try:
        joins = Joins.from_json(data)
        threshold = json.loads(data)["threshold"]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if not all(map(_can_be, joins.joins)):
        raise ValueError("has a join that cannot be")
    if joins.distances is not None and not _counts(joins.distances):
        raise ValueError("has distances that cannot be")
    if not _number(threshold, 0, 1):
        raise ValueError("has a threshold that cannot be")
    return Found(joins.joins, joins.distances, threshold)


def shown(joins: Iterable[Join]) -> tuple[Join, ...]:
    """The joins that are shown: those whose scans are least alike come first."""
    return tuple(sorted(joins, key=lambda join: (join.correlation, -REASONS.index(join.reason), join))[:SHOWN])


def scans(joins: Iterable[Join], rows: Rows) -> dict[str, Image | LeftOut]:
    """The rows of some joins' scans by path, where there are any."""
    wanted = {path for join in joins for path in (join.first, join.second)}
    every: tuple[Image | LeftOut, ...] = (*rows.left_out, *rows.kept)
    return {row.path: row for row in every if row.path in wanted}


def people(rows: Rows) -> tuple[int, int]:
    """How many patient ids are taken together with others, and for how many persons."""
    ids: dict[str, set[str]] = {}
    every: tuple[Image | LeftOut, ...] = (*rows.kept, *rows.left_out)
    for row in every:
        if row.group:
            ids.setdefault(row.group, set()).add(row.patient)
    several = [len(members) for members in ids.values() if len(members) > 1]
    return sum(several), len(several)


def _can_be(join: Join) -> bool:
    """Whether a build can have written this."""
    paths = isinstance(join.first, str) and isinstance(join.second, str)
    return paths and join.reason in REASONS and _number(join.correlation, -1, 1)


def _counts(found: Distances) -> bool:
    """Whether these are edges that rise, and a count for each bin between them."""
    edges: Sequence[float] = found.edges
    bins = len(edges) - 1
    return (
        bins > 0
        and all(_number(edge, 0, 1e6) for edge in edges)
        and all(low < high for low, high in pairwise(edges))
        and len(found.same) == len(found.different) == bins
        and all(type(count) is int and 0 <= count < 2**53 for count in (*found.same, *found.different))
    )


def _number(value: object, low: float, high: float) -> bool:
    """Whether it is a number in this range; JSON may hold anything."""
    return (
        type(value) in (int, float) and isinstance(value, int | float) and low <= value <= high and math.isfinite(value)
    )
