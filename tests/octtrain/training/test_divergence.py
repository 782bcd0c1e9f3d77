"""The advice for a loss that is no longer a number."""

import pytest

from octtrain.config import FitConfig
from octtrain.training.divergence import divergence


def test_a_lower_learning_rate_is_advised():
    error = divergence(FitConfig(lr=0.03), epoch=3, step=1200, learning_rate=0.0287)
    assert str(error) == (
        "the loss is no longer a number in epoch 3, after at most 1,200 steps, at a learning rate of 0.029; "
        "try a lower --lr than 0.03, such as 0.003, in another --run. The epochs before it are kept; "
        "resuming this run repeats epoch 3."
    )
    assert str(divergence(FitConfig(lr=1e-3), epoch=1, step=2, learning_rate=1e-3)).endswith(
        "Resuming this run repeats it."
    )


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"model": "my.module:build"}, "make my.module:build return probabilities"),
        ({"weights": "old.keras"}, "give other --weights than old.keras"),
        ({"weights": "imagenet"}, "try without a GPU"),
    ],
)
def test_a_first_step_is_not_due_to_the_learning_rate(settings, advice):
    text = str(divergence(FitConfig(**settings), epoch=1, step=1, learning_rate=4e-5))
    assert "not due to --lr" in text
    assert "lower" not in text
    assert advice in text
