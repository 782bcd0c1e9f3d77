"""The faults of the real archive: fill, duplicates, and files that are not scans or not valid JPEGs."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float32, Gray
from octprep.preprocessing import find_fill, inpaint
from octprep.synthetic.bscan import Phantom
from octprep.synthetic.difficulty import Rng
from octprep.synthetic.disease import CLASSES

QUALITY = 78  # of the JPEGs: files of 30 to 150 KB, most below 100, as in the archive

_WHITE_SHARE = 0.35  # fraction of the scans with white fill, in every class
_BAND_SHARE = 0.05  # with a black band at one side
_BLACK_SHARE = 0.05  # with black fill, as other tools leave it when they rotate and shift
MAX_FILL_RATE = 2.0
# A near-duplicate is moved by up to so many pixels and brighter or darker by up to this fraction, at this JPEG quality.
_MAX_MOVE, _MAX_BRIGHTNESS_CHANGE, _NEAR_DUPLICATE_QUALITY = 4, 0.05, 70
_NEAR_DUPLICATE_ID = 9_999_980  # the first patient id of the near-duplicates; draw() assigns lower ones
# AppleDouble: magic 00051607, version 2, sixteen bytes of home file system, one entry (2: resource fork) of no bytes.
_APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes.fromhex("0001000000020000002600000000")
_DS_STORE = b"\0\0\0\1Bud1" + bytes(4088)


def add_fill(phantom: Phantom, rng: Rng, rate: float = 1.0) -> tuple[Phantom, str | None]:
    """Add, to some scans, the fill that rotation, shifting and the device leave; returns the scan and the fault's name.

    Which scans get one is drawn from `rng`, with the same probability in every class; None if this one got none.
    rate: factor on that probability, 0..MAX_FILL_RATE.
    """
    rows, retina = len(phantom.pixels), (phantom.ilm, phantom.bruch)
    kind = rng.random() / rate if rate else 1.0
    if kind < _WHITE_SHARE:
        fill, value, fault = _fill_of_rotation(rows, retina, rng), 255, "white fill"
    elif kind < _WHITE_SHARE + _BAND_SHARE:
        fill, value, fault = _side_band(phantom, rng), 0, "black band at a side"
    elif kind < _WHITE_SHARE + _BAND_SHARE + _BLACK_SHARE:
        fill, value, fault = _fill_of_rotation(rows, retina, rng), 0, "black fill"
    else:
        return phantom, None
    if not fill.any():
        return phantom, None
    pixels = np.where(fill, np.uint8(value), phantom.pixels)
    return dataclasses.replace(phantom, pixels=pixels, fill=fill), fault


def _fill_of_rotation(rows: int, retina: tuple[Float32, Float32], rng: Rng) -> Gray:
    """The area that a small random rotation and shift of the whole scan would uncover, without covering the retina.

    The pixels are not moved, so that the true rows stay valid; the result looks the same, as each patient has a random
    tilt. retina: its first and its last row, (columns,) each, in a scan of so many rows. Returns (rows, columns), 1
    where the scan would be uncovered.
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
        fill = np.ones((rows, columns), np.uint8)
        # Not antialiased: the real fill has hard, stepped edges.
        cv2.fillConvexPoly(fill, outline.round().astype(np.int32), [0.0])
        if not _covers_retina(fill, ilm, bruch):
            return fill
        angle, shift = 0.6 * angle, 0.6 * shift
    return np.zeros((rows, columns), np.uint8)


