"""The patients of a synthetic data set: the classes they have, and the splits in which their scans lie."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from octprep.synthetic.difficulty import Rng
from octprep.synthetic.disease import CLASSES

# Fractions of the patients, near the archive's fractions of images.
FRACTIONS: Mapping[str, float] = {"CNV": 0.36, "DME": 0.17, "DRUSEN": 0.16, "NORMAL": 0.31}
_MIN_PATIENTS_PER_CLASS = 6  # two in test, one in val, three in train
MIN_PATIENTS = _MIN_PATIENTS_PER_CLASS * len(CLASSES)
_VAL_SCANS = 4  # of each class
MAX_SCANS = 225  # training scans of the patient who has most, as CNV-1016042 has in the archive
_MAX_OTHER_SCANS = 150  # training scans of any other patient
TWO_CLASS_PATIENTS = (("CNV", "DRUSEN"), ("DME", "NORMAL"), ("NORMAL", "CNV"))  # first and second class of each


@dataclass(frozen=True, kw_only=True)
class Volume:
    """The scans of one patient that show one class."""

    index: int  # of the patient; seeds the appearance
    patient: str
    label: str
    scans: tuple[tuple[str, int], ...]  # source split and image number of each, in the order of the volume


def population(
    patients: int,
    seed: int,
    *,
    faults: bool,
    class_mix: Mapping[str, float] = FRACTIONS,
    max_scans: int = MAX_SCANS,
) -> list[Volume]:
    """The volumes of so many patients, at least MIN_PATIENTS.

    class_mix: the share of each class of CLASSES among the patients, in proportion; but a class has at least
    _MIN_PATIENTS_PER_CLASS of them, and val and test hold as many scans of each.
    max_scans: training scans of one patient and class, at most, but for the few patients of two classes.
    With `faults` some patients of test have scans in train or val too, and some patients of train have two classes.
    """
    rng = np.random.default_rng([seed, 1])
    ids = [str(number) for number in rng.choice(np.arange(1000, 9_990_000), patients, replace=False)]
    test_patients = max(2, patients // 25)  # of each class
    test_scans = min(max(2 * test_patients, patients // 3), test_patients * max(max_scans, 2))
    test_splits = _test_splits(test_patients, test_scans, faults=faults)
    volumes = []
    for label, indexes in _patients_per_class(patients, class_mix).items():
        counts = _scans_per_patient(len(indexes) - test_patients - 1, rng)
        if label == "CNV":  # one patient has far more scans than all others
            counts[counts.index(max(counts))] = min(patients * 3 // 2, MAX_SCANS)
        counts = [min(count, max_scans) for count in counts]
        splits = [*test_splits, ["val"] * (_VAL_SCANS - 2 * faults), *(["train"] * count for count in counts)]
        for index, names in zip(indexes, splits, strict=True):
            scans = tuple((name, number) for number, name in enumerate(names, start=1))
            volumes.append(Volume(index=index, patient=ids[index], label=label, scans=scans))
    return volumes + (_second_classes(volumes) if faults else [])


def _test_splits(patients: int, scans: int, *, faults: bool) -> list[list[str]]:
    """The splits of the scans of a class's patients in test, who share so many test scans as equally as possible."""
    splits = [["test"] * (scans // patients + (turn < scans % patients)) for turn in range(patients)]
    if faults:
        splits[0] += ["train"] * 2
        splits[1] += ["val"] * 2
    return splits


def _scans_per_patient(patients: int, rng: Rng) -> list[int]:
    """Numbers of training scans: a median of about five, with a long tail of up to _MAX_OTHER_SCANS.

    These are the quantiles of a log-normal distribution in random order; of few random draws, one could outweigh a
    class.
    """
    normal = NormalDist(1.5, 1.5)
    counts = [1 + int(math.exp(normal.inv_cdf((rank + 0.5) / patients))) for rank in range(patients)]
    return [min(int(count), _MAX_OTHER_SCANS) for count in rng.permutation(counts)]


def _patients_per_class(patients: int, class_mix: Mapping[str, float]) -> dict[str, list[int]]:
    """Indexes of patients by class, in these proportions but at least _MIN_PATIENTS_PER_CLASS of each."""
    share = {label: class_mix[label] / sum(class_mix.values()) for label in CLASSES}
    sizes = {label: max(_MIN_PATIENTS_PER_CLASS, round(share[label] * patients)) for label in CLASSES}
    while sum(sizes.values()) != patients:
        step = 1 if sum(sizes.values()) < patients else -1
        sizes[max(sizes, key=lambda label: (sizes[label], label))] += step
    indexes = iter(range(patients))
    return {label: [next(indexes) for _ in range(sizes[label])] for label in CLASSES}


def _second_classes(volumes: Sequence[Volume]) -> list[Volume]:
    """Two scans of a second class, such as the other eye's, for a few training patients."""
    second = []
    for label, other_label in TWO_CLASS_PATIENTS:
        first = next(v for v in volumes if v.label == label and {split for split, _ in v.scans} == {"train"})
        scans = (("train", 1), ("train", 2))
        second.append(Volume(index=first.index, patient=first.patient, label=other_label, scans=scans))
    return second


def wrong_labels(volumes: Sequence[Volume], fraction: float, seed: int) -> list[dict[int, str]]:
    """For each volume, the class under which some of its training scans are to lie: image number -> wrong class.

    They are a fraction of all training scans, drawn from the seed. Each other class is equally likely; of a patient who
    has two classes, each has a wrong one of its own, so that no two scans get one name.
    """
    rng = np.random.default_rng([seed, 4])
    training = [
        (index, number) for index, volume in enumerate(volumes) for split, number in volume.scans if split == "train"
    ]
    wrong: list[dict[int, str]] = [{} for _ in volumes]
    if not fraction:
        return wrong
    own: dict[str, list[str]] = defaultdict(list)
    for volume in volumes:
        own[volume.patient].append(volume.label)
    for turn in rng.choice(len(training), round(fraction * len(training)), replace=False):
        index, number = training[turn]
        labels = own[volumes[index].patient]
        others = [label for label in CLASSES if label not in labels][labels.index(volumes[index].label) :: len(labels)]
        wrong[index][number] = others[int(rng.integers(len(others)))]
    return wrong
