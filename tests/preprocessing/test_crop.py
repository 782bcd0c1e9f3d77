"""The crop holds the whole retina and little else, and flattening levels it."""

import cv2
import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.preprocessing import retina_detection
from tests.worlds.archive import SAMPLE_2
from tests.worlds.layers import layered

# Rows of genuine scans read by eye, to about 3 rows: the uppermost of the inner limiting membrane and the lowest of
# Bruch's membrane; vitreous membranes and the optic disc's cup do not count.
ROWS_BY_EYE = {
    "CNV-103044-10": (112, 260), "CNV-103044-6": (127, 274), "CNV-103044-7": (135, 273), "CNV-103044-8": (74, 282),
    "CNV-13823-1": (60, 226), "CNV-6652117-1": (140, 257), "CNV-6668596-1": (30, 199), "DME-15208-2": (80, 288),
    "DME-15307-9": (127, 308), "DME-9583225-1": (90, 343), "DME-9583225-2": (55, 236), "DRUSEN-142234-15": (152, 290),
    "DRUSEN-142234-8": (99, 270), "DRUSEN-228939-1": (108, 215), "DRUSEN-609387-3": (150, 252),
    "DRUSEN-95633-1": (127, 298), "DRUSEN-9861332-1": (130, 233), "NORMAL-12494-2": (172, 315),
    "NORMAL-12494-3": (117, 287), "NORMAL-1746717-1": (163, 284), "NORMAL-33637-1": (110, 203),
    "NORMAL-4872585-1": (203, 328), "NORMAL-5171640-1": (84, 202), "NORMAL-62749-3": (134, 275),
}  # fmt: skip


def test_the_brightest_layers_of_genuine_scans_are_inside_the_crop(sample_path):
    gray = preprocessing.decode(sample_path.read_bytes())
    image = preprocessing.preprocess(gray, Preprocessing())
    top, bottom, left, right = image.geometry.crop
    depths = preprocessing.find_fill(gray)
    tissue = gray if depths is None else np.where(depths.mask() > 0, 0, gray).astype(np.uint8)
    energy = cv2.blur(tissue[:, left:right].astype(np.float32), (31, 15))
    rows = np.flatnonzero((energy >= np.percentile(energy, 95)).any(axis=1))
    assert top <= rows.min()
    assert rows.max() < bottom
    assert image.measurements.note == ""
    assert image.pixels.shape == (224, 224)


@pytest.mark.skipif(not SAMPLE_2.is_dir(), reason="the second sample of real scans is missing")
@pytest.mark.parametrize("crop", ["retina", "band"])
def test_the_retina_seen_by_eye_in_genuine_scans_is_inside_the_crop(crop):
    paths = sorted(SAMPLE_2.rglob("*.jpeg"))
    assert {path.stem for path in paths} == ROWS_BY_EYE.keys()
    for path in paths:
        geometry = preprocessing.preprocess(preprocessing.decode(path.read_bytes()), Preprocessing(crop=crop)).geometry
        first, last = ROWS_BY_EYE[path.stem]
        assert geometry.crop[0] <= first and last < geometry.crop[1], path.stem


def test_a_retina_that_falls_below_the_curve_side_by_side_is_inside_the_crop():
    gray, _, lower = layered(0, 0)
    gray[:, 420:500] = np.roll(gray[:, 420:500], 14, axis=0)
    assert preprocessing.preprocess(gray, Preprocessing()).geometry.crop[1] > lower.max() + 14


@pytest.mark.parametrize("tilt", [-90, 0, 60])
@pytest.mark.parametrize("bow", [-30, 0, 50])
@pytest.mark.parametrize("width", [384, 512, 1536])
def test_tilted_and_bowed_retinas_with_wedges_are_inside_the_crop(tilt, bow, width):
    gray, upper, lower = layered(tilt, bow, width=width)
    cv2.fillPoly(gray, [np.array([(0, 0), (width, 0), (0, 50)])], [255.0])
    gray[:, :2] = 255
    image = preprocessing.preprocess(gray, Preprocessing())
    top, bottom, _, _ = image.geometry.crop
    assert top <= max(upper.min(), 0)
    assert lower.max() <= bottom
    assert 0.01 < image.measurements.fill_fraction < 0.08


