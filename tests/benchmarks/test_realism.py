"""What the comparison of synthetic with genuine scans measures, and which crops the network is shown."""

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks import realism
from benchmarks.realism import FOLDS, RINGING, SIDE, Crops, as_many, auc, crops_of, folds_of, length, measure, scan_of
from octprep import synthetic

NOISE = np.random.default_rng(0).normal(0, 20, (400, 400)).astype(np.float32)
EVERYWHERE = np.ones(NOISE.shape, bool)


@pytest.fixture(scope="module")
def phantoms():
    """Two scans of four patients of each class, with fill: (path, phantom)."""
    found = {}
    for path, phantom in synthetic.scans(synthetic.MIN_PATIENTS, seed=2):
        if phantom.fill.mean() > 0.02:
            found.setdefault(phantom.label, []).append((path, phantom))
    return [each for label in synthetic.CLASSES for each in found[label][:4]]


@pytest.fixture(scope="module")
def scans(phantoms):
    drawn = [scan_of(phantom.pixels, str(i), phantom.label) for i, (_, phantom) in enumerate(phantoms)]
    return [scan for scan in drawn if scan]


def test_the_length_of_speckle_is_that_of_its_blur_in_each_direction():
    # Noise blurred by a Gaussian has the autocorrelation exp(-(lag / (2 sigma))^2), which is 1/e at 2 sigma.
    blurred = cv2.GaussianBlur(NOISE, (0, 0), sigmaX=2, sigmaY=1)
    assert length(blurred, EVERYWHERE, 1) == pytest.approx(4, rel=0.1)
    assert length(blurred, EVERYWHERE, 0) == pytest.approx(2, rel=0.1)
    half = EVERYWHERE.copy()
    half[:, 200:] = False
    unlike = np.where(half, blurred, 7 * NOISE)  # what is outside of the region does not count
    assert length(unlike, half, 1) == pytest.approx(4, rel=0.15)
    assert np.isnan(length(blurred, np.zeros_like(half), 1))


def test_the_epithelium_is_found_where_it_is_and_hardly_any_fill_is_valid(phantoms):
    distances, valid_fill = [], []
    for _, phantom in phantoms:
        scan = scan_of(phantom.pixels, "1", phantom.label)
        if scan:
            distances.append(np.median(np.abs(scan.rpe - phantom.rpe)))
            valid_fill.append(scan.valid[phantom.fill > 0].mean())
    assert len(distances) >= 12 and np.median(distances) < 10
    assert np.median(valid_fill) < 0.02


def test_quantities_follow_what_is_done_to_a_scan(scans):
    scan = scans[0]
    brighter = realism.Scan(**{**vars(scan), "pixels": np.clip(scan.pixels * 0.5 + 40, 0, 255).astype(np.uint8)})
    blurred = realism.Scan(**{**vars(scan), "pixels": cv2.GaussianBlur(scan.pixels, (0, 0), 1.5)})
    before, bright, soft = map(measure, (scan, brighter, blurred))
    assert bright["gray level, mean"] == pytest.approx(0.5 * before["gray level, mean"] + 40, abs=0.6)
    assert soft["sharpness, full size"] < 0.2 * before["sharpness, full size"]
    name = "speckle length along rows, retina, pixels"
    assert soft[name] > before[name] + 0.5
    assert before["mean A-scan, row -10"] > before["mean A-scan, row -100"]


def test_crops_keep_away_from_fill_and_show_the_retina_or_none_of_it(scans):
    marked = []
    for scan in scans:  # retina 1, other valid pixels 2, fill 0
        place = np.where(scan.retina(), 1, 2) * scan.valid
        marked.append(realism.Scan(**{**vars(scan), "pixels": place.astype(np.uint8)}))
    crops = crops_of(marked, seed=0)
    assert len(crops.scan) > len(scans) and crops.outside.any() and not crops.outside.all()
    assert crops.pixels.min() > 0
    share = (crops.pixels == 1).mean(axis=(1, 2, 3))
    assert share[~crops.outside].min() > 0.3
    assert share[crops.outside].mean() < 0.02
    assert RINGING > 0


