"""A small source folder: JPEGs with the archive's names, drawn in milliseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from octprep.format.manifest import PREPARED_NAME
from octprep.source.files import Scan

SAMPLE = Path(__file__).parents[3] / "shared" / "oct2017-sample" / "OCT2017"
SAMPLE_2 = SAMPLE.parents[1] / "oct2017-sample-2"
CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


def draw_scan(key: str, height: int = 96, width: int = 128) -> np.ndarray:
    """A bright band on speckle, different for every key: (height, width) uint8."""
    rng = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    rows = np.arange(height)[:, None] - height * 0.5 - 6 * np.sin(np.linspace(0, 3, width) + rng.uniform(0, 6))
    band = 150 * np.exp(-((rows / 10) ** 2)) + 25
    return np.clip(band * rng.gamma(4, 1 / 4, (height, width)), 0, 255).astype(np.uint8)


def write_scan(path: Path, key: str | None = None, quality: int = 80) -> Path:
    """Write the scan of a key, by default of the path, as a JPEG; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = draw_scan(key or path.as_posix())
    path.write_bytes(cv2.imencode(".jpeg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    return path


def write_folder(root: Path, names: Iterable[str]) -> Path:
    """Scans under root, one for each name such as train/CNV-12-3 (folder/CLASS-patient-number)."""
    for name in names:
        write_scan(root / path_of(name), key=name)
    return root


def path_of(name: str) -> str:
    """A name such as train/CNV-12-3 as a path, train/CNV/CNV-12-3.jpeg."""
    folder, _, stem = name.rpartition("/")
    return f"{folder}/{stem.split('-')[0]}/{stem}.jpeg".lstrip("/")


def archive(patients: int = 4, images: Mapping[str, int] | None = None) -> list[str]:
    """Names of a small archive: per class some patients in train and two in test, with skewed numbers of images."""
    images = images or {"CNV": 5, "DME": 2, "DRUSEN": 1, "NORMAL": 3}
    names = []
    for index, label in enumerate(CLASSES):
        for patient in range(patients):
            names += [f"train/{label}-{index * 100 + patient}-{n}" for n in range(1, images[label] + patient + 1)]
        names += [f"test/{label}-{index * 100 + 50 + patient}-1" for patient in range(2)]
    return names


def scan(path: str, *, content: str | None = None) -> Scan:
    """The Scan of a path train/CNV/CNV-12-3.jpeg, without a file. content: equal for scans with equal bytes."""
    *folders, name = path.split("/")
    label, patient, number = name.removesuffix(".jpeg").split("-")
    digest = hashlib.sha256((content or path).encode()).digest()
    folder = folders[0] if len(folders) > 1 else ""
    return Scan(path, label, patient, int(number), folder, 1000, digest, 496, 512)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file under a folder with its content, but for what depends on the times of the source's files."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != PREPARED_NAME]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
