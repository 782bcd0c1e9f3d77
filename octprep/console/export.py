"""What `octprep export` prints: what was written, and how to read it."""

from __future__ import annotations

from pathlib import Path

from octprep.console.layout import shown_path, table
from octprep.interchange import ExportResult
from octprep.wording import number


def export_summary(out: Path, result: ExportResult) -> str:
    """The counts of each split and class, a word on patient ids, and the line of Python that reads the files."""
    rows: list[list[object]] = [["", *result.class_names, "records", "files"]]
    rows += [
        [split, *exported.per_class.values(), exported.records, len(exported.files)]
        for split, exported in result.splits.items()
    ]
    records = sum(exported.records for exported in result.splits.values())
    kind = "record" if result.repeats else "image"
    lines = [
        table(rows),
        f"{shown_path(out)}: {number(records, kind)}, of dataset {result.dataset}",
        "patient ids and the paths of the source files are in these files; check them before you share them",
    ]
    if result.format == "parquet":
        lines.append(f"next, in Python: datasets.load_dataset({shown_path(out)!r})")
    elif first := next((exported for exported in result.splits.values() if exported.files), None):
        lines.append(f"next, in Python: webdataset.WebDataset({_pattern(out, first.files)!r}, shardshuffle=False)")
    return "\n".join(lines)


def _pattern(out: Path, files: tuple[str, ...]) -> str:
    """The tar files of a split as one path, with the range of their numbers in braces."""
    first, last = files[0], files[-1]
    name = first if first == last else f"{first[:-10]}{{{first[-10:-4]}..{last[-10:-4]}}}.tar"
    return f"{shown_path(out)}/{name}"
