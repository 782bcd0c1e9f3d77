"""Calibrate a run on val: choose temperature and thresholds before the test is seen, and freeze them in the run."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from octprep.format.errors import SettingError
from octprep.format.images_csv import ImageRow
from octprep.format.paths import path_to_text
from octprep.format.seeding import seeded_hash
from octprep.storage.cache import Streaming, fetch_or_stream, holding
from octprep.storage.remote import Location, location
from octprep.terminal import interrupts
from octprep.wording import listed, number
from octtrain.calibration.abstention import choose_abstention
from octtrain.calibration.config import CalibrationConfig
from octtrain.calibration.features import with_features
from octtrain.calibration.frozen import (
    Calibration,
    Frozen,
    file_names,
    load,
    model_sha256,
    save,
    urgent_score,
)
from octtrain.calibration.operating_points import choose_threshold
from octtrain.calibration.patients import CONFIDENCE, lower_bound, number_of_patient, patients_needed
from octtrain.calibration.pixel_statistics import pixel_statistics
from octtrain.calibration.temperature import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature, scale
from octtrain.calibration.unfamiliar import FAMILIAR, MAX_IMAGES, Limits, TrainingScans
from octtrain.data.passes import one_pass
from octtrain.evaluation.aggregation import Candidate, choose_aggregation, describe_aggregation
from octtrain.evaluation.calibrated import (
    CalibratedResults,
    apply_calibration,
    crop_confidences,
    describe_answers,
    describe_referral,
)
from octtrain.evaluation.evaluate import BATCH, predict_split
from octtrain.evaluation.metrics import URGENT
from octtrain.evaluation.predictions import SplitPredictions
from octtrain.evaluation.target import EvaluationTarget, require_unexposed, resolve_target
from octtrain.inference import predict_with_features
from octtrain.runs.ensemble import Runs, describe_runs, load_ensemble, load_runs
from octtrain.runs.locations import RUNS, lock_run
from octtrain.runs.packing import own_copy
from octtrain.runs.run import Run

PATIENTS_OF_LIMITS = round(1 / (1 - FAMILIAR)) - 1  # the fewest of which FAMILIAR can be more than all


@holding()
def calibrate(
    run: Runs,
    split: str | None = None,
    shards: Location | str | None = None,
    *,
    config: CalibrationConfig | None = None,
    log: Callable[[str], None] = print,
) -> Calibration:
    """Choose temperature, thresholds and limits on val; write calibration.json and features.npz into the run.

    `octtrain.evaluate` and `octtrain.load_run` use them from then on, as long as the run's model is the same.

    run: what `octtrain.fit` returned, or its folder. Of several, trained on one dataset, the mean of their
    probabilities is calibrated; the files are written into the first, and used for the same runs in any order.  split:
    by default the one that the epoch was selected on, val.  shards: where the run's dataset is now, if it was moved.
    log: takes lines of text.

    Raises SettingError if the split is the test split or was trained on, or several runs are not of one dataset;
    otherwise what `octtrain.evaluate` raises.
    """
    config = config or CalibrationConfig()
    runs = load_runs(run)
    first = runs[0]
    split = split or first.provenance.selected_on[0]
    for member in runs:
        if member.manifest.digest != first.manifest.digest:
            raise SettingError(
                f"{member.folder} was trained on another dataset ({member.manifest.digest[:12]}) than {first.folder} "
                f"({first.manifest.digest[:12]}); an ensemble is calibrated on one that all members were trained on"
            )
        require_calibration_split(member, split)
    target = resolve_target(runs, split, location(shards) if shards else None)
    require_unexposed(target)
    runs = tuple(own_copy(member, RUNS) for member in runs)
    first = runs[0]
    trained_on = tuple(dict.fromkeys(name for member in runs for name in member.provenance.trained_on))
    splits = (split, *trained_on)
    whole, streaming = fetch_or_stream(target.place, target.shards, target.manifest, splits, 1, log)
    target.manifest.check_files(target.shards, whole)
    with lock_run(first.folder, what="octtrain calibrate"):
        digest = model_sha256(runs)
        model = load_ensemble(runs)
        network, kind = with_features(model)
        scans = fit_training_scans(network, target, trained_on, config.seed, streaming)
        predictions = predict_split(
            model, target.manifest, target.shards, split, target.rows, scans=scans, streaming=streaming
        )
        data = scans.as_bytes()
        frozen, candidates, notes = choose(
            predictions,
            target,
            config,
            model_sha256=digest,
            features_sha256=hashlib.sha256(data).hexdigest(),
            features=kind,
        )
        _, results = apply_calibration(Calibration(frozen, scans, ""), predictions, target)
        assert results  # without a class map
        save(runs, frozen, data, _chosen_on(results, predictions, candidates, notes))
        interrupts.advise("the calibration was written")
        calibration = load(runs)
        assert calibration
    for line in _summary(runs, calibration, results, predictions, candidates, notes):
        log(line)
    return calibration


def require_calibration_split(run: Run, split: str) -> None:
    """Raise SettingError for a split that thresholds must not be chosen on: test, and what was trained on."""
    held_out = ("test", f"fold{run.config.test_fold}") if run.config.test_fold is not None else ("test",)
    selected_on = run.provenance.selected_on[0]
    if split in held_out:
        raise SettingError(
            f"a run is not calibrated on {split}: thresholds must be fixed before the test is seen. Omit --split, to "
            f"use {selected_on}"
        )
    if split in run.provenance.trained_on:
        raise SettingError(
            f"a run is not calibrated on {split}: its model was trained on it, and is too certain there. Omit --split, "
            f"to use {selected_on}"
        )


def fit_training_scans(
    network: keras.Model,
    target: EvaluationTarget,
    splits: Sequence[str],
    seed: int,
    streaming: Streaming | None = None,
) -> TrainingScans:
    """What the images of a training are like, of at most MAX_IMAGES.

    network: of `with_features`.  streaming: how splits are read that are not all in the cache.
    """
    class_names = target.manifest.class_names
    chosen = sample_images([row for row in target.rows if row.split in splits], class_names, seed)
    batch_size = min(BATCH, len(chosen))
    features, statistics, labels = [], [], []
    for pixels, label in _images(target, splits, chosen, batch_size, streaming):
        features.append(predict_with_features(network, pixels, len(class_names), batch_size)[1])
        statistics.append(pixel_statistics(pixels[..., 0]))
        labels.append(label)
    return TrainingScans.fit(np.concatenate(features), np.concatenate(labels), np.concatenate(statistics))


def sample_images(rows: Sequence[ImageRow], class_names: Sequence[str], seed: int) -> set[str]:
    """The paths of at most MAX_IMAGES images, as many of each class. They depend on all paths and the seed alone."""
    limit = MAX_IMAGES // len(class_names)
    paths = [sorted(row.path for row in rows if row.label == name) for name in class_names]
    return {path for of_class in paths for path in sorted(of_class, key=lambda p: seeded_hash(p, seed))[:limit]}


def choose(
    predictions: SplitPredictions,
    target: EvaluationTarget,
    config: CalibrationConfig,
    **digests: str,
) -> tuple[Frozen, Mapping[str, Candidate], dict[str, str]]:
    """All that is frozen, how the aggregations do, and for each number that could not be chosen a note that says why.

    predictions: with distances.  digests: model_sha256, features_sha256 and features of the result.
    """
    class_names = target.manifest.class_names
    truth, patient = predictions.truth, number_of_patient(predictions.groups)
    notes: dict[str, str] = {}
    temperature = fit_temperature(truth, predictions.probabilities, patient)
    if temperature is None:
        notes["temperature"] = (
            "it stays at 1: nothing is misclassified, or no temperature between "
            f"{MIN_TEMPERATURE:g} and {MAX_TEMPERATURE:g} has the greatest likelihood"
        )
    probabilities = scale(predictions.probabilities, temperature or 1.0)
    referral, urgent = None, URGENT if set(URGENT) < set(class_names) else ()
    if urgent:
        is_urgent = np.isin(truth, [class_names.index(name) for name in urgent])
        score = urgent_score(probabilities, class_names, urgent)
        referral = choose_threshold(score, is_urgent, patient, config.sensitivity)
        patients = len(np.unique(patient[is_urgent]))
        if referral is None:
            notes["referral"] = (
                f"{number(patients, 'patient')} with {' or '.join(urgent)} cannot assure a sensitivity of "
                f"{config.sensitivity:g}, even if all of their scans are referred: that assures "
                f"{lower_bound(patients, patients):.3f} with {CONFIDENCE:.0%} confidence, and {config.sensitivity:g} "
                f"needs {patients_needed(config.sensitivity):,} patients"
            )
    else:
        notes["referral"] = f"the classes do not include {listed(URGENT)} and another, so there is no referral"
    abstention = choose_abstention(
        probabilities.max(axis=1), probabilities.argmax(axis=1) == truth, patient, config.error
    )
    if abstention.reason:
        notes["abstention"] = abstention.reason
    scaled = replace(predictions, probabilities=probabilities.astype(np.float32))
    aggregation, candidates = choose_aggregation(scaled, class_names)
    assert predictions.distances is not None
    frozen = Frozen(
        dataset=target.manifest.digest,
        split=target.split,
        class_names=class_names,
        urgent=urgent,
        confidence=CONFIDENCE,
        temperature=temperature or 1.0,
        sensitivity=config.sensitivity,
        referral_threshold=referral,
        error=config.error,
        abstention_threshold=abstention.threshold,
        aggregation=aggregation,
        limits=Limits.fit(predictions.distances, crop_confidences(predictions.paths, target.rows), patient),
        **digests,
    )
    return frozen, candidates, notes


def _images(
    target: EvaluationTarget, splits: Sequence[str], paths: set[str], batch_size: int, streaming: Streaming | None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """The pixels, (n, height, width, 1), and labels of some images, each once though its records may be repeated."""
    left = set(paths)
    passed = one_pass(
        target.shards,
        splits,
        batch_size=batch_size,
        manifest=target.manifest,
        rows=target.rows,
        streaming=streaming,
    )
    for batch in passed:
        chosen = []
        for i, path in enumerate(batch.paths):
            if path in left:
                left.remove(path)
                chosen.append(i)
        if chosen:
            yield batch.pixels[chosen], batch.labels[chosen]


def _chosen_on(
    results: CalibratedResults,
    predictions: SplitPredictions,
    candidates: Mapping[str, Candidate],
    notes: Mapping[str, str],
) -> dict[str, Any]:
    """How the frozen numbers do on the split that they were chosen on, for json.dumps."""
    content = results.as_json()
    del content["sha256"], content["chosen_on"]
    return {
        "images": len(predictions.paths),
        "patients": results.unfamiliar_patients.total,
        "notes": dict(notes),
        "aggregations": {name: candidate.as_json() for name, candidate in candidates.items()},
        **content,
    }


def _summary(
    runs: Sequence[Run],
    calibration: Calibration,
    results: CalibratedResults,
    predictions: SplitPredictions,
    candidates: Mapping[str, Candidate],
    notes: Mapping[str, str],
) -> Iterator[str]:
    frozen, patients = calibration.frozen, results.unfamiliar_patients.total
    folder = path_to_text(runs[0].folder.as_posix())
    calibration_name, features_name = file_names(runs)
    yield (
        f"{describe_runs(runs)} on {frozen.split}: {number(len(predictions.paths), 'image')} of "
        f"{number(patients, 'patient')}; bounds of {frozen.confidence:.0%} confidence, with patients as the unit"
    )
    yield f"temperature  {notes.get('temperature') or f'{frozen.temperature:.3f}'}"
    yield f"  before     {results.before}"
    yield f"  after      {results.after}"
    if results.referral:
        yield f"referral     {describe_referral(results.referral, frozen.referral_threshold)}"
    else:
        yield f"referral     no threshold: {notes['referral']}"
    if results.answers:
        yield f"abstention   {describe_answers(results.answers, frozen.abstention_threshold)}"
    else:
        yield f"abstention   no threshold: {notes['abstention']}"
    yield (
        f"unfamiliar   {results.unfamiliar} of the images, of {results.unfamiliar_patients} of the patients, by "
        f"{frozen.features}, pixels, noise and crop confidence"
    )
    if patients < PATIENTS_OF_LIMITS:
        yield (
            f"  each limit is the largest value of {number(patients, 'patient')}, which one new patient in "
            f"{patients + 1:,} is expected to exceed; with {PATIENTS_OF_LIMITS:,} or more it would be one in "
            f"{PATIENTS_OF_LIMITS + 1:,}"
        )
    for name, line in zip(("patients", "", ""), describe_aggregation(frozen.aggregation, candidates), strict=True):
        yield f"{name:12} {line}"
    yield ""
    yield f"wrote {folder}/{calibration_name} (SHA-256 {calibration.sha256[:12]}) and {features_name}"
    folders = " ".join(shlex.quote(path_to_text(run.folder.as_posix())) for run in runs)
    yield f"next: `octtrain evaluate {folders}` applies this to the test split"
