"""Intervals over repeated trainings on images that the trainings share, and where a cross-validation keeps its results.

The interval is Student's t over differences d, with the variance corrected by Nadeau and Bengio, Machine Learning
52:239 (2003) because the trainings share images, which a plain t ignores:

    mean(d) +- t(0.975, n - 1) * sqrt((1 / n + tested / trained) * var(d))
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

CROSSVAL_RESULT = "crossval.json"
CROSSVAL_PREDICTIONS = "predictions-out-of-fold.csv"


def interval_over_trainings(differences: Sequence[float], ratio: float) -> tuple[float, float, float]:
    """The mean of at least two differences, and its 95 % interval. ratio: images tested to images trained on."""
    from scipy import stats  # type: ignore[import-untyped]  # takes long to import

    n = len(differences)
    mean = statistics.fmean(differences)
    margin = float(stats.t.ppf(0.975, n - 1)) * math.sqrt((1 / n + ratio) * statistics.variance(differences))
    return mean, mean - margin, mean + margin
