"""Measure a trained model on patients that it has not seen."""

from __future__ import annotations

import csv
import io
import json
import shlex
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from octprep.format.config import Preprocessing
from octprep.format.errors import LeakError, ManifestError, OutputError, SettingError, SourceError
from octprep.format.files import atomic_write, path_to_text
from octprep.format.manifest import Leaks, Manifest
from octprep.terminal import interrupts
from octtrain.answers import answer
from octtrain.data import stream
from octtrain.evaluation.metrics import Report, doubts, measure, table
from octtrain.runs import exposure
from octtrain.runs.folder import Run

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
class EvaluationTarget:
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
    dataset: Path | None = None,
    out: Path | None = None,
    allow_leaks: bool = False,
    say: Callable[[str], None] = print,
) -> Report:
    """Measure a run's best model on a split; print it, and write evaluate-SPLIT.json and predictions-SPLIT.csv.

    shards: where the run's own dataset is now, if not where it was.  dataset: another dataset of the same classes and
    recipe to measure on instead; the first eight digits of its digest are then in the files' names.  out: the folder
    for these files, made if need be; by default the run's. With allow_leaks also where the model has seen patients or
    images of the split, and what is printed and written says so.

    Raises SourceError if the folder is no run or the shards are not there; ManifestError if they are damaged, are not
    those that were asked for, have no such split or an empty one, or differ from the run's in what a model depends on,
    and if the model is damaged; LeakError if the model has seen patients or images of the split; OutputError, before
    anything is computed, if the results cannot be written.
    """
    if shards and dataset:
        raise SettingError(
            f"--shards {shards} says where the run's own shards are and --dataset {dataset} names others to measure "
            "on, so give one of them"
        )
    run = Run.load(folder)
    trial = meet(run, split, shards, dataset)
    if trial.known and not allow_leaks:
        raise LeakError(_refusal(trial))
    target = _target(trial, out)
    trial.manifest.check_files(trial.shards, (split,))
    predictions = predict_split(run.model(), trial.manifest, trial.shards, split)
    report = measure(predictions.truth, predictions.probabilities, trial.manifest.class_names)
    weak = doubts(report, _patients(predictions, trial.manifest.class_names), split)

    failure = None
    try:  # before anything is said, which may end at a closed pipe
        written = _write(trial, target, predictions, report, weak)
        interrupts.advise("the results were written")
    except OutputError as error:
        failure = error
    patients = len(set(predictions.patients))
    what = "" if trial.own else f", not the run's own ({run.manifest.digest[:12]})"
    say(
        f"{_shown(folder)} on {split} of {_shown(trial.shards)} (dataset {trial.manifest.digest[:12]}{what}): "
        f"{len(predictions.scans):,} images of {patients:,} patients"
    )
    for line in filter(None, [trial.leaky, *trial.remarks, *weak]):
        say(line)
    say("")
    say(table(report))
    if failure:
        raise failure
    say("")
    predict = f"octtrain predict {shlex.quote(_shown(folder))} IMAGE..."
    say(f"wrote {' and '.join(map(_shown, written))}; classify B-scans by `{predict}`")
    return report


def meet(run: Run, split: str, shards: Path | None = None, dataset: Path | None = None) -> EvaluationTarget:
    """A dataset's split and what of it the run's model has seen.

    shards: where the run's own dataset is, by default where it was.  dataset: another one, meant on purpose. Raises
    SourceError and ManifestError as `evaluate`.
    """
    place = dataset or shards or run.shards
    if not place.is_dir():
        raise SourceError(
            f"the {'dataset' if dataset else 'shards'} {place} {'is' if dataset else 'are'} not there"
            + ("." if dataset else "; say where they are now by --shards DIR.")
        )
    manifest = Manifest.load(place)
    if not dataset and manifest.digest != run.manifest.digest:
        raise ManifestError(
            f"{place} holds another dataset (digest {manifest.digest[:12]}) than the one {run.folder} was trained on "
            f"({run.manifest.digest[:12]}). Say where that one is now by --shards DIR, or give --dataset {place} to "
            "measure on this one instead."
        )
    check_alike(run, manifest, place)
    if split not in manifest.splits:
        raise ManifestError(f"{place} has no split {split!r}; it has {', '.join(manifest.splits)}.")
    if not manifest.records(split):
        raise ManifestError(f"Split {split!r} of {place} holds no images, so there is nothing to measure.")
    judged = exposure.sights(exposure.images(place, manifest), (split,))
    sights = run.seen().sights
    if manifest.digest == run.manifest.digest and split in run.origin.chosen_by:
        sights = tuple(sight for sight in sights if sight.split != split)  # that it chose the epoch is a remark
    patients = len({sight.patient for sight in judged})
    known = exposure.overlap(sights, judged)
    return EvaluationTarget(run=run, manifest=manifest, shards=place, split=split, known=known, patients=patients)


def check_alike(run: Run, manifest: Manifest, shards: Path) -> None:
    """Refuse a dataset whose labels or pixels mean something else than those the run was trained on.

    Raises ManifestError that names what differs.
    """
    there, here = run.manifest, manifest
    pairs = {"class names": (", ".join(there.class_names), ", ".join(here.class_names))}
    pairs |= {
        field.name: (getattr(there.recipe, field.name), getattr(here.recipe, field.name))
        for field in fields(Preprocessing)
    }
    differ = [f"{name} {theirs} there, {ours} here" for name, (theirs, ours) in pairs.items() if theirs != ours]
    if differ:
        raise ManifestError(
            f"{shards} is another dataset (digest {here.digest[:12]}) than the one {run.folder} was trained on "
            f"({there.digest[:12]}), and the model cannot be used on it: {'; '.join(differ)}. Build it with the "
            "settings of the run's dataset."
        )


