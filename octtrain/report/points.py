"""Points of ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 250  # of a curve that is drawn

Points = list[tuple[float, float]]


def roc(truth: NDArray[np.bool_], score: NDArray[np.floating[Any]]) -> Points:
    """(1 - specificity, sensitivity) for each threshold, from (0, 0) to (1, 1); none where a side is empty.

    truth: (n,).  score: (n,), higher means more likely true. Images of equal scores are one threshold, so that the area
    under the straight lines is the AUC with ties counting half.
    """
    true, false = _counts(truth, score)
    if not len(true) or not true[-1] or not false[-1]:
        return []
    across, up = np.append(0, false) / false[-1], np.append(0, true) / true[-1]
    return list(zip(across.tolist(), up.tolist(), strict=True))


def precision_recall(truth: NDArray[np.bool_], score: NDArray[np.floating[Any]]) -> Points:
    """(recall, precision) for each threshold, as steps, whose area is the average precision. Arguments as of `roc`."""
    true, false = _counts(truth, score)
    if not len(true) or not true[-1]:
        return []
    recall, precision = true / true[-1], true / (true + false)
    corners = np.append(0, recall[:-1])
    steps = np.stack([np.stack([corners, precision], 1), np.stack([recall, precision], 1)], 1).reshape(-1, 2)
    return [(float(x), float(y)) for x, y in steps]


def thinned(points: Points, most: int = MAX_POINTS) -> Points:
    """At most about so many of the points, spread evenly along the curve; the first and the last are kept."""
    if len(points) <= most:
        return points
    lengths = np.abs(np.diff(np.array(points), axis=0)).sum(axis=1)
    along = np.append(0, np.cumsum(lengths))
    chosen = np.unique(np.searchsorted(along, np.linspace(0, along[-1], most - 1)))
    return [points[i] for i in [*chosen.tolist(), *([] if chosen[-1] == len(points) - 1 else [len(points) - 1])]]


def worst_of_patients(
    groups: Sequence[str], urgent: NDArray[np.bool_], score: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether an image of each patient is urgent, and the highest score of one. Arguments: of images, (n,)."""
    names, patient = np.unique(np.asarray(groups, str), return_inverse=True)
    truth, worst = np.zeros(len(names), bool), np.full(len(names), -np.inf)
    np.logical_or.at(truth, patient, urgent)
    np.maximum.at(worst, patient, score)
    return truth, worst


def _counts(truth: NDArray[np.bool_], score: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True and false positives for each threshold, from the strictest on."""
    order = np.argsort(-score, kind="stable")
    score, truth = score[order], truth[order]
    last_of_equals = np.append(score[1:] != score[:-1], True)[: len(score)]
    return np.cumsum(truth)[last_of_equals], np.cumsum(~truth)[last_of_equals]
