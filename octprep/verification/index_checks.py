"""The index beside the shards, and the files for TFDS: whether they are those that `octprep index` writes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from octprep.format.errors import ManifestError
from octprep.format.images_csv import Table
from octprep.format.manifest import IMAGES_NAME, Manifest, read_folder_file
from octprep.format.record_index import INDEX_NAME
from octprep.shards.indexing import index_names, make_index
from octprep.shards.tfds import tfds_files, tfds_problem
from octprep.verification.checks import Violation

_REMEDY = "`octprep index` writes it again"


def check_index(
    folder: Path, manifest: Manifest, table: Table | None, violations: Sequence[Violation]
) -> tuple[list[Violation], str]:
    """Check 5: the files of the index that are not what follows from the shards and images.csv; and a note, or "".

    The index may be missing, which is a note. violations: of the shards and tables; where these are not those of the
    manifest, nothing can be compared with them.
    """
    present = index_names(folder)
    if not present and not (folder / INDEX_NAME).is_symlink():
        return [], f"there is no index for readers that take records by number: {_REMEDY}"
    unsound = any(violation.check == 5 or violation.where == IMAGES_NAME for violation in violations)
    if table is None or table.problems or unsound:
        return [], "the index was not checked, as the shards or images.csv are not those of the manifest"
    try:
        expected = make_index(folder, manifest, table.paths)
    except ManifestError:  # a record that images.csv does not have, which is a violation of guarantee 2
        return [], "the index was not checked, as images.csv does not have all records"
    found = [
        Violation(5, name, f"{problem}: {_REMEDY}")
        for name, content in expected.items()
        if (problem := _problem(folder, name, content))
    ]
    found += [
        Violation(5, name, f"is of no shard or split in the manifest: {_REMEDY}")
        for name in present
        if name not in expected
    ]
    return found, ""


def check_tfds_files(folder: Path, manifest: Manifest) -> Iterator[Violation]:
    """Check 5: the files for TensorFlow Datasets that do not follow from the manifest. They may be missing."""
    if not manifest.digest_ok:
        return  # they cannot follow from a manifest that was edited
    for name, content in tfds_files(manifest).items():
        problem = tfds_problem(folder / name, content)
        if problem and os.path.lexists(folder / name):
            yield Violation(5, name, f"{problem}: {_REMEDY}")


def _problem(folder: Path, name: str, expected: bytes) -> str:
    """What is wrong with a file of the index, or ""."""
    path = folder / name
    if any(parent.is_symlink() for parent in list(path.parents)[: name.count("/")]):
        return "lies behind a link"
    try:
        return "" if read_folder_file(path) == expected else "does not match the shards and images.csv"
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except ValueError as error:
        return f"cannot be read: {error}"
