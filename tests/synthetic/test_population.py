"""How many patients and scans there are of each class."""

from collections import Counter

import pytest

from octprep.synthetic import CLASSES
from octprep.synthetic.population import population


@pytest.mark.parametrize("patients", [150, 6000])
def test_scans_per_patient_are_distributed_as_in_the_archive(patients):
    volumes = population(patients, 0, faults=False)
    counts = sorted(len(volume.scans) for volume in volumes)
    train_counts = sorted(len(volume.scans) for volume in volumes if volume.scans[0][0] == "train")
    assert 11 <= sum(counts) / patients <= 15
    assert 4 <= train_counts[len(train_counts) // 2] <= 7
    assert counts[-1] == 225 >= 1.5 * counts[-2]
    per_class = Counter({label: sum(len(v.scans) for v in volumes if v.label == label) for label in CLASSES})
    assert [label for label, _ in per_class.most_common(2)] == ["CNV", "NORMAL"]


def test_max_scans_caps_the_training_scans_of_a_patient_and_draws_fewer_for_test():
    capped, whole = (population(2000, 0, faults=False, **cap) for cap in ({"max_scans": 2}, {}))
    assert len(capped) == len(whole)
    trained = [sum(split == "train" for split, _ in volume.scans) for volume in capped]
    assert max(trained) == 2
    tested = [sum(split == "test" for volume in each for split, _ in volume.scans) for each in (capped, whole)]
    assert 0 < tested[0] < 0.5 * tested[1]
