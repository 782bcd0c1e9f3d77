"""The settings of the experiment, checked when they are made. Only the standard library is imported."""

from __future__ import annotations

from dataclasses import dataclass, field

from octprep.format.errors import SettingError
from octprep.format.options import option
from octtrain.config import FitConfig


@dataclass(frozen=True, kw_only=True)
class LeakageConfig:
    """How the experiment is made. Validates on construction; raises SettingError for a value outside its range."""

    fit: FitConfig = field(default_factory=lambda: FitConfig(patience=0))  # only its Hyperparameters are used
    repeats: int = option(
        5, help="Pairs of trainings, each with another fold held out; at least 2.", panel="Experiment"
    )
    folds: int = option(5, help="One fold of so many is held out; 2 to 100.", panel="Experiment")
    max_images: int = option(
        2000, help="Use at most so many images, of whole patients; at least 16.", panel="Experiment"
    )

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise SettingError(f"repeats must be at least 2, for there to be an interval; got {self.repeats}")
        if not 2 <= self.folds <= 100:
            raise SettingError(f"folds must be between 2 and 100; got {self.folds}")
        if self.max_images < 16:
            raise SettingError(f"max-images must be at least 16; got {self.max_images}")
