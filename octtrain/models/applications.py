"""Networks of keras.applications as feature extractors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import layers

from octtrain.model_files import MODEL_SUFFIXES, check_weights
from octtrain.models.parts import pool, require_side
from octtrain.models.weights import imagenet_unavailable, require_file, weights_mismatch

# Of the moving averages of batch normalisation, which the kept model uses. MobileNetV3 comes with 0.999. After the 264
# steps of benchmarks/models.py they still hold some of what they began as, which every layer multiplies: the model
# guesses, as it does with 0.99.
MAX_MOMENTUM = 0.9


def application(
    pixels: Any, weights: str, *, network: Callable[..., keras.Model], side: int, unit_range: bool, **kwargs: Any
) -> Any:
    """Features, (n, channels), of a network of keras.applications without its top, average-pooled.

    pixels: (n, height, width, 1) uint8 in 0..255.  weights: none, imagenet, or a file.  network: its constructor, which
    gets the `kwargs`.  side: the smallest side it takes, in pixels.  unit_range: whether it expects -1..1 instead of
    scaling 0..255 itself.

    Raises SettingError if the images are too small, or the weights are missing or do not fit.
    """
    require_side(network.__name__, pixels, side)
    if weights not in ("none", "imagenet"):
        require_file(Path(weights))
    height, width, _ = pixels.shape[1:]
    x = layers.Concatenate()([pixels, pixels, pixels])  # gray to RGB
    # float32 in any case: bfloat16 does not tell all 256 levels apart once they are scaled
    x = (layers.Rescaling(1 / 127.5, -1, dtype="float32") if unit_range else layers.Rescaling(1.0, dtype="float32"))(x)
    is_backbone_file = weights not in ("none", "imagenet") and not weights.endswith(MODEL_SUFFIXES)
    try:
        if is_backbone_file:
            check_weights(Path(weights))
        backbone = network(
            include_top=False,
            input_tensor=x,
            input_shape=(height, width, 3),
            weights=weights if is_backbone_file or weights == "imagenet" else None,
            pooling=None,
            **kwargs,
        )
    except Exception as error:
        if weights == "imagenet":
            raise imagenet_unavailable(network.__name__, error) from None
        raise weights_mismatch(weights, network.__name__, error) from None
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = min(layer.momentum, MAX_MOMENTUM)
    return pool(_without_nesting(backbone, pixels))


def _without_nesting(backbone: keras.Model, pixels: Any) -> Any:
    """The output of a network for pixels, where the layers of a Sequential inside it are layers of the graph itself.

    The published weights of ConvNeXt are of the nested form, so they must have been loaded before.
    """
    if not any(isinstance(layer, keras.Sequential) for layer in backbone.layers):
        return backbone.outputs[0]
    copies: dict[str, Any] = {}

    def copy(layer: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            return layer  # is replaced by copies of its layers when it is called
        copies[layer.name] = type(layer).from_config(layer.get_config())
        return copies[layer.name]

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(layer, keras.Sequential):
            return layer(*args, **kwargs)
        (x,) = args
        for inner in layer.layers:
            x = copy(inner)(x)
        return x

    flat = keras.models.clone_model(backbone, pixels, clone_function=copy, call_function=call)
    for layer in backbone.layers:
        for source in layer.layers if isinstance(layer, keras.Sequential) else [layer]:
            if source.weights:
                copies[source.name].set_weights(source.get_weights())
    return flat.outputs[0]
