"""What becomes of genuine scans of several sets, where they are at hand."""

import pytest

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.format.errors import UnreadableImage
from tests.worlds.archive import SAMPLE

FOLDER = SAMPLE.parents[1] / "oct-samples"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the samples of other sets are missing")
# Folder -> the flags of each of its scans.
FLAGS = {
    "exam-names": ("graphics",),
    "no-patient-ids": (),
    "patient-folders": (),
    "table": ("drawn",),
    "white-frames": ("white-frame",),
}


@pytest.mark.parametrize("name", FLAGS)
def test_every_scan_of_a_set_has_the_flags_of_that_set(name):
    paths = [path for path in (FOLDER / name).rglob("*") if path.suffix in (".jpg", ".png", ".tif")]
    assert len(paths) >= 12
    for path in paths:
        gray, flags = preprocessing.read_image(path)
        measured = preprocessing.preprocess(gray, Preprocessing(), flags).measurements
        assert measured.flags == FLAGS[name], path
        assert measured.crop_confidence >= 0.5


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("packbits.tif", ()),
        ("patch-256.png", ("small",)),
        ("black-fill-scale-bar.png", ("graphics",)),
        ("float32-reflectance.tif", ("float", "reflectance")),
    ],
)
def test_odd_scans_are_used_with_a_flag(name, flags):
    gray, found = preprocessing.read_image(FOLDER / "odd" / name)
    measured = preprocessing.preprocess(gray, Preprocessing(), found).measurements
    assert measured.flags == flags
    assert measured.crop_confidence >= 0.5


def test_what_is_no_gray_scan_is_refused():
    for name in ("false-colour-two-panels.jpg", "layer-lines-drawn.png"):
        with pytest.raises(UnreadableImage, match="in colour"):
            preprocessing.read_image(FOLDER / "odd" / name)
    with pytest.raises(UnreadableImage, match="several panels"):
        preprocessing.read_image(FOLDER / "odd" / "false-colour-two-panels.jpg", "luminance")


def test_scans_of_the_archive_have_no_flags(sample_path):
    gray, flags = preprocessing.read_image(sample_path)
    assert preprocessing.preprocess(gray, Preprocessing(), flags).measurements.flags == ()
