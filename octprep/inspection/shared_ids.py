"""Whether a patient id under several classes is of one person: what the scans show for it or against it.

Scans of one person resemble each other more than those of two, and archives do not say whether ids hold across classes
or each class has ids of its own. For every id under two classes, the nearest pair of its scans, one of each class, is
compared with the nearest pair where the scans of the second class are those of another id; by the distance of
descriptors. If each class has ids of its own, either is the nearer one in half of the comparisons.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from octprep.arrays import Float32
from octprep.duplicates.descriptors import aligned_distance, as_matrix, coefficients
from octprep.format.seeding import seeded_hash
from octprep.inspection.features import ScanFeatures
from octprep.source.files import Scan

_MAX_IDS = 500  # that are compared
_MAX_SCANS = 20  # of an id in a class
_OTHERS = 5  # ids that each is compared with


@dataclass(frozen=True)
class SharedIds:
    """Ids under several classes, and how near the scans of each are."""

    ids: int  # under several classes
    comparisons: int  # with scans of another id
    nearer: float  # the share of them in which the scans of the one id are the nearer ones; 0.5 is chance
    same_content: int  # ids with the same stored pixels under two classes


def measure_shared_ids(scan_features: Sequence[ScanFeatures], seed: int) -> SharedIds:
    """Compare the scans of each id under two classes, as far as there are other ids under the second class."""
    of_id: dict[str, dict[str, list[ScanFeatures]]] = defaultdict(lambda: defaultdict(list))
    for item in scan_features:
        of_id[bare_id(item.scan)][item.scan.label].append(item)
    several = sorted(key for key, of_class in of_id.items() if len(of_class) > 1)
    wins: list[float] = []
    same_content = 0
    for key in sorted(several, key=lambda key: seeded_hash(key, seed))[:_MAX_IDS]:
        same_content += _has_same_content(of_id[key])
        for first, second in combinations(sorted(of_id[key]), 2):
            others = [other for other, of_class in of_id.items() if other != key and second in of_class]
            for other in sorted(others, key=lambda other: seeded_hash(f"{key} {other}", seed))[:_OTHERS]:
                own, others_scans = of_id[key][second], of_id[other][second]
                count = min(len(own), len(others_scans))
                near = _nearest(of_id[key][first], own[:count])
                far = _nearest(of_id[key][first], others_scans[:count])
                wins.append(0.5 if near == far else float(near < far))
    return SharedIds(len(several), len(wins), float(np.mean(wins)) if wins else 0.5, same_content)


def bare_id(scan: Scan) -> str:
    """The id without the class before it, where ids hold within a class only."""
    source = f"{scan.source}:" if scan.source else ""
    return source + scan.patient.removeprefix(source).removeprefix(f"{scan.label}:")


def _nearest(first: Sequence[ScanFeatures], second: Sequence[ScanFeatures]) -> float:
    """The smallest distance between two sets of scans."""
    rows, columns = _descriptors(first), _descriptors(second)
    pairs = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
    chosen = np.array(pairs, np.intp)
    return float(aligned_distance(rows[chosen[:, 0]], columns[chosen[:, 1]]).min())


def _descriptors(items: Sequence[ScanFeatures]) -> Float32:
    return coefficients(as_matrix([item.descriptor for item in items[:_MAX_SCANS]]))


def _has_same_content(of_class: dict[str, list[ScanFeatures]]) -> bool:
    contents = [{item.scan.pixel_digest for item in items} for items in of_class.values()]
    return any(first & second for first, second in combinations(contents, 2))
