"""images.csv as text cells, for tests that edit it."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from octprep.format.images_csv import COLUMNS, ImageRow, ScanRow
from octprep.format.measurements import ScanMeasurements


def read_cells(folder: Path) -> list[dict[str, str]]:
    """The rows of a folder's images.csv, as text by column."""
    return cells_of((folder / "images.csv").read_bytes())


def cells_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True))


def bytes_of(rows: Iterable[Mapping[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def write_cells(folder: Path, rows: Iterable[Mapping[str, str]]) -> None:
    (folder / "images.csv").write_bytes(bytes_of(rows))


def scan_row(path: str = "train/CNV/CNV-1-1.jpeg", **fields: Any) -> ScanRow:
    """A scan's row, with plausible values for all fields that are not given."""
    return ScanRow(**_scan_fields(path, fields))


def image_row(path: str = "train/CNV/CNV-1-1.jpeg", **fields: Any) -> ImageRow:
    """The row of an image in a split, with plausible values for all fields that are not given."""
    split = fields.get("split", "train")
    placement = {"split": split, "shards": (f"{split}/00000-of-00001.tfrecord",), "record_count": 1}
    return ImageRow(**{**placement, **_scan_fields(path, fields)})


def _scan_fields(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    patient = fields.get("patient", "1")
    measurements = ScanMeasurements(
        fill_fraction=0.0,
        crop=(0, 96, 0, 128),
        crop_confidence=1.0,
        note="",
        flags=("drawn", "small"),
        mean_intensity=50.0,
        std_intensity=30.0,
        sharpness=0.1,
    )
    defaults = {
        "label": "CNV", "patient": patient, "image_number": 1, "source": "", "eye": "", "volume": "",
        "source_split": "", "bytes": 1000, "width": 128, "height": 96, "sha256": "0" * 64, "patient_group": patient,
        "measurements": measurements,
    }  # fmt: skip
    return {"path": path, **defaults, **fields}
