"""The rows of images.csv as the report needs them: what is kept, what is left out, and what no build would write."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from octprep.format import images_csv
from octprep.format.images_csv import Row
from octprep.format.manifest import Manifest
from octprep.splits import balance

_MOST = 2**31  # every size and place is below it


@dataclass(frozen=True, slots=True)
class Image:
    """A B-scan that stands in a split."""

    path: str
    label: str
    patient: str
    group: str  # names everybody whose scans are taken for the same person's
    split: str
    shard: str  # the first that holds it
    copies: int  # how many records hold it
    bytes: int  # of the source file
    width: int  # of the source, pixels
    height: int  # of the source, pixels
    sha256: str  # of the source file, hex
    border: float  # fraction of the source that was fill
    crop: tuple[int, int, int, int]  # top, bottom, left, right in source pixels, half open; rows as flattened
    confidence: float  # of the crop, 0..1
    note: str
    mean: float  # gray level of the stored pixels
    deviation: float  # of their gray levels
    sharpness: float  # of their layers


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that stands in no split, and why."""

    path: str
    reason: str
    label: str  # "" if nobody looked so far
    sha256: str  # hex; "" if it was not read
    patient: str  # "" if nobody looked so far
    group: str  # likewise


@dataclass(frozen=True)
class Rows:
    """images.csv, read."""

    kept: tuple[Image, ...]
    left_out: tuple[LeftOut, ...]
    faults: tuple[str, ...]  # of single rows, in words
    number: int  # of rows
    shares: tuple[str, ...] = ()  # how near each deal came to what was wanted, in words
    scarce: tuple[str, ...] = ()  # in sentences, where there are too few patients to say much


def read(data: bytes, manifest: Manifest) -> Rows:
    """Sort the rows of images.csv; one that no build would write becomes a fault.

    Raises ValueError if the bytes are no such table.
    """
    table = images_csv.read(data)
    shards = {shard.name: split for split, part in manifest.splits.items() for shard in part}
    classes = frozenset(manifest.class_names)
    kept: list[Image] = []
    left_out: list[LeftOut] = []
    faults: list[str] = []
    placed: list[Row] = []
    for row in table:
        match _sort(row, shards, classes):
            case Image() as image:
                kept.append(image)
                placed.append(row)
            case LeftOut() as out:
                left_out.append(out)
            case str() as what:
                faults.append(f"{row['path']} {what}")
    paths = Counter(row["path"] for row in table)
    faults += [f"{path} has {number} rows" for path, number in paths.items() if number > 1]
    dealt = tuple(map(balance.describe_deviation, balance.deviations_from_rows(table, manifest.config)))
    few = tuple(balance.describe_few_patients(balance.patients_from_rows(placed)))
    return Rows(tuple(kept), tuple(left_out), tuple(faults), len(table), dealt, few)


def _sort(row: Row, shards: dict[str, str], classes: frozenset[str]) -> Image | LeftOut | str:
    """What a row is, or what is wrong with it."""
    if bool(row["shard"]) == bool(row["left_out"]):
        return "has neither a shard nor a reason" if not row["shard"] else "has a shard and a reason for none"
    if row["left_out"]:
        return LeftOut(row["path"], row["left_out"], row["class"], row["sha256"], row["patient"], row["group"])
    if row["class"] not in classes:
        return f"has class {row['class']!r}, which the manifest does not have"
    if not row["group"]:
        return "has no group"
    names = row["shard"].split()
    if {shards.get(name) for name in names} != {row["split"]}:
        return f"has split {row['split']!r} and shard {row['shard']!r}, which the manifest does not have"
    try:
        image = Image(
            path=row["path"],
            label=row["class"],
            patient=row["patient"],
            group=row["group"],
            split=row["split"],
            shard=names[0],
            copies=int(row["copies"]),
            bytes=int(row["bytes"]),
            width=int(row["width"]),
            height=int(row["height"]),
            sha256=row["sha256"],
            border=float(row["border"]),
            crop=(int(row["crop_top"]), int(row["crop_bottom"]), int(row["crop_left"]), int(row["crop_right"])),
            confidence=float(row["confidence"]),
            note=row["note"],
            mean=float(row["mean"]),
            deviation=float(row["deviation"]),
            sharpness=float(row["sharpness"]),
        )
    except ValueError:
        return "has a number that is none"
    return image if _can_be(image) else "has a number that cannot be"


def _can_be(image: Image) -> bool:
    """Whether a build can have found these numbers; NaN is in no range."""
    top, bottom, left, right = image.crop
    return (
        all(0 < size < _MOST for size in (image.copies, image.bytes, image.width, image.height))
        and 0 <= image.border <= 1
        and 0 <= image.confidence <= 1
        and 0 <= image.mean <= 255
        and 0 <= image.deviation <= 255
        and 0 <= image.sharpness < 1e6
        and 0 <= left < right <= image.width
        and -_MOST < top < bottom < _MOST  # a straightened scan may reach beyond its own rows
    )
