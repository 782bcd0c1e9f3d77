"""Parquet files that Hugging Face's `datasets` reads as images and classes, and any other reader as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from octprep.format.errors import SettingError
from octprep.format.manifest import (
    AFFINE,
    IMAGE,
    LABEL,
    NUMBER,
    PATH,
    PATIENT,
    REPEAT,
    ROW_OFFSET,
    SHA256,
    SOURCE_SIZE,
    Manifest,
)
from octprep.interchange.samples import SPLIT, Sample

_ROW_GROUP = 100  # rows that a reader must take at once; Hugging Face's own number for images

_CARD = """\
---
configs:
- config_name: default
  data_files:
{files}
---

Retinal OCT B-scans prepared by octprep, as `octprep-export.json` says. The columns `patient` and `path` hold patient
ids: check them before you share these files.
"""


def require_pyarrow() -> None:
    """Raise SettingError if pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise SettingError(
            "--to parquet needs pyarrow, which is not installed: pip install 'octprep[export]', or choose another --to."
        ) from None


def write_parquet(path: Path, samples: Iterable[Sample], manifest: Manifest) -> None:
    """Write a Parquet file: the image as a PNG and its name, and a column for each entry of the metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{IMAGE: {"bytes": sample.png, "path": f"{sample.key}.png"}, **sample.metadata} for sample in samples]
    parquet.write_table(pa.Table.from_pylist(rows, _schema(manifest)), path, row_group_size=_ROW_GROUP)


def dataset_card(splits: Iterable[str]) -> bytes:
    """The README.md by which Hugging Face's `load_dataset(FOLDER)` knows which files are of which split."""
    files = "\n".join(f"  - split: {split}\n    path: {split}-*.parquet" for split in splits)
    return _CARD.format(files=files).encode()


def _schema(manifest: Manifest) -> Any:
    """The columns as pyarrow knows them, and in the schema's metadata as Hugging Face does (`datasets.Features`)."""
    import pyarrow as pa

    kinds = {
        LABEL: "int64", SPLIT: "string", PATIENT: "string", PATH: "string", NUMBER: "int64", SHA256: "string",
        SOURCE_SIZE: "int64", AFFINE: "float32", REPEAT: "int64",
        **({ROW_OFFSET: "float32"} if manifest.recipe.flatten else {}),
    }  # fmt: skip
    lists = (SOURCE_SIZE, AFFINE, ROW_OFFSET)
    columns = {IMAGE: pa.struct({"bytes": pa.binary(), "path": pa.string()})}
    features: dict[str, Mapping[str, Any]] = {IMAGE: {"_type": "Image"}}
    for name, kind in kinds.items():
        value: dict[str, Any] = {"dtype": kind, "_type": "Value"}
        columns[name] = pa.list_(getattr(pa, kind)()) if name in lists else getattr(pa, kind)()
        # `List` of newer versions reads as `Sequence`, which all versions know.
        features[name] = {"feature": value, "_type": "Sequence"} if name in lists else value
    features[LABEL] = {"names": list(manifest.class_names), "_type": "ClassLabel"}
    return pa.schema(columns, {"huggingface": json.dumps({"info": {"features": features}})})
