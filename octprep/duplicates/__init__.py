"""Duplicates: scans with the same content, and near-duplicates, whose pixels are nearly the same under another id.

`exact` finds scans with the same bytes or the same stored pixels, and decides which of them are kept.

An archive may also hold one B-scan twice, encoded again, shifted by some pixels, turned by up to two degrees,
brightened or with other fill, under two patient ids. Such pairs are found by `search`, in steps of which each leaves
far fewer pairs than the one before:

1. every stored image is described by 256 low-frequency DCT coefficients, one byte each (`descriptors`);
2. locality-sensitive hashing (LSH) with multiprobe gives the pairs whose hash bits agree in a band (`lsh`);
3. the descriptors must be nearly equal once a turn, a shift and a stretch between them are fitted (`descriptors`);
4. the images are registered (ECC), and their fine detail, speckle included, must correlate (NCC; `registration`).

`file` reads and writes duplicates.json, `distances` measures how far apart descriptors are in general.

Numbers in these modules were measured on 224x224 images as the default settings give: on 1,600 synthetic scans of 500
patients and 38 real scans of OCT2017, and 600 and 38 near-duplicates of them (shifted by up to 4 pixels, +-5 %
brightness, other fill, JPEG quality 70), unless they say otherwise. Those on turned scans are of 96 real scans, turned
by 0.5, 1, 1.5 and 2 degrees both ways, with white or black fill, shifted by up to 4 pixels, at JPEG quality 75 to 95:
737 of 768 are found under a new id among 2,700 scans, and of 384 that were not turned 382; no other two patients are
paired. benchmarks/near_duplicates.py measures the whole on 10,000 synthetic scans.
"""

from octprep.duplicates.descriptors import DESCRIPTOR_BYTES, MAX_ALIGNED_DISTANCE, dct_descriptor
from octprep.duplicates.distances import Distances, measure_distances
from octprep.duplicates.registration import MIN_CORRELATION, MIN_PIXELS, detail_correlation, is_comparable
from octprep.duplicates.search import NearDuplicate, near_identical

__all__ = [
    "DESCRIPTOR_BYTES",
    "MAX_ALIGNED_DISTANCE",
    "MIN_CORRELATION",
    "MIN_PIXELS",
    "Distances",
    "NearDuplicate",
    "dct_descriptor",
    "detail_correlation",
    "is_comparable",
    "measure_distances",
    "near_identical",
]
