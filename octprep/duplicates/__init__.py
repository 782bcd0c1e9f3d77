"""Scans of different patients that show the same picture: near-identical pixels under another id.

An archive may hold one B-scan twice, encoded again, moved by some pixels, brightened or with other fill at its border,
under two patient ids. The bytes do not tell, so each stored image is described by `describe` in 256 bytes, and
`near_identical` looks for pairs in four steps, each of which leaves far fewer than the one before:

1. hash bits of the descriptors, cut into bands, must agree in one band (`hashing`);
2. most hash bits must agree (`hashing`);
3. the descriptors must be nearly equal once a shift and a stretch between them are fitted (`descriptors`);
4. the fine detail of the pixels, speckle too, must correlate where they lie on each other (`detail`).

Numbers in these modules are of 224x224 images as the default recipe gives: of 1,600 phantoms of 500 patients and 38
real scans of OCT2017, and of 600 and 38 near-identical copies (moved by up to 4 pixels, +-5 % brightness, another
wedge, JPEG quality 70). benchmarks/likeness.py measures the whole on 10,000 phantoms.
"""

from octprep.duplicates.descriptors import DESCRIPTOR, NEAR, Distances, describe, distances
from octprep.duplicates.registration import SMALLEST, THRESHOLD, comparable, correlation
from octprep.duplicates.search import Pair, near_identical

__all__ = [
    "DESCRIPTOR",
    "NEAR",
    "SMALLEST",
    "THRESHOLD",
    "Distances",
    "Pair",
    "comparable",
    "correlation",
    "describe",
    "distances",
    "near_identical",
]
