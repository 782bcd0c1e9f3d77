"""Whether the frozen numbers of `octtrain calibrate` keep what they promise, in simulated worlds where truth is known.

    python -m benchmarks.calibration --worlds 1000

A population of patients is drawn once. Each has a class, from 1 to 150 scans, and errors of the model in common, so
that scans of a patient are alike. A world is a val split: patients drawn from the population, each with all scans. A
threshold is chosen on it as the program does it, and its true sensitivity, or error among the answers, is that of the
population. A promise is kept in a world if the true value keeps the level, or if no threshold is given. Beside it the
same thresholds are chosen as if every scan were of a patient of its own.

In the population without confidence, the model is as confident where it is wrong as where it is right, and its error is
a little above the level at every threshold: any threshold given breaks the promise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octtrain.calibration.abstention import answer_rates, choose_abstention
from octtrain.calibration.operating_points import choose_threshold, referral_rates
from octtrain.calibration.temperature import fit_temperature

CLASSES, URGENT = 4, 2  # the first two of the classes are urgent
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scans:
    """Predictions for the scans of some patients."""

    probabilities: Floats  # (n, CLASSES)
    truth: Ints  # (n,)
    patient: Ints  # (n,) number from 0

    @property
    def score(self) -> Floats:
        """(n,) of referral."""
        return self.probabilities[:, :URGENT].sum(axis=1)

    @property
    def urgent(self) -> NDArray[np.bool_]:
        """(n,) whether the class is urgent."""
        return self.truth < URGENT

    @property
    def confidence(self) -> Floats:
        """(n,) of the most probable class."""
        return self.probabilities.max(axis=1)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(n,) whether the most probable class is right."""
        return self.probabilities.argmax(axis=1) == self.truth


def draw_population(
    rng: np.random.Generator, patients: int, *, shared: float, many_scans: bool, signal: float = 5.0
) -> Scans:
    """A population. shared: the part of the variance of the logits' errors that scans of a patient share, 0..1.

    signal: of the true class in the logits, whose errors have a standard deviation of 2.2.
    """
    counts = np.ones(patients, int)
    if many_scans:
        counts = np.minimum(np.ceil(3 * rng.pareto(1.1, patients)) + 1, 150).astype(int)
    patient = np.repeat(np.arange(patients), counts)
    truth = rng.integers(CLASSES, size=patients)[patient]
    common = rng.normal(size=(patients, CLASSES))[patient]
    own = rng.normal(size=(len(patient), CLASSES))
    errors = 2.2 * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
    return Scans(softmax(signal * np.eye(CLASSES)[truth] + errors), truth, patient)


def draw_uninformed(rng: np.random.Generator, patients: int, error: float) -> Scans:
    """A population of one scan a patient, whose confidence does not depend on whether the prediction is right."""
    truth = rng.integers(CLASSES, size=patients)
    predicted = np.where(rng.random(patients) < error, (truth + 1) % CLASSES, truth)
    return Scans(softmax(rng.exponential(4, (patients, 1)) * np.eye(CLASSES)[predicted]), truth, np.arange(patients))


def draw_world(population: Scans, rng: np.random.Generator, patients: int) -> Scans:
    """Patients drawn from a population with replacement, as patients of their own, each with all scans."""
    first = np.searchsorted(population.patient, np.arange(population.patient[-1] + 2))
    drawn = rng.integers(len(first) - 1, size=patients)
    rows = np.concatenate([np.arange(first[p], first[p + 1]) for p in drawn])
    patient = np.repeat(np.arange(patients), first[drawn + 1] - first[drawn])
    return Scans(population.probabilities[rows], population.truth[rows], patient)


@dataclass(frozen=True)
class Promise:
    """What a frozen number assures."""

    name: str
    choose: Callable[[Scans, Ints], float | None]  # a threshold on some scans, with these numbers of patients
    keeps: Callable[[Scans, float], bool]  # whether a threshold is as promised on a population


