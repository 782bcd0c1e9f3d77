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
from keras import layers

from octprep.format.errors import SettingError
from octtrain.config import check_model_name, is_own_model
from octtrain.model_files import MODEL_SUFFIXES
from octtrain.models.applications import application
from octtrain.models.octnet import octnet
from octtrain.models.own import build_own_model
from octtrain.models.weights import load_weights, require_weights_file
from octtrain.runtime import prepare_keras

# Name -> function from pixels (n, height, width, 1) and weights to features (n, features).
BUILDERS: Mapping[str, Callable[[Any, str], Any]] = {
    "octnet-s": partial(octnet, widths=(8, 16, 32, 64, 128), blocks=1),
    "octnet-m": partial(octnet, widths=(16, 32, 64, 128, 256), blocks=2),
    "mobilenetv3-small": partial(
        application, network=keras.applications.MobileNetV3Small, side=32, unit_range=False, include_preprocessing=True
    ),
    "efficientnetv2-b0": partial(
        application, network=keras.applications.EfficientNetV2B0, side=32, unit_range=False, include_preprocessing=True
    ),
    "inceptionv3": partial(application, network=keras.applications.InceptionV3, side=75, unit_range=True),
}


def build_model(name: str, image_shape: tuple[int, int, int], class_count: int, weights: str = "none") -> keras.Model:
    """A model from pixels, (n, *image_shape) uint8 in 0..255, to probabilities, (n, class_count) float32.

    name: a key of BUILDERS, or MODULE:FUNCTION for one of the user's own (see `octtrain.models.own`).  weights: none;
    imagenet (the networks of keras.applications only); or a file: a `.keras` model or `.weights.h5` of this same
    architecture, or for a network of keras.applications the backbone's `..._notop.h5` that Keras publishes.
    Raises SettingError for an unknown name, an image too small for the network, a model of the user's own with another
    input or output, or weights that do not fit.
    """
    check_model_name(name)
    prepare_keras()
    if is_own_model(name):
        if weights == "imagenet":
            raise SettingError(
                f"--weights imagenet is for networks of keras.applications, and {name} is your own model"
            )
        require_weights_file(weights)
        model = build_own_model(name, image_shape, class_count)
    else:
        pixels = keras.Input(image_shape, name="pixels", dtype="uint8")  # (n, h, w, 1), 0..255
        features = layers.Dropout(0.2)(BUILDERS[name](pixels, weights))  # (n, features)
        # float32 also where the rest computes in half precision: probabilities are compared and averaged
        probabilities = layers.Dense(class_count, activation="softmax", dtype="float32", name="probabilities")(features)
        model = keras.Model(pixels, probabilities, name=name)
    if weights.endswith(MODEL_SUFFIXES):
        load_weights(model, Path(weights))
    return model
