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
