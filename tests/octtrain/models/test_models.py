"""The models of octtrain: input, output, initial weights and augmentation."""

import sys

import h5py
import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group  # noqa: E402

from benchmarks.models import multiplications  # noqa: E402
from octprep.format.errors import SettingError  # noqa: E402
from octtrain.config import MODELS  # noqa: E402
from octtrain.explain.evidence import find_head  # noqa: E402
from octtrain.models import BUILDERS, build_model, last_feature_map, logits_model  # noqa: E402
from octtrain.models.augmentation import Augment, augmented  # noqa: E402


def pixels(n=6, height=32, width=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 1), dtype=np.uint8)


QUICK = ["octnet-s", "octnet-m", "efficientnet-lite0", "mobilenetv3-small"]
ALL = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in MODELS]


@pytest.fixture(scope="module", params=ALL)
def network(request):
    """Name and model of every network, each built once."""
    return request.param, build_model(request.param, (96, 80, 1), 3)


@pytest.mark.parametrize("name", ["octnet-s", "efficientnet-lite0", "mobilenetv3-small"])
def test_a_model_takes_raw_pixels_and_gives_probabilities(name):
    model = build_model(name, (32, 40, 1), 3)
    assert model.input.dtype == "uint8"
    probabilities = np.asarray(model.predict_on_batch(pixels()))
    assert probabilities.shape == (6, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (probabilities >= 0).all()


def test_the_models_that_help_lists_are_those_that_can_be_built():
    assert tuple(BUILDERS) == MODELS


def test_every_network_is_flat_and_ends_in_feature_map_pooling_and_one_dense_layer(network):
    """So each has an evidence map, of its last feature map."""
    _, model = network
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    names = [layer.name for layer in model.layers]
    head = model.layers[names.index("features") + 1 :]
    assert [type(layer).__name__ for layer in head if layer.weights] == ["Dense"]
    assert names[-2:] == ["logits", "probabilities"]
    assert len(last_feature_map(model).shape) == 4
    assert model.get_layer("mean").input is last_feature_map(model)
    found = find_head(model)
    assert found.feature_map is last_feature_map(model)
    assert found.mean.any() and found.maximum.any() == ("maximum" in names)


def test_moving_averages_follow_the_batches_within_some_dozen_steps(network):
    name, model = network
    if name == "efficientnet-lite0":
        pytest.skip("it keeps the momentum of Keras")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert 0 < layer.momentum <= 0.9


@pytest.mark.parametrize("name", ["octnet-s", pytest.param("mobilenetv3-small", marks=pytest.mark.slow)])
def test_logits_are_a_bias_and_a_sum_over_the_last_feature_map(name):
    model = build_model(name, (96, 80, 1), 3)
    feature_map = np.asarray(keras.Model(model.input, last_feature_map(model)).predict_on_batch(pixels(6, 96, 80)))
    pooled = feature_map.mean(axis=(1, 2))
    kernel, bias = model.get_layer("logits").get_weights()
    if len(kernel) == 2 * pooled.shape[1]:
        pooled = np.concatenate([pooled, feature_map.max(axis=(1, 2))], axis=1)
    logits = np.asarray(logits_model(model).predict_on_batch(pixels(6, 96, 80)))
    np.testing.assert_allclose(logits, pooled @ kernel + bias, atol=1e-4)


def test_logits_are_those_whose_softmax_the_model_gives_and_share_its_weights():
    model = build_model("octnet-s", (32, 40, 1), 3)
    logits = logits_model(model)
    augmented(model, 0)
    assert logits_model(model).output.dtype == "float32"  # also once the model is a layer of another
    model.get_layer("logits").bias.assign([90.0, -90.0, 0.0])
    values = np.asarray(logits.predict_on_batch(pixels()))
    assert values.max() > 80  # no logarithm of a probability
    np.testing.assert_allclose(softmax(values), np.asarray(model.predict_on_batch(pixels())), atol=1e-6)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_a_saved_model_has_the_same_logits(tmp_path):
    model = build_model("octnet-s", (32, 40, 1), 3)
    model.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras")
    values = [np.asarray(logits_model(m).predict_on_batch(pixels())) for m in (model, loaded)]
    np.testing.assert_array_equal(*values)


@pytest.mark.parametrize("name", ["octnet-s", pytest.param("mobilenetv3-small", marks=pytest.mark.slow)])
def test_half_precision_is_for_layers_and_not_for_weights_head_and_probabilities(name, tmp_path):
    full, half = (build_model(name, (32, 40, 1), 3, precision=precision) for precision in ("float32", "bfloat16"))
    assert keras.config.dtype_policy().name == "float32"
    assert {variable.dtype for variable in half.trainable_variables} == {"float32"}
    convolution = next(layer for layer in half.layers if isinstance(layer, keras.layers.Conv2D))
    assert convolution.compute_dtype == "bfloat16"
    after = half.layers[[layer.name for layer in half.layers].index("features") :]
    assert {layer.compute_dtype for layer in after} == {"float32"}
    half.set_weights(full.get_weights())
    expected, rounded = (np.asarray(model(pixels())) for model in (full, half))
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, expected, atol=0.02)
    half.save(tmp_path / "a.keras")
    half.save_weights(tmp_path / "a.weights.h5")
    for file in ("a.keras", "a.weights.h5"):
        again = build_model(name, (32, 40, 1), 3, str(tmp_path / file))
        np.testing.assert_array_equal(np.asarray(again(pixels())), expected)


