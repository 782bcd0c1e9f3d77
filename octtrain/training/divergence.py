"""What to do about a loss that is no longer a number."""

from __future__ import annotations

from octprep.format.errors import SettingError
from octprep.wording import number
from octtrain.config import FitConfig, is_own_model


def divergence(config: FitConfig, *, epoch: int, step: int, learning_rate: float) -> SettingError:
    """The error, to be raised, for a loss that is infinite or not a number.

    epoch, step: where it was seen first, counted from 1.  learning_rate: of that step.
    """
    if epoch == step == 1:
        return SettingError(
            "the loss is no longer a number in epoch 1, in its first step. No weight was changed before, so this is "
            f"not due to --lr: {_suspect(config)}"
        )
    return SettingError(
        f"the loss is no longer a number in epoch {epoch}, after at most {number(step, 'step')}, at a learning rate of "
        f"{learning_rate:.2g}; try a lower --lr than {config.lr:g}, such as {float(config.lr) / 10:.1g}, in another "
        f"--run. {_resuming(epoch)}"
    )


def _suspect(config: FitConfig) -> str:
    """What to look at if a network gives no numbers before it is trained."""
    if is_own_model(config.model):
        return f"make {config.model} return probabilities, which are numbers for any pixels."
    if config.weights not in ("none", "imagenet"):
        return f"give other --weights than {config.weights}, which seem to be those of a training that failed."
    return "try without a GPU, by CUDA_VISIBLE_DEVICES=-1; if that helps, update its driver."


def _resuming(epoch: int) -> str:
    if epoch == 1:
        return "Resuming this run repeats it."
    return f"The epochs before it are kept; resuming this run repeats epoch {epoch}."
