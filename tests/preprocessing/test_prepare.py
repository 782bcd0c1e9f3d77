"""Reading, preprocessing and measuring one scan, as builds and inspections do."""

import hashlib

import cv2
import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.format.errors import StoppedError
from octprep.prepare import PreparedScan, prepare_scan
from octprep.source.files import Exclusion
from octprep.source.listing import list_source
from tests.worlds.archive import archive, write_folder
from tests.worlds.layers import jpeg

RECIPE = Preprocessing(height=64, width=64)


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "source", archive(1))


def test_a_prepared_scan_holds_everything_about_its_file(source):
    file = list_source(source).scan_files[0]
    prepared = prepare_scan(source, file, RECIPE)
    assert isinstance(prepared, PreparedScan)
    data = (source / file.path).read_bytes()
    gray = preprocessing.decode(data)
    image = preprocessing.preprocess(gray, RECIPE)
    assert np.array_equal(prepared.pixels, image.pixels)
    assert prepared.geometry == image.geometry
    assert prepared.scan.sha256 == hashlib.sha256(data).hexdigest()
    assert (prepared.scan.height, prepared.scan.width) == gray.shape
    assert prepared.scan.pixels_sha256 == hashlib.sha256(image.pixels.tobytes()).hexdigest()
    assert np.array_equal(prepared.source, gray)
    assert prepared.measurements.mean_intensity == round(float(image.pixels.mean()), 2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>", "not a JPEG, PNG, TIFF, BMP or WebP but an HTML page"),
        (jpeg(np.zeros((200, 200), np.uint8)), "nothing to see: all its pixels have the gray level 0"),
        (jpeg(np.full((200, 200), 255, np.uint8)), "nothing but fill: 100% of it is white or black from the border on"),
    ],
)
def test_an_unusable_scan_is_an_exclusion(source, data, reason):
    (source / "train" / "CNV" / "CNV-0-1.jpeg").write_bytes(data)
    file = next(file for file in list_source(source).scan_files if file.path.endswith("CNV-0-1.jpeg"))
    assert prepare_scan(source, file, RECIPE) == Exclusion(file.path, reason)


def test_a_scan_that_is_fill_but_for_a_few_pixels_is_excluded(source):
    gray = np.full((200, 200), 255, np.uint8)
    gray[96:104, 96:104] = 100
    (source / "train" / "CNV" / "CNV-0-1.jpeg").write_bytes(jpeg(gray))
    file = next(file for file in list_source(source).scan_files if file.path.endswith("CNV-0-1.jpeg"))
    prepared = prepare_scan(source, file, RECIPE)
    assert isinstance(prepared, Exclusion)
    assert prepared.reason.startswith("nothing but fill: ")


def test_a_scan_that_is_mostly_fill_is_kept_up_to_the_limit(source):
    gray = cv2.imread(str(source / "train" / "CNV" / "CNV-0-1.jpeg"), cv2.IMREAD_GRAYSCALE)
    gray[: len(gray) * 3 // 4] = 255
    (source / "train" / "CNV" / "CNV-0-1.jpeg").write_bytes(jpeg(gray))
    file = next(file for file in list_source(source).scan_files if file.path.endswith("CNV-0-1.jpeg"))
    prepared = prepare_scan(source, file, RECIPE)
    assert isinstance(prepared, PreparedScan)
    assert 0.7 < prepared.measurements.fill_fraction < 0.9


def test_a_missing_or_changed_file_is_an_error_and_not_an_exclusion(source):
    gone, changed, *_ = list_source(source).scan_files
    (source / gone.path).unlink()
    with (source / changed.path).open("ab") as file:
        file.write(b"more")
    with pytest.raises(StoppedError, match="is gone"):
        prepare_scan(source, gone, RECIPE)
    with pytest.raises(StoppedError, match="another size or time of change"):
        prepare_scan(source, changed, RECIPE)
