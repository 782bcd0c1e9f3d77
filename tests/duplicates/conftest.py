"""Scans of 200 synthetic patients, two of each, and near-duplicates of some under other ids."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks.near_duplicates import RECIPES
from octprep import preprocessing
from octprep.synthetic.faults import near_duplicate
from tests.duplicates.images import PLANTED, neighbouring_scans


@dataclass(frozen=True)
class Population:
    """Near-duplicates come last: the i-th is of the scan with the index originals[i]."""

    patients: list[str]
    originals: list[int]
    stored: Callable[[str], list[np.ndarray]]  # stored pixels of all scans, by the name of a recipe

    @property
    def planted_pairs(self) -> set[tuple[int, int]]:
        first = len(self.patients) - PLANTED
        return {(original, first + number) for number, original in enumerate(self.originals)}

    @property
    def people(self) -> list[str]:
        """The patient of each scan; of a near-duplicate the one that its original is of."""
        return self.patients[self.genuine] + [self.patients[original] for original in self.originals]

    @property
    def genuine(self) -> slice:
        """The scans that are not planted."""
        return slice(len(self.patients) - PLANTED)


@pytest.fixture(scope="session")
def population():
    grays, patients = neighbouring_scans(200, 2)
    rng = np.random.default_rng(6)
    originals = [int(index) for index in rng.choice(len(grays), PLANTED, replace=False)]
    grays += [preprocessing.decode(near_duplicate(grays[index], rng)) for index in originals]
    patients += [f"planted {number}" for number in range(PLANTED)]
    cache: dict[str, list[np.ndarray]] = {}

    def stored(recipe: str) -> list[np.ndarray]:
        if recipe not in cache:
            cache[recipe] = [preprocessing.preprocess(gray, RECIPES[recipe]).pixels for gray in grays]
        return cache[recipe]

    return Population(patients, originals, stored)