def test_both_sets_have_as_many_crops_of_each_place():
    rng = np.random.default_rng(0)
    sets = [
        Crops(np.zeros((n, SIDE, SIDE, 1), np.uint8), np.arange(n), np.arange(n) < outside)
        for n, outside in ((30, 10), (25, 20))
    ]
    first, second = as_many(*sets, rng)
    assert first.outside.sum() == second.outside.sum() == 10
    assert (~first.outside).sum() == (~second.outside).sum() == 5
    assert len(set(first.scan)) == len(first.scan)


def test_no_patient_is_in_two_folds_and_folds_are_about_as_large():
    patients = [str(i // 3) for i in range(60)] + ["many"] * 15
    folds = folds_of(patients)
    assert all(len({fold for fold, name in zip(folds, patients, strict=True) if name == who}) == 1 for who in patients)
    assert np.ptp(np.bincount(folds, minlength=FOLDS)) <= 3


def test_the_auc_counts_ties_half_and_its_interval_is_of_patients():
    scores = np.arange(40.0)
    each = [str(i) for i in range(40)]
    assert auc((scores + 100, scores), (each, each), 0) == (1, 1, 1)
    assert auc((scores * 0, scores * 0), (each, each), 0) == (0.5, 0.5, 0.5)
    noise = np.random.default_rng(1).normal(size=(2, 40))
    few = [str(i // 10) for i in range(40)]  # scans of four patients, each with a level of its own
    levels = np.repeat([0.0, 1.0, 2.0, 3.0], 10)
    narrow, wide = (auc((noise[0] + levels, noise[1] + levels), (names, names), 0) for names in (each, few))
    assert narrow[0] == wide[0]
    assert wide[2] - wide[1] > 1.3 * (narrow[2] - narrow[1])


def test_a_synthetic_scan_is_compressed_as_the_genuine_file_is(tmp_path):
    file = tmp_path / "a.png"  # named so, but a JPEG, as in some samples
    Image.fromarray(np.uint8(NOISE + 128)).save(file, "JPEG", quality=31)
    with Image.open(file) as image:
        expected = realism.decode(file.read_bytes())
        assert image.format == "JPEG"
    np.testing.assert_array_equal(realism.recompressed(np.uint8(NOISE + 128), file), expected)
    other = tmp_path / "b.jpeg"
    Image.fromarray(np.uint8(NOISE + 128)).save(other, "JPEG", quality=90)
    assert (realism.recompressed(np.uint8(NOISE + 128), other) != expected).any()


def test_scans_without_patient_ids_are_one_group_for_each_class_and_each_content_counts_once(phantoms, tmp_path):
    for i, (path, phantom) in enumerate(phantoms):
        parts = path.split("/")
        name = parts[2] if i % 2 else f"{parts[1]}-{i}.png"
        for split in ("train", "test")[: 1 + (i == 0)]:
            (tmp_path / "set" / split / parts[1]).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "set" / split / parts[1] / name), phantom.pixels)
    found = realism.read_genuine([tmp_path / "set"])
    assert found.left_out["repeated content"] == 1
    assert len(found.scans) + found.left_out["no clear retina"] == len(phantoms)
    groups = {scan.patient for scan in found.scans if not scan.patient.isdigit()}
    assert groups <= {f"set/{label}" for label in synthetic.CLASSES} and groups
    known = {path.split("-")[1] for path, _ in phantoms[1::2]}
    assert {scan.patient for scan in found.scans if scan.patient.isdigit()} <= known


@pytest.mark.slow
def test_the_network_has_the_stated_size_and_tells_bright_crops_from_dark_ones_of_other_patients():
    pytest.importorskip("tensorflow")
    assert f"{realism.network().count_params():,}" in realism.__doc__
    rng = np.random.default_rng(0)
    sets = [
        Crops(rng.integers(low, low + 60, (24, SIDE, SIDE, 1)).astype(np.uint8), np.arange(24), np.zeros(24, bool))
        for low in (120, 20)
    ]
    names = tuple([str(i // 3) for i in range(24)] for _ in sets)
    bright, dark = realism.discriminate(*sets, names, seed=0, epochs=8)
    assert bright.min() > dark.max()
