"""Colour is refused, or inpainted where there is little of it; it never becomes gray in silence."""

import cv2
import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.errors import UnreadableImage
from tests.worlds.image_files import saved
from tests.worlds.layers import jpeg, layered

GRAY = layered(10, 20)[0]
RGB = np.dstack([GRAY] * 3)
FALSE_COLOUR = cv2.applyColorMap(GRAY, cv2.COLORMAP_JET)


def contour(thickness=2):
    """The scan with a red contour, as OCTDL has them, and where it is."""
    drawn, where = RGB.copy(), np.zeros_like(GRAY)
    for image, colour in ((drawn, (255, 0, 0)), (where, 255)):
        cv2.ellipse(image, (250, 240), (90, 30), 0, 0, 360, colour, thickness)
    return drawn, where > 0


def test_channels_that_agree_are_the_gray_values():
    assert np.array_equal(preprocessing.decode(saved(RGB, "PNG")), GRAY)
    tinted = np.clip(RGB + np.array([15, 0, -15]), 0, 255).astype(np.uint8)  # as JPEG tints
    pixels, flags = preprocessing.decode_with_flags(saved(tinted, "PNG"))
    assert flags == ()
    assert np.abs(pixels.astype(int) - GRAY).max() <= 5


@pytest.mark.parametrize("data", [saved(FALSE_COLOUR[..., ::-1], "PNG"), jpeg(FALSE_COLOUR)], ids=["png", "jpeg"])
def test_false_colour_is_refused_unless_its_luminance_is_asked_for(data):
    with pytest.raises(UnreadableImage, match=r"in colour: \d+% of its pixels are coloured; .* --colour luminance"):
        preprocessing.decode(data)
    pixels, flags = preprocessing.decode_with_flags(data, "luminance")
    assert flags == ("colour",)
    luminance = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.abs(pixels.astype(int) - luminance).max() <= 1  # OpenCV does not round what it reads from a PNG


@pytest.mark.parametrize("colour", ["refuse", "luminance"])
@pytest.mark.parametrize(
    "encode", [lambda rgb: saved(rgb, "PNG"), lambda rgb: jpeg(rgb[..., ::-1])], ids=["png", "jpeg"]
)
def test_a_contour_is_inpainted_and_nothing_else_changes(encode, colour):
    drawn, where = contour()
    pixels, flags = preprocessing.decode_with_flags(encode(drawn), colour)
    assert flags == ("drawn",)
    around = cv2.dilate(where.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert np.abs(pixels[~around].astype(int) - GRAY[~around]).max() <= 12  # as far as JPEG does not change them
    # Red has luminance 76 everywhere. Inpainted, it follows the scan, which is 14 above the retina and 110 within.
    blurred = cv2.blur(GRAY, (15, 15)).astype(float)
    assert np.corrcoef(pixels[where], blurred[where])[0, 1] > 0.9
    marked = cv2.cvtColor(drawn, cv2.COLOR_RGB2GRAY)
    assert np.abs(pixels[where] - blurred[where]).mean() < 0.5 * np.abs(marked[where] - blurred[where]).mean()


def test_too_much_that_is_drawn_is_refused():
    drawn, where = contour(40)
    assert where.mean() > 0.05
    with pytest.raises(UnreadableImage, match="in colour"):
        preprocessing.decode(saved(drawn, "PNG"))
