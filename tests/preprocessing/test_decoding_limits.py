"""Files that are not images, or would take too long or too much memory, are unreadable with a reason."""

import os

import cv2
import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.errors import UnreadableImage
from tests.worlds.archive import draw_scan, write_scan


def test_image_files_are_read_or_unreadable_with_a_reason(tmp_path):
    path = write_scan(tmp_path / "a.jpeg")
    pixels, flags = preprocessing.read_image(path)
    assert np.array_equal(pixels, preprocessing.decode(path.read_bytes()))
    assert flags == ()
    with (tmp_path / "huge.jpeg").open("wb") as file:
        file.truncate(50_000_000_000)  # takes no space on the disk
    with pytest.raises(UnreadableImage, match="50,000,000,000 bytes"):
        preprocessing.read_image(tmp_path / "huge.jpeg")
    os.mkfifo(tmp_path / "pipe.jpeg")
    with pytest.raises(UnreadableImage, match="is not a regular file"):
        preprocessing.read_image(tmp_path / "pipe.jpeg")
    with pytest.raises(FileNotFoundError):
        preprocessing.read_image(tmp_path / "none.jpeg")


def segment(marker, data):
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2) + data


def progressive(rows, columns, scans):
    """A flat gray JPEG in so many progressive scans, as few bytes each as can be."""
    blocks = -(-rows // 8) * -(-columns // 8)
    runs = ("0" + "1" * 14) * (blocks // (2**15 - 1) + 1)
    runs += "1" * (-len(runs) % 8)
    skip = bytes(int(runs[at : at + 8], 2) for at in range(0, len(runs), 8)).replace(b"\xff", b"\xff\0")
    data = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    data += segment(0xC2, b"\x08" + rows.to_bytes(2) + columns.to_bytes(2) + b"\1\1\x11\0")
    data += segment(0xC4, b"\0\1" + bytes(15) + b"\0") + segment(0xC4, b"\x10\1\1" + bytes(14) + b"\xe0\0")
    data += segment(0xDA, b"\1\1\0\0\0\0") + bytes(-(-blocks // 8))
    for number in range(scans - 1):
        data += segment(0xDA, b"\1\1\0" + bytes([1 + number % 62] * 2) + b"\0") + skip
    return data + b"\xff\xd9"


def test_progressive_scans_are_limited_before_a_jpeg_is_decoded():
    with pytest.raises(UnreadableImage, match="all its pixels have the gray level 128"):  # so it was decoded
        preprocessing.decode(progressive(96, 128, 100))
    with pytest.raises(UnreadableImage, match="too slow to decode: over 100 progressive scans of 128x96 pixels"):
        preprocessing.decode(progressive(96, 128, 101))
    with pytest.raises(UnreadableImage, match="over 20 progressive scans of 8000x4000"):
        preprocessing.decode(progressive(4000, 8000, 21))
    genuine = cv2.imencode(".jpeg", np.dstack([draw_scan("p")] * 3), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert genuine.count(b"\xff\xda") == 10
    assert preprocessing.decode(genuine).shape == (96, 128)
    hidden = genuine[:2] + segment(0xE1, b"\xff\xda" * 500) + genuine[2:]  # no scans, but bytes of a comment
    assert np.array_equal(preprocessing.decode(hidden), preprocessing.decode(genuine))


def test_a_gray_baseline_jpeg_of_two_scans_is_unreadable():
    """So only the scans of others need counting."""
    data = cv2.imencode(".jpeg", draw_scan("x"))[1].tobytes()
    start = data.index(b"\xff\xda")
    with pytest.raises(UnreadableImage, match="corrupt JPEG: Didn't expect more than one scan"):
        preprocessing.decode(data[:-2] + data[start:])


def test_a_file_of_only_markers_is_unreadable_within_seconds():
    for middle in (b"\xff" * 20_000_000, b"\xff\xe0\0\2" * 2_000_000, b"\xff\xd0" * 10_000_000, b"\xff\0" * 10_000_000):
        with pytest.raises(UnreadableImage, match="JPEG"):
            preprocessing.decode(b"\xff\xd8" + middle)
