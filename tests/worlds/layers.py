"""Scans with a known position of the retina, drawn in milliseconds."""

from __future__ import annotations

import cv2
import numpy as np

VITREOUS, RETINA, EPITHELIUM = 14, 110, 190  # mean gray levels


def layered(
    tilt: float, bow: float, level: float = 260, width: int = 512, thickness: int = 80
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bright band on dim speckle: pixels, (496, width) uint8, and its upper and lower edge in rows, (width,) each."""
    rng = np.random.default_rng(5)
    x = np.linspace(-1, 1, width)
    lower = level + tilt * x - bow * x**2
    rows = np.arange(496)[:, None]
    image = np.where((rows > lower - thickness) & (rows < lower), RETINA, VITREOUS)
    image = np.where((rows > lower - 8) & (rows < lower), EPITHELIUM, image)
    return np.clip(image * rng.gamma(6, 1 / 6, image.shape), 0, 255).astype(np.uint8), lower - thickness, lower


def jpeg(pixels: np.ndarray, quality: int = 95) -> bytes:
    return cv2.imencode(".jpeg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
