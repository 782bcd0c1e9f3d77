"""Fill goes, the retina stays, and the affine knows where every stored pixel came from."""

import dataclasses
import itertools
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import DENOISERS, Preprocessing
from octprep.format.errors import ManifestError, UnreadableImage
from octprep.preprocessing import steps
from octprep.synthetic import scans
from octprep.synthetic.faults import QUALITY
from tests.worlds.archive import SAMPLE, archive, draw_scan, write_folder

PLAIN = Preprocessing(denoise="none", crop="none", inpaint_fill=False)
SCANS = sorted(SAMPLE.rglob("*.jpeg")) if SAMPLE.is_dir() else []
real = pytest.mark.parametrize(
    "path",
    SCANS or [pytest.param(None, marks=pytest.mark.skip(reason="the sample of real scans is not here"))],
    ids=lambda path: path.stem if path else "absent",
)


def jpeg(pixels, quality=95):
    return cv2.imencode(".jpeg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


GOOD = jpeg(draw_scan("good", 496, 512))
BOMB = GOOD[:2] + b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + GOOD[2:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\x89PNG\r\n\x1a\n", "not a JPEG but a PNG"),
        (b"\0\5\26\7" + bytes(40), "AppleDouble"),
        (b"<!doctype html>", "HTML"),
        (GOOD[: len(GOOD) // 2], "truncated"),
        (GOOD[:60], "truncated"),
        (GOOD[: len(GOOD) // 2] + GOOD[len(GOOD) // 2 + 900 :], "corrupt JPEG"),
        (jpeg(draw_scan("small", 32, 40)), "too small: 40x32"),
        (BOMB, "too large: 65535x65535"),
    ],
    ids=["empty", "png", "appledouble", "html", "half", "head", "damaged", "small", "bomb"],
)
def test_files_that_cannot_be_trusted_are_refused_with_a_reason(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        preprocessing.decode(data)


def test_decoding_gives_opencvs_gray_values_and_leaves_standard_error_alone(capfd):
    gray = draw_scan("gray", 496, 512)
    assert np.array_equal(
        preprocessing.decode(jpeg(gray)), cv2.imdecode(np.frombuffer(jpeg(gray), np.uint8), cv2.IMREAD_GRAYSCALE)
    )
    equal_channels = preprocessing.decode(jpeg(np.stack([gray] * 3, axis=-1), 100))
    assert np.abs(equal_channels.astype(int) - gray).max() <= 3
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


@real
def test_no_fill_is_left_on_real_scans(path):
    gray = preprocessing.decode(path.read_bytes())
    border = preprocessing.find_border(gray)
    if border is None:
        return
    cleaned = preprocessing.clean(gray, border, border.mask())
    left, right = border.trim()
    white = (cleaned[:, left:right] >= 250).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(white, connectivity=8)
    edges = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    assert all(stats[i, cv2.CC_STAT_AREA] <= 0.001 * gray.size for i in edges if i)


@real
def test_the_brightest_layers_of_real_scans_lie_inside_the_crop(path):
    gray = preprocessing.decode(path.read_bytes())
    ready = preprocessing.prepare(gray, Preprocessing())
    top, bottom, left, right = ready.crop
    border = preprocessing.find_border(gray)
    tissue = gray if border is None else np.where(border.mask() > 0, 0, gray).astype(np.uint8)
    energy = cv2.blur(tissue[:, left:right].astype(np.float32), (31, 15))
    rows = np.flatnonzero((energy >= np.percentile(energy, 95)).any(axis=1))
    assert top <= rows.min()
    assert rows.max() < bottom
    assert ready.note == ""
    assert ready.pixels.shape == (224, 224)


def layered(tilt, bow, level=260, width=512, thickness=80):
    """A bright band of known place on dim speckle: pixels, upper and lower edge."""
    rng = np.random.default_rng(5)
    u = np.linspace(-1, 1, width)
    lower = level + tilt * u - bow * u**2
    rows = np.arange(496)[:, None]
    image = np.where((rows > lower - thickness) & (rows < lower), 110, 14)
    image = np.where((rows > lower - 8) & (rows < lower), 190, image)
    return np.clip(image * rng.gamma(6, 1 / 6, image.shape), 0, 255).astype(np.uint8), lower - thickness, lower


@pytest.mark.parametrize("tilt", [-90, 0, 60])
@pytest.mark.parametrize("bow", [-30, 0, 50])
@pytest.mark.parametrize("width", [384, 512, 1536])
def test_tilted_and_bowed_retinas_with_wedges_are_inside_the_crop(tilt, bow, width):
    gray, upper, lower = layered(tilt, bow, width=width)
    cv2.fillPoly(gray, [np.array([(0, 0), (width, 0), (0, 50)])], [255.0])
    gray[:, :2] = 255
    ready = preprocessing.prepare(gray, Preprocessing())
    top, bottom, _, _ = ready.crop
    assert top <= max(upper.min(), 0)
    assert lower.max() <= bottom
    assert 0.01 < ready.border < 0.08


@pytest.fixture(scope="module")
def phantoms():
    """Some 420 synthetic scans with the archive's faults, as JPEG gives them back, and the truth about each."""
    drawn = itertools.islice(scans(100, seed=5), 0, None, 3)
    return [(preprocessing.decode(jpeg(phantom.pixels, QUALITY)), phantom) for _, phantom in drawn]


@pytest.mark.slow
def test_fill_is_found_where_it_truly_is(phantoms):
    right = found = there = 0
    for gray, phantom in phantoms:
        border, truth = preprocessing.find_border(gray), phantom.fill > 0
        mask = np.zeros(gray.shape, bool) if border is None else border.mask() > 0
        right, found, there = right + np.sum(mask & truth), found + np.sum(mask), there + np.sum(truth)
    assert right / found >= 0.98  # precision
    assert right / there >= 0.98  # recall


@pytest.mark.slow
def test_the_crop_holds_the_whole_retina_and_little_else(phantoms):
    whole, heights = [], []
    for gray, phantom in phantoms:
        top, bottom, left, right = preprocessing.prepare(gray, Preprocessing()).crop
        upper, lower = phantom.ilm[left:right].min(), phantom.bruch[left:right].max()
        whole.append(top <= upper and lower <= bottom - 1)
        heights.append((bottom - top) / (lower - upper))
    assert np.mean(whole) >= 0.995
    assert np.mean(np.array(heights) <= 1.35) >= 0.99
    assert np.median(heights) <= 1.25


@pytest.mark.slow
def test_flattening_levels_the_pigment_epithelium_and_still_keeps_the_whole_retina(phantoms):
    off, whole = [], []
    for gray, phantom in phantoms:
        ready = preprocessing.prepare(gray, Preprocessing(flatten=True))
        top, bottom, left, right = ready.crop
        moved = preprocessing.shift(ready.bend, np.arange(right - left), right - left) if ready.bend else 0.0
        ilm, rpe, bruch = (line[left:right] - moved for line in (phantom.ilm, phantom.rpe, phantom.bruch))
        flat = rpe[bruch - rpe < 0.5]  # where no druse, membrane or fluid lifts it
        off.append(np.abs(flat - np.median(flat)))
        whole.append(top <= ilm.min() and bruch.max() <= bottom - 1)
    assert np.percentile(np.concatenate(off), 95) <= 4
    assert np.mean(whole) >= 0.995


def test_what_flattening_brings_in_from_beyond_the_scan_is_speckle():
    gray, _, _ = layered(120, 0, level=250)
    ready = preprocessing.prepare(gray, Preprocessing(flatten=True, crop="none", denoise="none", height=496, width=512))
    assert ready.bend
    left, right = ready.pixels[-60:, :40], ready.pixels[:60, -40:]
    for corner in (left, right):
        assert 10 < corner.mean() < 18
        assert corner.std() > 3
        assert np.unique(corner, axis=0).shape[0] > 50


def test_a_scan_without_a_clear_line_is_not_flattened_and_says_so():
    noise = np.random.default_rng(0).integers(0, 60, (496, 512)).astype(np.uint8)
    ready = preprocessing.prepare(noise, Preprocessing(flatten=True, crop="none"))
    assert ready.bend == ()
    assert ready.note == "no clear line of the pigment epithelium: not flattened"
    assert not preprocessing.row_offsets(ready.affine, ready.bend, ready.crop, 224).any()


@pytest.mark.parametrize(
    ("width", "columns", "note"),
    [
        (384, (0, 384), "field of 15 degrees where 20 were asked"),
        (512, (0, 512), ""),
        (768, (128, 640), ""),
        (1024, (0, 1024), ""),
        (1536, (256, 1280), ""),
        (600, (0, 600), "field of a scan 600 wide is not known: all columns kept"),
    ],
)
def test_every_device_width_gives_the_same_field_where_it_has_it(width, columns, note):
    gray, _, _ = layered(10, 5, width=width)
    ready = preprocessing.prepare(gray, Preprocessing(field_of_view=20))
    assert ready.crop[2:] == columns
    assert ready.note == note
    assert abs(ready.affine[0] - (columns[1] - columns[0]) / 224) < 1e-9


@pytest.mark.parametrize("lean", [-0.08, 0.0, 0.1])
@pytest.mark.parametrize("flip", [False, True])
def test_black_wedges_are_painted_over_and_a_dark_choroid_is_not(lean, flip):
    gray, _, _ = layered(0, 0)
    rows = np.arange(496)[:, None]
    wedge = rows < 45 + lean * (np.arange(512) - 256)
    wedge = wedge[::-1] if flip else wedge
    gray[wedge] = 0
    border = preprocessing.find_border(gray)
    assert np.mean((border.mask() > 0) ^ wedge) < 0.002
    cleaned = preprocessing.clean(gray, border, border.mask())
    assert abs(cleaned[wedge].mean() - 14) < 4  # as bright as the speckle beside it ...
    assert abs(cleaned[wedge].std() - gray[~wedge & (gray < 50)].std()) < 3  # ... and as noisy
    dim = layered(0, 0)[0]
    ragged = rows > 400 + 20 * np.sin(np.arange(512) / 40)
    dim[ragged] = 0
    assert preprocessing.find_border(dim) is None


@pytest.mark.parametrize("fill", [0, 255])
def test_haze_beside_fill_goes_on_beyond_its_edge(fill):
    gray, _, _ = layered(0, 0)
    rng = np.random.default_rng(1)
    gray[:120] = np.clip(36 * rng.gamma(20, 1 / 20, (120, 512)), 0, 255)  # brighter and calmer than the rest
    wedge = np.arange(496)[:, None] < 50 + 0.06 * np.arange(512)
    seen = gray.copy()
    seen[wedge] = fill
    border = preprocessing.find_border(seen)
    cleaned = preprocessing.clean(seen, border, border.mask())
    assert abs(cleaned[wedge].mean() - 36) < 2
    assert 0.7 < cleaned[wedge].std() / gray[:120].std() < 1.4
    edge = (50 + 0.06 * np.arange(512)).astype(int)
    above, below = (np.mean([cleaned[edge + k, np.arange(512)] for k in rows]) for rows in ((-4, -3, -2), (8, 9, 10)))
    assert abs(above - below) < 2


@pytest.mark.slow
def test_what_is_stored_is_cut_from_the_cleaned_scan(phantoms):
    plain = Preprocessing(denoise="none")
    filled = 0
    for gray, _ in phantoms:
        border = preprocessing.find_border(gray)
        if border is None:
            continue
        cut = preprocessing.clean_and_crop(gray, plain)
        top, bottom, left, right = cut.crop
        assert np.array_equal(cut.pixels, preprocessing.clean(gray, border, border.mask())[top:bottom, left:right])
        filled += bool(border.mask()[top:bottom, left:right].any())
    assert filled > 20


@pytest.mark.slow
def test_a_blurred_scan_is_less_sharp_whatever_its_noise(phantoms):
    clear = [gray for gray, phantom in phantoms if not phantom.fill.any()][::3]
    sharp = [preprocessing.prepare(gray, Preprocessing()).sharpness for gray in clear]
    rng = np.random.default_rng(0)
    blurred = []
    for gray in clear:
        soft = cv2.GaussianBlur(gray, (0, 0), 4) * rng.gamma(16, 1 / 16, gray.shape)
        blurred.append(preprocessing.prepare(np.clip(soft, 0, 255).astype(np.uint8), Preprocessing()).sharpness)
    assert max(blurred) < min(sharp)


def test_a_saturated_retina_behind_a_strip_of_fill_stays():
    gray, _, lower = layered(0, 0)
    gray[int(lower[0]) - 20 : int(lower[0]), :80] = 255
    gray[:, :2] = 255
    mask = preprocessing.find_border(gray).mask()
    assert mask[:, :2].all()
    assert not mask[:, 12:].any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_black_side_bands_are_cut_off(side):
    gray, _, _ = layered(10, 5)
    band = slice(0, 60) if side == "left" else slice(-60, None)
    gray[:, band] = 0
    _, _, left, right = preprocessing.prepare(gray, Preprocessing()).crop
    assert (60 <= left <= 66 and right == 512) if side == "left" else (left == 0 and 446 <= right <= 452)


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("crop", ["none", "retina"])
@pytest.mark.parametrize("size", [(224, 224), (160, 320), (600, 900)])
@pytest.mark.parametrize(
    "extra",
    [{}, {"field_of_view": 20.0}, {"flatten": True}, {"flatten": True, "field_of_view": 20.0}],
    ids=["", "field", "flatten", "both"],
)
def test_the_affine_maps_stored_pixels_to_source_pixels(fit, crop, size, extra):
    gray, _, lower = layered(60, 30, width=768)
    recipe = Preprocessing(
        height=size[0], width=size[1], denoise="none", crop=crop, inpaint_fill=False, resize=fit, **extra
    )
    for column in (200, 384, 520):
        row = round(lower[column]) - 40
        marked, blank = gray.copy(), gray.copy()
        blank[row - 4 : row + 5, column - 4 : column + 5] = 0
        marked[row - 4 : row + 5, column - 4 : column + 5] = 255
        ready = preprocessing.prepare(marked, recipe)
        light = ready.pixels.astype(float) - preprocessing.prepare(blank, recipe).pixels
        assert (ready.crop, ready.bend) == (
            preprocessing.prepare(blank, recipe).crop,
            preprocessing.prepare(blank, recipe).bend,
        )
        rows, columns = np.indices(light.shape)
        where = np.array([(columns * light).sum(), (rows * light).sum(), light.sum()]) / light.sum()
        found = np.array(ready.affine).reshape(2, 3) @ where
        assert bool(ready.bend) == recipe.flatten
        moved = preprocessing.row_offsets(ready.affine, ready.bend, ready.crop, size[1])
        found[1] += np.interp(where[0], np.arange(size[1]), moved)
        assert np.abs(found - (column, row)).max() < 0.5


@pytest.mark.parametrize(("height", "width"), [(100, 90), (600, 1000)], ids=["shrunk", "enlarged"])
@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_the_shift_says_exactly_by_how_much_columns_were_moved(fit, height, width):
    gray, _, _ = layered(90, 0)
    recipe = Preprocessing(height=height, width=width, flatten=True, resize=fit, inpaint_fill=False)
    ready = preprocessing.prepare(gray, recipe)
    top, bottom, left, right = ready.crop
    # The rows of the source that come to lie in the crop, resized as the pixels are: where each stored pixel is from.
    before = steps._rows_before(ready.bend, top, bottom, right - left).astype(np.float64)
    shown = steps._room(bottom - top, right - left, recipe)
    above, beside = (height - shown[0]) // 2, (width - shown[1]) // 2
    truth = steps._scaled(before, *shown)
    shift = preprocessing.row_offsets(ready.affine, ready.bend, ready.crop, width)
    rows = ready.affine[4] * (np.arange(shown[0]) + above) + ready.affine[5]
    said = rows[:, None] + shift[None, beside : beside + shown[1]]
    assert np.abs(truth - said)[8:-8].max() < 0.05  # OpenCV leaves out what covers under a thousandth
    assert not shift[:beside].any()
    assert np.ptp(shift) > 20


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_preparing_is_deterministic_and_leaves_its_input_alone(denoiser):
    gray, _, _ = layered(20, 10)
    gray[:30] = 255
    before = gray.copy()
    first = preprocessing.prepare(gray, Preprocessing(denoise=denoiser))
    assert np.array_equal(preprocessing.prepare(gray, Preprocessing(denoise=denoiser)).pixels, first.pixels)
    assert np.array_equal(gray, before)
    assert first.pixels.dtype == np.uint8


@pytest.mark.parametrize("denoiser", sorted(set(DENOISERS) - {"none"}))
def test_every_denoiser_calms_speckle_and_keeps_the_edge(denoiser):
    gray, _, lower = layered(0, 0)
    quiet = preprocessing.denoise(gray, Preprocessing(denoise=denoiser))
    edge = int(lower[0])
    flat = np.s_[40:140, 40:470]
    assert quiet[flat].std() / quiet[flat].mean() < 0.9 * gray[flat].std() / gray[flat].mean()
    steps = [float(image[edge - 6 : edge - 2].mean()) - image[edge + 2 : edge + 6].mean() for image in (gray, quiet)]
    assert steps[1] > 0.85 * steps[0]


def test_the_crop_keeps_the_recipes_margins():
    gray, upper, lower = layered(0, 0)
    height = lower[0] - upper[0]
    none, some = (
        preprocessing.prepare(gray, Preprocessing(margin_above=above, margin_below=below)).crop
        for above, below in ((0, 0), (0.5, 1))
    )
    assert abs(none[0] - some[0] - 0.5 * height) < 8
    assert abs(some[1] - none[1] - height) < 14


@pytest.mark.parametrize("shape", [(64, 64), (496, 1536), (65, 700), (496, 512)])
@pytest.mark.parametrize("kind", ["black", "white", "gray", "noise"])
def test_scans_without_a_retina_are_kept_whole_and_said_to_be(shape, kind):
    noise = np.random.default_rng(0).integers(0, 60, shape).astype(np.uint8)
    gray = {"black": 0 * noise, "white": 0 * noise + 255, "gray": 0 * noise + 90, "noise": noise}[kind]
    ready = preprocessing.prepare(gray, Preprocessing())
    assert ready.crop[:2] == (0, shape[0])
    assert ready.note == "no clear retina: all rows kept"
    assert ready.pixels.shape == (224, 224)


def test_a_recipe_of_another_revision_is_refused():
    with pytest.raises(ManifestError, match="revision 99"):
        preprocessing.prepare(draw_scan("x", 100, 100), dataclasses.replace(PLAIN, version=99))


def test_wavelet_says_what_to_install_where_pywavelets_is_missing(tmp_path):
    code = (
        "import sys; sys.modules['pywt'] = None; import pathlib; from octprep import pipeline; "
        "from octprep.format.config import BuildConfig, Preprocessing; "
        f"pipeline.build(pathlib.Path({str(tmp_path / 'src')!r}), pathlib.Path({str(tmp_path / 'out')!r}), "
        "BuildConfig(recipe=Preprocessing(denoise='wavelet')))"
    )
    write_folder(tmp_path / "src", archive())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "SettingError: denoise wavelet needs PyWavelets" in done.stderr
    assert "octprep[wavelet]" in done.stderr
    assert not (tmp_path / "out").exists()
