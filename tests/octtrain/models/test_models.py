"""The models of octtrain: input, output, initial weights and augmentation."""

import sys

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from octprep.format.errors import SettingError  # noqa: E402
from octtrain.config import MODELS  # noqa: E402
from octtrain.models import BUILDERS, build_model  # noqa: E402
from octtrain.models.augmentation import Augment, with_augmentation  # noqa: E402


def pixels(n=6, height=32, width=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 1), dtype=np.uint8)


@pytest.mark.parametrize("name", ["octnet-s", "octnet-m", "mobilenetv3-small"])
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


def test_an_unknown_model_is_an_error_with_the_choices():
    with pytest.raises(SettingError, match="octnet-s, octnet-m, mobilenetv3-small, efficientnetv2-b0, inceptionv3"):
        build_model("resnet", (32, 32, 1), 4)


def test_images_too_small_for_a_network_are_an_error():
    with pytest.raises(SettingError, match="at least 75x75; these are 32x40"):
        build_model("inceptionv3", (32, 40, 1), 4)


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
    both = [np.asarray(m.predict_on_batch(images)) for m in (model, with_augmentation(model, 0))]
    np.testing.assert_array_equal(*both)


def test_augmentation_keeps_shape_and_type_and_differs_by_image_and_by_call():
    augment, images = Augment(0), np.repeat(pixels(1), 4, axis=0)
    first, second = (np.asarray(augment(images, training=True)) for _ in range(2))
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


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