def _covers_retina(fill: Gray, ilm: Float32, bruch: Float32) -> bool:
    """Whether fill comes within 8 rows above the retina or 30 below it, away from the sides."""
    rows, columns = fill.shape
    inner = slice(columns // 20, -columns // 20)
    column = np.arange(columns)[inner]
    above = np.clip(ilm[inner] - 8, 0, rows - 1).astype(np.intp)
    below = np.clip(bruch[inner] + 30, 0, rows - 1).astype(np.intp)
    return bool(fill[above, column].any() or fill[below, column].any())


def _side_band(phantom: Phantom, rng: Rng) -> Gray:
    """A band over the whole height at the left or the right, 1 to 10 % of the width."""
    fill = np.zeros_like(phantom.pixels)
    band = max(int(rng.uniform(0.01, 0.10) * fill.shape[1]), 2)
    side = slice(0, band) if rng.random() < 0.5 else slice(-band, None)
    fill[:, side] = 1
    return fill


def near_duplicate(pixels: Gray, rng: Rng) -> bytes:
    """The same scan as another export might hold it, as JPEG bytes.

    It is moved by up to 4 pixels along both axes, 5 % brighter or darker at most, has another white wedge outside the
    retina, and JPEG quality 70. What the move uncovers is white. pixels: (rows, columns), not changed.
    """
    down, right = (int(step) for step in rng.integers(-_MAX_MOVE, _MAX_MOVE + 1, 2))
    brightness = rng.uniform(1 - _MAX_BRIGHTNESS_CHANGE, 1 + _MAX_BRIGHTNESS_CHANGE)
    first, last = _bright_rows(pixels)
    wedge = _fill_of_rotation(len(pixels), (first + down, last + down), rng)
    translation = np.array([[1, 0, right], [0, 1, down]], np.float32)
    bright = cv2.convertScaleAbs(pixels, alpha=brightness)
    moved = np.asarray(cv2.warpAffine(bright, translation, pixels.shape[::-1], borderValue=[255.0]), np.uint8)
    return encode(np.where(wedge, np.uint8(255), moved), _NEAR_DUPLICATE_QUALITY)


def _bright_rows(pixels: Gray) -> tuple[Float32, Float32]:
    """Estimates of the retina's first row and the last bright row in each column, (columns,) each; fill is ignored."""
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


def add_faults(folder: Path, rng: Rng) -> Counter[str]:
    """Add the faults of the real archive's files to a folder of scans; returns how many of each kind.

    Only the RGB file replaces a scan; all else is added, so every class keeps its scans.
    """
    train = {label: sorted((folder / "train" / label).iterdir()) for label in CLASSES}
    test = {label: sorted((folder / "test" / label).iterdir()) for label in CLASSES}
    added = _add_duplicates(train, test, rng)
    added += _add_invalid_files(train)
    added += _add_near_duplicates([test["CNV"], test["DME"], train["DRUSEN"], train["NORMAL"]], folder / "train", rng)
    added += _add_macos_files(folder, [path for label in CLASSES for path in (*train[label][:12], *test[label])])
    return added


def _add_duplicates(train: Mapping[str, list[Path]], test: Mapping[str, list[Path]], rng: Rng) -> Counter[str]:
    """Add to train, by class: files of test, other bytes under the name of a test file, and files under a new name."""
    added: Counter[str] = Counter()
    for label in ("CNV", "DME"):
        original = _choose(test[label], rng)
        train[label][0].with_name(original.name).write_bytes(original.read_bytes())
        added["file of train and test"] += 1
    for label in ("DRUSEN", "NORMAL"):
        original = _choose(test[label], rng)
        train[label][0].with_name(original.name).write_bytes(encode(_read_gray(original), QUALITY - 10))
        added["name in train and test"] += 1
    for label in CLASSES:
        for _ in range(2):
            original = _choose(train[label], rng)
            _unused(original).write_bytes(original.read_bytes())
            added["byte duplicate under another name"] += 1
    return added


def _add_invalid_files(train: Mapping[str, list[Path]]) -> Counter[str]:
    """Add a truncated JPEG, a web page, a name without a patient id; and make one scan an RGB file."""
    first = {label: paths[0] for label, paths in train.items()}
    whole = first["CNV"].read_bytes()
    first["CNV"].with_name("CNV-9999990-1.jpeg").write_bytes(whole[: len(whole) // 2])
    web_page = b"<!doctype html>\n<title>404 Not Found</title>\n"
    first["NORMAL"].with_name("NORMAL-9999991-1.jpeg").write_bytes(web_page)
    first["DME"].with_name("DME copy.jpeg").write_bytes(encode(_read_gray(first["DME"])))
    colour = train["NORMAL"][-1]
    colour.write_bytes(encode(np.stack([_read_gray(colour)] * 3, axis=-1)))
    return Counter(["truncated JPEG", "not a JPEG", "misnamed file", "RGB JPEG"])


def _add_near_duplicates(groups: Sequence[Sequence[Path]], train: Path, rng: Rng) -> Counter[str]:
    """Add to train a near-duplicate of one file of each group, each under a new patient id."""
    for patient, paths in enumerate(groups, start=_NEAR_DUPLICATE_ID):
        original = _choose(paths, rng)
        label = original.parent.name
        (train / label / f"{label}-{patient}-1.jpeg").write_bytes(near_duplicate(_read_gray(original), rng))
    return Counter({"near-duplicate under another patient id": len(groups)})


def _add_macos_files(folder: Path, scans: Sequence[Path]) -> Counter[str]:
    """Add what macOS leaves: .DS_Store in some folders, and in __MACOSX an AppleDouble file for each scan."""
    folders = (folder, folder / "train", folder / "test" / "DME")
    for parent in folders:
        (parent / ".DS_Store").write_bytes(_DS_STORE)
    for path in scans:
        double = folder / "__MACOSX" / path.relative_to(folder).with_name(f"._{path.name}")
        double.parent.mkdir(parents=True, exist_ok=True)
        double.write_bytes(_APPLE_DOUBLE)
    return Counter({".DS_Store": len(folders), "AppleDouble file": len(scans)})


def _choose(paths: Sequence[Path], rng: Rng) -> Path:
    return paths[int(rng.integers(len(paths)))]


def _read_gray(path: Path) -> Gray:
    encoded = np.frombuffer(path.read_bytes(), np.uint8)  # cv2.imread ends the process for a name that is not UTF-8
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)


def _unused(path: Path) -> Path:
    """The path with the next image number of the same class and patient that has no file."""
    stem, _, text = path.stem.rpartition("-")
    number = int(text)
    while path.exists():
        number += 1
        path = path.with_name(f"{stem}-{number}.jpeg")
    return path
