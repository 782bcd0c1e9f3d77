"""Initial weights from a file. Only numbers are read from it, none of its layers."""

from __future__ import annotations

from pathlib import Path

import keras

from octprep.format.errors import SettingError
from octtrain.model_files import MODEL_SUFFIXES, check_weights


def load_weights(model: keras.Model, path: Path) -> None:
    """Load all weights of a model of the same architecture from a .keras or .weights.h5 file.

    Raises SettingError if there is no such file, it is too large for a model's, or holds other weights.
    """
    require_file(path)
    try:
        check_weights(path)
        model.load_weights(path)
    except Exception as error:  # Keras raises what h5py, zipfile and its own layers happen to raise
        raise weights_mismatch(str(path), model.name, error) from None


def require_file(path: Path) -> None:
    """Raise SettingError unless the file with the weights exists."""
    if not path.is_file():
        raise SettingError(f"--weights {path} is not a file; give none, imagenet, synthetic or a file of weights")


def require_weights_file(weights: str) -> None:
    """Raise SettingError unless weights are `none` or a file with all weights of a model, by its suffix."""
    if weights != "none" and not weights.endswith(MODEL_SUFFIXES):
        raise SettingError(
            f"--weights {weights} is not of a known kind; give none, imagenet, or a .keras or .weights.h5 file"
        )


def weights_mismatch(weights: str, name: str, error: Exception) -> SettingError:
    """The error of a file that does not hold the weights of a model."""
    return SettingError(f"--weights {weights} holds no weights for {name} ({first_line(error)}); use a file made by it")


def imagenet_unavailable(name: str, error: Exception) -> SettingError:
    """The error of a network whose ImageNet weights Keras could not download."""
    return SettingError(
        f"the imagenet weights of {name} could not be downloaded ({first_line(error)}). Use --weights none, or "
        "download them elsewhere and give the file as --weights FILE."
    )


def first_line(error: Exception) -> str:
    """The first line of a library's error message, at most 200 characters; the error's type if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".: ")
