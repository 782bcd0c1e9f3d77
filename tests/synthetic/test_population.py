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
