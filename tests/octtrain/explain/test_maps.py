"""Receptive field, occlusion map, and the way from a map to the source scan."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import layers, ops  # noqa: E402

from octprep import preprocessing  # noqa: E402
from octprep.format.config import Preprocessing  # noqa: E402
from octprep.format.errors import SettingError  # noqa: E402
from octtrain.explain.field import measure_field  # noqa: E402
from octtrain.explain.occlusion import Patches, occlusion, rank_correlation  # noqa: E402
from octtrain.explain.source import at_source, over_stored  # noqa: E402
from tests.worlds.layers import layered  # noqa: E402


def convolutions(height, width, *layers_of):
    """Convolutions of (kernel side, stride) with weights of one sign, whose every pixel counts."""
    pixels = keras.Input((height, width, 1), dtype="uint8")
    x = layers.Rescaling(1 / 255)(pixels)
    for side, stride in layers_of:
        x = layers.Conv2D(2, side, stride, padding="same", kernel_initializer="ones")(x)
    return keras.Model(pixels, x)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [([(3, 1)], 3), ([(3, 1), (5, 1)], 7), ([(3, 2), (3, 1)], 7), ([(7, 4), (3, 2), (3, 1)], 31)],
)
def test_the_probe_finds_the_field_that_arithmetic_over_the_layers_gives(parts, expected):
    field = measure_field(convolutions(64, 96, *parts))
    assert field.size == (expected, expected)
    assert not field.is_whole_image
    assert field.top <= 32 < field.bottom
    assert field.left <= 48 < field.right


def test_a_layer_that_averages_over_the_image_makes_the_field_the_whole_image():
    pixels = keras.Input((40, 48, 1), dtype="uint8")
    x = layers.Conv2D(2, 3, 2, padding="same", kernel_initializer="ones")(layers.Rescaling(1 / 255)(pixels))
    x = layers.Multiply()([x, layers.GlobalAveragePooling2D(keepdims=True)(x)])  # as squeeze and excitation
    field = measure_field(keras.Model(pixels, x))
    assert field.size == (40, 48) == field.image
    assert field.is_whole_image


@pytest.mark.parametrize(("side", "stride"), [(None, None), (5, 5), (7, 2), (4, 3)])
def test_patches_cover_every_pixel_and_stay_inside(side, stride):
    patches = Patches.over(41, 30, side, stride)
    assert patches.rows[-1] + patches.side == 41
    assert patches.columns[-1] + patches.side == 30
    shape = len(patches.rows), len(patches.columns)
    np.testing.assert_allclose(patches.spread(np.ones(shape), 41, 30), 1)  # nan where nothing covers a pixel
    np.testing.assert_allclose(patches.mean_within(np.full((41, 30), 2.0)), np.full(shape, 2.0))


@pytest.mark.parametrize(
    ("side", "stride", "message"), [(0, None, "--patch"), (30, None, "--patch"), (5, 6, "--stride")]
)
def test_patches_that_do_not_fit_or_leave_gaps_are_an_error(side, stride, message):
    with pytest.raises(SettingError, match=message):
        Patches.over(41, 30, side, stride)


def test_occlusion_is_the_fall_of_the_logit_where_the_model_looks():
    pixels = keras.Input((40, 50, 1), dtype="uint8")
    bright = ops.mean(ops.cast(pixels, "float32")[:, 10:20, 30:40], axis=(1, 2))  # (n, 1)
    logits = keras.Model(pixels, layers.Concatenate()([-bright, bright]))
    image = np.zeros((40, 50), np.uint8)
    image[10:20, 30:40] = 200
    patches = Patches.over(40, 50, 10, 10)
    fallen = occlusion(logits, image, 1, patches)
    expected = np.zeros((4, 5))
    expected[1, 3] = 200 - round(image.mean())
    np.testing.assert_allclose(fallen, expected, atol=1e-3)
    np.testing.assert_allclose(occlusion(logits, image, 0, patches), -expected, atol=1e-3)
    assert rank_correlation(patches.mean_within(image.astype(float)), fallen) == pytest.approx(1)
    assert rank_correlation(np.zeros((4, 5)), fallen) is None


@pytest.mark.parametrize("resize", ["stretch", "pad"])
@pytest.mark.parametrize("flatten", [False, True])
def test_a_map_lies_over_the_part_of_the_source_that_it_was_made_from(resize, flatten):
    gray, _, lower = layered(60, 30, width=768)
    recipe = Preprocessing(height=224, width=224, denoise="none", flatten=flatten, resize=resize, inpaint_fill=False)
    row, column = round(lower[520]) - 40, 520
    marked, blank = gray.copy(), gray.copy()
    marked[row - 4 : row + 5, column - 4 : column + 5] = 255
    blank[row - 4 : row + 5, column - 4 : column + 5] = 0
    stored, unmarked = (preprocessing.preprocess(scan, recipe) for scan in (marked, blank))
    light = stored.pixels.astype(float) - unmarked.pixels
    at, inside = at_source(light, stored.geometry, stored.pixels.shape, gray.shape)
    rows, columns = np.indices(gray.shape)
    assert (rows * at).sum() / at.sum() == pytest.approx(row, abs=0.7)
    assert (columns * at).sum() / at.sum() == pytest.approx(column, abs=0.7)
    top, bottom, left, right = stored.geometry.crop
    assert inside.sum() == pytest.approx((bottom - top) * (right - left), rel=0.01)
    assert not inside.all()
    assert not at[~inside].any()


def test_places_divide_the_image_into_equal_parts():
    values = np.arange(6.0).reshape(2, 3)
    stored = over_stored(values, (4, 6))
    assert stored.tolist() == np.repeat(np.repeat(values, 2, axis=0), 2, axis=1).tolist()
    geometry = preprocessing.Geometry.of_crop((10, 50, 20, 80), Preprocessing(height=20, width=30))
    at, inside = at_source(values, geometry, (20, 30), (60, 100), smooth=False)
    assert at[10:50, 20:80].tolist() == np.repeat(np.repeat(values, 20, axis=0), 20, axis=1).tolist()
    assert inside.sum() == 40 * 60
    smooth, _ = at_source(values, geometry, (20, 30), (60, 100))
    assert smooth.min() >= 0 and smooth.max() <= 5
    assert (np.diff(smooth[10:50, 20:80], axis=1) >= 0).all()


def test_a_smooth_map_has_the_values_of_its_places_in_their_middles_and_lies_between_them_elsewhere():
    values = np.array([[0.0, 1.0, 4.0], [2.0, -3.0, 5.0]])
    smooth = over_stored(values, (10, 27), smooth=True)
    assert smooth.shape == (10, 27)
    np.testing.assert_allclose(smooth[2::5, 4::9], values)
    assert smooth[2, 4:14].tolist() == pytest.approx(np.linspace(0, 1, 10))
    assert (smooth.min(), smooth.max()) == (-3, 5)
