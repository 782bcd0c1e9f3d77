"""Ids under two classes are seen to be of one person, or to be counted anew."""

import numpy as np

from octprep.duplicates.descriptors import dct_descriptor
from octprep.inspection.features import ScanFeatures
from octprep.inspection.shared_ids import measure_shared_ids
from octprep.source.files import Scan

RNG = np.random.default_rng(0)


def eye():
    """A smooth random picture, (64, 64)."""
    rows, columns = np.mgrid[:64, :64] / 64
    waves = (RNG.normal(size=2) @ np.array([np.sin(k * rows + RNG.normal()), np.cos(k * columns)]).reshape(2, -1)
             for k in range(1, 12))  # fmt: skip
    picture = sum(waves).reshape(64, 64)
    return 128 + 40 * picture / np.abs(picture).max()


def features(patient, label, picture, number):
    pixels = np.clip(picture + RNG.normal(0, 6, (64, 64)), 0, 255).astype(np.uint8)
    scan = Scan(f"{label}/{patient}-{number}", label, patient, number, "", 1, sha256="", height=64, width=64,
                pixels_sha256=str(RNG.random()))  # fmt: skip
    return ScanFeatures(scan, dct_descriptor(pixels), 0, 0, 0, 0, 0)


def test_scans_of_one_person_are_nearer_than_those_of_two():
    same, anew = [], []
    for patient in map(str, range(30)):
        person = eye()
        for number in range(2):
            same += [features(patient, label, person, number) for label in ("CNV", "DME")]
        for label in ("CNV", "DME"):
            another = eye()
            anew += [features(f"{label}:{patient}", label, another, number) for number in range(2)]
    one_person, counted_anew = measure_shared_ids(same, 0), measure_shared_ids(anew, 0)
    assert (one_person.ids, counted_anew.ids) == (30, 30)
    assert one_person.nearer > 0.95
    assert 0.3 < counted_anew.nearer < 0.7
    assert one_person.comparisons == counted_anew.comparisons == 150


def test_ids_of_one_class_are_not_compared():
    found = measure_shared_ids([features(str(i), "CNV", eye(), 1) for i in range(3)], 0)
    assert (found.ids, found.comparisons) == (0, 0)
