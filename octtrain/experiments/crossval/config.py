"""The settings of a cross-validation, checked when they are made. Only the standard library is imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from octprep.format.errors import SettingError
from octprep.format.options import option
from octtrain.config import FitConfig, merge_settings

NOT_OPTIONS = ("fold", "test_fold")  # settings of a training that the cross-validation decides
MAX_SEEDS = 100

_All = Literal["all"]


def _parse_folds(text: str) -> Any:
    try:
        return text if text == "all" else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"folds must be all, or numbers such as 0,2; got {text!r}") from None


@dataclass(frozen=True, kw_only=True)
class CrossvalConfig:
    """How a cross-validation is made. Validates on construction; raises SettingError for a value outside its range."""

    fit: FitConfig = field(default_factory=FitConfig)  # of every training, but for folds and seed
    folds: tuple[int, ...] | _All = option(
        "all",
        help="The folds to predict: all, or some, such as 0,2. The other folds are trained on in any case.",
        panel="Experiment",
        metavar="all|N,N...",
        parse=_parse_folds,
    )
    seeds: int = option(
        1,
        help="Trainings for each fold, with the seeds --seed, --seed + 1 and so on; their probabilities are averaged.",
        panel="Experiment",
    )

    def __post_init__(self) -> None:
        if self.folds != "all":
            if not self.folds or any(type(fold) is not int or fold < 0 for fold in self.folds):
                raise SettingError(f"folds must be all, or numbers from 0 such as 0,2; got {self.folds!r}")
            if len(set(self.folds)) < len(self.folds):
                raise SettingError(f"each fold can be named once; got {','.join(map(str, self.folds))}")
        if type(self.seeds) is not int or not 1 <= self.seeds <= MAX_SEEDS:
            raise SettingError(f"seeds must be a whole number between 1 and {MAX_SEEDS}; got {self.seeds!r}")
        for name in NOT_OPTIONS:
            if getattr(self.fit, name) is not None:
                raise SettingError(
                    f"a cross-validation chooses the folds to train and validate on; omit {name.replace('_', '-')}, "
                    "and name those to predict by --folds"
                )
        if self.fit.seed + self.seeds > 2**32:
            raise SettingError(f"seed must be at most {2**32 - self.seeds:,} for {self.seeds} seeds")

    def merged(self, given: Mapping[str, Any]) -> Self:
        """These settings with some replaced. given: field of this class or of FitConfig -> value."""
        own = {name: value for name, value in given.items() if name in ("folds", "seeds")}
        others = {name: value for name, value in given.items() if name not in own}
        return dataclasses.replace(self, fit=merge_settings(self.fit, others), **own)

    def training(self, fold: int, seed: int, folds: int) -> FitConfig:
        """The settings of one training. fold: that it does not see; seed: from 0; folds: of the shards."""
        return dataclasses.replace(self.fit, fold=(fold + 1) % folds, test_fold=fold, seed=self.fit.seed + seed)
