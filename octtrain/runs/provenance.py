"""Provenance of a model file: what it was trained on, in a member `octtrain.json` of the .keras archive.

Keras' loader ignores that member.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from octprep.format.config import Preprocessing
from octprep.format.errors import ManifestError
from octtrain.model_files import check_archive

MEMBER = "octtrain.json"


@dataclass(frozen=True, kw_only=True)
class ModelProvenance:
    """What a model was trained on."""

    digest: str  # of the dataset, hex
    class_names: tuple[str, ...]  # in the order of the model's probabilities
    recipe: Preprocessing  # of its pixels
    trained_on: tuple[str, ...]  # splits of that dataset
    selected_on: tuple[str, ...]  # splits that the best epoch was selected on

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """The provenance that `dataclasses.asdict` and JSON made `raw` of. Raises KeyError, TypeError or ValueError."""
        names = ("class_names", "trained_on", "selected_on")
        return cls(
            digest=raw["digest"], recipe=Preprocessing(**raw["recipe"]), **{name: tuple(raw[name]) for name in names}
        )

    def __str__(self) -> str:
        return f"dataset {self.digest[:12]}, trained on {', '.join(self.trained_on)}"


def write_provenance(path: Path | IO[bytes], provenance: ModelProvenance) -> None:
    """Add a model's provenance to a .keras file that has none yet."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, json.dumps(dataclasses.asdict(provenance), indent=1) + "\n")


def read_provenance(path: Path) -> ModelProvenance:
    """The provenance in a .keras file. Raises ManifestError if the file is damaged or has none."""
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
