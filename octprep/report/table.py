"""images.csv as the report needs it: the rows that fit the manifest, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from octprep.format import images_csv
from octprep.format.images_csv import ExcludedRow, ImageRow, Table
from octprep.format.manifest import Manifest
from octprep.splits import deviations as class_deviations


@dataclass(frozen=True)
class Images:
    """images.csv, read and compared with the manifest's splits and classes."""

    kept: tuple[ImageRow, ...] = ()
    excluded: tuple[ExcludedRow, ...] = ()
    problems: tuple[str, ...] = ()  # of single rows, in words
    count: int = 0  # rows of the file
    deviations: tuple[str, ...] = ()  # of class shares from their targets, in words
    few_patients: tuple[str, ...] = ()  # in sentences, the splits with too few patients to say much


def read(data: bytes, manifest: Manifest, *, is_checked: bool = False) -> Images:
    """The rows of images.csv; one that does not fit the manifest becomes a problem.

    is_checked: as for `octprep.format.images_csv.decode`. Raises ValueError as `octprep.format.images_csv.decode` does.
    """
    table = images_csv.decode(data, is_checked=is_checked)
    split_of = {shard.name: split for split, shards in manifest.splits.items() for shard in shards}
    problems = [f"{problem.path}: {problem.message}" for problem in table.problems]
    kept = []
    for row in table.rows:
        if problem := _problem(row, split_of, manifest.class_names):
            problems.append(f"{row.path}: {problem}")
        else:
            kept.append(row)
    problems += [f"{path} has {count} rows" for path, count in table.repeated_paths.items()]
    deviations = class_deviations.deviations_from_table(Table(tuple(kept), table.excluded), manifest.config)
    return Images(
        tuple(kept),
        table.excluded,
        tuple(problems),
        table.count,
        tuple(map(class_deviations.describe_deviation, deviations)),
        tuple(class_deviations.describe_few_patients(class_deviations.patients_from_rows(kept))),
    )


def _problem(row: ImageRow, split_of: Mapping[str, str], class_names: tuple[str, ...]) -> str:
    """What of a row the manifest does not have, or ""."""
    if row.label not in class_names:
        return f"has class {row.label!r}, which the manifest does not have"
    if {split_of.get(name) for name in row.shards} != {row.split}:
        return f"has split {row.split!r} and shard {' '.join(row.shards)!r}, which the manifest does not have"
    return ""
