"""Raw pixels to class probabilities: a dict of builders, and the augmentation that training puts in front of them.

Every model takes (n, height, width, 1) uint8 in 0..255 and gives (n, classes) float32 probabilities. Scaling and, where
a network wants it, gray to RGB are layers inside, so training, evaluation and export cannot scale differently. The
models consist of Keras' own layers only: a saved one loads wherever Keras 3 does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
from keras import layers, ops

from octprep.format.errors import SettingError
from octtrain.runs.provenance import check_weights
from octtrain.runtime import prepare_keras

# Batch statistics are averaged over the last few tens of steps: a small dataset has not many more in an epoch.
_MOMENTUM = 0.9


def build_model(name: str, image_shape: tuple[int, int, int], class_count: int, weights: str = "none") -> keras.Model:
    """A model from pixels, (n, *image_shape) uint8 in 0..255, to probabilities, (n, class_count) float32.

    weights: none; imagenet (the networks of keras.applications only); or a file: a `.keras` model or `.weights.h5` of
    this same architecture, or for a network of keras.applications the backbone's `..._notop.h5` that Keras publishes.
    Raises SettingError for an unknown name, an image too small for the network, or weights that do not fit it.
    """
    check_name(name)
    prepare_keras()
    pixels = keras.Input(image_shape, name="pixels", dtype="uint8")  # (n, h, w, 1), 0..255
    features = BUILDERS[name](pixels, weights)  # (n, features)
    features = layers.Dropout(0.2)(features)
    # float32 also where the rest computes in half precision: probabilities are compared and averaged
    probabilities = layers.Dense(class_count, activation="softmax", dtype="float32", name="probabilities")(features)
    model = keras.Model(pixels, probabilities, name=name)
    if weights.endswith((".keras", ".weights.h5")):
        _take_weights(model, Path(weights))
    return model


def check_name(name: str) -> None:
    """Raise SettingError unless there is a model of this name."""
    if name not in BUILDERS:
        raise SettingError(f"no model called {name!r}; choose one of {', '.join(BUILDERS)}")


def with_augmentation(model: keras.Model, seed: int) -> keras.Model:
    """The same model behind an `Augment`. It shares the model's weights, so train this one and keep that one."""
    pixels = keras.Input(model.input_shape[1:], name="pixels", dtype="uint8")
    return keras.Model(pixels, model(Augment(seed)(pixels)), name=f"{model.name}-augmented")


class Augment(layers.Layer):  # type: ignore[misc]
    """What another B-scan of the same retina might look like: shifted, tilted, mirrored, brighter, noisier.

    (n, h, w, 1) uint8 in 0..255 to the same shape, type and range; at inference nothing is changed. One gather an
    image: columns slide up and down by a whole number of pixels, which both shifts and tilts the retina. It is never
    turned upside down. Above and below, the outermost row is repeated; at the sides the image is mirrored.
    """

    def __init__(
        self,
        seed: int,
        *,
        shift: float = 0.08,  # at most, as a fraction of the side, in either direction
        tilt: float = 0.12,  # at most, rows per column: 0.12 is 7 degrees
        gain: float = 0.2,  # brightness times 1 - gain to 1 + gain
        speckle: float = 0.12,  # largest standard deviation of the multiplicative noise
    ) -> None:
        super().__init__()
        self.shift, self.tilt, self.gain, self.speckle = shift, tilt, gain, speckle
        self.random = keras.random.SeedGenerator(seed)

    def call(self, pixels: Any, training: bool = False) -> Any:
        """Pixels, changed at random if training."""
        if not training:
            return pixels
        _, height, width, _ = pixels.shape
        n = ops.shape(pixels)[0]
        draw = partial(keras.random.uniform, (n, 1, 1), dtype="float32", seed=self.random)

        columns = ops.reshape(ops.arange(width, dtype="float32"), (1, 1, width))
        rows = ops.reshape(ops.arange(height, dtype="float32"), (1, height, 1))
        rows = rows + draw(-self.shift * height, self.shift * height)
        rows = rows + draw(-self.tilt, self.tilt) * (columns - (width - 1) / 2)  # (n, h, w)
        rows = ops.clip(ops.round(rows), 0, height - 1)
        columns = columns + ops.round(draw(-self.shift * width, self.shift * width))  # (n, 1, w)
        columns = (width - 1) - ops.abs((width - 1) - ops.abs(columns))  # mirrored at both sides
        columns = ops.where(draw(0, 1) < 0.5, columns, (width - 1) - columns)
        source = ops.cast(rows, "int32") * width + ops.cast(columns, "int32")  # (n, h, w), index into an image
        flat = ops.reshape(pixels, (n, height * width))
        moved = ops.take_along_axis(flat, ops.reshape(source, (n, height * width)), axis=1)

        noise = keras.random.normal((n, height * width), dtype="float32", seed=self.random)
        factor = draw(1 - self.gain, 1 + self.gain)[:, 0] * (1 + draw(0, self.speckle)[:, 0] * noise)
        changed = ops.clip(ops.round(ops.cast(moved, "float32") * factor), 0, 255)
        return ops.reshape(ops.cast(changed, "uint8"), (n, height, width, 1))


