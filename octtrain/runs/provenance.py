"""What a model file says of itself: a member `octtrain.json` in the .keras archive, which Keras' loader passes over."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import h5py  # type: ignore[import-untyped]

from octprep.format.config import Preprocessing
from octprep.format.errors import ManifestError

MEMBER = "octtrain.json"
KERAS_MEMBER = "metadata.json"  # Keras' own, with its version
WEIGHTS_MEMBER = "model.weights.h5"  # Keras' own, with all numbers
MOST_BYTES = 2_000_000_000  # that an archive, or a file of weights, may unpack to
MOST_MEMBERS = 1000
MOST_EXPANSION = 4  # times the bytes that are stored; Keras stores weights as they are


@dataclass(frozen=True, kw_only=True)
class ModelProvenance:
    """What a model was made of."""

    digest: str  # of the dataset, hex
    class_names: tuple[str, ...]  # in the order of the model's probabilities
    recipe: Preprocessing  # of its pixels
    trained_on: tuple[str, ...]  # splits of that dataset
    chosen_by: tuple[str, ...]  # splits that the best epoch was chosen by

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """The origin that `dataclasses.asdict` and JSON made `raw` of. Raises KeyError, TypeError or ValueError."""
        names = ("class_names", "trained_on", "chosen_by")
        return cls(
            digest=raw["digest"], recipe=Preprocessing(**raw["recipe"]), **{name: tuple(raw[name]) for name in names}
        )

    def __str__(self) -> str:
        return f"dataset {self.digest[:12]}, trained on {', '.join(self.trained_on)}"


def stamp(path: Path | IO[bytes], origin: ModelProvenance) -> None:
    """Write an origin into a .keras file that has none yet."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, json.dumps(dataclasses.asdict(origin), indent=1) + "\n")


def check_weights(path: Path) -> None:
    """Refuse a file of weights (.keras or HDF5) that is none, or would take far more memory than it has bytes.

    Raises ValueError with the reason, OSError if it cannot be read.
    """
    if path.suffix == ".keras":
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            if WEIGHTS_MEMBER not in archive.namelist():
                raise ValueError(f"it is no Keras archive: it has no {WEIGHTS_MEMBER}")
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

    def count(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            sizes.append(int(item.nbytes))

    try:
        with h5py.File(file, "r") as arrays:
            arrays.visititems(count)
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"it holds no weights: {error}") from None
    _check_size(sum(sizes), stored)


def _check_size(size: int, stored: int) -> None:
    most = min(MOST_BYTES, 1_000_000 + MOST_EXPANSION * stored)
    if size > most:
        raise ValueError(f"its {stored:,} bytes would unpack to {size:,}, and at most {most:,} are believed")


def check_archive(path: Path) -> None:
    """Refuse a .keras file that is none, or that would unpack to more than any model here, before it is unpacked.

    Raises ValueError with the reason, OSError if it cannot be read.
    """
    if not path.is_file():
        raise ValueError("it is not a regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"it is no Keras archive: {error}") from None
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"it holds {len(members):,} files, and a model at most {MOST_MEMBERS:,}")
    _check_size(sum(member.file_size for member in members), path.stat().st_size)


def keras_version(path: Path) -> str:
    """The version of Keras that wrote a .keras file; "unknown" if it does not say."""
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read(KERAS_MEMBER))["keras_version"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError, zipfile.BadZipFile, zlib.error):
        return "unknown"


def read(path: Path) -> ModelProvenance:
    """The origin in a .keras file. Raises ManifestError if the file is damaged, has none, or is no model's."""
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            if MEMBER not in archive.namelist():
                raise ManifestError(
                    f"{path} does not say what it was trained on (it has no {MEMBER}), so it is not what "
                    "`octtrain fit` wrote. Restore it or train again."
                )
            content = archive.read(MEMBER)
    except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ManifestError(f"{path} cannot be loaded ({error}). Restore it or train again.") from None
    try:
        return ModelProvenance.from_json(json.loads(content))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ManifestError(
            f"{path} does not say what it was trained on (its {MEMBER} is damaged: {error}), "
            "so it is not what `octtrain fit` wrote. Restore it or train again."
        ) from None
