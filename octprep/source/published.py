"""The published versions of the OCT data set of Kermany et al., and how a source is recognised as one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from octprep.source.files import ScanFile, count_by_split_and_class

KERMANY_CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")

# Images per split and class of what was published, in the order of KERMANY_CLASSES.
# Kaggle: https://www.kaggle.com/datasets/paultimothymooney/kermany2018; Mendeley: doi 10.17632/rscbjbr9sj.
PUBLISHED: Mapping[str, Mapping[str, tuple[int, int, int, int]]] = {
    "Kaggle kermany2018": {"train": (37205, 11348, 8616, 26315), "test": (242,) * 4, "val": (8,) * 4},
    "Mendeley version 2": {"train": (37205, 11348, 8616, 26315), "test": (250,) * 4},
    "Mendeley version 3": {"train": (37205, 11348, 8616, 51140), "test": (250,) * 4},
}

_MATCH_TOLERANCE = 0.01  # of a published data set's images, that may be missing or too many


@dataclass(frozen=True)
class PublishedDataset:
    """A published data set, recognised by its counts, and in words where they differ a little."""

    name: str
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.differences:
            return self.name
        return f"nearly {self.name} ({'; '.join(self.differences)})"


def recognise(scan_files: Iterable[ScanFile]) -> PublishedDataset | None:
    """The published data set with these counts per split and class, exactly or nearly; None if there is none.

    Nearly: all differences together are at most 1 % of its images, as where a download lacks some files. Of several
    that match, the one with the fewest differences.
    """
    counts = {
        (folder, label): count
        for folder, row in count_by_split_and_class(scan_files).items()
        for label, count in row.items()
    }
    matches: list[tuple[int, int, PublishedDataset]] = []
    for name, splits in PUBLISHED.items():
        published = {
            (folder, label): count
            for folder, row in splits.items()
            for label, count in zip(KERMANY_CLASSES, row, strict=True)
        }
        changes = {cell: counts.get(cell, 0) - published.get(cell, 0) for cell in sorted({*counts, *published})}
        difference = sum(map(abs, changes.values()))
        if difference <= _MATCH_TOLERANCE * sum(published.values()):
            differences = tuple(
                f"{'/'.join(filter(None, cell))} {published.get(cell, 0):,} there, {counts.get(cell, 0):,} here"
                for cell, count in changes.items()
                if count
            )
            matches.append((difference, len(matches), PublishedDataset(name, differences)))
    return min(matches)[-1] if matches else None