def _octnet(pixels: Any, weights: str, *, widths: Sequence[int], blocks: int) -> Any:
    """A small residual network. Each stage halves the sides; strided convolutions let no pixel out."""
    if weights == "imagenet":
        raise SettingError("there are no imagenet weights for the octnets; use --weights none or a file of this model")
    _refuse_backbone_file(weights)
    x = layers.Rescaling(1 / 127.5, offset=-1)(pixels)  # -1..1
    for i, width in enumerate(widths):
        x = _conv(x, width, size=5 if i == 0 else 3, stride=2)
        for _ in range(blocks if i >= 2 else 0):  # at full resolution a block costs most and sees least
            x = _residual(x, width)
    # the mean sees what is everywhere, the maximum what is in one place only, such as a single druse
    return layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])


def _conv(x: Any, width: int, size: int = 3, stride: int = 1) -> Any:
    x = layers.Conv2D(width, size, stride, padding="same", use_bias=False)(x)
    return layers.Activation("relu")(layers.BatchNormalization(momentum=_MOMENTUM)(x))


def _residual(x: Any, width: int) -> Any:
    y = layers.Conv2D(width, 3, padding="same", use_bias=False)(_conv(x, width))
    # starts at zero, so that every block begins as the identity
    y = layers.BatchNormalization(momentum=_MOMENTUM, gamma_initializer="zeros")(y)
    return layers.Activation("relu")(layers.Add()([x, y]))


def _application(
    pixels: Any, weights: str, *, network: Callable[..., keras.Model], side: int, unit_range: bool, **kwargs: Any
) -> Any:
    """A network of keras.applications without its top, average-pooled.

    side: smallest side it takes, pixels. unit_range: whether it wants -1..1 and does not scale by itself.
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
        raise _misfit(weights, network.__name__, error) from None
    return backbone(x)


def _take_weights(model: keras.Model, path: Path) -> None:
    """Load all weights of a model of the same architecture. Only numbers are taken, none of the file's layers.

    Raises SettingError if there is no such file, it is too large for a model's, or holds other weights.
    """
    if not path.is_file():
        raise SettingError(f"--weights {path} is no file; give none, imagenet or a file of weights")
    try:
        check_weights(path)
        model.load_weights(path)
    except Exception as error:  # Keras raises what h5py, zipfile and its own layers happen to raise
        raise _misfit(str(path), model.name, error) from None


def _refuse_backbone_file(weights: str) -> None:
    if weights != "none" and not weights.endswith((".keras", ".weights.h5")):
        raise SettingError(
            f"--weights {weights} is of no known kind; give none, imagenet, or a .keras or .weights.h5 file"
        )


def _misfit(weights: str, name: str, error: Exception) -> SettingError:
    return SettingError(f"--weights {weights} holds no weights for {name} ({first_line(error)}); use a file made by it")


def first_line(error: Exception) -> str:
    """The first line of what a library says of a failure."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".: ")


BUILDERS: Mapping[str, Callable[[Any, str], Any]] = {
    "octnet-s": partial(_octnet, widths=(8, 16, 32, 64, 128), blocks=1),
    "octnet-m": partial(_octnet, widths=(16, 32, 64, 128, 256), blocks=2),
    "mobilenetv3-small": partial(
        _application, network=keras.applications.MobileNetV3Small, side=32, unit_range=False, include_preprocessing=True
    ),
    "efficientnetv2-b0": partial(
        _application, network=keras.applications.EfficientNetV2B0, side=32, unit_range=False, include_preprocessing=True
    ),
    "inceptionv3": partial(_application, network=keras.applications.InceptionV3, side=75, unit_range=True),
}
