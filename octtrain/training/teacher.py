"""The run whose model teaches another (distillation: Hinton et al. 2015, arXiv:1503.02531)."""

from __future__ import annotations

from pathlib import Path

from octprep.format.errors import ManifestError, OctError, SettingError
from octprep.format.manifest import Manifest
from octtrain.runs.ensemble import task_differences
from octtrain.runs.run import MODEL_NAME, Run


def load_teacher_run(folder: str, manifest: Manifest) -> Run:
    """A teacher's run, for a student that is trained on a dataset.

    Raises SettingError if it is not a run with a model, ManifestError if its classes or preprocessing are others than
    those of the dataset.
    """
    try:
        run = Run.load(Path(folder))
    except OctError as error:
        raise SettingError(f"--teacher {folder} cannot be used: {error}") from None
    if differences := task_differences(run.manifest, manifest):
        listing = "; ".join(f"{name} {expected} in the run, {actual} here" for name, expected, actual in differences)
        raise ManifestError(
            f"--teacher {folder} cannot teach a model on these shards: {listing}. Name a run that was trained on the "
            "same classes and preprocessing."
        )
    if not (run.folder / MODEL_NAME).is_file():
        raise SettingError(f"--teacher {folder} has no {MODEL_NAME} yet; finish that run first")
    return run
