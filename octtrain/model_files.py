"""Checks of .keras and weight files before anything unpacks them: their form, and the memory they would take."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import IO

import h5py  # type: ignore[import-untyped]

MODEL_SUFFIXES = (".keras", ".weights.h5")  # of files that hold all weights of a model
KERAS_MEMBER = "metadata.json"  # of a .keras archive: the version of Keras that wrote it
WEIGHTS_MEMBER = "model.weights.h5"  # of a .keras archive: all weights
MAX_BYTES = 2_000_000_000  # that an archive, or a file of weights, may unpack to
MAX_MEMBERS = 1000
MAX_EXPANSION = 4  # times the bytes that are stored; Keras stores weights uncompressed


def check_weights(path: Path) -> None:
    """Check a file of weights (.keras or HDF5) before it is loaded: its form, and how much memory it would take.

    Raises ValueError with the reason if it is not such a file or would unpack to far more than its bytes; OSError if it
    cannot be read.
    """
    if path.suffix == ".keras":
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            if WEIGHTS_MEMBER not in archive.namelist():
                raise ValueError(f"it is not a Keras archive: it has no {WEIGHTS_MEMBER}")
            try:
                content = archive.read(WEIGHTS_MEMBER)
            except (NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"its {WEIGHTS_MEMBER} is damaged: {error}") from None
        _check_arrays(io.BytesIO(content), len(content))
    else:
        if not path.is_file():
            raise ValueError("it is not a regular file")
        _check_size(path.stat().st_size, path.stat().st_size)
        with path.open("rb") as file:
            _check_arrays(file, path.stat().st_size)


def _check_arrays(file: IO[bytes], stored: int) -> None:
    """Raise ValueError if the arrays of an HDF5 file are far larger than the file, without reading them."""
    sizes: list[int] = []

    def add_size(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            sizes.append(int(item.nbytes))

    try:
        with h5py.File(file, "r") as arrays:
            arrays.visititems(add_size)
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"it holds no weights: {error}") from None
    _check_size(sum(sizes), stored)


def _check_size(size: int, stored: int) -> None:
    limit = min(MAX_BYTES, 1_000_000 + MAX_EXPANSION * stored)
    if size > limit:
        raise ValueError(f"its {stored:,} bytes would unpack to {size:,}, and at most {limit:,} are accepted")


def check_archive(path: Path) -> None:
    """Check a .keras file before it is unpacked: its form, and the size it would unpack to.

    Raises ValueError with the reason if it is not such an archive or larger than any model; OSError if it cannot be
    read.
    """
    if not path.is_file():
        raise ValueError("it is not a regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"it is not a Keras archive: {error}") from None
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"it holds {len(members):,} files, and a model at most {MAX_MEMBERS:,}")
    _check_size(sum(member.file_size for member in members), path.stat().st_size)


def keras_version(path: Path) -> str:
    """The version of Keras that wrote a .keras file; "unknown" if it does not say."""
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read(KERAS_MEMBER))["keras_version"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError, zipfile.BadZipFile, zlib.error):
        return "unknown"
