"""Shortcut features: how well numbers that say nothing of the retina predict the class of a scan.

A random forest of small trees is fitted to each feature alone, and to all together, in a cross-validation whose folds
keep each patient group whole (scikit-learn's StratifiedGroupKFold). In fitting, every class has the same weight, and in
it every patient, so that the few with very many scans do not count for more. The measure is the balanced accuracy,

    mean over the classes c of (scans of c that are predicted as c) / (scans of c),

whose chance level is 1 / (number of classes); its 95 % interval is a percentile bootstrap over patient groups.
A network that finds such a feature may learn it in place of the disease (Geirhos et al., Shortcut learning in deep
neural networks, Nature Machine Intelligence 2:665, 2020).

scikit-learn is imported only when the test runs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float64
from octprep.inspection.features import ScanFeatures
from octprep.wording import number
from octprep.workers import Progress

MARGIN = 0.03  # above chance that the whole interval must lie before a feature is called a shortcut
MIN_PATIENTS = 3  # of each class; with fewer the test does not run
_FOLDS = 5
_TREES = 30
_MAX_DEPTH = 6
_RESAMPLES = 1000  # of the bootstrap over patient groups
_CHUNK = 100  # resamples at a time
ALL = "all together"

_Classes = NDArray[np.intp]  # an index of a class or of a patient group for each scan, (scans,)


@dataclass(frozen=True)
class Feature:
    """One or two numbers of a scan that say nothing of the retina."""

    name: str
    values: Callable[[ScanFeatures], tuple[float, ...]]
    format_value: Callable[[float], str]
    meaning: str  # for a network, where the feature predicts the class
    plural: bool = False  # of the name


def _bytes_per_pixel(item: ScanFeatures) -> float:
    return item.scan.bytes / (item.scan.width * item.scan.height)


_DECODED = "This is before preprocessing, with fill; compare the stored pixels."
FEATURES = (
    Feature(
        "source size",
        lambda item: (item.scan.width, item.scan.height),
        "{:.0f}".format,
        "Stored images all have one size, but stretching leaves traces in the speckle; octprep build "
        "--field-of-view 20 crops wider scans to one field of view.",
    ),
    Feature(
        "file bytes",
        lambda item: (math.log(item.scan.bytes),),
        lambda log: f"{math.exp(log) / 1000:,.1f} kB",
        "Stored images have no file size, but compression and noise leave traces in the pixels.",
        plural=True,
    ),
    Feature(
        "bytes per pixel",
        lambda item: (math.log(_bytes_per_pixel(item)),),
        lambda log: f"{math.exp(log):.3f}",
        "They depend on the compression and the noise of the files, which leave traces in the pixels.",
        plural=True,
    ),
    Feature("mean of the decoded scan", lambda item: (item.decoded_mean,), "{:.1f}".format, _DECODED),
    Feature("std of the decoded scan", lambda item: (item.decoded_std,), "{:.1f}".format, _DECODED),
    Feature(
        "mean of the stored pixels",
        lambda item: (item.stored_mean,),
        "{:.1f}".format,
        "A network sees these pixels: vary the brightness at random in training.",
    ),
    Feature(
        "std of the stored pixels",
        lambda item: (item.stored_std,),
        "{:.1f}".format,
        "A network sees these pixels: vary the contrast at random in training.",
    ),
    Feature(
        "fill fraction",
        lambda item: (item.fill_fraction,),
        "{:.1%}".format,
        "octprep build inpaints fill, but a network that is trained on the source files sees it.",
    ),
)


# Only where there are several sources: each by an arbitrary number.
SOURCE = Feature(
    "source",
    lambda item: (float(int.from_bytes(hashlib.sha256(item.scan.source.encode()).digest()[:2])),),
    "{:.0f}".format,
    "A network may learn to tell the sources apart by their devices; evaluate it on each source.",
)


@dataclass(frozen=True)
class FeatureAccuracy:
    """How often the class is predicted correctly from one feature, or from all."""

    feature: str
    balanced_accuracy: float  # 0..1
    low: float  # of its 95 % interval
    high: float
    per_class: tuple[float, ...]  # fraction of each class that is predicted correctly

    def is_shortcut(self, chance: float) -> bool:
        """Whether the whole interval is better than chance, by enough to matter."""
        return self.low >= chance + MARGIN


@dataclass(frozen=True)
class Shortcuts:
    """The shortcut test, or in words why it did not run."""

    labels: tuple[str, ...]
    chance: float  # 1 / classes
    accuracies: tuple[FeatureAccuracy, ...]  # of each feature, then of all together; () if the test did not run
    folds: int
    not_run: str = ""  # the reason


def measure_shortcuts(
    scan_features: Sequence[ScanFeatures], scan_groups: Sequence[str], *, seed: int, progress: Progress
) -> Shortcuts:
    """Run the test. scan_groups: the patient group of each scan."""
    labels = tuple(sorted({item.scan.label for item in scan_features}))
    truth = np.array([labels.index(item.scan.label) for item in scan_features], np.intp)
    groups = np.unique(np.array(scan_groups), return_inverse=True)[1].astype(np.intp)

    def not_run(reason: str) -> Shortcuts:
        return Shortcuts(labels, 1 / max(len(labels), 1), (), 0, reason)

    if len(labels) < 2:
        return not_run("there is only one class")
    patients = {label: np.unique(groups[truth == index]).size for index, label in enumerate(labels)}
    rarest = min(labels, key=lambda label: (patients[label], label))
    if patients[rarest] < MIN_PATIENTS:
        return not_run(
            f"class {rarest} has {number(patients[rarest], 'patient')}, and at least {MIN_PATIENTS} of each class are "
            "needed"
        )
    folds = min(_FOLDS, patients[rarest])
    used = (*FEATURES, SOURCE) if len({item.scan.source for item in scan_features}) > 1 else FEATURES
    tables = [np.array([feature.values(item) for item in scan_features], np.float64) for feature in used]
    by_name = dict(zip([feature.name for feature in used], tables, strict=True)) | {ALL: np.hstack(tables)}
    try:
        predictions = _predict_out_of_fold(by_name, truth, groups, folds, seed, progress)
    except ImportError:
        return not_run("scikit-learn is not installed; install it with: pip install 'octprep[audit]'")
    correct = np.stack([_correct_scans(predicted, truth, groups, len(labels)) for predicted in predictions])
    scans = np.zeros((groups.max() + 1, len(labels)))
    np.add.at(scans, (groups, truth), 1)
    lows, highs = _bootstrap_intervals(correct, scans, seed)
    per_class = correct.sum(axis=1) / scans.sum(axis=0)
    accuracies = tuple(
        FeatureAccuracy(
            name, _rounded(of_classes.mean()), _rounded(low), _rounded(high), tuple(map(_rounded, of_classes))
        )
        for name, of_classes, low, high in zip(by_name, per_class, lows, highs, strict=True)
    )
    return Shortcuts(labels, 1 / len(labels), accuracies, folds)


def typical_values(scan_features: Sequence[ScanFeatures], labels: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Of each feature in each class, in words: the median, or of the source size the most frequent and its share."""
    by_label = {label: [item for item in scan_features if item.scan.label == label] for label in labels}
    return {feature.name: tuple(_typical_value(feature, by_label[label]) for label in labels) for feature in FEATURES}


