"""The rows of images.csv, made of what a build knows: cached scans, patient groups, planned shards and exclusions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from octprep.format.images_csv import ExcludedRow, ImageRow, Row, ScanRow
from octprep.format.measurements import ScanMeasurements
from octprep.shards.cache import CachedScan
from octprep.shards.plan import ShardPlan
from octprep.source.files import Exclusion
from octprep.splits.patients import PatientGroup


def image_rows(
    cached: Iterable[CachedScan],
    groups: Iterable[PatientGroup],
    plans: Mapping[str, Sequence[ShardPlan]],
    exclusions: Iterable[Exclusion],
) -> list[Row]:
    """A row for every file that was found under the source.

    plans: the shards of every split. A cached scan that is in none of them must be among the exclusions.
    """
    record_counts: dict[str, Counter[str]] = defaultdict(Counter)  # path -> shard -> records
    for split_plans in plans.values():
        for plan in split_plans:
            for scan, _ in plan.items:
                record_counts[scan.path][plan.name] += 1
    group_keys = {scan.path: group.key for group in groups for scan in group.scans}
    scans = {item.scan.path: item for item in cached}
    reasons = {exclusion.path: exclusion.reason for exclusion in exclusions}
    rows: list[Row] = []
    for path, item in scans.items():
        columns = _scan_columns(item, group_keys[path])
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
        "image_number": scan.number,
        "source_split": scan.folder,
        "bytes": scan.bytes,
        "width": scan.width,
        "height": scan.height,
        "sha256": scan.sha256,
        "measurements": ScanMeasurements(
            fill_fraction=item.border,
            crop=item.crop,
            crop_confidence=item.confidence,
            note=item.note,
            mean_intensity=item.mean,
            std_intensity=item.deviation,
            sharpness=item.sharpness,
        ),
        "patient_group": group_key,
    }
