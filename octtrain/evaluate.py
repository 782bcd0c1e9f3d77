"""Measure a trained model on a split that it was not trained on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from octprep.schema import Manifest, ManifestError, SourceError, write_whole
from octtrain import data
from octtrain.metrics import Report, measure, table
from octtrain.run import Run

BATCH = 64  # images; more is hardly faster and takes more memory
LEAKY = "LEAKY: patients on both sides of the split, so these numbers are too good"


@dataclass(frozen=True)
class Predictions:
    """What a model says of every image of a split, in the order of the shards."""

    scans: list[str]  # source paths
    patients: list[str]
    truth: NDArray[np.int64]  # (n,) index into the class names
    probabilities: NDArray[np.float32]  # (n, classes), 0..1


def evaluate(
    folder: Path, split: str = "test", shards: Path | None = None, say: Callable[[str], None] = print
) -> Report:
    """Measure a run's best model on a split; print it, and write evaluate-SPLIT.json and predictions-SPLIT.csv there.

    shards: where the dataset is now, if not where it was. Raises SourceError if the folder is no run or the shards are
    not there, ManifestError if they are another dataset than the run's, damaged, or have no such split or an empty one.
    """
    run = Run.load(folder)
    shards = find_shards(run, shards)
    run.manifest.check_files(shards, (split,))
    if not run.manifest.records(split):
        raise ManifestError(f"Split {split!r} of {shards} holds no images, so there is nothing to measure.")

    predictions = predict_split(run.model(), run.manifest, shards, split)
    report = measure(predictions.truth, predictions.probabilities, run.manifest.class_names)

    patients = len(set(predictions.patients))
    say(f"{folder} on {split}: {len(predictions.scans):,} images of {patients:,} patients")
    if run.manifest.leaks:
        say(LEAKY)
    say("")
    say(table(report))
    _write_json(run, split, patients, report)
    _write_csv(run, split, predictions)
    return report


def find_shards(run: Run, shards: Path | None) -> Path:
    """Where the dataset of a run is. Raises SourceError if it is gone, ManifestError if it is another one."""
    place = shards or run.shards
    if not place.is_dir():
        raise SourceError(f"the shards {place} are not there; say where they are now by --shards DIR.")
    digest = Manifest.load(place).digest
    if digest != run.manifest.digest:
        raise ManifestError(
            f"{place} is another dataset (digest {digest[:12]}) than the one {run.folder} was trained on "
            f"({run.manifest.digest[:12]}); give that one by --shards DIR."
        )
    return place


def predict_split(model: keras.Model, manifest: Manifest, shards: Path, split: str) -> Predictions:
    """Run a model over every image of a split, once and in order. Raises ManifestError for damaged shards."""
    scans: list[str] = []
    patients: list[str] = []
    truth, probabilities = [], []
    with data.readable(shards):
        for images, labels, patient_ids, keys in data.batches(shards, manifest, (split,), BATCH, keys=True):
            probabilities.append(np.asarray(model.predict_on_batch(images.numpy())))
            truth.append(labels.numpy())
            patients += [patient.decode() for patient in patient_ids.numpy()]
            scans += [key.decode() for key in keys.numpy()]
    return Predictions(scans, patients, np.concatenate(truth), np.concatenate(probabilities))


def _write_json(run: Run, split: str, patients: int, report: Report) -> None:
    content = {
        "split": split,
        "digest": run.manifest.digest,
        "leaky": LEAKY if run.manifest.leaks else None,
        "patients": patients,
        **report.as_json(),
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    write_whole(run.folder / f"evaluate-{split}.json", (text + "\n").encode())


def _write_csv(run: Run, split: str, predictions: Predictions) -> None:
    names = run.manifest.class_names
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["scan", "patient", "truth", "prediction", *names])
    rows = zip(predictions.scans, predictions.patients, predictions.truth, predictions.probabilities, strict=True)
    for scan, patient, truth, probabilities in rows:
        shown = [f"{p:.6f}" for p in probabilities]
        writer.writerow([scan, patient, names[truth], names[int(probabilities.argmax())], *shown])
    write_whole(run.folder / f"predictions-{split}.csv", out.getvalue().encode())
