"""The settings of a training, checked when they are made. Only the standard library is imported.

Help, choices and panel of the command line's options are written at the fields, and
`octprep.terminal.commands` makes the options from them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octprep.format.errors import SettingError
from octprep.format.options import option
from octprep.wording import listed

MODELS = ("octnet-s", "octnet-m", "mobilenetv3-small", "efficientnetv2-b0", "inceptionv3")
MAX_EPOCHS = 100_000  # of one run

_OWN_MODEL = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_WHOLE_NUMBERS = ("epochs", "batch_size", "seed", "patience")
_MINIMUM = {"epochs": 1, "batch_size": 1, "patience": 0}


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The settings that all trainings have in common: those of `fit` and those of an experiment."""

    model: str = option(
        "octnet-s",
        help=f"The network: {', '.join(MODELS)}, or MODULE:FUNCTION for your own. The function is called with "
        "the images' height and width and the number of classes, and returns a Keras model from (n, height, width, 1) "
        "uint8 to (n, classes) probabilities.",
        panel="Model",
        metavar="NAME|MODULE:FUNCTION",
        completions=MODELS,
    )
    epochs: int = option(12, help="Passes over the training images, at most.", panel="Training")
    batch_size: int = option(32, help="Images in one training step.", panel="Training")
    lr: float = option(
        1e-3,
        help="Peak learning rate, above 0 and at most 10: reached after the first epoch, then a cosine down to 0.",
        panel="Training",
    )
    seed: int = option(0, help="Decides initial weights, order of images and augmentation.", panel="Training")


@dataclass(frozen=True, kw_only=True)
class FitConfig(Hyperparameters):
    """How a model is trained. Validates on construction; raises SettingError for a value outside its range."""

    weights: str = option(
        "none",
        help="Weights to start from; a file is a model.keras of another run, or the backbone's weights that Keras "
        "publishes.",
        panel="Model",
        metavar="none|imagenet|FILE",
        completions=("none", "imagenet"),
    )
    patience: int = option(
        6, help="Stop after this many epochs without a better balanced accuracy on val; 0: never.", panel="Training"
    )
    fold: int | None = option(
        None,
        help="The fold to validate on, from 0; for shards built with --split kfold.",
        panel="Training",
        default_text="no folds",
    )

    def __post_init__(self) -> None:
        for name in ("model", "weights"):
            if type(getattr(self, name)) is not str:
                raise SettingError(f"{name} must be a name; got {getattr(self, name)!r}")
        for name in _WHOLE_NUMBERS:
            if type(getattr(self, name)) is not int:
                raise SettingError(f"{_flag(name)} must be a whole number; got {getattr(self, name)!r}")
        if isinstance(self.lr, bool) or not isinstance(self.lr, int | float):
            raise SettingError(f"lr must be a number such as 0.001; got {self.lr!r}")
        if self.fold is not None and type(self.fold) is not int:
            raise SettingError(f"fold must be a whole number; got {self.fold!r}")
        check_model_name(self.model)
        for name, minimum in _MINIMUM.items():
            if getattr(self, name) < minimum:
                raise SettingError(f"{_flag(name)} must be at least {minimum}; got {getattr(self, name)}")
        if self.epochs > MAX_EPOCHS:
            raise SettingError(f"epochs must be at most {MAX_EPOCHS:,}; got {self.epochs:,}")
        if not (math.isfinite(self.lr) and 0 < self.lr <= 10):
            raise SettingError(f"lr must be above 0 and at most 10, such as 0.001; got {self.lr:g}")
        if not 0 <= self.seed < 2**32:
            raise SettingError(f"seed must be between 0 and 2**32 - 1; got {self.seed}")
        if self.fold is not None and self.fold < 0:
            raise SettingError(f"fold must be 0 or more; got {self.fold}")


def check_model_name(name: str) -> None:
    """Raise SettingError unless a name is one of MODELS or looks like MODULE:FUNCTION."""
    if name not in MODELS and not is_own_model(name):
        raise SettingError(
            f"no model called {name!r}; choose one of {', '.join(MODELS)}, or name a function of your own that builds "
            "one, such as my_package.my_module:build"
        )


def is_own_model(name: str) -> bool:
    """Whether a model's name has the form MODULE:FUNCTION, a function of the user's own."""
    return _OWN_MODEL.fullmatch(name) is not None


def merge_settings(base: FitConfig, given: Mapping[str, Any]) -> FitConfig:
    """`base` with some settings replaced. given: field of FitConfig -> value.

    Raises SettingError for a value outside its range or a field that does not exist.
    """
    names = [field.name for field in dataclasses.fields(FitConfig)]
    if unknown := [name for name in given if name not in names]:
        raise SettingError(f"there is no setting {listed(unknown)}; the settings of a training are {listed(names)}")
    return dataclasses.replace(base, **given)


def _flag(name: str) -> str:
    return name.replace("_", "-")
