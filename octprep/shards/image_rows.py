"""Making the rows of images.csv from cached scans, patient groups, planned shards and exclusions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
) -> list[Row]:
    """A row for every file that was found under the source.

    group_of: path of a cached scan -> key of its patient group. plans: the shards of every split. A cached scan that is
    in none of them must be among the exclusions.
    """
    record_counts: dict[str, Counter[str]] = defaultdict(Counter)  # path -> shard -> records
    for split_plans in plans.values():
        for plan in split_plans:
            for scan, _ in plan.items:
                record_counts[scan.path][plan.name] += 1
    scans = {item.scan.path: item for item in cached}
    reasons = {exclusion.path: exclusion.reason for exclusion in exclusions}
    rows: list[Row] = []
    for path, item in scans.items():
        columns = _scan_columns(item, group_of[path])
        if path in reasons:
            rows.append(ExcludedRow(path=path, exclusion_reason=reasons[path], scan=ScanRow(**columns)))
            continue
        shards = record_counts[path]
        rows.append(
            ImageRow(
                **columns,
                split=next(iter(shards)).partition("/")[0],
                shards=tuple(sorted(shards)),
                record_count=shards.total(),
            )
        )
    rows += [ExcludedRow(path=path, exclusion_reason=reason) for path, reason in reasons.items() if path not in scans]
    return rows


def _scan_columns(item: CachedScan, group_key: str) -> dict[str, Any]:
    """The fields of ScanRow."""
    scan = item.scan
    return {
        "path": scan.path,
        "label": scan.label,
        "patient": scan.patient,
        "image_number": scan.image_number,
        "source_split": scan.source_split,
        "bytes": scan.bytes,
        "width": scan.width,
        "height": scan.height,
        "sha256": scan.sha256,
        "measurements": item.measurements,
        "patient_group": group_key,
    }
