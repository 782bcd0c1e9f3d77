"""images.csv: a row for every file found under the source; where it is, or why it was left out."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from octprep.shards.cache import CachedScan
from octprep.shards.plan import ShardPlan
from octprep.source.files import Exclusion
from octprep.splits.patients import PatientGroup

COLUMNS = (
    "path", "class", "patient", "number", "folder", "bytes", "width", "height", "sha256",
    "border", "crop_top", "crop_bottom", "crop_left", "crop_right", "confidence", "note",
    "mean", "deviation", "sharpness",
    "group", "split", "shard", "copies", "left_out",
)  # fmt: skip

Row = dict[str, str]


def table(
    ready: Iterable[CachedScan],
    groups: Iterable[PatientGroup],
    plans: Mapping[str, Sequence[ShardPlan]],
    left_out: Iterable[Exclusion],
) -> bytes:
    """The file's bytes, rows sorted by path, which is text as `octprep.format.files.path_to_text` makes it.

    Sizes and crop in source pixels (the crop's rows as flattened, where that was done), border as a fraction of the
    source, confidence from 0 to 1; mean, deviation and sharpness of the stored pixels, as
    `octprep.format.measurements.ScanMeasurements` says. group is the smallest patient id among those that are taken for one person's.
    """
    places: dict[str, dict[str, int]] = defaultdict(dict)  # path -> shard -> copies in it
    for part in plans.values():
        for planned in part:
            for member, _ in planned.items:
                where = places[member.path]
                where[planned.name] = where.get(planned.name, 0) + 1
    keys = {scan.path: group.key for group in groups for scan in group.scans}
    rows: dict[str, dict[str, object]] = {}
    for item in ready:
        where = places.get(item.scan.path, {})
        measured = item.measurements
        top, bottom, left, right = measured.crop
        rows[item.scan.path] = {
            "path": item.scan.path,
            "class": item.scan.label,
            "patient": item.scan.patient,
            "number": item.scan.number,
            "folder": item.scan.folder,
            "bytes": item.scan.bytes,
            "width": item.scan.width,
            "height": item.scan.height,
            "sha256": item.scan.sha256,
            "border": measured.fill_fraction,
            "crop_top": top,
            "crop_bottom": bottom,
            "crop_left": left,
            "crop_right": right,
            "confidence": measured.crop_confidence,
            "note": measured.note,
            "mean": measured.mean_intensity,
            "deviation": measured.std_intensity,
            "sharpness": measured.sharpness,
            "group": keys.get(item.scan.path, ""),
            "split": next(iter(where), "").partition("/")[0],
            "shard": " ".join(where),
            "copies": sum(where.values()),
        }
    for rejection in left_out:
        rows.setdefault(rejection.path, {"path": rejection.path, "copies": 0})["left_out"] = rejection.reason
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[path] for path in sorted(rows))
    return text.getvalue().encode()


def read(data: bytes) -> list[Row]:
    """The rows of images.csv, all cells as text. Raises ValueError if the bytes are no such table."""
    if b"\0" in data:
        raise ValueError("it holds a null byte")
    reader = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
    try:
        header, *cells = list(reader) or [[]]
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if tuple(header) != COLUMNS or any(len(row) != len(COLUMNS) for row in cells):
        raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells]