def test_the_precision_is_set_back_after_an_error_and_an_unknown_one_is_refused():
    with pytest.raises(SettingError, match="at least 75x75"):
        build_model("inceptionv3", (32, 40, 1), 4, precision="bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    with pytest.raises(SettingError, match="one of float32, bfloat16; got 'float16'"):
        build_model("octnet-s", (32, 32, 1), 4, precision="float16")


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("mobilenetv3-small", "MobileNetV3Small"),
        pytest.param("convnext-tiny", "ConvNeXtTiny", marks=pytest.mark.slow),  # its network has nested parts
    ],
)
def test_the_weights_of_a_backbone_as_keras_publishes_them_are_loaded(name, network, tmp_path):
    backbone = getattr(keras.applications, network)(include_top=False, weights=None, input_shape=(64, 64, 3))
    rng = np.random.default_rng(0)
    backbone.set_weights([w + rng.normal(0, 0.01, w.shape).astype(w.dtype) for w in backbone.get_weights()])
    path = tmp_path / "backbone_notop.h5"
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, backbone)
    model = build_model(name, (64, 64, 1), 4, str(path))
    gray = pixels(2, 64, 64)
    expected = np.asarray(backbone(np.repeat(gray.astype(np.float32), 3, axis=-1)))
    features = np.asarray(keras.Model(model.input, last_feature_map(model))(gray))
    assert expected.std() > 0
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(SettingError, match="holds no weights for MobileNetV3Large"):
        build_model("mobilenetv3-large", (64, 64, 1), 4, str(path))


@pytest.mark.parametrize("name", ALL)
def test_every_model_can_be_saved_and_loaded_again(name, tmp_path):
    model = build_model(name, (80, 80, 1), 3)
    model.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras", safe_mode=True)
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    for again, weight in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(again, weight)


def test_an_unknown_model_is_an_error_with_the_choices():
    with pytest.raises(SettingError, match=", ".join(MODELS)):
        build_model("resnet", (32, 32, 1), 4)


def test_images_too_small_for_a_network_are_an_error():
    with pytest.raises(SettingError, match="at least 75x75; these are 32x40"):
        build_model("inceptionv3", (32, 40, 1), 4)


def test_the_octnets_take_images_of_16_pixels_and_no_smaller_ones():
    for name in ("octnet-s", "octnet-m", "octnet-l"):
        assert last_feature_map(build_model(name, (16, 16, 1), 4)).shape[1:3] == (1, 1)
        with pytest.raises(SettingError, match="at least 16x16; these are 40x15"):
            build_model(name, (40, 15, 1), 4)


