"""Evaluate a trained model on patients that it was not exposed to."""

from __future__ import annotations

import dataclasses
import shlex
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from octprep.format.errors import ManifestError, OutputError, SettingError
from octprep.format.files import STDOUT
from octprep.format.images_csv import ImageRow
from octprep.format.manifest import Manifest
from octprep.format.paths import original, path_to_text
from octprep.storage.cache import Streaming, fetch_or_stream, holding
from octprep.storage.remote import Location, location
from octprep.terminal import interrupts
from octprep.wording import listed, number
from octtrain import json_output
from octtrain.calibration.features import predict_with_distances, with_features
from octtrain.calibration.frozen import load_calibration
from octtrain.calibration.unfamiliar import Distances, TrainingScans
from octtrain.data.passes import one_pass
from octtrain.evaluation import report as reports
from octtrain.evaluation.calibrated import apply_calibration, calibration_caveats
from octtrain.evaluation.predictions import SplitPredictions, groups_of
from octtrain.evaluation.prevalence import complete_prevalence
from octtrain.evaluation.report import Report, format_report, report_of
from octtrain.evaluation.results import as_json, prepare_folder, write_results
from octtrain.evaluation.slices import format_slices, slices_of
from octtrain.evaluation.target import EvaluationTarget, require_unexposed, resolve_target
from octtrain.inference import predict_probabilities
from octtrain.runs.ensemble import Runs, describe_runs, load_ensemble, load_runs
from octtrain.runs.locations import RUNS
from octtrain.runs.packing import own_copy
from octtrain.runs.run import Run

BATCH = 64  # images; more is hardly faster and takes more memory


@holding()
def evaluate(
    run: Runs,
    split: str = "test",
    shards: Location | str | None = None,
    *,
    dataset: Location | str | None = None,
    out: Path | str | None = None,
    json_file: Path | None = None,
    allow_leaks: bool = False,
    classes: Mapping[str, Sequence[str]] | None = None,
    prevalence: Mapping[str, float] | None = None,
    write_pages: Callable[[Sequence[Run], str, Path | None], Sequence[Path]] | None = None,
    log: Callable[[str], None] = print,
) -> Report:
    """Evaluate a run's best model on a split; print and write metrics with 95 % intervals.

    Written are evaluate-SPLIT.json, predictions-SPLIT.csv (images) and patients-SPLIT.csv.

    run: what `octtrain.fit` returned, or its folder. Of several runs the mean of their probabilities is evaluated: a
    patient counts as exposed if one of the members was exposed to them, and the files are evaluate-SPLIT-ensemble.json,
    which names the members, and so on. A single run that was calibrated is evaluated with its frozen calibration.
    split: test, val, a fold, or another split of the dataset.  shards: where the run's own dataset is now, if it was
    moved.  dataset: another dataset of the same classes and preprocessing to
    evaluate on instead; the first eight digits of its digest are then in the files' names.  out: the folder for these
    files, made if need be; by default that of the run, or of the first, and runs/synthetic for the
    packaged one, which is copied there.  json_file: a copy of the metrics; Path("-") is
    standard output.  allow_leaks: evaluate although the model was exposed to patients or images of the split; what is
    printed and written is then marked LEAKY.  classes: for a dataset of other classes, shared class -> the classes of
    the model or the dataset that it is made of; a class that is not named is shared under its own name.  prevalence:
    class -> its share where the predictive values are to hold, 1 in all; one class may be omitted and has the rest.
    write_pages: writes what is to be read of results in the folder of the run, or of the first, from the runs, the
    results' name and the shards, None if they were streamed, as `octtrain.report.write.write_pages` does, and returns
    its files; if it fails, the results are kept and the log says why.  log: takes lines of text.

    Returns the metrics of images and, as `per_patient`, of patients, each with its interval; the value is None where
    undefined.

    Raises SourceError if the folder is not a run or the shards do not exist; ManifestError if they are damaged, are
    another dataset than the one named, have no such split or an empty one, or differ from the run's in classes or
    preprocessing, if several runs differ in them, and if a model is damaged; LeakError if the model was exposed to
    patients or images of the split; OutputError, before anything is computed, if the results cannot be written;
    MissingPackage if the shards hold PNGs, which only TensorFlow reads, and it is not installed.
    """
    if shards and dataset:
        raise SettingError(
            f"--shards {shards} is for the run's own shards, and --dataset {dataset} for others to evaluate on; give "
            "one of them"
        )
    runs = load_runs(run)
    target = resolve_target(runs, split, _location(shards), _location(dataset), classes)
    shares = None if prevalence is None else complete_prevalence(prevalence, target.class_names)
    if not allow_leaks:
        require_unexposed(target)
    if out is None:
        runs = tuple(own_copy(member, RUNS) for member in runs)
        target = dataclasses.replace(target, runs=runs)
    if json_file:
        json_output.check(json_file)
    folder = prepare_folder(target, _path(out))
    class_names = target.class_names
    whole, streaming = fetch_or_stream(target.place, target.shards, target.manifest, (split,), 1, log)
    target.manifest.check_files(target.shards, whole)
    calibration = load_calibration(runs, log)
    model_classes = len(runs[0].manifest.class_names)
    predictions = predict_split(
        load_ensemble(runs),
        target.manifest,
        target.shards,
        split,
        target.rows,
        model_classes,
        scans=calibration.scans if calibration else None,
        streaming=streaming,
    )
    calibrated = None
    if calibration:
        predictions, calibrated = apply_calibration(calibration, predictions, target)
    if target.class_map:
        predictions = target.class_map.apply(predictions)
    report = report_of(predictions, class_names, shares)
    slices = slices_of(predictions, target.rows, len(class_names))
    caveats = [
        *target.caveats,
        *reports.caveats(report, patients_per_class(predictions, class_names), split),
        *(calibration_caveats(calibration, target) if calibration else []),
    ]
    content = as_json(target, predictions, report, caveats, slices)
    if calibrated:
        content["calibration"] = calibrated.as_json()

    failure = None
    try:  # before anything is printed, which may end at a closed pipe
        written = [*write_results(target, folder, predictions, content)]
        interrupts.advise("the results were written")
        if json_file:
            json_output.write(json_file, content)
    except OutputError as error:
        failure = error
    origin = "" if target.is_own_dataset else f", not the run's own ({target.run_digest[:12]})"
    log(
        f"{describe_runs(runs)} on {split} of {_text(target.place)} (dataset {target.manifest.digest[:12]}{origin}): "
        f"{number(len(predictions.paths), 'image')} of {number(report.patients, 'patient')}"
    )
    for line in filter(None, [target.leak_warning, *_describe_classes(target), *caveats]):
        log(line)
    log("")
    log(format_report(report))
    if text := format_slices(slices):
        log("")
        log(text)
    if calibrated:
        log("\n".join(["", *calibrated.lines()]))
    if failure:
        raise failure
    if write_pages and folder == runs[0].folder:
        try:
            written += write_pages(runs, target.name, None if streaming else target.shards)  # which has pictures
        except Exception as error:  # whatever it is, the results are there, and are not to be lost for it
            log(f"\nWARNING: the results were written, but no report on them ({str(error) or type(error).__name__})")
    if json_file and json_file != STDOUT:
        written.append(json_file)
    log("")
    log(f"wrote {listed([*map(_text, written)])}")
    folders = " ".join(shlex.quote(_text(member.folder)) for member in runs)
    log(f"next: `octtrain predict {folders} IMAGE...` classifies B-scans")
    return report


