"""Optimizer, learning rate, and when a training ends.

The learning rate rises linearly from lr/25 to lr in the first epoch and then falls as half a cosine to 0 in the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from octprep.wording import number
from octtrain.config import FitConfig
from octtrain.runs.history import Row, best_epoch


def optimizer(config: FitConfig, steps: int) -> keras.optimizers.Optimizer:
    """AdamW with this schedule of the learning rate. steps: of an epoch."""
    return keras.optimizers.AdamW(learning_rate(config, steps), weight_decay=1e-2, clipnorm=1.0)


def learning_rate(config: FitConfig, steps: int) -> Any:
    """The learning rate as a function of the number of steps done. steps: of an epoch."""
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=config.lr / 25,
        warmup_target=config.lr,
        warmup_steps=steps,
        decay_steps=max(1, steps * (config.epochs - 1)),
    )


def finish_reason(history: Sequence[Row], config: FitConfig) -> str:
    """Why the training is over, as the rest of a sentence; empty if it is not over.

    It is over when all epochs are done, or when none of the last `patience` epochs was the best.
    """
    if not history:
        return ""
    waited = len(history) - best_epoch(history)
    if len(history) >= config.epochs:
        return f", and --epochs is {config.epochs}"
    if 0 < config.patience <= waited:
        return f": no better balanced accuracy for {number(waited, 'epoch')} (--patience {config.patience})"
    return ""


def is_finished(history: Sequence[Row], config: FitConfig) -> bool:
    """Whether the training is over."""
    return bool(finish_reason(history, config))
