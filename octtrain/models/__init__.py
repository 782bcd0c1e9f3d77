"""Models from raw pixels to class probabilities.

Every model takes (n, height, width, 1) uint8 in 0..255 and gives (n, classes) float32 probabilities. Scaling and, where
a network expects it, gray to RGB are layers inside, so training, evaluation and export cannot scale differently. The
models listed here consist of Keras' own layers only: a saved one loads wherever Keras 3 does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras

from octprep.format.errors import SettingError
from octtrain.config import check_model_name, is_own_model
from octtrain.model_files import MODEL_SUFFIXES
from octtrain.models.applications import application
from octtrain.models.lite import efficientnet_lite0
from octtrain.models.octnet import octnet
from octtrain.models.own import build_own_model
from octtrain.models.parts import classify, last_feature_map, logits_model
from octtrain.models.precision import Precision, layers_computing_in
from octtrain.models.weights import load_weights, require_weights_file
from octtrain.runtime import prepare_keras

__all__ = ["BUILDERS", "Precision", "build_model", "last_feature_map", "logits_model"]

_application = partial(application, side=32, unit_range=False)

# Name -> function from pixels (n, height, width, 1) and weights to features (n, features).
BUILDERS: Mapping[str, Callable[[Any, str], Any]] = {
    "octnet-s": partial(octnet, widths=(16, 32, 64, 128), blocks=(0, 1, 1, 1), stem=7, stride=4),
    "octnet-m": partial(octnet, widths=(32, 64, 128, 256), blocks=(0, 2, 2, 2), stem=7, stride=4),
    "octnet-l": partial(octnet, widths=(64, 128, 256, 512), blocks=(0, 2, 2, 2), stem=7, stride=4),
    "efficientnet-lite0": efficientnet_lite0,
    "mobilenetv3-small": partial(_application, network=keras.applications.MobileNetV3Small),
    "mobilenetv3-large": partial(_application, network=keras.applications.MobileNetV3Large),
    "efficientnetv2-b0": partial(_application, network=keras.applications.EfficientNetV2B0),
    "convnext-tiny": partial(_application, network=keras.applications.ConvNeXtTiny),
    "resnet50v2": partial(_application, network=keras.applications.ResNet50V2, unit_range=True),
    "inceptionv3": partial(_application, network=keras.applications.InceptionV3, side=75, unit_range=True),
}


def build_model(
    name: str,
    image_shape: tuple[int, int, int],
    class_count: int,
    weights: str = "none",
    precision: Precision = "float32",
) -> keras.Model:
    """A model from pixels, (n, *image_shape) uint8 in 0..255, to probabilities, (n, class_count) float32.

    name: a key of BUILDERS, or MODULE:FUNCTION for one of the user's own (see `octtrain.models.own`).  weights: none;
    imagenet (not for the octnets and own models); or a file: a `.keras` model or `.weights.h5` of this same
    architecture, or for a network of keras.applications the backbone's `..._notop.h5` that Keras publishes.
    precision: of what the layers compute; weights, logits and probabilities are float32 in any case, so a model of one
    precision takes the weights of the other.

    Raises SettingError for an unknown name or precision, an image too small for the network, a model of the user's own
    with another input or output, or weights that are missing or do not fit.
    """
    check_model_name(name)
    prepare_keras()
    with layers_computing_in(precision):
        if is_own_model(name):
            if weights == "imagenet":
                raise SettingError(
                    f"--weights imagenet is for networks that others trained, and {name} is your own model"
                )
            require_weights_file(weights)
            model = build_own_model(name, image_shape, class_count)
        else:
            pixels = keras.Input(image_shape, name="pixels", dtype="uint8")  # (n, h, w, 1), 0..255
            model = keras.Model(pixels, classify(BUILDERS[name](pixels, weights), class_count), name=name)
    if weights.endswith(MODEL_SUFFIXES):
        load_weights(model, Path(weights))
    return model
