"""Ids under two classes are seen to be of one person, or that each class has ids of its own."""

import numpy as np

from octprep.duplicates.descriptors import dct_descriptor
from octprep.inspection.features import ScanFeatures
from octprep.inspection.shared_ids import bare_id, measure_shared_ids
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
    digests = bytes(32) + RNG.bytes(32)
    scan = Scan(f"{label}/{patient}-{number}", label, patient, number, "", 1, digests=digests, height=64, width=64)
    return ScanFeatures(scan, dct_descriptor(pixels), 0, 0, 0, 0, 0)


def test_scans_of_one_person_are_nearer_than_those_of_two():
    same, separate = [], []
    for patient in map(str, range(30)):
        person = eye()
        for number in range(2):
            same += [features(patient, label, person, number) for label in ("CNV", "DME")]
        for label in ("CNV", "DME"):
            another = eye()
            separate += [features(f"{label}:{patient}", label, another, number) for number in range(2)]
    one_person, two_people = measure_shared_ids(same, 0), measure_shared_ids(separate, 0)
    assert (one_person.ids, two_people.ids) == (30, 30)
    assert one_person.nearer > 0.95
    assert 0.3 < two_people.nearer < 0.7
    assert one_person.comparisons == two_people.comparisons == 150


def test_ids_of_one_class_are_not_compared():
    found = measure_shared_ids([features(str(i), "CNV", eye(), 1) for i in range(3)], 0)
    assert (found.ids, found.comparisons) == (0, 0)


def test_the_name_of_a_source_before_an_id_is_not_taken_for_a_class():
    def id_of(patient):
        return bare_id(Scan("p", "DME", patient, 0, "", 1, digests=b"", height=64, width=64, source="clinic"))

    assert id_of("clinic:7") == "clinic:7"
    assert id_of("clinic:DME:7") == "clinic:7"
