"""How often the 95 % intervals of octtrain.evaluation hold the truth, in simulated worlds.

A world is a sample of patients with several scans each. A patient of one of two classes has an effect of their own on
the score, shared by all their scans, and every scan has noise; the number of scans is geometric, so that a few patients
have many. The truth is that of a very large sample. For every world the intervals are made as `octtrain evaluate` makes
them, once with the patients as they are, once as if every image were of another patient. Beside them stand the
percentiles of the same resamples of patients, as they are and bias-corrected and accelerated (BCa; Efron, J. Am. Stat.
Assoc. 82:171, 1987). The last column is of the difference of two models on the same patients.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octtrain.evaluation.intervals import Interval, Resampled
from octtrain.evaluation.metrics import Key, confusion, resampled_metrics, sample_of_images
from octtrain.evaluation.report import exact_intervals, make_estimate

CLASSES = ("AMD", "NORMAL")
METRICS: dict[str, Key] = {
    "balanced accuracy": ("balanced_accuracy",),
    "AUC": ("per_class", "AMD", "auc"),
    "sensitivity": ("per_class", "AMD", "sensitivity"),
}
COLUMNS = ("by patient", "percentiles", "BCa", "by image", "difference")
POPULATION = 100_000  # patients whose metrics are the truth


@dataclass(frozen=True)
class World:
    """What patients are drawn from."""

    patients: int
    share: float  # of patients with AMD
    signal: float  # distance of the classes' scores
    patient_effect: float = 1.0  # standard deviation
    noise: float = 1.0  # standard deviation of a scan's score
    scans: float = 5.0  # mean number of a patient's scans


WORLDS = {
    "100 patients": World(100, 0.5, 2.6),
    "40 patients": World(40, 0.5, 2.6),
    "150 patients, good model": World(150, 0.5, 4.5),
    "100 patients, 15 of them sick": World(100, 0.15, 2.6),
}


class Scans(NamedTuple):
    """Scans of some patients, with the probabilities of two models."""

    truth: NDArray[np.int64]  # (n,)
    probabilities: tuple[NDArray[np.float64], NDArray[np.float64]]  # (n, 2) each
    patients: NDArray[np.int64]  # (n,)


def draw(world: World, patients: int, rng: np.random.Generator) -> Scans:
    """So many patients of a world; the two models have half of their patient effects and noise in common."""
    sick = rng.random(patients) < world.share
    member = np.repeat(np.arange(patients), rng.geometric(1 / world.scans, patients))
    truth = np.where(sick[member], 0, 1)
    effects = rng.normal(0, world.patient_effect, (3, patients))[:, member]
    noise = rng.normal(0, world.noise, (3, len(member)))
    shared, *own = (effects + noise) / np.sqrt(2)
    scores = [world.signal * (sick[member] - 0.5) + shared + part for part in own]
    first, second = (np.stack([p := 1 / (1 + np.exp(-score)), 1 - p], axis=1) for score in scores)
    return Scans(truth, (first, second), member)


def metrics_of(scans: Scans, model: int, *, by_image: bool = False) -> dict[Key, Resampled]:
    """All metrics of a model."""
    sample = sample_of_images(
        scans.truth, scans.probabilities[model], CLASSES, None if by_image else [f"{i:06}" for i in scans.patients]
    )
    return resampled_metrics(sample, CLASSES)


def truth_of(world: World) -> dict[str, tuple[float, float]]:
    """The metrics of both models in a very large sample."""
    scans = draw(world, POPULATION, np.random.default_rng(1))
    found: dict[str, tuple[float, float]] = {}
    for name in METRICS:
        found[name] = tuple(_point(scans, model, name) for model in (0, 1))  # type: ignore[assignment]
    return found


def _point(scans: Scans, model: int, name: str) -> float:
    from octtrain.evaluation.metrics import auc, balanced_accuracy

    score = scans.probabilities[model][:, 0]
    if name == "AUC":
        return auc(scans.truth == 0, score) or 0.0
    counts = confusion(scans.truth, (score < 0.5).astype(np.int64), 2)
    return (balanced_accuracy(counts) or 0.0) if name == "balanced accuracy" else counts[0, 0] / counts[0].sum()


def intervals(scans: Scans) -> Iterator[tuple[str, str, Interval | None]]:
    """Metric, method and interval; for the method "difference" that of the second model minus the first."""
    first, second = (metrics_of(scans, model) for model in (0, 1))
    counts = confusion(scans.truth, scans.probabilities[0].argmax(axis=1), 2)
    exact = exact_intervals(first, counts)
    by_image = metrics_of(scans, 0, by_image=True)
    exact_by_image = exact_intervals(by_image, counts)
    for name, key in METRICS.items():
        yield name, "by patient", make_estimate(first[key], exact.get(key)).interval
        yield name, "percentiles", percentiles(first[key])
        yield name, "BCa", percentiles(first[key], corrected=True)
        yield name, "by image", make_estimate(by_image[key], exact_by_image.get(key)).interval
        yield name, "difference", (second[key] - first[key]).difference_interval()


def percentiles(metric: Resampled, *, corrected: bool = False) -> Interval:
    """The percentiles of the resamples that make a 95 % interval, or those of BCa."""
    levels = [0.025, 0.975]
    if corrected:
        normal = NormalDist()
        below = np.mean(metric.resamples < metric.value) + np.mean(metric.resamples == metric.value) / 2
        bias = normal.inv_cdf(float(np.clip(below, 1e-3, 1 - 1e-3)))
        influence = np.nanmean(metric.left_out) - metric.left_out
        scale = float(np.nansum(influence**2)) ** 1.5
        skew = float(np.nansum(influence**3)) / (6 * scale) if scale else 0.0
        shifted = [bias + normal.inv_cdf(level) for level in levels]
        levels = [normal.cdf(bias + z / (1 - skew * z)) for z in shifted]
    low, high = np.nanquantile(metric.resamples, levels)
    return float(low), float(high)


def coverage(world: World, worlds: int, seed: int = 0) -> dict[tuple[str, str], dict[str, float]]:
    """For each metric and method: the share of intervals that hold the truth, are above it, and their mean width."""
    truth = truth_of(world)
    found: dict[tuple[str, str], list[tuple[bool, bool, float]]] = defaultdict(list)
    for i in range(worlds):
        scans = draw(world, world.patients, np.random.default_rng((seed, i)))
        for name, method, interval in intervals(scans):
            first, second = truth[name]
            target = second - first if method == "difference" else first
            if interval:
                low, high = interval
                found[name, method].append((low <= target <= high, target < low, high - low))
    return {
        key: {"holds": holds, "above": above, "width": width, "intervals": len(rows)}
        for key, rows in found.items()
        for holds, above, width in [np.mean(rows, axis=0).tolist()]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--only", choices=[*WORLDS], help="one kind of world")
    options = parser.parse_args()
    for name, world in WORLDS.items():
        if options.only not in (None, name):
            continue
        truth = truth_of(world)
        found = coverage(world, options.worlds)
        print(f"\n{name}: the truth in so many % of {options.worlds:,} intervals (their mean width)")
        print(f"{'':18}  {'truth':>5}" + "".join(f"{column:>16}" for column in COLUMNS))
        for metric in METRICS:
            cells = [found[metric, column] for column in COLUMNS]
            texts = [f"{100 * cell['holds']:.1f} ({cell['width']:.3f})" for cell in cells]
            print(f"{metric:18}  {truth[metric][0]:.3f}" + "".join(f"{text:>16}" for text in texts), flush=True)


if __name__ == "__main__":
    main()