def _refusal(trial: EvaluationTarget) -> str:
    """Why a split is not measured, and whom it is about."""
    names = trial.known.patients
    listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")
    whom = f": patient{'s' * (len(names) != 1)} {listed}" if names else ""
    others = "" if trial.own else " or if they are other people of the same numbers,"
    return (
        f"the model in {trial.run.folder} was trained on or chosen by {_shares(trial)}{whom}. Measure on patients it "
        f"has not seen; to go on all the same,{others} give --allow-leaks, and the result is marked LEAKY."
    )


def _shares(trial: EvaluationTarget) -> str:
    patients, images = len(trial.known.patients), len(trial.known.contents)
    shown = f"{images:,} image{'s' * (images != 1)}"
    if not patients:
        return f"{shown} of {trial.split}, under other patient numbers"
    return f"{patients:,} of the {trial.patients:,} patients and {shown} of {trial.split}"


def predict_split(model: keras.Model, manifest: Manifest, shards: Path, split: str) -> Predictions:
    """Run a model over every image of a split, once and in order.

    Raises ManifestError for damaged shards or a damaged model, StoppedError if there is too little memory.
    """
    scans: list[str] = []
    patients: list[str] = []
    truth, probabilities = [], []
    classes = len(manifest.class_names)
    with stream.readable(shards):
        for images, labels, patient_ids, keys in stream.batches(shards, manifest, (split,), BATCH, keys=True):
            probabilities.append(answer(model, images.numpy(), classes))
            truth.append(labels.numpy())
            patients += [patient.decode(errors="backslashreplace") for patient in patient_ids.numpy()]
            scans += [key.decode(errors="backslashreplace") for key in keys.numpy()]
    labels = np.concatenate(truth)
    if labels.min() < 0 or labels.max() >= classes:
        raise ManifestError(
            f"{split} of {shards} has labels from {labels.min()} to {labels.max()}, but its manifest names {classes} "
            "classes, so it is not what was built. Copy it again, or repair it by the `octprep build` that made it."
        )
    return Predictions(scans, patients, labels, np.concatenate(probabilities))


def _patients(predictions: Predictions, class_names: tuple[str, ...]) -> dict[str, int]:
    """Patients of each class."""
    found: dict[int, set[str]] = defaultdict(set)
    for label, patient in zip(predictions.truth.tolist(), predictions.patients, strict=True):
        found[label].add(patient)
    return {name: len(found[label]) for label, name in enumerate(class_names)}


def _target(trial: EvaluationTarget, out: Path | None) -> Path:
    """The folder for the results, made if need be and tried. Raises OutputError if they cannot be written there."""
    folder = out or trial.run.folder
    try:
        if out:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        what = f"--out {folder}" if out else f"the run {folder}"
        raise OutputError(
            f"{what} cannot be written to ({error.strerror or error}); name {'another' if out else 'a'} folder for the "
            "results by --out DIR."
        ) from None
    for path in _names(trial, folder):
        if path.is_dir():
            raise OutputError(f"{path} is a folder, where a file of results is to be; remove it or give another --out.")
    path = _names(trial, folder)[0]
    if out and path.exists() and (other := _run_of(path)) != _home(trial):
        raise OutputError(
            f"{path} holds the results of {other or 'something else'}; give another --out, so that they are not lost."
        )
    return folder


def _names(trial: EvaluationTarget, folder: Path) -> tuple[Path, Path]:
    return folder / f"evaluate-{trial.name}.json", folder / f"predictions-{trial.name}.csv"


def _home(trial: EvaluationTarget) -> str:
    """The run, as it stands in the results."""
    return _shown(trial.run.folder.resolve())


def _run_of(path: Path) -> str | None:
    """The run that a file of results is of, or None if it does not say."""
    try:
        raw = json.loads(path.read_bytes())
        return str(raw["run"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write(
    trial: EvaluationTarget, target: Path, predictions: Predictions, report: Report, weak: list[str]
) -> tuple[Path, Path]:
    """Write both files of results, and return their paths. Raises OutputError if that fails."""
    paths = _names(trial, target)
    try:
        atomic_write(paths[0], _json(trial, len(set(predictions.patients)), report, weak))
        atomic_write(paths[1], _csv(trial, predictions))
    except OSError as error:
        raise OutputError(
            f"the results cannot be written to {target} ({error.strerror or error}); mend that, or name another folder "
            "by --out DIR, and run the command again."
        ) from None
    return paths


def _json(trial: EvaluationTarget, patients: int, report: Report, weak: list[str]) -> bytes:
    content = {
        "split": trial.split,
        "run": _home(trial),
        "digest": trial.manifest.digest,
        "trained_on": trial.run.manifest.digest,
        "leaky": trial.leaky,
        "known": {"patients": len(trial.known.patients), "images": len(trial.known.contents)},
        "remarks": [*trial.remarks, *weak],
        "patients": patients,
        **report.as_json(),
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _csv(trial: EvaluationTarget, predictions: Predictions) -> bytes:
    names = trial.manifest.class_names
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "patient", "truth", "prediction", *names])
    rows = zip(predictions.scans, predictions.patients, predictions.truth, predictions.probabilities, strict=True)
    for scan, patient, truth, probabilities in rows:
        shown = [f"{p:.6f}" for p in probabilities]
        writer.writerow([scan, patient, names[truth], names[int(probabilities.argmax())], *shown])
    return out.getvalue().encode(errors="backslashreplace")


def _shown(path: Path) -> str:
    return path_to_text(path.as_posix())