@pytest.mark.slow
def test_the_crop_holds_the_whole_retina_and_little_else(synthetic_scans):
    held, heights = [], []
    for gray, truth in synthetic_scans:
        top, bottom, left, right = preprocessing.preprocess(gray, Preprocessing()).geometry.crop
        ilm, bruch, retina = (line[left:right] for line in (truth.ilm, truth.bruch, ~truth.disc))
        held.append(np.mean(((top <= ilm) & (bruch <= bottom - 1))[retina]))
        heights.append((bottom - top) / (bruch.max() - ilm.min()))
    assert np.mean(held) >= 0.999  # of the columns; what is missing are corners of strongly curved eyes
    assert np.mean(np.array(held) == 1) >= 0.95
    assert np.median(heights) <= 1.25
    assert np.mean(np.array(heights) <= 1.6) >= 0.95


@pytest.mark.slow
def test_flattening_levels_the_pigment_epithelium_and_keeps_the_whole_retina(synthetic_scans):
    """Where the optic disc is not in view: a polynomial follows no cup."""
    distances, held = [], []
    for gray, truth in synthetic_scans:
        if truth.disc.any():
            continue
        geometry = preprocessing.preprocess(gray, Preprocessing(flatten=True)).geometry
        top, bottom, left, right = geometry.crop
        column = np.arange(right - left, dtype=float)
        offset = preprocessing.curve_offset(geometry.rpe_curve, column, right - left) if geometry.rpe_curve else 0.0
        ilm, rpe, bruch = (line[left:right] - offset for line in (truth.ilm, truth.rpe, truth.bruch))
        flat = rpe[bruch - rpe < 0.5]  # where no druse, membrane or fluid lifts it
        if flat.size:
            distances.append(np.percentile(np.abs(flat - np.median(flat)), 95))
        held.append(np.mean((top <= ilm) & (bruch <= bottom - 1)))
    assert np.median(distances) <= 4
    assert np.mean(held) >= 0.985


def test_rows_from_outside_the_scan_are_filled_with_its_speckle():
    gray, _, _ = layered(120, 0, level=250)
    recipe = Preprocessing(flatten=True, crop="none", denoise="none", height=496, width=512)
    image = preprocessing.preprocess(gray, recipe)
    assert image.geometry.rpe_curve
    for corner in (image.pixels[-60:, :40], image.pixels[:60, -40:]):
        assert 10 < corner.mean() < 18
        assert corner.std() > 3
        assert np.unique(corner, axis=0).shape[0] > 50


def test_a_scan_without_a_clear_epithelium_is_not_flattened_and_noted():
    noise = np.random.default_rng(0).integers(0, 60, (496, 512)).astype(np.uint8)
    image = preprocessing.preprocess(noise, Preprocessing(flatten=True, crop="none"))
    assert image.geometry.rpe_curve == ()
    assert image.measurements.note == "no clear line of the pigment epithelium: not flattened"
    assert not image.geometry.column_offsets(224).any()


@pytest.mark.parametrize(
    ("width", "columns", "note"),
    [
        (384, (0, 384), "field of view of 15 degrees, narrower than the 20 of the recipe"),
        (512, (0, 512), ""),
        (768, (128, 640), ""),
        (1024, (0, 1024), ""),
        (1536, (256, 1280), ""),
        (600, (0, 600), "the field of view of 600 columns is unknown: all columns kept"),
    ],
)
def test_every_device_width_is_cropped_to_the_same_field_of_view(width, columns, note):
    gray, _, _ = layered(10, 5, width=width)
    image = preprocessing.preprocess(gray, Preprocessing(field_of_view=20))
    assert image.geometry.crop[2:] == columns
    assert image.measurements.note == note
    assert abs(image.geometry.affine[0] - (columns[1] - columns[0]) / 224) < 1e-9


def test_the_crop_has_the_margins_of_the_recipe():
    gray, upper, lower = layered(0, 0)
    height = lower[0] - upper[0]
    narrow, wide = (
        preprocessing.preprocess(gray, Preprocessing(margin_above=above, margin_below=below)).geometry.crop
        for above, below in ((0, 0), (0.5, 1))
    )
    assert abs(narrow[0] - wide[0] - 0.5 * height) < 8
    assert abs(wide[1] - narrow[1] - height) < 14


@pytest.mark.parametrize("shape", [(64, 64), (496, 1536), (65, 700), (496, 512)])
@pytest.mark.parametrize("kind", ["black", "white", "gray", "noise"])
def test_scans_without_a_retina_keep_all_rows_and_are_noted(shape, kind):
    noise = np.random.default_rng(0).integers(0, 60, shape).astype(np.uint8)
    gray = {"black": 0 * noise, "white": 0 * noise + 255, "gray": 0 * noise + 90, "noise": noise}[kind]
    image = preprocessing.preprocess(gray, Preprocessing())
    assert image.geometry.crop[:2] == (0, shape[0])
    assert image.measurements.note == "no clear retina: all rows kept"
    assert image.pixels.shape == (224, 224)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.97, 0.98, 1.0])
