"""Networks of keras.applications as feature extractors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import layers

from octprep.format.errors import SettingError
from octtrain.model_files import MODEL_SUFFIXES, check_weights
from octtrain.models.weights import first_line, require_file, weights_mismatch


def application(
    pixels: Any, weights: str, *, network: Callable[..., keras.Model], side: int, unit_range: bool, **kwargs: Any
) -> Any:
    """Features, (n, features), of a network of keras.applications without its top, average-pooled.

    pixels: (n, height, width, 1) uint8 in 0..255.  weights: none, imagenet, or a file.  network: its constructor, which
    gets the `kwargs`.  side: the smallest side it takes, in pixels.  unit_range: whether it expects -1..1 instead of
    scaling 0..255 itself.

    Raises SettingError if the images are too small, or the weights are missing or do not fit.
    """
    height, width, _ = pixels.shape[1:]
    if min(height, width) < side:
        raise SettingError(f"{network.__name__} needs images of at least {side}x{side}; these are {height}x{width}")
    if weights not in ("none", "imagenet"):
        require_file(Path(weights))
    x = layers.Concatenate()([pixels, pixels, pixels])  # gray to RGB
    x = layers.Rescaling(1 / 127.5, offset=-1)(x) if unit_range else layers.Rescaling(1.0)(x)
    is_backbone_file = weights not in ("none", "imagenet") and not weights.endswith(MODEL_SUFFIXES)
    try:
        if is_backbone_file:
            check_weights(Path(weights))
        backbone = network(
            include_top=False,
            input_shape=(height, width, 3),
            weights=weights if is_backbone_file or weights == "imagenet" else None,
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
