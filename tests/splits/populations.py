"""Scans and configs for tests of splits, by the names of the archive's files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from octprep.format.config import BuildConfig
from octprep.source.files import Scan
from octprep.splits.split_file import SplitFile
from tests.worlds.archive import archive, path_of, scan


def config(strategy: str, **settings: Any) -> BuildConfig:
    return BuildConfig(split=strategy, balance="none" if strategy == "kfold" else "oversample", **settings)


def scans(names: Iterable[str] | None = None) -> list[Scan]:
    """names: such as train/CNV-12-3; by default those of a small archive."""
    return [scan(path_of(name)) for name in (archive() if names is None else names)]


def split_file(key: str, **names: Iterable[str]) -> SplitFile:
    """A split file, given the paths or patients of each split."""
    return SplitFile(key, {name: split for split, members in names.items() for name in members})
