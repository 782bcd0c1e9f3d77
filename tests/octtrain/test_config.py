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
        ({"batch_size": 0}, "batch-size must be auto or at least 1"),
        ({"lr": float("nan")}, "lr must be auto, or above 0"),
        ({"lr": -1.0}, "lr must be auto, or above 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"fold": -1}, "fold must be at least 0"),
        ({"model": "../resnet"}, "no model called '../resnet'; choose one of octnet-s"),
        ({"batch_size": "many"}, "batch-size must be auto or a whole number; got 'many'"),
        ({"lr": "auto "}, "lr must be auto or a number; got 'auto '"),
        ({"ema": 1.0}, "ema must be at most 0.99999; got 1.0"),
        ({"augmentation": 3.5}, "augmentation must be at most 3; got 3.5"),
        ({"mixup": True}, "mixup must be a number; got True"),
        ({"feed": "memory"}, "feed must be one of auto, resident, mapped, stream; got 'memory'"),
        ({"fine_tune": 12}, "fine-tune must be less than epochs, 12"),
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


def test_auto_is_resolved_by_the_machine_and_the_batch_size():
    assert FitConfig().resolved(batch_size=32) == FitConfig(batch_size=32, lr=1e-3)
    assert FitConfig().resolved(batch_size=128).lr == pytest.approx(2e-3)
    assert FitConfig(batch_size=8).resolved(batch_size=128).lr == pytest.approx(5e-4)
    assert FitConfig(batch_size=8, lr=0.1).resolved(batch_size=32, precision="float32") == FitConfig(
        batch_size=8, lr=0.1, precision="float32"
    )


def test_given_settings_replace_those_of_the_base():
    base = FitConfig(epochs=3, lr=0.1)
    assert merge_settings(base, {"epochs": 5}) == FitConfig(epochs=5, lr=0.1)
    with pytest.raises(SettingError, match="there is no setting depth; the settings of a training are model, epochs"):
        merge_settings(base, {"depth": 3})
    with pytest.raises(SettingError, match="epochs must be at least 1"):
        merge_settings(base, {"epochs": 0})
