"""Images to compare: small random ones, and scans of synthetic patients."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from octprep import duplicates, preprocessing
from octprep.duplicates.descriptors import as_matrix
from octprep.synthetic import CLASSES, draw_appearance, draw_disease, draw_scan
from octprep.synthetic.faults import add_fill, encode

PLANTED = 60  # near-duplicates in the fixture `population`


def random_image(seed: int, shape: tuple[int, int] = (120, 130)) -> np.ndarray:
    """Coarse and fine structure that is different for every seed: (rows, columns) uint8."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), 1)
    coarse = cv2.resize(rng.normal(0, 1, (6, 6)).astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(90 + 40 * coarse + 60 * noise, 0, 255).astype(np.uint8)


def descriptors_of(images: Sequence[np.ndarray]) -> np.ndarray:
    return as_matrix([duplicates.dct_descriptor(pixels) for pixels in images])


def pairs_of(images: Sequence[np.ndarray], patients: Sequence[str]) -> list[duplicates.NearDuplicate]:
    return duplicates.near_identical(descriptors_of(images), patients, images.__getitem__)


def neighbouring_scans(patients: int, scans: int) -> tuple[list[np.ndarray], list[str]]:
    """Decoded scans next to each other in the volumes of synthetic patients, and the patient of each."""
    grays, patient_of = [], []
    for number in range(patients):
        rng = np.random.default_rng([5, number])
        appearance = draw_appearance(rng)
        disease = draw_disease(CLASSES[number % 4], appearance, rng)
        for index in range(scans):
            scan, _ = add_fill(draw_scan(appearance, disease, 0.4 + index / 16, rng), rng)
            grays.append(preprocessing.decode(encode(scan.pixels)))
            patient_of.append(f"patient {number}")
    return grays, patient_of
