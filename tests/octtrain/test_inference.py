"""Running a model on batches of images."""

import pytest

pytest.importorskip("tensorflow")
import keras
import numpy as np

from octprep.format.errors import ManifestError
from octtrain.inference import predict_probabilities
from tests.worlds.networks import tiny

pytestmark = pytest.mark.slow

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 1), np.uint8)


def test_incomplete_batches_compile_the_model_once_and_give_the_same_probabilities():
    traced = []

    class Traced(keras.layers.Layer):
        def call(self, x):
            traced.append(tuple(x.shape))
            return x

    network = tiny(32, 32, 4)
    model = keras.Model(network.input, Traced()(network.output))
    traced.clear()
    whole = predict_probabilities(model, IMAGES, 4, 10)
    parts = [predict_probabilities(model, part, 4, 10) for part in (IMAGES[:7], IMAGES[7:])]
    assert traced == [(10, 4)]
    assert whole.shape == (10, 4)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_a_model_of_another_form_and_one_without_numbers_are_errors():
    model = tiny(32, 32, 4)
    with pytest.raises(ManifestError, match=r"gives \(4,\) numbers, but its run says .* and 5 classes"):
        predict_probabilities(model, IMAGES, 5, 10)
    model.get_layer("head").bias.assign(np.full(4, np.nan, np.float32))
    with pytest.raises(ManifestError, match="not numbers"):
        predict_probabilities(model, IMAGES, 4, 10)
