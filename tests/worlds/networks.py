"""A network that is compiled in a second, for tests of the training."""

import keras
from keras import layers


def tiny(height, width, classes):
    pixels = keras.Input((height, width, 1), dtype="uint8")
    x = layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    x = layers.Conv2D(8, 5, 4, padding="same", use_bias=False)(x)
    x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dropout(0.1)(layers.Flatten()(x))
    return keras.Model(pixels, layers.Dense(classes, activation="softmax", dtype="float32", name="head")(x))


def small(height, width, classes):
    """A network that ends as octtrain's own do, with the means and maxima of a feature map, and compiles as quickly.

    Of 32x32 pixels the map is one place, which sees all of them.
    """
    pixels = keras.Input((height, width, 1), dtype="uint8")
    x = layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    x = layers.Conv2D(8, 5, 4, padding="same", use_bias=False)(x)
    x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Activation("relu")(layers.Conv2D(16, 9, 8, padding="same")(x))
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
    logits = layers.Dense(classes, dtype="float32", name="logits")(layers.Dropout(0.2)(x))
    return keras.Model(pixels, layers.Activation("softmax", dtype="float32")(logits))


def wide(height, width, classes):
    """A network that is compiled as quickly, with a quarter of a million weights: its files fill a small disk."""
    pixels = keras.Input((height, width, 1), dtype="uint8")
    x = layers.Rescaling(1 / 127.5, offset=-1)(layers.Flatten()(pixels))
    x = layers.Dense(250_000 // (height * width), activation="relu")(x)
    return keras.Model(pixels, layers.Dense(classes, activation="softmax", dtype="float32")(x))


def tiny_run(folder, shards, seed=0, **settings):
    """A run of `tiny` with random weights that depend on the seed, never trained."""
    from octprep.format.manifest import Manifest
    from octtrain.config import FitConfig
    from octtrain.runs.folder import RunFolder
    from octtrain.runs.run import Run

    config = FitConfig(model="tests.worlds.networks:tiny", **settings)
    run = Run(folder=folder, config=config, manifest=Manifest.load(shards), shards=shards)
    run_folder = RunFolder(run)
    run_folder.initialise()
    keras.utils.set_random_seed(seed)
    run_folder.save_model(tiny(*run.image_shape[:2], len(run.manifest.class_names)), folder / "model.keras")
    return run
