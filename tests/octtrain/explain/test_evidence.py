"""The evidence at the places of the last feature map and the bias sum to the logit."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import layers  # noqa: E402

from octtrain.explain.evidence import evidence, find_head  # noqa: E402
from octtrain.explain.explainer import Explainer  # noqa: E402
from octtrain.models import build_model  # noqa: E402
from tests.worlds.networks import tiny  # noqa: E402

# One of each head: mean with maximum, and mean alone with and without layers between. That every network has such a
# head, a test of the models says.
HEADS = ["octnet-s", "efficientnet-lite0", "mobilenetv3-small"]


def sum_error(name, height=96, width=80, classes=3, seed=3):
    """The largest distance of bias + evidence from the logit, and the logits' spread over the images."""
    keras.utils.set_random_seed(seed)
    model = build_model(name, (height, width, 1), classes)
    dense = model.get_layer("logits")
    rng = np.random.default_rng(seed)
    dense.set_weights([rng.normal(0, 0.3, weights.shape).astype(np.float32) for weights in dense.get_weights()])
    explainer = Explainer(model)
    images = [rng.integers(0, high, (height, width), dtype=np.uint8) for high in (256, 60)]
    found = [explainer.explain(image) for image in images]
    assert all(one.evidence.places.shape == (*explainer.map_shape, classes) for one in found)
    sums = np.array([one.evidence.places.sum(axis=(0, 1)) + one.evidence.bias for one in found])
    logits = np.array([one.logits for one in found])
    return float(np.abs(sums - logits).max()), float(np.ptp(logits))


@pytest.mark.parametrize("name", HEADS)
def test_evidence_and_bias_sum_to_the_logit(name):
    error, spread = sum_error(name)
    assert error < 1e-4
    assert spread > 0.1


def test_evidence_of_means_and_maxima_is_what_arithmetic_by_hand_gives():
    feature_map = np.array([[[[1.0, 5.0], [3.0, 5.0]], [[0.0, 2.0], [0.0, 0.0]]]], np.float32)  # (1, 2, 2, 2)
    pixels = keras.Input((2, 2, 2))
    pooled = layers.Concatenate()([layers.GlobalMaxPooling2D()(pixels), layers.GlobalAveragePooling2D()(pixels)])
    logits = layers.Dense(1, name="logits")(layers.Dropout(0.5)(pooled))
    model = keras.Model(pixels, layers.Activation("softmax")(logits))
    model.get_layer("logits").set_weights([np.array([[2.0], [10.0], [4.0], [0.0]], np.float32), np.array([7.0])])
    head = find_head(model)
    assert head.bias.tolist() == [7.0]
    # 2 for the maximum 3 of channel 0, 10 for the maximum 5 of channel 1 in two places, 4 for the mean of channel 0
    assert evidence(feature_map, head)[0, ..., 0].tolist() == [[1 + 25, 3 + 6 + 25], [0, 0]]


def test_a_model_that_does_not_end_in_global_pooling_and_one_dense_layer_has_no_evidence():
    assert find_head(tiny(32, 32, 4)) is None
    pixels = keras.Input((8, 8, 2))
    pooled = layers.GlobalAveragePooling2D()(pixels)
    for features in (layers.Dense(3, activation="relu")(pooled), layers.Activation("tanh")(pooled)):
        model = keras.Model(pixels, layers.Activation("softmax")(layers.Dense(2)(features)))
        assert find_head(model) is None
    other = layers.GlobalMaxPooling2D()(layers.Conv2D(2, 1)(pixels))
    both = layers.Concatenate()([pooled, other])  # of two feature maps
    assert find_head(keras.Model(pixels, layers.Activation("softmax")(layers.Dense(2)(both)))) is None
    explainer = Explainer(tiny(32, 32, 4))
    found = explainer.explain(np.zeros((32, 32), np.uint8))
    assert (found.evidence, explainer.field, explainer.map_shape) == (None, None, None)
    np.testing.assert_allclose(np.exp(found.logits) / np.exp(found.logits).sum(), found.probabilities, atol=1e-5)
