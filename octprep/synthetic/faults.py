"""The faults of the real archive: fill at the border, copies, and files that are not what they seem."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float32, Gray
from octprep.preprocessing import find_fill, inpaint
from octprep.synthetic.anatomy import Rng
from octprep.synthetic.bscan import Phantom
from octprep.synthetic.disease import CLASSES

QUALITY = 78  # of the JPEGs: files of 30 to 150 KB, most below 100, as in the archive

_WHITE_SHARE = 0.35  # of the scans carry white fill, whatever their class
_BAND_SHARE = 0.05  # carry a black band at one side
_BLACK_SHARE = 0.05  # carry what rotating and shifting leaves in black, as other tools do
_MOVE, _BRIGHTER, _WORSE = 4, 0.05, 70  # of a near-duplicate: pixels, fraction of the gray levels, JPEG quality
_STRANGERS = 9_999_980  # the first id of those who have a scan of another patient; draw() gives out lower ones
# AppleDouble: magic 00051607, version 2, sixteen bytes of home file system, one entry (2: resource fork) of no bytes.
_APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes.fromhex("0001000000020000002600000000")
_DS_STORE = b"\0\0\0\1Bud1" + bytes(4088)


def add_fill(phantom: Phantom, rng: Rng) -> tuple[Phantom, str | None]:
    """Now and then the scan with the fill that rotating, shifting and the device leave; and the name of the fault."""
    rows, retina = len(phantom.pixels), (phantom.ilm, phantom.bruch)
    kind = rng.random()
    if kind < _WHITE_SHARE:
        border, fill, fault = _outside_of_rotated(rows, retina, rng), 255, "white fill at the border"
    elif kind < _WHITE_SHARE + _BAND_SHARE:
        border, fill, fault = _side_band(phantom, rng), 0, "black band at a side"
    elif kind < _WHITE_SHARE + _BAND_SHARE + _BLACK_SHARE:
        border, fill, fault = _outside_of_rotated(rows, retina, rng), 0, "black fill at the border"
    else:
        return phantom, None
    if not border.any():
        return phantom, None
    pixels = np.where(border, np.uint8(fill), phantom.pixels)
    return dataclasses.replace(phantom, pixels=pixels, border=border), fault


def _outside_of_rotated(rows: int, retina: tuple[Float32, Float32], rng: Rng) -> Gray:
    """What a small rotation and a shift of the whole scan would leave empty, without covering the retina.

    The pixels stay where they are, so that the true rows stay true; as every patient has a tilt of their own anyway,
    it looks the same. retina: the row where it begins and the row where it ends, (columns,) each, in a scan of so many
    rows. Returns (rows, columns), 1 where it would be empty.
    """
    ilm, bruch = retina
    columns = ilm.size
    angle = math.radians(float(rng.normal(0, 2.5)))
    shift = np.array([rng.normal(0, 3), rng.normal(0, 26)])
    centre = np.array([columns, rows]) / 2
    corners = np.array([(0, 0), (columns, 0), (columns, rows), (0, rows)], float)
    for _ in range(8):
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        outline = (corners - centre) @ turn.T + centre + shift
        border = np.ones((rows, columns), np.uint8)
        # Not antialiased: the real fill has hard, stepped edges.
        cv2.fillConvexPoly(border, outline.round().astype(np.int32), [0.0])
        if not _covers(border, ilm, bruch):
            return border
        angle, shift = 0.6 * angle, 0.6 * shift
    return np.zeros((rows, columns), np.uint8)


def _covers(border: Gray, ilm: Float32, bruch: Float32) -> bool:
    """Whether fill comes within 8 rows above the retina or 30 below it, away from the sides."""
    rows, columns = border.shape
    inner = slice(columns // 20, -columns // 20)
    at = np.arange(columns)[inner]
    above = np.clip(ilm[inner] - 8, 0, rows - 1).astype(np.intp)
    below = np.clip(bruch[inner] + 30, 0, rows - 1).astype(np.intp)
    return bool(border[above, at].any() or border[below, at].any())


def _side_band(phantom: Phantom, rng: Rng) -> Gray:
    """A band over the whole height at the left or the right, 1 to 10 % of the width."""
    border = np.zeros_like(phantom.pixels)
    band = max(int(rng.uniform(0.01, 0.10) * border.shape[1]), 2)
    side = slice(0, band) if rng.random() < 0.5 else slice(-band, None)
    border[:, side] = 1
    return border


def near_duplicate(pixels: Gray, rng: Rng) -> bytes:
    """The same scan again as another export might hold it: JPEG bytes.

    Moved by up to 4 pixels along both axes, 5 % brighter or darker at most, with another white wedge that spares the
    retina, and of JPEG quality 70. What the move uncovers is white, as rotating and shifting leave it.
    pixels: (rows, columns), which are not changed.
    """
    down, right = (int(step) for step in rng.integers(-_MOVE, _MOVE + 1, 2))
    light = rng.uniform(1 - _BRIGHTER, 1 + _BRIGHTER)
    first, last = _bright_rows(pixels)
    wedge = _outside_of_rotated(len(pixels), (first + down, last + down), rng)
    there = np.array([[1, 0, right], [0, 1, down]], np.float32)
    bright = cv2.convertScaleAbs(pixels, alpha=light)
    moved = np.asarray(cv2.warpAffine(bright, there, pixels.shape[::-1], borderValue=[255.0]), np.uint8)
    return encode(np.where(wedge, np.uint8(255), moved), _WORSE)


def _bright_rows(pixels: Gray) -> tuple[Float32, Float32]:
    """About where the retina begins and the light ends in each column, (columns,) each, fill left out."""
    depths = find_fill(pixels)
    visible = pixels if depths is None else inpaint(pixels, depths)
    smooth = np.asarray(cv2.GaussianBlur(visible, (0, 0), sigmaX=9, sigmaY=3), np.uint8)
    level, _ = cv2.threshold(smooth, 0, 255, cv2.THRESH_OTSU)
    bright = smooth > 0.6 * level  # the darkest layers and some choroid too
    first = np.argmax(bright, axis=0)
    last = len(pixels) - np.argmax(bright[::-1], axis=0)
    return np.asarray(first, np.float32), np.asarray(last, np.float32)


def encode(pixels: NDArray[np.uint8], quality: int = QUALITY) -> bytes:
    """JPEG bytes of (rows, columns) gray or (rows, columns, 3) pixels in 0..255."""
    return cv2.imencode(".jpeg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def plant(folder: Path, rng: Rng) -> Counter[str]:
    """Add what else is wrong with the real archive to a folder of scans; returns how many faults of each kind.

    Only the RGB file replaces a scan; all else is added, so every class keeps its scans.
    """
    train = {label: sorted((folder / "train" / label).iterdir()) for label in CLASSES}
    test = {label: sorted((folder / "test" / label).iterdir()) for label in CLASSES}
    planted: Counter[str] = Counter()

    for label in ("CNV", "DME"):
        twin = test[label][int(rng.integers(len(test[label])))]
        (folder / "train" / label / twin.name).write_bytes(twin.read_bytes())
        planted["file of train and test"] += 1
    for label in ("DRUSEN", "NORMAL"):  # other bytes under the same name
        twin = test[label][int(rng.integers(len(test[label])))]
        other = encode(_gray(twin), QUALITY - 10)
        (folder / "train" / label / twin.name).write_bytes(other)
        planted["name in train and test"] += 1
    for label in CLASSES:
        for _ in range(2):
            original = train[label][int(rng.integers(len(train[label])))]
            _unused(original).write_bytes(original.read_bytes())
            planted["byte duplicate under another name"] += 1

    broken = train["CNV"][0].read_bytes()
    (folder / "train" / "CNV" / "CNV-9999990-1.jpeg").write_bytes(broken[: len(broken) // 2])
    (folder / "train" / "NORMAL" / "NORMAL-9999991-1.jpeg").write_bytes(
        b"<!doctype html>\n<title>404 Not Found</title>\n"
    )
    (folder / "train" / "DME" / "DME copy.jpeg").write_bytes(encode(_gray(train["DME"][0])))
    gray = _gray(train["NORMAL"][-1])
    train["NORMAL"][-1].write_bytes(encode(np.stack([gray, gray, gray], axis=-1)))
    planted.update(["truncated JPEG", "not a JPEG", "misnamed file", "RGB JPEG"])

    originals = [test["CNV"], test["DME"], train["DRUSEN"], train["NORMAL"]]
    for stranger, paths in enumerate(originals, start=_STRANGERS):
        original = paths[int(rng.integers(len(paths)))]
        label = original.parent.name
        copy = folder / "train" / label / f"{label}-{stranger}-1.jpeg"
        copy.write_bytes(near_duplicate(_gray(original), rng))
        planted["near-identical scan under another id"] += 1

    for place in (folder, folder / "train", folder / "test" / "DME"):
        (place / ".DS_Store").write_bytes(_DS_STORE)
        planted[".DS_Store"] += 1
    for path in [path for label in CLASSES for path in (*train[label][:12], *test[label])]:
        shadow = folder / "__MACOSX" / path.relative_to(folder).with_name(f"._{path.name}")
        shadow.parent.mkdir(parents=True, exist_ok=True)
        shadow.write_bytes(_APPLE_DOUBLE)
        planted["AppleDouble file"] += 1
    return planted


def _gray(path: Path) -> Gray:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)


def _unused(path: Path) -> Path:
    """The first name of the same class and patient that is free."""
    stem, _, number = path.stem.rpartition("-")
    turn = int(number)
    while path.exists():
        turn += 1
        path = path.with_name(f"{stem}-{turn}.jpeg")
    return path
