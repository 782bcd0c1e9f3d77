"""Optimizer, learning rate, and when a training ends.

The learning rate rises linearly from a 25th to its peak in the epochs of warm-up, and then falls as half a cosine to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from octprep.wording import number
from octtrain.config import FitConfig
from octtrain.runs.history import Row, best_epoch


def optimizer(config: FitConfig, steps: int, epochs: int, peak: float | None = None) -> keras.optimizers.Optimizer:
    """AdamW with this schedule of the learning rate.

    steps: of an epoch.  epochs: over which the rate falls.  peak: learning rate, instead of the config's.
    """
    adamw = keras.optimizers.AdamW(
        learning_rate(config, steps, epochs, peak),
        weight_decay=config.weight_decay,
        clipnorm=config.clip_norm or None,
        use_ema=config.ema > 0,
        ema_momentum=config.ema or 0.99,
    )
    # Decay draws a weight to 0; a bias or a scale of normalisation does not overfit, and 0 means nothing for it.
    adamw.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return adamw


def learning_rate(config: FitConfig, steps: int, epochs: int, peak: float | None = None) -> Any:
    """The learning rate as a function of the number of steps done. Arguments as for `optimizer`."""
    assert not isinstance(config.lr, str)
    peak = config.lr if peak is None else peak
    rising = round(min(config.warmup, epochs) * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / 25 if rising else peak,
        warmup_target=peak if rising else None,
        warmup_steps=rising,
        decay_steps=max(1, steps * epochs - rising),
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
