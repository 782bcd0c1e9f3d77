"""How well numbers that need no retina predict the class, on patients that the guesses were not fitted to.

A forest of small trees is fitted to each feature alone and to all together on all folds but one, and guesses the scans
of that one; no person is on two sides. In fitting, every class counts the same, and in it every person, so that the
few with very many scans do not count for more. Chance is one over the number of classes.
scikit-learn is imported here only, when it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float64
from octprep.inspection.features import ScanFeatures
from octprep.workers import Progress

MARGIN = 0.03  # above chance that the whole interval must lie before a feature is called a shortcut
LEAST = 3  # persons of each class below which nothing is said
_FOLDS = 5
_TREES = 30
_DEPTH = 6
_DRAWS = 1000  # of the bootstrap over persons
_CHUNK = 100  # draws at a time
ALL = "all together"


@dataclass(frozen=True)
class Feature:
    """Numbers of a scan that need no look at the retina."""

    name: str
    values: Callable[[ScanFeatures], tuple[float, ...]]
    say: Callable[[float], str]  # a single value in words


def _pixels(item: ScanFeatures) -> int:
    return item.scan.width * item.scan.height


def _bytes_per_pixel(log: float) -> str:
    return f"{math.exp(log):.3f}"


FEATURES = (
    Feature("source size", lambda item: (item.scan.width, item.scan.height), "{:.0f}".format),
    Feature("file bytes", lambda item: (math.log(item.scan.bytes),), lambda log: f"{math.exp(log) / 1000:,.1f} kB"),
    Feature("bytes per pixel", lambda item: (math.log(item.scan.bytes / _pixels(item)),), _bytes_per_pixel),
    Feature("mean of the decoded scan", lambda item: (item.mean,), "{:.1f}".format),
    Feature("deviation of the decoded scan", lambda item: (item.deviation,), "{:.1f}".format),
    Feature("mean of the stored pixels", lambda item: (item.stored_mean,), "{:.1f}".format),
    Feature("deviation of the stored pixels", lambda item: (item.stored_deviation,), "{:.1f}".format),
    Feature("border fraction", lambda item: (item.border,), "{:.1%}".format),
)


@dataclass(frozen=True)
class Guess:
    """How often the class is right if it is guessed from one feature, or from all."""

    feature: str
    right: float  # balanced accuracy: the mean over the classes of the part that is right, 0..1
    low: float  # of its 95 % interval, by a bootstrap over persons
    high: float
    per_class: tuple[float, ...]  # the part of each class that is right

    def tells(self, chance: float) -> bool:
        """Whether it is beyond doubt better than chance, and by enough to matter."""
        return self.low >= chance + MARGIN


@dataclass(frozen=True)
class Shortcuts:
    """The shortcut test, or in words why it was left out."""

    labels: tuple[str, ...]
    chance: float  # 1 / classes
    guesses: tuple[Guess, ...]  # each feature, then all together; () if left out
    folds: int
    left_out: str = ""


def examine(read: Sequence[ScanFeatures], persons: Sequence[str], *, seed: int, progress: Progress) -> Shortcuts:
    """Run the test. persons: who, as far as joins tell, each scan is of."""
    labels = tuple(sorted({item.scan.label for item in read}))
    truth = np.array([labels.index(item.scan.label) for item in read], np.intp)
    owners = np.unique(np.array(persons), return_inverse=True)[1].astype(np.intp)

    def without(reason: str) -> Shortcuts:
        return Shortcuts(labels, 1 / max(len(labels), 1), (), 0, reason)

    if len(labels) < 2:
        return without("there is only one class, so there is nothing to tell apart")
    number = {label: np.unique(owners[truth == place]).size for place, label in enumerate(labels)}
    rarest = min(labels, key=lambda label: (number[label], label))
    if number[rarest] < LEAST:
        some = f"{number[rarest]} patient{'s' * (number[rarest] != 1)}"
        return without(f"class {rarest} has {some}, and at least {LEAST} of each class are needed")
    folds = min(_FOLDS, number[rarest])
    tables = [np.array([feature.values(item) for item in read], np.float64) for feature in FEATURES]
    named = dict(zip([feature.name for feature in FEATURES], tables, strict=True)) | {ALL: np.hstack(tables)}
    try:
        guessed = _guessed(named, truth, owners, folds, seed, progress)
    except ImportError:
        return without("scikit-learn is not installed; install it with: pip install 'octprep[audit]'")
    right = np.stack([_right(found, truth, owners, len(labels)) for found in guessed])
    total = np.zeros((owners.max() + 1, len(labels)))
    np.add.at(total, (owners, truth), 1)
    lows, highs = _intervals(right, total, seed)
    per_class = right.sum(axis=1) / total.sum(axis=0)
    guesses = tuple(
        Guess(name, _rounded(parts.mean()), _rounded(low), _rounded(high), tuple(_rounded(part) for part in parts))
        for name, parts, low, high in zip(named, per_class, lows, highs, strict=True)
    )
    return Shortcuts(labels, 1 / len(labels), guesses, folds)


def usual(read: Sequence[ScanFeatures], labels: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """What is usual of each feature in each class: the median, or the most frequent size and its share."""
    return {
        feature.name: tuple(_usual(feature, [item for item in read if item.scan.label == label]) for label in labels)
        for feature in FEATURES
    }


def _usual(feature: Feature, read: Sequence[ScanFeatures]) -> str:
    values = np.array([feature.values(item) for item in read], np.float64)
    if values.shape[1] > 1:
        sizes, counts = np.unique(values.astype(np.int64), axis=0, return_counts=True)
        width, height = sizes[counts.argmax()].tolist()
        return f"{width} x {height} ({counts.max() / len(values):.0%})"
    return feature.say(float(np.median(values)))


def _guessed(
    features: Mapping[str, Float64],
    truth: NDArray[np.intp],
    owners: NDArray[np.intp],
    folds: int,
    seed: int,
    progress: Progress,
) -> list[NDArray[np.intp]]:
    """For each feature, the class guessed for each scan. Raises ImportError where scikit-learn is missing."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedGroupKFold

    cut: Any = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    parts = list(cut.split(truth[:, None], truth, owners))
    least = max(2, truth.size // 200)  # scans in a leaf
    found = []
    progress("testing shortcuts", 0, len(features))
    for values in features.values():
        guess = np.zeros(truth.size, np.intp)
        for learning, held_out in parts:
            forest: Any = RandomForestClassifier(
                _TREES, max_depth=_DEPTH, min_samples_leaf=least, random_state=seed % 2**32
            )
            forest.fit(values[learning], truth[learning], _weights(truth[learning], owners[learning]))
            guess[held_out] = forest.predict(values[held_out])
        found.append(guess)
        progress("testing shortcuts", 1, len(features))
    return found


def _weights(truth: NDArray[np.intp], owners: NDArray[np.intp]) -> Float64:
    """For each scan: every class counts the same, and in it every person."""
    weights = np.zeros(truth.size)
    for label in np.unique(truth):
        mine = truth == label
        _, place, scans = np.unique(owners[mine], return_inverse=True, return_counts=True)
        weights[mine] = 1 / (scans.size * scans[place])
    return weights


def _right(guess: NDArray[np.intp], truth: NDArray[np.intp], owners: NDArray[np.intp], classes: int) -> Float64:
    """Scans of each person and class that were guessed right: (persons, classes)."""
    right = np.zeros((owners.max() + 1, classes))
    np.add.at(right, (owners, truth), guess == truth)
    return right


def _intervals(right: Float64, total: Float64, seed: int) -> tuple[list[float], list[float]]:
    """The 2.5 % and 97.5 % quantiles of the mean over the classes, for each feature, as persons are drawn again.

    right: (features, persons, classes) scans guessed right; total: (persons, classes) scans.
    """
    persons = len(total)
    rng = np.random.default_rng(seed)
    drawn = []
    for start in range(0, _DRAWS, _CHUNK):
        weights = rng.multinomial(persons, np.full(persons, 1 / persons), min(_CHUNK, _DRAWS - start)).astype(float)
        sums = weights @ total  # (draws, classes)
        present = sums > 0  # a draw may lack a class of few persons
        parts = np.where(present, (weights @ right) / np.maximum(sums, 1), 0)  # (features, draws, classes)
        drawn.append(parts.sum(axis=2) / np.maximum(present.sum(axis=1), 1))
    low, high = np.quantile(np.concatenate(drawn, axis=1), (0.025, 0.975), axis=1)
    return low.tolist(), high.tolist()


def _rounded(value: float) -> float:
    return round(float(value), 4)