def _typical_value(feature: Feature, scan_features: Sequence[ScanFeatures]) -> str:
    values = np.array([feature.values(item) for item in scan_features], np.float64)
    if values.shape[1] > 1:
        sizes, counts = np.unique(values.astype(np.int64), axis=0, return_counts=True)
        width, height = sizes[counts.argmax()].tolist()
        return f"{width} x {height} ({counts.max() / len(values):.0%})"
    return feature.format_value(float(np.median(values)))


def _predict_out_of_fold(
    features: Mapping[str, Float64], truth: _Classes, groups: _Classes, folds: int, seed: int, progress: Progress
) -> list[_Classes]:
    """For each feature, the class predicted for each scan by a forest that was fitted to the other folds.

    Raises ImportError where scikit-learn is missing.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedGroupKFold

    splitter: Any = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    splits = list(splitter.split(truth[:, None], truth, groups))
    min_leaf = max(2, truth.size // 200)  # scans
    predictions = []
    progress("testing shortcuts", 0, len(features))
    for values in features.values():
        predicted = np.zeros(truth.size, np.intp)
        for train, held_out in splits:
            forest: Any = RandomForestClassifier(
                _TREES, max_depth=_MAX_DEPTH, min_samples_leaf=min_leaf, random_state=seed % 2**32
            )
            forest.fit(values[train], truth[train], _weights(truth[train], groups[train]))
            predicted[held_out] = forest.predict(values[held_out])
        predictions.append(predicted)
        progress("testing shortcuts", 1, len(features))
    return predictions


def _weights(truth: _Classes, groups: _Classes) -> Float64:
    """For each scan: every class has the same weight, and in it every patient group."""
    weights = np.zeros(truth.size)
    for label in np.unique(truth):
        of_class = truth == label
        _, group_index, scans = np.unique(groups[of_class], return_inverse=True, return_counts=True)
        weights[of_class] = 1 / (scans.size * scans[group_index])
    return weights


def _correct_scans(predicted: _Classes, truth: _Classes, groups: _Classes, classes: int) -> Float64:
    """Scans of each patient group and class that were predicted correctly: (groups, classes)."""
    correct = np.zeros((groups.max() + 1, classes))
    np.add.at(correct, (groups, truth), predicted == truth)
    return correct


def _bootstrap_intervals(correct: Float64, scans: Float64, seed: int) -> tuple[list[float], list[float]]:
    """The 2.5 % and 97.5 % quantiles of the balanced accuracy of each feature, over resampled patient groups.

    correct: (features, groups, classes) scans predicted correctly; scans: (groups, classes).
    """
    groups = len(scans)
    rng = np.random.default_rng(seed)
    resampled = []
    for start in range(0, _RESAMPLES, _CHUNK):
        weights = rng.multinomial(groups, np.full(groups, 1 / groups), min(_CHUNK, _RESAMPLES - start)).astype(float)
        totals = weights @ scans  # (resamples, classes)
        present = totals > 0  # a resample may lack a class of few patients
        of_classes = np.where(present, (weights @ correct) / np.maximum(totals, 1), 0)  # (features, resamples, classes)
        resampled.append(of_classes.sum(axis=2) / np.maximum(present.sum(axis=1), 1))
    low, high = np.quantile(np.concatenate(resampled, axis=1), (0.025, 0.975), axis=1)
    return low.tolist(), high.tolist()


def _rounded(value: float) -> float:
    return round(float(value), 4)
