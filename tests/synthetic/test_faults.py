"""The faults of the real archive that are added to the scans and the folder."""

from collections import defaultdict

import cv2
import numpy as np
import pytest

from octprep.synthetic import CLASSES, draw_scan
from octprep.synthetic.faults import add_fill, encode, near_duplicate
from tests.worlds.phantoms import SCAN_NAME, draw_patient, files_of_scans, patient, read_image, splits_of_patients

pytestmark = pytest.mark.slow


def test_every_fault_is_in_the_folder_as_often_as_the_summary_says(faulty):
    out, summary = faulty
    files = [path for path in out.rglob("*") if path.is_file()]
    pictures = {path: read_image(path) for path in files if path.suffix == ".jpeg" and "__MACOSX" not in path.parts}
    splits = splits_of_patients(out)
    by_name, by_bytes = defaultdict(set), defaultdict(list)
    for path in files_of_scans(out):
        by_name[path.name].add(path.parts[-3])
        by_bytes[path.read_bytes()].append(path)
    duplicates = [paths for paths in by_bytes.values() if len(paths) > 1]
    classes = {(patient(path), path.parent.name) for path in files_of_scans(out)}
    counts = {
        "patient in train and test": sum({"train", "test"} <= folders for folders in splits.values()),
        "patient in val and test": sum({"val", "test"} <= folders for folders in splits.values()),
        "patient in two classes": len(classes) - len(splits),
        "file of train and test": sum(paths[0].name == paths[1].name for paths in duplicates),
        "byte duplicate under another name": sum(
            len(paths) - 1 for paths in duplicates if len({path.name for path in paths}) > 1
        ),
        "name in train and test": sum({"train", "test"} <= folders for folders in by_name.values())
        - sum(paths[0].name == paths[1].name for paths in duplicates),
        ".DS_Store": sum(path.name == ".DS_Store" for path in files),
        "AppleDouble file": sum(
            path.name.startswith("._") and path.read_bytes().startswith(b"\x00\x05\x16\x07") for path in files
        ),
        "truncated JPEG": sum(
            path.read_bytes().startswith(b"\xff\xd8") and not path.read_bytes().endswith(b"\xff\xd9")
            for path in pictures
        ),
        "not a JPEG": sum(not path.read_bytes().startswith(b"\xff\xd8") for path in pictures),
        "misnamed file": sum(not SCAN_NAME.fullmatch(path.name) for path in pictures),
        "RGB JPEG": sum(pixels is not None and pixels.ndim == 3 for pixels in pictures.values()),
        "near-duplicate under another patient id": sum(
            9999980 <= int(patient(path)) < 9999990 for path in files_of_scans(out)
        ),
    }
    for kind, count in counts.items():
        assert count == summary.faults[kind] > 0, kind
    assert (out / "__MACOSX").is_dir()
    assert {path.parent.name for paths in duplicates for path in paths} == set(CLASSES)
    assert all(len({path.parent.name for path in paths}) == 1 for paths in duplicates)
    rgb = next(pixels for pixels in pictures.values() if pixels is not None and pixels.ndim == 3)
    assert np.ptp(rgb, axis=2).max() == 0
    assert summary.images == len(pictures)


def middle_columns(pixels: np.ndarray) -> np.ndarray:
    """A scan's middle columns, smoothed: enough to recognise the patient and the position."""
    gray = pixels if pixels.ndim == 2 else pixels[:, :, 0]
    return cv2.GaussianBlur(gray, (0, 0), 1)[:, gray.shape[1] // 5 : -gray.shape[1] // 5]


def test_near_duplicates_are_moved_scans_of_other_patients(faulty):
    out, _ = faulty
    duplicates = [path for path in files_of_scans(out) if 9999980 <= int(patient(path)) < 9999990]
    assert {path.parts[-3] for path in duplicates} == {"train"}
    assert sorted(path.parent.name for path in duplicates) == sorted(CLASSES)
    for path in duplicates:
        template = middle_columns(read_image(path))[40:-40, 8:-8]
        matches = {}
        for candidate in set(files_of_scans(out)) - {*duplicates}:
            pixels = read_image(candidate) if candidate.parent.name == path.parent.name else None
            if pixels is not None and pixels.shape[:2] == read_image(path).shape:
                scores = cv2.matchTemplate(middle_columns(pixels)[30:-30], template, cv2.TM_CCOEFF_NORMED)
                matches[candidate] = float(scores.max()), np.unravel_index(scores.argmax(), scores.shape)
        score, (down, right) = max(matches.values())
        assert score > 0.85
        assert abs(down - 10) <= 4 and abs(right - 8) <= 4
        original = max(matches, key=lambda candidate: matches[candidate])
        assert patient(original) != patient(path)
        assert original.read_bytes() != path.read_bytes()


@pytest.mark.parametrize("label", CLASSES)
def test_a_near_duplicate_is_slightly_different_and_its_fill_does_not_cover_the_retina(label):
    for number in range(5):
        appearance, disease, rng = draw_patient(label, number)
        scan = draw_scan(appearance, disease, 0.5, rng)
        before = scan.pixels.copy()
        data = near_duplicate(scan.pixels, rng)
        np.testing.assert_array_equal(scan.pixels, before)
        duplicate = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert duplicate.shape == scan.pixels.shape
        assert len(data) < len(encode(scan.pixels))
        middle = np.arange(appearance.view.width // 10, appearance.view.width - appearance.view.width // 10)
        rows = np.linspace(0.1, 0.9, 9)[:, None] * (scan.bruch - scan.ilm)[middle] + scan.ilm[middle]
        inside = rows.astype(int), middle
        white = [(cv2.blur(pixels, (9, 9))[inside] > 253).mean() for pixels in (duplicate, scan.pixels)]
        assert white[0] < white[1] + 0.02
        is_tissue = duplicate[inside] < 250  # a wedge may cover a little of it
        means = [pixels[inside][is_tissue].mean() for pixels in (duplicate, scan.pixels)]
        assert 0.88 < means[0] / means[1] < 1.13  # 5 % of brightness, and layers moved by 4 rows


def test_fill_is_white_or_black_does_not_cover_the_retina_and_is_equally_common_in_every_class():
    shares = []
    for label in CLASSES:
        appearance, disease, _ = draw_patient(label, 0, width=512, row=150, tilt=0)  # high, where fill could reach it
        unmarked = draw_scan(appearance, disease, 0.5, np.random.default_rng(0))
        rng = np.random.default_rng(9)
        marked = [add_fill(unmarked, rng) for _ in range(200)]
        shares.append(sum(fault == "white fill" for _, fault in marked) / 200)
        for scan, fault in marked:
            assert (fault is not None) == bool(scan.fill.any())
            fill = scan.pixels[scan.fill == 1]
            assert set(np.unique(fill)) <= ({0} if (fault or "").startswith("black") else {255})
            np.testing.assert_array_equal(scan.pixels[scan.fill == 0], unmarked.pixels[scan.fill == 0])
            middle = np.arange(26, 486)
            for line in (scan.ilm, scan.rpe):
                side = fault == "black band at a side"
                assert side or not scan.fill[line[middle].astype(int), middle].any()
    assert all(0.25 < share < 0.45 for share in shares)
