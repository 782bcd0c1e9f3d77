"""Whether a training can start from the weights that come with the package."""

from __future__ import annotations

from octprep.format.errors import SettingError
from octprep.format.manifest import Manifest
from octtrain import pretrained
from octtrain.config import FitConfig
from octtrain.runs.run import Run


def require_packaged_start(config: FitConfig, manifest: Manifest) -> None:
    """Raise SettingError unless the packaged run is of the same model, and of the classes of the dataset.

    Images may be of another size and preprocessing: no weight of a built-in model depends on them. Raises SourceError
    if there is no packaged run.
    """
    packaged = Run.load(pretrained.packaged_folder())
    weights = f"--weights {pretrained.NAME}"
    if config.model != packaged.config.model:
        raise SettingError(
            f"{weights} are of {packaged.config.model}, and the model is {config.model}; give --model "
            f"{packaged.config.model}, or other --weights"
        )
    if manifest.class_names != packaged.manifest.class_names:
        raise SettingError(
            f"{weights} tell {', '.join(packaged.manifest.class_names)}, and these shards have the classes "
            f"{', '.join(manifest.class_names)}; build them with the same by `octprep build --classes`, or give "
            "--weights none"
        )
