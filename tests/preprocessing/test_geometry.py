"""The geometry maps every stored pixel to its position in the source."""

import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.preprocessing import Geometry, geometry, resizing
from tests.worlds.layers import layered


@pytest.mark.parametrize("resize", ["stretch", "pad"])
@pytest.mark.parametrize("crop", ["none", "retina", "band"])
@pytest.mark.parametrize("size", [(224, 224), (160, 320), (600, 900)])
@pytest.mark.parametrize(
    "extra",
    [{}, {"field_of_view": 20.0}, {"flatten": True}, {"flatten": True, "field_of_view": 20.0}],
    ids=["", "field", "flatten", "both"],
)
def test_a_marker_is_found_at_its_source_position(resize, crop, size, extra):
    gray, _, lower = layered(60, 30, width=768)
    recipe = Preprocessing(
        height=size[0], width=size[1], denoise="none", crop=crop, inpaint_fill=False, resize=resize, **extra
    )
    for column in (200, 384, 520):
        row = round(lower[column]) - 40
        marked, blank = gray.copy(), gray.copy()
        blank[row - 4 : row + 5, column - 4 : column + 5] = 0
        marked[row - 4 : row + 5, column - 4 : column + 5] = 255
        image, unmarked = preprocessing.preprocess(marked, recipe), preprocessing.preprocess(blank, recipe)
        assert image.geometry == unmarked.geometry
        assert bool(image.geometry.rpe_curve) == recipe.flatten
        light = image.pixels.astype(float) - unmarked.pixels
        rows, columns = np.indices(light.shape)
        centre = (columns * light).sum() / light.sum(), (rows * light).sum() / light.sum()
        position = image.geometry.source_position(*centre)
        assert np.abs(np.subtract(position, (column, row))).max() < 0.5
        np.testing.assert_allclose(image.geometry.stored_position(*position), centre, atol=1e-9)


@pytest.mark.parametrize(("height", "width"), [(100, 90), (600, 1000)], ids=["shrunk", "enlarged"])
@pytest.mark.parametrize("resize", ["stretch", "pad"])
def test_column_offsets_are_what_flattening_applied(resize, height, width):
    gray, _, _ = layered(90, 0)
    recipe = Preprocessing(height=height, width=width, flatten=True, resize=resize, inpaint_fill=False)
    stored = preprocessing.preprocess(gray, recipe).geometry
    top, bottom, left, right = stored.crop
    # The rows of the source that come to lie in the crop, resized as the pixels are: where each stored pixel is from.
    rows = geometry.source_rows(stored.rpe_curve, top, bottom, right - left).astype(np.float64)
    first_row, last_row, first_column, last_column = preprocessing.placement(stored.crop, recipe)
    applied = resizing.resize(rows, last_row - first_row, last_column - first_column)
    column, row = np.meshgrid(np.arange(first_column, last_column), np.arange(first_row, last_row))
    _, source_row = stored.source_position(column, row)
    assert np.abs(applied - source_row)[8:-8].max() < 0.05  # OpenCV ignores pixels that cover under a thousandth
    offsets = stored.column_offsets(width)
    assert offsets.shape == (width,)
    assert not offsets[:first_column].any() and not offsets[last_column:].any()
    assert np.ptp(offsets) > 20
    by_affine = stored.affine[4] * row + stored.affine[5]
    assert np.allclose(source_row, by_affine + offsets[column])


@pytest.mark.parametrize("resize", ["stretch", "pad"])
@pytest.mark.parametrize("flatten", [False, True])
def test_a_marker_is_found_at_its_source_position_in_a_scan_lower_than_the_band(resize, flatten):
    gray, _, lower = layered(40, 0, level=150)
    gray = np.ascontiguousarray(gray[:240])
    recipe = Preprocessing(crop="band", band_rows=300, denoise="none", resize=resize, flatten=flatten)
    row = round(lower[100]) - 40
    marked, blank = gray.copy(), gray.copy()
    marked[row - 4 : row + 5, 96:105], blank[row - 4 : row + 5, 96:105] = 255, 0
    image, unmarked = preprocessing.preprocess(marked, recipe), preprocessing.preprocess(blank, recipe)
    assert image.geometry == unmarked.geometry
    assert image.geometry.crop[0] < 0 and image.geometry.crop[1] >= 240
    light = image.pixels.astype(float) - unmarked.pixels
    rows, columns = np.indices(light.shape)
    centre = (columns * light).sum() / light.sum(), (rows * light).sum() / light.sum()
    assert np.abs(np.subtract(image.geometry.source_position(*centre), (100, row))).max() < 0.5


def test_without_flattening_only_the_affine_counts():
    stored = Geometry.of_crop((100, 300, 50, 450), Preprocessing(height=100, width=200))
    assert stored.affine == (2.0, 0.0, 50.5, 0.0, 2.0, 100.5)
    assert [float(value) for value in stored.source_position(0, 0)] == [50.5, 100.5]
    assert [float(value) for value in stored.source_position(199, 99)] == [448.5, 298.5]
    assert not stored.column_offsets(200).any()


def test_bars_keep_the_shape_of_the_crop():
    recipe = Preprocessing(height=100, width=200, resize="pad")
    assert preprocessing.placement((0, 400, 0, 400), recipe) == (0, 100, 50, 150)
    assert preprocessing.placement((0, 100, 0, 400), recipe) == (25, 75, 0, 200)