def predict_split(
    model: keras.Model,
    manifest: Manifest,
    shards: Path,
    split: str,
    rows: Sequence[ImageRow],
    model_classes: int | None = None,
    scans: TrainingScans | None = None,
    streaming: Streaming | None = None,
) -> SplitPredictions:
    """Run a model over every image of a split, once and in order.

    rows: the images in the shards' images.csv.  model_classes: if the model has another number than the dataset.
    scans: to measure distances from.  streaming: how the split is read if it is not all in the cache.

    Raises ManifestError for damaged shards or a damaged model, StoppedError if there is too little memory,
    MissingPackage as `evaluate`.
    """
    paths: list[str] = []
    patients: list[str] = []
    truth, probabilities, distances = [], [], []
    classes = len(manifest.class_names)
    network = with_features(model)[0] if scans else None
    batch_size = min(BATCH, max(1, manifest.records(split)))
    for batch in one_pass(shards, (split,), batch_size=batch_size, manifest=manifest, rows=rows, streaming=streaming):
        if scans is None:
            probabilities.append(predict_probabilities(model, batch.pixels, model_classes or classes, batch_size))
        else:
            given, distance = predict_with_distances(network, scans, batch.pixels, model_classes or classes, batch_size)
            probabilities.append(given)
            distances.append(distance)
        truth.append(batch.labels)
        patients += batch.patients
        paths += batch.paths
    labels = np.concatenate(truth)
    if labels.min() < 0 or labels.max() >= classes:
        raise ManifestError(
            f"{split} of {original(shards)} has labels from {labels.min()} to {labels.max()}, but its manifest names "
            f"{classes} classes, so it is not what was built. Copy it again, or repair it by the `octprep build` that "
            "made it."
        )
    joined = Distances.joined(distances) if distances else None
    return SplitPredictions(paths, patients, groups_of(paths, rows), labels, np.concatenate(probabilities), joined)


def patients_per_class(predictions: SplitPredictions, class_names: tuple[str, ...]) -> dict[str, int]:
    """Class name -> number of patient groups."""
    patients: dict[int, set[str]] = defaultdict(set)
    for label, patient in zip(predictions.truth.tolist(), predictions.groups, strict=True):
        patients[label].add(patient)
    return {name: len(patients[label]) for label, name in enumerate(class_names)}


def _describe_classes(target: EvaluationTarget) -> list[str]:
    """How classes were mapped, and what was left out, as lines."""
    if not target.class_map:
        return []
    parts = target.class_map.as_json(target.runs[0].manifest.class_names, target.manifest.class_names)
    mapped = "; ".join(
        f"{name}: {' + '.join(part['model'])} of the model, {' + '.join(part['dataset']) or 'nothing'} of the dataset"
        for name, part in parts.items()
    )
    left_out = [f"{number(count, 'image')} of {name}" for name, count in sorted(target.left_out.items())]
    lines = [f"classes: {mapped}"]
    return [*lines, f"left out, as the model does not know the class: {listed(left_out)}"] if left_out else lines


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _location(place: Location | str | None) -> Location | None:
    return None if place is None else location(place)


def _text(path: Location) -> str:
    return path_to_text(path.as_posix() if isinstance(path, Path) else str(path))
