"""DCT descriptors of stored images, and two distances between them.

A descriptor holds the lowest 16x16 coefficients of the orthonormal 2-D discrete cosine transform of a 32x32 thumbnail
with mean 0 and std 1, sheared so that the retina is level: its columns are moved up or down along the line that fits
the rows of their light best. With A and B such coefficients of two images and M = (A + B) / 2,

    raw_distance     = ||B - A|| / ||M||
    aligned_distance = min over x of ||B - A - C x|| / ||M||,   C = [M, S'M, T'M, MS, MT, S'MU]

The six columns of C are what a small change does to M, to first order: of contrast, of a vertical shift and stretch, of
a horizontal shift and stretch, and of a turn (registration by linear least squares: Lucas and Kanade, IJCAI 1981). S,
T and U are the operators d/du, (u - 1/2) d/du and (u - 1/2), which act linearly on DCT coefficients, so no inverse
transform is needed. Linearised about the mean of the two, the distance is symmetric.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import cv2
import numpy as np

from octprep.arrays import Bytes, Float32, Gray
from octprep.duplicates.registration import strip_letterbox

SIDE = 16  # frequencies along each axis that a descriptor holds
DESCRIPTOR_BYTES = SIDE * SIDE
QUANTISATION = 22.0  # a coefficient c is stored as sign(c) * 22 * sqrt(|c|); |c| is below 32, so it fits in an int8
_THUMBNAIL = 32  # pixels a side to which an image is reduced before its frequencies are taken
_PLACE = np.arange(_THUMBNAIL, dtype=np.float32) - np.float32((_THUMBNAIL - 1) / 2)  # of its rows and columns
_MIN_STD = 1e-3  # gray levels below which an image is constant
_CHANGES = 6  # columns of C

# Scans whose `aligned_distance` is larger are not compared on pixels. Near-duplicates of 96 real scans: 382 of 384 are
# nearer than 0.26; turned by up to 2 degrees 731 of 768 are, and 742 nearer than 0.31. Different patients: the nearest
# of 3,947 pairs of real scans are 0.41 apart; synthetic scans resemble one another more, and 17,000 pairs of 20,000
# scans in what benchmarks/near_duplicates.py takes for the archive are compared on pixels, 1.5 ms each (29,000 with
# 0.34; 8,000 when descriptors were not levelled, which found half of the turned scans).
MAX_ALIGNED_DISTANCE = 0.31
# Scans whose `raw_distance` is larger are not aligned. Near-duplicates turned by 2 degrees: 0.65 for all but 5 %. Of
# the pairs of two patients 3.6 % are nearer, of which few pass the hashing.
MAX_RAW_DISTANCE = 0.75


def dct_descriptor(pixels: Gray) -> bytes:
    """The lowest DCT coefficients of a stored image, quantised: DESCRIPTOR_BYTES bytes, int8, row by row.

    pixels: (rows, columns) uint8, at least 16 a side. Black bars of equal width at opposite sides, as --resize pad
    adds, are cut off first. Mean and contrast are normalised, so brightness has no influence; a constant image gives
    zeros.
    """
    thumbnail = cv2.resize(strip_letterbox(pixels), (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    levelled = _levelled(thumbnail.astype(np.float32))
    mean, std = (float(value[0, 0]) for value in cv2.meanStdDev(levelled))
    if std < _MIN_STD:
        return bytes(DESCRIPTOR_BYTES)
    low = cv2.dct((levelled - np.float32(mean)) / np.float32(std))[:SIDE, :SIDE]
    quantised = np.copysign(np.sqrt(np.abs(low)), low) * np.float32(QUANTISATION)
    return np.rint(quantised).astype(np.int8).tobytes()


def _levelled(thumbnail: Float32) -> Float32:
    """A thumbnail with its columns moved up or down so that the retina is level.

    The slope is that of the line through the mean rows of the columns' light above the median gray level, by least
    squares weighted with the root of that light: near-identical scans that are turned give nearly the same thumbnail.
    """
    middle = thumbnail.size // 2
    light = np.maximum(thumbnail - np.partition(thumbnail, middle, axis=None)[middle], 0)
    in_column = light.sum(axis=0) + np.float32(_MIN_STD)
    weight = np.sqrt(in_column)
    column = _PLACE - np.float32((weight @ _PLACE) / weight.sum())
    weight *= column
    slope = float((weight @ ((_PLACE @ light) / in_column)) / (weight @ column))
    shear = np.array([[1, 0, 0], [slope, 1, slope * _PLACE[0]]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (_THUMBNAIL, _THUMBNAIL)
    return np.asarray(cv2.warpAffine(thumbnail, shear, size, flags=flags, borderMode=cv2.BORDER_REFLECT), np.float32)


def as_matrix(descriptors: Iterable[bytes]) -> Bytes:
    """Descriptors as rows: (scans, DESCRIPTOR_BYTES) uint8. One after the other is asked for and forgotten."""
    joined = bytearray()
    for descriptor in descriptors:
        joined += descriptor
    return np.frombuffer(joined, np.uint8).reshape(-1, DESCRIPTOR_BYTES)


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
    """What differs beyond contrast, a turn, and a shift and a stretch along both axes; (n,).

    first, second: coefficients, (n, 16, 16) each. The minimum follows from the normal equations (C'C + e I) x =
    C'(B - A), with a small ridge e: min ||B - A - C x||^2 = ||B - A||^2 - x' C'(B - A).
    """
    shift, stretch, place = _operators()
    mean = (first + second) / 2
    # Matrix by matrix: as one long product BLAS would start its threads for it, at many times the cost.
    down = shift.T @ mean
    columns = np.stack([mean, down, stretch.T @ mean, mean @ shift, mean @ stretch, down @ place], axis=1)
    columns = columns.reshape(len(first), _CHANGES, DESCRIPTOR_BYTES)
    gram = _gram(np.asarray(columns, np.float32))
    difference = (second - first).reshape(len(first), DESCRIPTOR_BYTES, 1)
    moments = columns @ difference
    energy = np.einsum("nii->ni", gram)
    gram = gram + (1e-5 * energy.mean(axis=1) + 1e-9)[:, None, None] * np.eye(_CHANGES, dtype=np.float32)
    explained = (np.linalg.solve(gram, moments) * moments).sum(axis=(1, 2))
    residual = np.maximum(np.einsum("npi,npi->n", difference, difference) - explained, 0)
    return np.asarray(np.sqrt(residual / np.maximum(energy[:, 0], 1e-6)), np.float32)


def _gram(columns: Float32) -> Float32:
    """The products of every two of (n, columns, length) vectors, (n, columns, columns), each computed once."""
    count = columns.shape[1]
    gram = np.empty((len(columns), count, count), np.float32)
    for i in range(count):
        gram[:, i, i:] = gram[:, i:, i] = np.einsum("np,njp->nj", columns[:, i], columns[:, i:])
    return gram


@lru_cache(maxsize=1)
def _operators() -> tuple[Float32, Float32, Float32]:
    """S, T and U, (16, 16) each: row vectors of coefficients times one of them are those of the image it gives."""
    frequency = np.arange(SIDE)[:, None]
    u = (np.arange(SIDE) + 0.5) / SIDE
    scale = np.asarray(np.where(frequency == 0, np.sqrt(1 / SIDE), np.sqrt(2 / SIDE)))
    cosines = scale * np.cos(np.pi * frequency * u)
    slopes = -scale * np.pi * frequency * np.sin(np.pi * frequency * u)
    operators = (slopes @ cosines.T, (slopes * (u - 0.5)) @ cosines.T, (cosines * (u - 0.5)) @ cosines.T)
    shift, stretch, place = (operator.astype(np.float32) for operator in operators)
    return shift, stretch, place
