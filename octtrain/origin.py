"""What a model file says of itself: a member `octtrain.json` in the .keras archive, which Keras' loader passes over."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from octprep.schema import ManifestError, Recipe

MEMBER = "octtrain.json"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a model was made of."""

    digest: str  # of the dataset, hex
    class_names: tuple[str, ...]  # in the order of the model's probabilities
    recipe: Recipe  # of its pixels
    trained_on: tuple[str, ...]  # splits of that dataset
    chosen_by: tuple[str, ...]  # splits that the best epoch was chosen by

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """The origin that `dataclasses.asdict` and JSON made `raw` of. Raises KeyError, TypeError or ValueError."""
        names = ("class_names", "trained_on", "chosen_by")
        return cls(digest=raw["digest"], recipe=Recipe(**raw["recipe"]), **{name: tuple(raw[name]) for name in names})

    def __str__(self) -> str:
        return f"dataset {self.digest[:12]}, trained on {', '.join(self.trained_on)}"


def stamp(path: Path, origin: Origin) -> None:
    """Write an origin into a .keras file that has none yet."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, json.dumps(dataclasses.asdict(origin), indent=1) + "\n")


def read(path: Path) -> Origin:
    """The origin in a .keras file. Raises ManifestError if the file is damaged or has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return Origin.from_json(json.loads(archive.read(MEMBER)))
    except (OSError, zipfile.BadZipFile) as error:
        raise ManifestError(f"{path} cannot be loaded ({error}). Restore it or train anew.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(
            f"{path} does not say what it was trained on (its {MEMBER} is missing or damaged: {error}), "
            "so it is not what `octtrain fit` wrote. Restore it or train anew."
        ) from None
