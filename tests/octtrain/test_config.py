"""Settings of a training and of the leakage experiment."""

import pytest

from octprep.format.errors import SettingError
from octtrain.config import FitConfig, merge_settings
from octtrain.experiments.leakage.config import LeakageConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"epochs": 10**9}, "epochs must be at most 100,000; got 1,000,000,000"),
        ({"batch_size": 0}, "batch-size must be at least 1"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"seed": -1}, "seed must be between"),
        ({"fold": -1}, "fold must be 0 or more"),
        ({"model": "../resnet"}, "no model called '../resnet'; choose one of octnet-s"),
        ({"patience": -1}, "patience must be at least 0"),
    ],
)
def test_settings_of_a_training_are_validated(change, message):
    with pytest.raises(SettingError, match=message):
        FitConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 1}, "repeats must be at least 2"),
        ({"folds": 1}, "folds must be between 2 and 100"),
        ({"max_images": 3}, "max-images must be at least 16"),
    ],
)
def test_settings_of_the_leakage_experiment_are_validated(change, message):
    with pytest.raises(SettingError, match=message):
        LeakageConfig(**change)


def test_given_settings_replace_those_of_the_base():
    base = FitConfig(epochs=3, lr=0.1)
    assert merge_settings(base, {"epochs": 5}) == FitConfig(epochs=5, lr=0.1)
    with pytest.raises(SettingError, match="there is no setting depth; the settings of a training are model, epochs"):
        merge_settings(base, {"depth": 3})
    with pytest.raises(SettingError, match="epochs must be at least 1"):
        merge_settings(base, {"epochs": 0})
