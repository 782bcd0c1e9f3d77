"""DCT descriptors of stored images, and two distances between them.

A descriptor holds the lowest 16x16 coefficients of the orthonormal 2-D discrete cosine transform of a 32x32 thumbnail
with mean 0 and std 1. With A and B such coefficients of two images and M = (A + B) / 2,

    raw_distance     = ||B - A|| / ||M||
    aligned_distance = min over x of ||B - A - C x|| / ||M||,   C = [M, S'M, T'M, MS, MT]

The five columns of C are what a small change does to M, to first order: of contrast, of a vertical shift and stretch,
and of a horizontal shift and stretch (registration by linear least squares: Lucas and Kanade, IJCAI 1981). S and T are
the operators d/du and (u - 1/2) d/du, which act linearly on DCT coefficients, so no inverse transform is needed.
Linearised about the mean of the two, the distance is symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from octprep.arrays import Bytes, Float32, Gray
from octprep.duplicates.registration import strip_letterbox

SIDE = 16  # frequencies along each axis that a descriptor holds
DESCRIPTOR_BYTES = SIDE * SIDE
QUANTISATION = 22.0  # a coefficient c is stored as sign(c) * 22 * sqrt(|c|); |c| is below 32, so it fits in an int8
_THUMBNAIL = 32  # pixels a side to which an image is reduced before its frequencies are taken
_MIN_STD = 1e-3  # gray levels below which an image is constant

# Scans whose `aligned_distance` is larger are not compared on pixels. Near-duplicates: 0.19 for all but 0.5 %;
# flattened ones 0.29. Different patients: none of 700,000 pairs of one archive of 100 patients is nearer than 0.32.
MAX_ALIGNED_DISTANCE = 0.30
# Scans whose `raw_distance` is larger are not aligned. Near-duplicates: 0.56 for all but 0.5 %.
MAX_RAW_DISTANCE = 0.65


def dct_descriptor(pixels: Gray) -> bytes:
    """The lowest DCT coefficients of a stored image, quantised: DESCRIPTOR_BYTES bytes, int8, row by row.

    pixels: (rows, columns) uint8, at least 16 a side. Black bars of equal width at opposite sides, as --resize pad
    adds, are cut off first. Mean and contrast are normalised, so brightness has no influence; a constant image gives
    zeros.
    """
    thumbnail = cv2.resize(strip_letterbox(pixels), (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    thumbnail = thumbnail.astype(np.float32)
    thumbnail -= thumbnail.mean()
    std = float(thumbnail.std())
    if std < _MIN_STD:
        return bytes(DESCRIPTOR_BYTES)
    low = cv2.dct(thumbnail / np.float32(std))[:SIDE, :SIDE]
    quantised = np.sign(low) * np.sqrt(np.abs(low)) * np.float32(QUANTISATION)
    return np.clip(np.rint(quantised), -127, 127).astype(np.int8).tobytes()


def as_matrix(descriptors: Sequence[bytes]) -> Bytes:
    """Descriptors as rows: (scans, DESCRIPTOR_BYTES) uint8."""
    return np.frombuffer(b"".join(descriptors), np.uint8).reshape(len(descriptors), DESCRIPTOR_BYTES)


def coefficients(descriptors: Bytes) -> Float32:
    """(n, DESCRIPTOR_BYTES) uint8 -> (n, 16, 16) DCT coefficients."""
    return _dequantised().take(descriptors).reshape(-1, SIDE, SIDE)


@lru_cache(maxsize=1)
def _dequantised() -> Float32:
    """The coefficient that each byte of a descriptor stands for, (256,)."""
    root = np.arange(256, dtype=np.uint8).view(np.int8) / QUANTISATION
    return np.asarray(np.sign(root) * root**2, np.float32)


def raw_distance(first: Float32, second: Float32) -> Float32:
    """||B - A|| / ||M|| of coefficients (n, 16, 16) each; (n,): 0 for equal images, towards 2 for unrelated ones."""
    first, second = first.reshape(-1, DESCRIPTOR_BYTES), second.reshape(-1, DESCRIPTOR_BYTES)
    squares = np.einsum("np,np->n", first, first) + np.einsum("np,np->n", second, second)
    twice_product = 2 * np.einsum("np,np->n", first, second)
    ratio = np.maximum(squares - twice_product, 0) / np.maximum(squares + twice_product, 1e-6)
    return np.asarray(2 * np.sqrt(ratio), np.float32)


def aligned_distance(first: Float32, second: Float32) -> Float32:
    """What differs beyond contrast, a shift and a stretch along both axes: of coefficients (n, 16, 16) each; (n,).

    The minimum follows from the normal equations (C'C + e I) x = C'(B - A), with a small ridge e:
    min ||B - A - C x||^2 = ||B - A||^2 - x' C'(B - A).
    """
    shift, stretch = _shift_stretch_operators()
    mean = (first + second) / 2
    # Matrix by matrix: as one long product BLAS would start its threads for it, at many times the cost.
    columns = np.stack([mean, shift.T @ mean, stretch.T @ mean, mean @ shift, mean @ stretch], axis=1)
    columns = columns.reshape(len(first), 5, DESCRIPTOR_BYTES)
    gram = np.einsum("nip,njp->nij", columns, columns)
    difference = (second - first).reshape(len(first), DESCRIPTOR_BYTES, 1)
    moments = columns @ difference
    energy = np.einsum("nii->ni", gram)
    gram = gram + (1e-5 * energy.mean(axis=1) + 1e-9)[:, None, None] * np.eye(5, dtype=np.float32)
    explained = (np.linalg.solve(gram, moments) * moments).sum(axis=(1, 2))
    residual = np.maximum(np.einsum("npi,npi->n", difference, difference) - explained, 0)
    return np.asarray(np.sqrt(residual / np.maximum(energy[:, 0], 1e-6)), np.float32)


@lru_cache(maxsize=1)
def _shift_stretch_operators() -> tuple[Float32, Float32]:
    """S and T, (16, 16) each: row vectors of coefficients times S or T are those of a small shift or stretch."""
    frequency = np.arange(SIDE)[:, None]
    u = (np.arange(SIDE) + 0.5) / SIDE
    scale = np.asarray(np.where(frequency == 0, np.sqrt(1 / SIDE), np.sqrt(2 / SIDE)))
    cosines = scale * np.cos(np.pi * frequency * u)
    slopes = -scale * np.pi * frequency * np.sin(np.pi * frequency * u)
    return (slopes @ cosines.T).astype(np.float32), ((slopes * (u - 0.5)) @ cosines.T).astype(np.float32)
