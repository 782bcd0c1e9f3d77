"""What is exported of a record, whatever the format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octprep.format.errors import ManifestError
from octprep.format.manifest import (
    AFFINE,
    LABEL,
    NUMBER,
    PATH,
    PATIENT,
    REPAIR,
    REPEAT,
    ROW_OFFSET,
    SHA256,
    SOURCE_SIZE,
    Manifest,
    Shard,
    shard_problem,
)
from octprep.shards.records import encode_pixels, read_shard

SPLIT = "split"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image."""

    key: str  # such as train-000003-000012: the split, the shard's number and the record's in it; no dots
    png: bytes  # (height, width) gray, 8 bit, without loss
    metadata: dict[str, Any]  # the other features of the record, by their names, and the split; as JSON knows them


def read_samples(folder: Path, manifest: Manifest, split: str, number: int, *, repeats: bool) -> Iterator[Sample]:
    """The images of one shard, in its order.

    folder: of the shards. manifest: of the folder. number: of the shard in its split, from 0. repeats: also those that
    balance the classes. Raises ManifestError, naming the shard, if a record is damaged, or, after the last one, if the
    shard is not that of the manifest.
    """
    shard = manifest.splits[split][number]
    for index, record in enumerate(read_shard(folder, manifest, shard)):
        if record.repeat and not repeats:
            continue
        metadata = {
            LABEL: record.label,
            SPLIT: split,
            PATIENT: record.patient,
            PATH: record.path,
            NUMBER: record.number,
            SHA256: record.sha256,
            SOURCE_SIZE: list(record.source_size),
            AFFINE: list(record.affine),
            REPEAT: record.repeat,
        }
        if record.row_offset:
            metadata[ROW_OFFSET] = list(record.row_offset)
        png = encode_pixels(record.pixels, "png")
        yield Sample(key=f"{split}-{number:06d}-{index:06d}", png=png, metadata=metadata)
    _check_digest(folder / shard.name, shard)


def _check_digest(path: Path, shard: Shard) -> None:
    """Raise ManifestError if a shard whose records are sound is not the one that the manifest names."""
    if problem := shard_problem(path, shard):
        raise ManifestError(f"{path} {problem}. {REPAIR}")
