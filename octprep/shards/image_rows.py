"""Making the rows of images.csv from cached scans, patient groups, planned shards and exclusions."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from octprep.format.images_csv import ExcludedRow, ImageRow, Row, ScanRow
from octprep.shards.cache import CachedScan
from octprep.shards.plan import ShardPlan
from octprep.source.files import Exclusion


def image_rows(
    cached: Iterable[CachedScan],
    group_of: Mapping[str, str],
    plans: Mapping[str, Sequence[ShardPlan]],
    exclusions: Iterable[Exclusion],
) -> Iterator[Row]:
    """A row for every file that was found under the source, sorted by path; each is made only when it is asked for.

    cached: sorted by path. group_of: path of each cached scan -> key of its patient group. plans: the shards of every
    split. A cached scan that is in none of them must be among the exclusions.
    """
    places = _places(plans)
    reasons = {exclusion.path: exclusion.reason for exclusion in exclusions}
    of_scans = (_scan_row(item, group_of, places, reasons) for item in cached)
    others = reasons.keys() - group_of.keys()
    of_others = (ExcludedRow(path=path, exclusion_reason=reasons[path]) for path in sorted(others))
    return heapq.merge(of_scans, of_others, key=lambda row: row.path)


def _places(plans: Mapping[str, Sequence[ShardPlan]]) -> dict[str, tuple[tuple[str, ...], int]]:
    """Path -> the names of the shards that hold a scan, sorted, and the number of its records."""
    places: dict[str, tuple[tuple[str, ...], int]] = {}
    unique: dict[tuple[tuple[str, ...], int], tuple[tuple[str, ...], int]] = {}
    for plan in (plan for split_plans in plans.values() for plan in split_plans):
        for scan in plan.scans:
            names, count = places.get(scan.path, ((), 0))
            place = (names if plan.name in names else tuple(sorted((*names, plan.name)))), count + 1
            places[scan.path] = unique.setdefault(place, place)
    return places


def _scan_row(
    item: CachedScan,
    group_of: Mapping[str, str],
    places: Mapping[str, tuple[tuple[str, ...], int]],
    reasons: Mapping[str, str],
) -> Row:
    path = item.scan.path
    columns = _scan_columns(item, group_of[path])
    if path in reasons:
        return ExcludedRow(path=path, exclusion_reason=reasons[path], scan=ScanRow(**columns))
    shards, record_count = places[path]
    return ImageRow(**columns, split=shards[0].partition("/")[0], shards=shards, record_count=record_count)


def _scan_columns(item: CachedScan, group_key: str) -> dict[str, Any]:
    """The fields of ScanRow."""
    scan = item.scan
    return {
        "path": scan.path,
        "label": scan.label,
        "patient": scan.patient,
        "image_number": scan.image_number,
        "source": scan.source,
        "eye": scan.eye,
        "volume": scan.volume,
        "source_split": scan.source_split,
        "bytes": scan.bytes,
        "width": scan.width,
        "height": scan.height,
        "sha256": scan.sha256,
        "measurements": item.measurements,
        "patient_group": group_key,
    }