@pytest.mark.parametrize("name", ["octnet-s", "octnet-m", "octnet-l"])
def test_a_seed_decides_the_initial_weights(name):
    weights = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        weights.append(build_model(name, (32, 32, 1), 4).get_weights())
    assert all(np.array_equal(*pair) for pair in zip(weights[0], weights[1], strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(weights[0], weights[2], strict=True))


def test_octnet_l_has_four_times_the_multiplications_of_octnet_m():
    s, m, l_ = (multiplications(build_model(f"octnet-{size}", (224, 224, 1), 4)) for size in "sml")
    assert 40e6 < s < m / 4
    assert m <= 410e6  # of the former octnet-m
    assert l_ == pytest.approx(4 * m, rel=0.05)


def test_octnet_scales_pixels_to_between_minus_one_and_one():
    first = build_model("octnet-s", (32, 32, 1), 4).layers[1]
    scaled = np.asarray(first(np.array([[0.0], [255.0]])))
    np.testing.assert_allclose(scaled.ravel(), [-1, 1], atol=1e-6)


def test_saved_weights_give_the_same_probabilities(tmp_path):
    model = build_model("octnet-s", (32, 40, 1), 4)
    expected = np.asarray(model.predict_on_batch(pixels()))
    model.save(tmp_path / "a.keras")
    model.save_weights(tmp_path / "a.weights.h5")
    for file in ("a.keras", "a.weights.h5"):
        again = build_model("octnet-s", (32, 40, 1), 4, str(tmp_path / file))
        np.testing.assert_array_equal(np.asarray(again.predict_on_batch(pixels())), expected)


def test_weights_that_do_not_fit_are_a_one_line_error(tmp_path):
    build_model("octnet-s", (32, 32, 1), 4).save(tmp_path / "a.keras")
    (tmp_path / "b.weights.h5").write_bytes(b"no weights")
    cases = {
        str(tmp_path / "a.keras"): "holds no weights for octnet-m",
        str(tmp_path / "b.weights.h5"): "holds no weights for octnet-m",
        str(tmp_path / "none.keras"): "is not a file",
        "imagenet": "no imagenet weights for the octnets",
        "best": "not of a known kind",
    }
    for weights, message in cases.items():
        with pytest.raises(SettingError, match=message) as caught:
            build_model("octnet-m", (32, 32, 1), 4, weights)
        assert "\n" not in str(caught.value)


def test_imagenet_weights_without_internet_are_an_error_with_advice(monkeypatch, tmp_path):
    mobilenet = sys.modules[keras.applications.MobileNetV3Small.__module__]
    monkeypatch.setattr(mobilenet, "BASE_WEIGHT_PATH", f"file://{tmp_path}/")
    monkeypatch.setattr(mobilenet.file_utils, "get_file", _no_network)
    with pytest.raises(SettingError, match=r"could not be downloaded \(URL fetch failure.*--weights none"):
        build_model("mobilenetv3-small", (224, 224, 1), 4, "imagenet")  # another size is a warning of Keras first


def _no_network(*args, **kwargs):
    raise OSError("URL fetch failure: no route to host")


def test_augmentation_changes_nothing_at_inference():
    images = pixels()
    np.testing.assert_array_equal(np.asarray(Augment(0)(images, training=False)), images)
    model = build_model("octnet-s", (32, 40, 1), 4)
    both = [np.asarray(m.predict_on_batch(images)) for m in (model, augmented(model, 0))]
    np.testing.assert_array_equal(*both)


def test_augmentation_keeps_shape_and_type_and_differs_by_image_and_by_call():
    augment, images = Augment(0), np.repeat(pixels(1), 4, axis=0)
    first, second = (np.asarray(augment(images, training=True)) for _ in range(2))
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


def test_the_strength_of_augmentation_multiplies_its_limits():
    images = np.repeat(np.broadcast_to(np.arange(64)[:, None], (64, 64)).astype(np.uint8)[None, ..., None], 64, axis=0)
    np.testing.assert_array_equal(np.asarray(Augment(2, strength=0)(images, training=True)), images)
    most = []
    for strength in (0.5, 1.0, 2.0):
        moved = np.asarray(Augment(2, gain=0, speckle=0, strength=strength)(images, training=True))[..., 0].astype(int)
        most.append(np.abs(moved - images[..., 0])[:, 30:34, 31:33].max())
        assert most[-1] <= round(strength * 0.08 * 64) + 1
    assert most[0] < most[1] < most[2]


def test_augmentation_does_not_overflow_and_keeps_black():
    white, black = np.full((8, 32, 32, 1), 255, np.uint8), np.zeros((8, 32, 32, 1), np.uint8)
    assert np.asarray(Augment(0)(white, training=True)).min() > 100  # overflow would give small numbers
    assert np.asarray(Augment(0)(black, training=True)).max() == 0


def test_augmentation_mirrors_but_never_turns_upside_down():
    # rows get brighter downwards and one corner is marked: after any change the rows still do
    image = np.broadcast_to(np.linspace(20, 200, 64)[:, None], (64, 64)).copy()
    image[:, :10] = 0
    images = np.repeat(image.astype(np.uint8)[None, ..., None], 64, axis=0)
    changed = np.asarray(Augment(1, gain=0, speckle=0)(images, training=True))[..., 0].astype(int)
    assert (np.diff(changed, axis=1) >= 0).all()
    dark_left = (changed[:, 32, :3].mean(axis=1) < changed[:, 32, -3:].mean(axis=1)).mean()
    assert 0.2 < dark_left < 0.8


def test_augmentation_shifts_and_tilts_within_its_limits():
    images = np.repeat(np.broadcast_to(np.arange(64)[:, None], (64, 64)).astype(np.uint8)[None, ..., None], 64, axis=0)
    moved = np.asarray(Augment(2, gain=0, speckle=0)(images, training=True))[..., 0].astype(int) - images[..., 0]
    middle = moved[:, 20:44, :]  # away from the repeated rows
    assert np.abs(middle[:, :, 31:33]).max() <= round(0.08 * 64) + 1
    assert np.abs(middle).max() <= round(0.08 * 64 + 0.12 * 32) + 1
    assert np.abs(middle[:, :, 31:33]).max() >= 3
    assert np.abs(middle[:, 0, 0] - middle[:, 0, -1]).max() >= 3