def test_quantiles_are_those_of_numpy(fraction):
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 7, 64, 191):
        for values in (rng.integers(0, 9, count), rng.normal(0, 100, count)):
            assert retina_detection._quantile(values, fraction) == np.quantile(values, fraction)


def test_columns_with_another_edge_do_not_pull_the_curve():
    gray, _, lower = layered(40, 20, width=512)
    gray[:, 150:250] = np.roll(gray[:, 150:250], 90, axis=0)  # the band 90 rows deeper
    small, factor = retina_detection.reduce_scan(gray)
    fit = retina_detection._fit_rpe(small, 7, factor, 512)
    column = np.arange(512, dtype=float)
    distance = np.abs(preprocessing.curve_offset(fit.curve, column, 512) - lower)
    assert distance.max() < 4
    assert 0.7 < fit.inlier_fraction < 0.85


@pytest.mark.parametrize("level", [90, 260, 480])
@pytest.mark.parametrize("flatten", [False, True])
def test_a_band_has_the_rows_of_the_recipe_and_keeps_how_thick_a_retina_is(level, flatten):
    thickness = {}
    for rows in (60, 150) if level > 90 else (40, 75):
        gray, upper, lower = layered(10, 0, level=level, thickness=rows)
        image = preprocessing.preprocess(gray, Preprocessing(crop="band", flatten=flatten))
        top, bottom, _, _ = image.geometry.crop
        assert bottom - top == 320
        assert image.geometry.affine[4] == 320 / 224
        assert image.measurements.note == ""
        _, stored = image.geometry.stored_position(np.full(2, 256.0), np.array([upper[256], lower[256]]))
        assert stored[0] >= 0 and stored[1] < 224
        is_retina = image.pixels[:, 112] > 60
        thickness[rows] = np.count_nonzero(is_retina[int(stored[0]) - 1 : int(stored[1]) + 2])
        assert flatten or (top >= 0 and bottom <= 496)
    thin, thick = thickness
    assert abs(thickness[thick] / thickness[thin] - thick / thin) < 0.15 * thick / thin


def test_a_swollen_retina_reaches_further_up_in_a_band_and_not_further_down():
    rows = []
    for thickness in (60, 120, 150):
        gray, _, lower = layered(0, 0, level=300, thickness=thickness)
        top, _, _, _ = preprocessing.preprocess(gray, Preprocessing(crop="band")).geometry.crop
        rows.append(lower[0] - top)
    assert np.ptp(rows) <= 15  # the margins are fractions of the retina's height


def test_a_scan_lower_than_the_band_is_kept_whole_between_its_own_speckle():
    gray, _, _ = layered(0, 0, level=200)
    gray = np.ascontiguousarray(gray[:240])
    recipe = Preprocessing(crop="band", denoise="none", height=320, width=512)
    image = preprocessing.preprocess(gray, recipe)
    top, bottom, _, _ = image.geometry.crop
    assert top < 0 and bottom > 240 and bottom - top == 320
    assert np.array_equal(image.pixels[-top : 240 - top], gray)
    for outside in (image.pixels[:-top], image.pixels[240 - top :]):
        assert 10 < outside.mean() < 18
        assert outside.std() > 3


def test_a_retina_taller_than_the_band_is_noted_and_keeps_its_lower_end():
    gray, _, lower = layered(150, 0, thickness=80)
    image = preprocessing.preprocess(gray, Preprocessing(crop="band"))
    top, bottom, _, _ = image.geometry.crop
    assert bottom - top == 320
    assert image.measurements.note.startswith("the crop to the retina is taller than the band: cut by")
    assert lower.max() <= bottom


def test_a_band_covers_the_same_depth_where_the_axial_spacing_is_known():
    gray, recipe = layered(0, 0)[0], Preprocessing(crop="band")
    heights = [
        bottom - top
        for spacing in (None, 3.87, 7.74)
        for top, bottom, _, _ in [preprocessing.preprocess(gray, recipe, axial_um=spacing).geometry.crop]
    ]
    assert heights == [320, 320, 160]


@pytest.mark.parametrize("rows", [200, 496])
def test_a_band_of_a_scan_without_a_retina_is_its_middle_and_noted(rows):
    image = preprocessing.preprocess(np.full((rows, 512), 90, np.uint8), Preprocessing(crop="band"))
    assert image.geometry.crop[:2] == ((rows - 320) // 2, (rows + 320) // 2)
    assert image.measurements.note == "no clear retina: the middle rows kept"
