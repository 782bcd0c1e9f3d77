"""Measure a trained model on patients that it has not seen."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from octprep.schema import LeakError, Leaks, Manifest, ManifestError, Recipe, SourceError, write_whole
from octtrain import data, seen
from octtrain.metrics import Report, measure, table
from octtrain.run import Run

BATCH = 64  # images; more is hardly faster and takes more memory
NAMED = 20  # patients at most in one message
LEAKY = "LEAKY: patients on both sides of the split, so these numbers are too good"


@dataclass(frozen=True)
class Predictions:
    """What a model says of every image of a split, in the order of the shards."""

    scans: list[str]  # source paths
    patients: list[str]
    truth: NDArray[np.int64]  # (n,) index into the class names
    probabilities: NDArray[np.float32]  # (n, classes), 0..1


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A dataset's split as a run's model meets it."""

    run: Run
    manifest: Manifest  # of the dataset, which need not be the run's
    shards: Path  # where it is
    split: str
    known: Leaks  # what of the split the model has seen
    patients: int  # of the split

    @property
    def own(self) -> bool:
        """Whether the run was trained on this dataset's training split."""
        return self.manifest.digest == self.run.manifest.digest

    @property
    def name(self) -> str:
        """What to call the files of results: another dataset's do not overwrite the run's own."""
        return self.split if self.own else f"{self.split}-{self.manifest.digest[:8]}"

    @property
    def leaky(self) -> str | None:
        """Why the numbers are too good, if they are."""
        if self.known:
            return f"LEAKY: the model has seen {_shares(self)}, so these numbers are too good"
        return LEAKY if self.own and self.manifest.leaks else None

    @property
    def remarks(self) -> list[str]:
        """What else a reader must know."""
        remarks = []
        if self.own and self.split in self.run.origin.chosen_by:
            remarks.append(f"{self.split} was used to choose the best epoch, so these numbers are a little too good")
        if not self.run.seen().complete:
            remarks.append(
                f"the model was begun from {self.run.config.weights}, and nothing says whom that had seen, so nobody "
                "knows whether these patients were among them"
            )
        return remarks


def evaluate(
    folder: Path,
    split: str = "test",
    shards: Path | None = None,
    *,
    allow_leaks: bool = False,
    say: Callable[[str], None] = print,
) -> Report:
    """Measure a run's best model on a split; print it, and write evaluate-SPLIT.json and predictions-SPLIT.csv there.

    shards: another dataset of the same classes and recipe, whose first eight digits are then in the files' names; or
    where the run's own dataset is now, if not where it was. With allow_leaks also where the model has seen patients or
    images of the split, and what is printed and written says so.

    Raises SourceError if the folder is no run or the shards are not there; ManifestError if they are damaged, have no
    such split or an empty one, or differ from the run's in what a model depends on; LeakError if the model has seen
    patients or images of the split.
    """
    run = Run.load(folder)
    trial = meet(run, split, shards or run.shards)
    if trial.known and not allow_leaks:
        raise LeakError(_refusal(trial))
    trial.manifest.check_files(trial.shards, (split,))
    predictions = predict_split(run.model(), trial.manifest, trial.shards, split)
    report = measure(predictions.truth, predictions.probabilities, trial.manifest.class_names)

    patients = len(set(predictions.patients))
    where = split if trial.own else f"{split} of {trial.shards} (another dataset, {trial.manifest.digest[:8]})"
    say(f"{folder} on {where}: {len(predictions.scans):,} images of {patients:,} patients")
    for line in filter(None, [trial.leaky, *trial.remarks]):
        say(line)
    say("")
    say(table(report))
    _write_json(trial, patients, report)
    _write_csv(trial, predictions)
    return report


def meet(run: Run, split: str, shards: Path) -> Trial:
    """A dataset's split and what of it the run's model has seen. Raises SourceError and ManifestError as `evaluate`."""
    if not shards.is_dir():
        raise SourceError(f"the shards {shards} are not there; say where they are now by --shards DIR.")
    manifest = Manifest.load(shards)
    check_alike(run, manifest, shards)
    if split not in manifest.splits:
        raise ManifestError(f"{shards} has no split {split!r}; it has {', '.join(manifest.splits)}.")
    if not manifest.records(split):
        raise ManifestError(f"Split {split!r} of {shards} holds no images, so there is nothing to measure.")
    judged = seen.sights(seen.images(shards, manifest), (split,))
    sights = run.seen().sights
    if manifest.digest == run.manifest.digest and split in run.origin.chosen_by:
        sights = tuple(sight for sight in sights if sight.split != split)  # that it chose the epoch is a remark
    patients = len({sight.patient for sight in judged})
    known = seen.overlap(sights, judged)
    return Trial(run=run, manifest=manifest, shards=shards, split=split, known=known, patients=patients)


def check_alike(run: Run, manifest: Manifest, shards: Path) -> None:
    """Refuse a dataset whose labels or pixels mean something else than those the run was trained on.

    Raises ManifestError that names what differs.
    """
    there, here = run.manifest, manifest
    pairs = {"class names": (", ".join(there.class_names), ", ".join(here.class_names))}
    pairs |= {
        field.name: (getattr(there.recipe, field.name), getattr(here.recipe, field.name)) for field in fields(Recipe)
    }
    differ = [f"{name} {theirs} there, {ours} here" for name, (theirs, ours) in pairs.items() if theirs != ours]
    if differ:
        raise ManifestError(
            f"{shards} is another dataset (digest {here.digest[:12]}) than the one {run.folder} was trained on "
            f"({there.digest[:12]}), and the model cannot be used on it: {'; '.join(differ)}. Build it with the "
            "settings of the run's dataset, or give that one by --shards DIR."
        )


def _refusal(trial: Trial) -> str:
    """Why a split is not measured, and whom it is about."""
    names = trial.known.patients
    listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")
    whom = f": patient{'s' * (len(names) != 1)} {listed}" if names else ""
    others = "" if trial.own else " or if they are other people of the same numbers,"
    return (
        f"the model in {trial.run.folder} was trained on or chosen by {_shares(trial)}{whom}. Measure on patients it "
        f"has not seen; to go on all the same,{others} give --allow-leaks, and the result is marked LEAKY."
    )


def _shares(trial: Trial) -> str:
    patients, images = len(trial.known.patients), len(trial.known.contents)
    shown = f"{images:,} image{'s' * (images != 1)}"
    if not patients:
        return f"{shown} of {trial.split}, under other patient numbers"
    return f"{patients:,} of the {trial.patients:,} patients and {shown} of {trial.split}"


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


def _write_json(trial: Trial, patients: int, report: Report) -> None:
    content = {
        "split": trial.split,
        "digest": trial.manifest.digest,
        "trained_on": trial.run.manifest.digest,
        "leaky": trial.leaky,
        "known": {"patients": len(trial.known.patients), "images": len(trial.known.contents)},
        "remarks": trial.remarks,
        "patients": patients,
        **report.as_json(),
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    write_whole(trial.run.folder / f"evaluate-{trial.name}.json", (text + "\n").encode())


def _write_csv(trial: Trial, predictions: Predictions) -> None:
    names = trial.manifest.class_names
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["scan", "patient", "truth", "prediction", *names])
    rows = zip(predictions.scans, predictions.patients, predictions.truth, predictions.probabilities, strict=True)
    for scan, patient, truth, probabilities in rows:
        shown = [f"{p:.6f}" for p in probabilities]
        writer.writerow([scan, patient, names[truth], names[int(probabilities.argmax())], *shown])
    write_whole(trial.run.folder / f"predictions-{trial.name}.csv", out.getvalue().encode())
