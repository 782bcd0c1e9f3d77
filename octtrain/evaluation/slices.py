"""Results on parts of the images: by source width, sharpness, fill, crop confidence and folder of the source.

Parts differ in their classes, and some classes are harder than others. So a part's accuracy is compared with the one
that is expected of its classes: the mean, over its images, of the whole's sensitivity for the image's class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.format.images_csv import ImageRow
from octprep.wording import number
from octtrain.evaluation.estimates import Proportion, format_difference
from octtrain.evaluation.intervals import TAIL, Interval, Values, Weights, exact_bound, resample
from octtrain.evaluation.metrics import MIN_PATIENTS, indices
from octtrain.evaluation.predictions import SplitPredictions

BINS = 4  # of a column of numbers, of about equally many images
SHOWN = 5  # slices in the printed table
_COLUMNS: Mapping[str, Callable[[ImageRow], str | float]] = {
    "source width": lambda row: row.width,
    "sharpness": lambda row: row.measurements.sharpness,
    "fill fraction": lambda row: row.measurements.fill_fraction,
    "crop confidence": lambda row: row.measurements.crop_confidence,
    "source folder": lambda row: row.source_split or "-",
}


@dataclass(frozen=True)
class Slice:
    """The results on some of the images."""

    column: str  # what the images have in common, such as sharpness
    values: str  # such as 12.1 to 15.3
    patients: int
    accuracy: Proportion
    expected: float  # 0..1, of the whole's sensitivities for the classes of these images
    difference: float  # accuracy minus expected
    interval: Interval | None  # of the difference, 95 %

    @property
    def is_worse(self) -> bool:
        """Whether the interval of the difference is below 0, and there are enough patients to say so."""
        return self.patients >= MIN_PATIENTS and self.interval is not None and self.interval[1] < 0

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return {
            "column": self.column,
            "values": self.values,
            "images": self.accuracy.total,
            "patients": self.patients,
            "accuracy": self.accuracy.as_json(),
            "expected_accuracy": self.expected,
            "difference": {"value": self.difference, "interval": self.interval and list(self.interval)},
            "is_worse": self.is_worse,
        }


def slices_of(predictions: SplitPredictions, rows: Iterable[ImageRow], classes: int) -> list[Slice]:
    """All slices, the worst first. rows: the images in images.csv.  classes: how many the predictions are of."""
    row_of = {row.path: row for row in rows}
    images = [row_of[path] for path in predictions.paths]
    parts: list[tuple[str, str, NDArray[np.bool_]]] = []
    for column, value_of in _COLUMNS.items():
        groups = _groups([value_of(image) for image in images])
        parts += [(column, values, chosen) for values, chosen in groups if len(groups) > 1]
    if not parts:
        return []
    patients = indices(predictions.groups)
    measure = _Slices(predictions, [chosen for _, _, chosen in parts], patients, classes)
    contributing = [len(np.unique(patients[chosen])) for _, _, chosen in parts]
    keys = {(name, i): n for i, n in enumerate(contributing) for name in ("accuracy", "difference")}
    found = resample(measure, int(patients.max()) + 1, len(parts) * classes, keys)
    slices = []
    for i, (column, values, chosen) in enumerate(parts):
        accuracy, difference = found["accuracy", i], found["difference", i]
        right = int(measure.is_right[chosen].sum())
        bound = exact_bound(accuracy.patients)
        exact = {1.0: (bound, 1.0), 0.0: (0.0, 1 - bound)}.get(accuracy.value)
        slices.append(
            Slice(
                column,
                values,
                accuracy.patients,
                Proportion(
                    value=accuracy.value,
                    interval=exact or accuracy.interval(),
                    is_exact=exact is not None,
                    count=right,
                    total=int(chosen.sum()),
                ),
                accuracy.value - difference.value,
                difference.value,
                difference.difference_interval(),
            )
        )
    return sorted(slices, key=lambda part: part.difference)


def format_slices(slices: Sequence[Slice]) -> str:
    """The worst slices as a table, and a warning for those that are worse than the whole."""
    shown = [part for part in slices if part.patients >= MIN_PATIENTS][:SHOWN]
    if not shown:
        return ""
    rows = [
        (
            f"{part.column} {part.values}",
            number(part.patients, "patient"),
            str(part.accuracy),
            format_difference(part.difference, part.interval),
        )
        for part in shown
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        f"SLICES: the {len(shown)} worst of {len(slices)}, with their accuracy, and its difference from what images of "
        "their classes have in the whole"
    ]
    lines += ["  ".join([*(f"{cell:{w}}" for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
    return "\n".join([*lines, *warnings(slices)])


def warnings(slices: Sequence[Slice]) -> list[str]:
    """A sentence if slices are worse than the whole."""
    worse = [part for part in slices if part.is_worse]
    if not worse:
        return []
    names = "; ".join(f"{part.column} {part.values} by {-part.difference:.3f}" for part in worse)
    judged = sum(part.patients >= MIN_PATIENTS for part in slices)
    return [
        f"worse than the whole: {names}. {number(judged, 'slice')} were looked at, of which about "
        f"{judged * TAIL:.1f} would look worse by chance alone"
    ]


class _Slices:
    """Accuracy, and its difference from what is expected, of every slice in many resamples."""

    def __init__(
        self,
        predictions: SplitPredictions,
        parts: Sequence[NDArray[np.bool_]],
        patients: NDArray[np.int64],
        classes: int,
    ) -> None:
        self.is_right = predictions.probabilities.argmax(axis=1) == predictions.truth
        rows = int(patients.max()) + 1

        def counts(chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
            cells = patients[chosen] * classes + predictions.truth[chosen]
            return np.bincount(cells, minlength=rows * classes).reshape(rows, classes).astype(np.float32)

        self.right, self.total = counts(self.is_right), counts(np.ones(len(patients), bool))
        self.parts = [(counts(chosen & self.is_right).sum(axis=1), counts(chosen)) for chosen in parts]

    def __call__(self, weights: Weights) -> dict[tuple[str, int], Values]:
        total = (weights @ self.total).astype(np.float64)
        sensitivity = np.where(total > 0, (weights @ self.right) / np.maximum(total, 1), 0)  # (resamples, classes)
        values: dict[tuple[str, int], Values] = {}
        for i, (right, images) in enumerate(self.parts):
            of_class = (weights @ images).astype(np.float64)
            n = of_class.sum(axis=1)
            values["accuracy", i] = (weights @ right) / n
            values["difference", i] = values["accuracy", i] - (of_class * sensitivity).sum(axis=1) / n
        return values


def _groups(values: Sequence[str | float]) -> list[tuple[str, NDArray[np.bool_]]]:
    """The images of each value where there are few, else of about equally large ranges of numbers."""
    array = np.array(values)
    distinct = np.unique(array)
    if len(distinct) <= BINS or array.dtype.kind not in "if":
        return [(_text(value), array == value) for value in distinct.tolist()]
    edges = np.unique(np.quantile(array, np.arange(1, BINS) / BINS, method="lower"))
    bins = np.searchsorted(edges, array, "left")
    groups = []
    for i in np.unique(bins):
        low, high = array[bins == i].min().item(), array[bins == i].max().item()
        groups.append((_text(low) if low == high else f"{_text(low)} to {_text(high)}", bins == i))
    return groups


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
