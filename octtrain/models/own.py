"""Models of the user's own, named as MODULE:FUNCTION.

The function is called as `function(height, width, classes)` and returns a keras.Model with

    input   (n, height, width, 1) uint8 in 0..255; scaling is a layer of the model
    output  (n, classes) float32 probabilities, each row with the sum 1

A model that ends in a dense layer and a softmax gets its logits as a tensor of their own, and computes these two in
float32 whatever the precision of the others.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from octprep.format.errors import OctError, SettingError
from octtrain.models.parts import layer_of, output_layer, softmax_layer
from octtrain.models.weights import first_line


def build_own_model(name: str, image_shape: tuple[int, int, int], class_count: int) -> keras.Model:
    """Call a function named MODULE:FUNCTION, and check the model that it returns.

    The module is looked for in the working folder first. Raises SettingError if it cannot be imported, has no such
    function, the function fails, or the model's input or output is of another form.
    """
    height, width, _ = image_shape
    function = _import_function(name)
    try:
        model = function(height, width, class_count)
    except OctError:
        raise
    except Exception as error:
        raise SettingError(
            f"--model {name} failed when called as ({height}, {width}, {class_count}), that is height, width and "
            f"number of classes: {type(error).__name__}: {first_line(error)}"
        ) from error
    form = (
        f"it must be a keras.Model from (n, {height}, {width}, {image_shape[2]}) uint8 in 0..255 to (n, {class_count}) "
        "float32 probabilities, whose last layer has dtype='float32' in any precision"
    )
    if not isinstance(model, keras.Model):
        raise SettingError(f"--model {name} returned a {type(model).__name__}; {form}")
    if not model.built or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise SettingError(f"--model {name} returned a model without exactly one input and one output; {form}")
    model = _with_logits(model)
    _check(name, model, image_shape, class_count, form)
    return model


def _import_function(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise SettingError(
            f"--model {name}: the module {module_name} cannot be imported ({type(error).__name__}: "
            f"{first_line(error)}); it must be installed, or lie in the working folder {folder}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        problem = "has no" if function is None else "has no function, but another object, called"
        raise SettingError(f"--model {name}: the module {module_name} {problem} {function_name}")
    return function  # type: ignore[no-any-return]


def _with_logits(model: keras.Model) -> keras.Model:
    """The same model, where it ends in a dense layer and a softmax, as two layers that compute in float32.

    Only the very last layers are looked at, and any other model is returned as it is.
    """
    last = output_layer(model)
    softmax = softmax_layer(model)
    dense = layer_of(model, softmax.input) if softmax is not None else last
    if type(dense) is not layers.Dense:
        return model
    linear, with_softmax = keras.activations.linear, keras.activations.softmax
    if dense.activation is not (with_softmax if softmax is None else linear):
        return model
    dense.activation = linear
    dense.dtype_policy = keras.DTypePolicy("float32")
    probabilities = layers.Activation("softmax", dtype="float32")(dense(dense.input))
    return keras.Model(model.inputs[0], probabilities, name=model.name)


def _check(name: str, model: keras.Model, image_shape: tuple[int, int, int], class_count: int, form: str) -> None:
    """Raise SettingError unless a model has the form that the top of this module describes, and `form` in short."""
    (pixels,), (probabilities,) = model.inputs, model.outputs
    if tuple(pixels.shape) != (None, *image_shape) or pixels.dtype != "uint8":
        raise SettingError(f"--model {name} takes {pixels.dtype} of shape {tuple(pixels.shape)}; {form}")
    if tuple(probabilities.shape) != (None, class_count) or probabilities.dtype != "float32":
        raise SettingError(f"--model {name} gives {probabilities.dtype} of shape {tuple(probabilities.shape)}; {form}")
    images = np.stack([np.zeros(image_shape, np.uint8), np.full(image_shape, 255, np.uint8)])
    output = np.asarray(model.predict_on_batch(images))
    if (output < 0).any() or not np.allclose(output.sum(axis=1), 1, atol=1e-3):
        row = ", ".join(f"{value:.3g}" for value in output[0])
        raise SettingError(f"--model {name} gives {row} for a black image, which are not probabilities; {form}")
