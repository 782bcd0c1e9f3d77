"""White frames are cut off with their geometry, panels are refused, icons are inpainted; other scans stay."""

import cv2
import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.format.errors import UnreadableImage
from octprep.preprocessing.graphics import without_graphics
from octprep.preprocessing.page_layout import find_white_frame, has_panels
from tests.worlds.image_files import saved
from tests.worlds.layers import jpeg, layered

TOP, BOTTOM, LEFT, RIGHT = 14, 34, 46, 12  # of a frame, pixels


def framed(gray):
    return np.pad(gray, ((TOP, BOTTOM), (LEFT, RIGHT)), constant_values=255)


@pytest.mark.parametrize(
    "recipe",
    [
        Preprocessing(),
        Preprocessing(flatten=True),
        Preprocessing(crop="none", resize="pad"),
        Preprocessing(crop="band"),
    ],
)
def test_a_framed_scan_is_stored_like_the_scan_inside(recipe):
    gray = layered(60, 30)[0]
    inside = preprocessing.preprocess(gray[3:-3, 3:-3], recipe)  # without what JPEG may have tinted
    image = preprocessing.preprocess(framed(gray), recipe)
    assert np.array_equal(image.pixels, inside.pixels)
    assert image.measurements.flags == ("white-frame",)
    assert image.measurements.fill_fraction == inside.measurements.fill_fraction
    places = np.array([0.0, 20.5, 223.0]), np.array([5.0, 100.0, 200.0])
    expected = np.add(inside.geometry.source_position(*places), [[LEFT + 3], [TOP + 3]])
    np.testing.assert_allclose(image.geometry.source_position(*places), expected, atol=1e-9)
    top, bottom, left, right = inside.geometry.crop
    assert image.measurements.crop == (top + TOP + 3, bottom + TOP + 3, left + LEFT + 3, right + LEFT + 3)


def test_a_frame_is_found_after_jpeg():
    gray = layered(0, 20)[0]
    for quality in (60, 75, 95):
        top, bottom, left, right = find_white_frame(preprocessing.decode(jpeg(framed(gray), quality)))
        assert TOP <= top <= TOP + 8 and TOP + 496 - 8 <= bottom <= TOP + 496
        assert LEFT <= left <= LEFT + 8 and LEFT + 512 - 8 <= right <= LEFT + 512


@pytest.mark.parametrize("angle", [1, 4, 12])
def test_fill_that_rotation_left_is_no_frame(angle):
    gray = layered(0, 0)[0]
    turn = cv2.getRotationMatrix2D((256, 248), angle, 0.8)
    rotated = cv2.warpAffine(gray, turn, (512, 496), borderValue=255)
    assert min(rotated[0, 0], rotated[-1, -1]) == 255
    assert find_white_frame(rotated) is None


def test_fewer_than_four_sides_are_no_frame():
    gray = layered(0, 0)[0]
    for side in range(4):
        widths = [TOP, BOTTOM, LEFT, RIGHT]
        widths[side] = 0
        white = np.pad(gray, (widths[:2], widths[2:]), constant_values=255)
        assert find_white_frame(white) is None
    assert find_white_frame(np.full((200, 200), 255, np.uint8)) is None


def test_panels_are_refused_and_fill_is_none():
    gray = layered(0, 0)[0]
    stacked = np.vstack([gray, np.full((9, 512), 255, np.uint8), gray])
    for image in (stacked, stacked.T.copy(), framed(stacked)):
        with pytest.raises(UnreadableImage, match="several panels"):
            preprocessing.decode(saved(image, "PNG"))
    for changed in (slice(0, 150), slice(400, 496), slice(250, 253), slice(20, 60)):
        filled = gray.copy()
        filled[changed] = 255
        assert not has_panels(filled)


def icon(gray):
    """A scan with an icon of the scan's direction and its letters, in white, as a Cirrus draws it."""
    marked = gray.copy()
    cv2.rectangle(marked, (30, 400), (90, 460), 255, 1)
    cv2.arrowedLine(marked, (30, 430), (88, 430), 255, 1)
    for letter, place in (("S", (56, 390)), ("I", (58, 480)), ("T", (14, 434)), ("N", (100, 434))):
        cv2.putText(marked, letter, place, cv2.FONT_HERSHEY_SIMPLEX, 0.35, 255, 1)
    return marked


def test_an_icon_is_inpainted_and_nothing_else_changes():
    gray = cv2.GaussianBlur(layered(0, 0)[0], (0, 0), 1.0)
    marked = icon(gray)
    near = cv2.dilate((marked != gray).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    soft = cv2.GaussianBlur(marked, (0, 0), 0.6)  # as a viewer draws it
    assert np.abs(soft.astype(int) - gray)[near].max() > 150
    cleaned = without_graphics(preprocessing.decode(jpeg(soft))).astype(int)
    assert np.abs(cleaned - gray)[near].max() <= 12
    assert np.abs(cleaned - cv2.GaussianBlur(gray, (0, 0), 0.6))[~near].max() <= 12  # what JPEG changed
    image = preprocessing.preprocess(marked, Preprocessing())
    assert image.measurements.flags == ("graphics",)


def test_scans_without_graphics_are_left_alone(synthetic_scans):
    rng = np.random.default_rng(0)
    noise = (rng.gamma(1, 60, (500, 600)).clip(0, 255)).astype(np.uint8)  # speckle of independent pixels
    for gray in (noise, *(gray for gray, _ in synthetic_scans)):
        assert without_graphics(gray) is None
        assert find_white_frame(gray) is None
        assert not has_panels(gray)