def referral_promise(sensitivity: float) -> Promise:
    """That the threshold of referral has at least a sensitivity."""

    def choose(scans: Scans, patient: Ints) -> float | None:
        return choose_threshold(scans.score, scans.urgent, patient, sensitivity)

    def keeps(population: Scans, threshold: float) -> bool:
        rate = referral_rates(population.score, population.urgent, population.patient, threshold).sensitivity
        return rate is not None and rate >= sensitivity

    return Promise(f"sensitivity at least {sensitivity:g}", choose, keeps)


def abstention_promise(level: float) -> Promise:
    """That the error among the answers is at most a level."""

    def choose(scans: Scans, patient: Ints) -> float | None:
        return choose_abstention(scans.confidence, scans.correct, patient, level).threshold

    def keeps(population: Scans, threshold: float) -> bool:
        rate = answer_rates(population.confidence, population.correct, population.patient, threshold).error
        return rate is not None and rate <= level

    return Promise(f"error at most {level:g}", choose, keeps)


class Tally(NamedTuple):
    """In which shares of the worlds a promise was kept, and a threshold found."""

    kept: float
    found: float


def tally(promise: Promise, population: Scans, worlds: Sequence[Scans], *, by_scan: bool = False) -> Tally:
    """Choose a threshold in each world, and ask the population. by_scan: as if each scan were of its own patient."""
    thresholds = [promise.choose(world, np.arange(len(world.truth)) if by_scan else world.patient) for world in worlds]
    keeps = cache(lambda threshold: promise.keeps(population, threshold))
    found = [threshold for threshold in thresholds if threshold is not None]
    broken = sum(not keeps(threshold) for threshold in found)
    return Tally(1 - broken / len(worlds), len(found) / len(worlds))


def planted_temperature(rng: np.random.Generator, scans: int, temperature: float) -> float:
    """The temperature found where logits, whose classes were drawn from their softmax, are multiplied by one."""
    logits = rng.normal(size=(scans, CLASSES)) * 3
    truth = (softmax(logits).cumsum(axis=1) < rng.random((scans, 1))).sum(axis=1)
    found = fit_temperature(truth, softmax(logits * temperature).astype(np.float32), np.arange(scans))
    assert found is not None
    return found


def softmax(logits: Floats) -> Floats:
    """(n, CLASSES) to the same."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)

    print("| temperature planted | scans | found, mean | largest error in 20 worlds |\n|---|--:|--:|--:|")
    for temperature in (0.5, 1.0, 2.0, 4.0):
        for scans in (1000, 100_000):
            found = np.array([planted_temperature(rng, scans, temperature) for _ in range(20)])
            print(f"| {temperature} | {scans:,} | {found.mean():.3f} | {abs(found / temperature - 1).max():.1%} |")

    print("\n| promise | population | patients of val | kept | threshold found | kept if by scan |")
    print("|---|---|--:|--:|--:|--:|")
    promises = referral_promise(0.95), abstention_promise(0.05)
    populations = {
        "1 scan a patient": draw_population(rng, 20_000, shared=0, many_scans=False),
        "1 to 150 scans, 30 % shared": draw_population(rng, 20_000, shared=0.3, many_scans=True),
        "1 to 150 scans, 90 % shared": draw_population(rng, 20_000, shared=0.9, many_scans=True),
        "without confidence": draw_uninformed(rng, 20_000, 0.052),
    }
    for name, population in populations.items():
        for patients in (150, 600):
            worlds = [draw_world(population, rng, patients) for _ in range(args.worlds)]
            for promise in promises[name == "without confidence" :]:
                kept, found = tally(promise, population, worlds)
                naive = f"{tally(promise, population, worlds, by_scan=True).kept:.1%}" if "150" in name else "the same"
                print(f"| {promise.name} | {name} | {patients} | {kept:.1%} | {found:.0%} | {naive} |", flush=True)


if __name__ == "__main__":
    main()
