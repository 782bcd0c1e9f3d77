"""Decoding gives OpenCV's gray values, or a reason; never the pixels of a damaged file."""

import os

import cv2
import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.errors import UnreadableImage
from tests.worlds.archive import draw_scan
from tests.worlds.image_files import decoded_by_threads, saved
from tests.worlds.layers import jpeg

GOOD = jpeg(draw_scan("good", 496, 512))
BOMB = GOOD[:2] + b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + GOOD[2:]
HALF = len(GOOD) // 2
FRAME = GOOD.index(b"\xff\xc0")
HEIGHT = slice(FRAME + 5, FRAME + 7)


def opencv_gray(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)


def segment_starts(data):
    """Where each segment of a header begins, the first scan's included."""
    starts = [2]
    while data[starts[-1] + 1] != 0xDA:
        starts.append(starts[-1] + 2 + int.from_bytes(data[starts[-1] + 2 : starts[-1] + 4]))
    return starts


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\x89PNG\r\n\x1a\n", "corrupt PNG"),
        (b"\0\5\26\7" + bytes(40), "AppleDouble"),
        (b"<!doctype html>", "HTML"),
        (b"GIF89a" + bytes(40), "but a GIF; export it as PNG"),
        (b"\0\0\0\x0cjP  " + bytes(40), "but a JPEG 2000; export it as PNG"),
        (b"\xff\x4f\xff\x51" + bytes(40), "but a JPEG 2000; export it as PNG"),
        (GOOD[:HALF], "truncated JPEG"),
        (GOOD[:-2], "JPEG"),
        (GOOD[:60], "truncated JPEG"),
        (GOOD[:HALF] + GOOD[HALF + 900 :], "corrupt JPEG: premature end of data segment"),
        (GOOD[:HALF] + bytes(900) + GOOD[HALF + 900 :], "corrupt JPEG"),
        (GOOD[: HEIGHT.start] + (480).to_bytes(2) + GOOD[HEIGHT.stop :], "corrupt JPEG: [0-9]+ extraneous bytes"),
        (GOOD[:-2] + bytes(7) + GOOD[-2:], "corrupt JPEG: [67] extraneous bytes before marker 0xd9"),
        (jpeg(draw_scan("small", 32, 40)), "too small: 40x32"),
        (BOMB, "too large: 65535x65535"),
    ],
    ids=[
        "empty", "png", "appledouble", "html", "gif", "jp2", "j2k", "half", "no end", "head", "gap", "zeros",
        "fewer rows", "before the end", "small", "bomb",
    ],
)  # fmt: skip
def test_unusable_files_are_errors_with_a_reason(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        preprocessing.decode(data)


@pytest.mark.parametrize(
    ("level", "reason"),
    [
        (0, "nothing to see: all its pixels have the gray level 0"),
        (90, "nothing to see: all its pixels have the gray level 90"),
        (255, "nothing but fill: 100% of it is white or black from the border on"),
    ],
)
def test_an_image_of_one_gray_level_is_refused_and_one_of_two_is_not(level, reason):
    gray = np.full((80, 90), level, np.uint8)
    for data in (jpeg(gray), saved(gray, "PNG"), saved(np.dstack([gray] * 3), "WebP")):
        with pytest.raises(UnreadableImage) as caught:
            preprocessing.decode(data)
        assert str(caught.value) == reason
    for row, column in ((0, 0), (40, 45), (7, 8)):
        other = gray.copy()
        other[row, column] = 128
        assert np.array_equal(preprocessing.decode(saved(other, "PNG")), other)


def test_decoded_pixels_are_opencvs():
    gray = draw_scan("gray", 496, 512)
    colour = np.stack([gray, gray[::-1], 255 - gray], axis=-1)
    flags = [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]]
    files = [cv2.imencode(".jpeg", pixels, flag)[1].tobytes() for pixels in (gray, colour) for flag in flags]
    for data in (*files, jpeg(gray, 30), jpeg(gray, 100)):
        assert np.array_equal(preprocessing.decode(data, "luminance"), opencv_gray(data))
    equal_channels = preprocessing.decode(jpeg(np.stack([gray] * 3, axis=-1), 100))
    assert np.abs(equal_channels.astype(int) - gray).max() <= 3


def test_genuine_scans_decode_to_opencvs_pixels(sample_path):
    data = sample_path.read_bytes()
    assert np.array_equal(preprocessing.decode(data), opencv_gray(data))


@pytest.mark.parametrize("padding", [b"\0\0\0", b"\xff\xff", b"pad"])
def test_padding_between_segments_of_the_header_is_skipped(padding):
    plain = preprocessing.decode(GOOD)
    for start in segment_starts(GOOD)[1:]:
        assert np.array_equal(preprocessing.decode(GOOD[:start] + padding + GOOD[start:]), plain)
    damaged = GOOD[:HALF] + GOOD[HALF + 900 :]
    start = segment_starts(GOOD)[1]
    with pytest.raises(UnreadableImage, match="corrupt JPEG: premature end of data segment"):
        preprocessing.decode(damaged[:start] + padding + damaged[start:])


def test_gaps_in_the_image_data_are_found():
    start = segment_starts(GOOD)[-1] + 20
    plain = preprocessing.decode(GOOD)
    for position in np.random.default_rng(0).integers(start, len(GOOD) - 1000, 40):
        with pytest.raises(UnreadableImage, match="corrupt JPEG"):
            preprocessing.decode(GOOD[:position] + GOOD[position + 700 :])
    assert np.array_equal(preprocessing.decode(GOOD), plain), "a damaged file changes nothing for the next one"


def test_decoding_writes_nothing_to_standard_error(capfd):
    with pytest.raises(UnreadableImage):
        preprocessing.decode(GOOD[:HALF] + GOOD[HALF + 900 :])
    preprocessing.decode(GOOD)
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


def test_several_threads_decode_at_once():
    plain, decoded = preprocessing.decode(GOOD), decoded_by_threads(GOOD, 4)
    assert len(decoded) == 4
    assert all(np.array_equal(gray, plain) for gray in decoded)
