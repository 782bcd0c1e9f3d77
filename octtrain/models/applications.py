"""Networks of keras.applications as feature extractors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import layers

from octprep.format.errors import SettingError
from octtrain.model_files import check_weights
from octtrain.models.weights import first_line, weights_mismatch


def application(
    pixels: Any, weights: str, *, network: Callable[..., keras.Model], side: int, unit_range: bool, **kwargs: Any
) -> Any:
    """Features of a network of keras.applications without its top, average-pooled.

    side: smallest side it takes, pixels. unit_range: whether its input is -1..1 and it does not scale by itself.
    """
    height, width, _ = pixels.shape[1:]
    if min(height, width) < side:
        raise SettingError(f"{network.__name__} needs images of at least {side}x{side}; these are {height}x{width}")
    if weights not in ("none", "imagenet") and not Path(weights).is_file():
        raise SettingError(f"--weights {weights} is no file; give none, imagenet or a file of weights")
    x = layers.Concatenate()([pixels, pixels, pixels])  # gray to RGB
    x = layers.Rescaling(1 / 127.5, offset=-1)(x) if unit_range else layers.Rescaling(1.0)(x)
    backbone_file = weights != "none" and not weights.endswith((".keras", ".weights.h5"))
    try:
        if backbone_file:
            check_weights(Path(weights))
        backbone = network(
            include_top=False,
            input_shape=(height, width, 3),
            weights=weights if backbone_file else None,
            pooling="avg",
            **kwargs,
        )
    except Exception as error:
        if weights == "imagenet":
            raise SettingError(
                f"the imagenet weights of {network.__name__} could not be downloaded ({first_line(error)}). "
                "Use --weights none, or download them elsewhere and give the file as --weights FILE."
            ) from None
        raise weights_mismatch(weights, network.__name__, error) from None
    return backbone(x)
