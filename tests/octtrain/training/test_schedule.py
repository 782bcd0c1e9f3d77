"""When a training ends, and its learning rate."""

import pytest

pytest.importorskip("tensorflow")

from octtrain.config import FitConfig
from octtrain.training.schedule import finish_reason, is_finished, learning_rate


def test_training_ends_when_patience_or_epochs_run_out():
    history = [{"val_balanced_accuracy": accuracy, "val_loss": 1} for accuracy in (0.5, 0.9, 0.8, 0.8)]
    assert not is_finished([], FitConfig())
    assert is_finished(history, FitConfig(epochs=9, patience=2))
    assert not is_finished(history, FitConfig(epochs=9, patience=3))
    assert not is_finished(history, FitConfig(epochs=9, patience=0))
    assert finish_reason(history, FitConfig(epochs=9, patience=2)).endswith("for 2 epochs (--patience 2)")
    assert is_finished(history, FitConfig(epochs=4, patience=0))


def test_the_learning_rate_rises_in_the_first_epoch_and_falls_to_zero():
    rate = learning_rate(FitConfig(lr=0.5), steps=10, epochs=3)
    assert [float(rate(step)) for step in (0, 10, 30)] == pytest.approx([0.02, 0.5, 0.0], abs=1e-6)
    assert 0.2 < float(rate(20)) < 0.3
