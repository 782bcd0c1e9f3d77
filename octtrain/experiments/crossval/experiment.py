"""Train a model without each fold, predict each fold with the models that were not exposed to it, report the whole."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from octprep.format import images_csv
from octprep.format.errors import OutputError, SettingError
from octprep.format.files import STDOUT, atomic_write
from octprep.format.images_csv import ImageRow
from octprep.format.manifest import Manifest
from octprep.format.paths import path_to_text, quoted
from octprep.storage.cache import fetch_or_stream, fetch_shards, holding, open_dataset, streaming_of
from octprep.storage.remote import Location, location
from octprep.terminal import interrupts
from octprep.wording import number
from octtrain import json_output
from octtrain.data.order import PARALLEL_SHARDS
from octtrain.evaluation import report as reports
from octtrain.evaluation.estimates import format_value
from octtrain.evaluation.evaluate import patients_per_class, predict_split
from octtrain.evaluation.intervals import DESCRIPTION
from octtrain.evaluation.predictions import SplitPredictions, images_sha256, predictions_csv
from octtrain.evaluation.report import Report, format_report, report_of
from octtrain.evaluation.trainings import CROSSVAL_PREDICTIONS, CROSSVAL_RESULT
from octtrain.experiments.crossval.config import CrossvalConfig
from octtrain.experiments.crossval.folder import (
    latest_crossval,
    read_stored,
    require_same,
    write_stored,
)
from octtrain.experiments.crossval.pooling import (
    MeanAndStd,
    balanced_accuracy_of,
    mean_over_seeds,
    pooled,
    require_each_once,
    require_unexposed,
)
from octtrain.runs.folder import exposure_of_training
from octtrain.runs.locations import is_vacant, lock_run, new_run, nothing_to_resume
from octtrain.runs.run import Run, choose_splits, fold_names
from octtrain.training.fit import fit, with_absolute_paths

MIN_FOLDS = 3  # one to predict, one to select the epoch on, and one to train on


@dataclass(frozen=True, kw_only=True)
class CrossvalResult:
    """A finished cross-validation. Balanced accuracies are 0..1, None where undefined."""

    folder: Path
    digest: str  # of the dataset
    images_sha256: str  # of the images that are predicted
    config: CrossvalConfig
    report: Report  # of the predictions out of fold, the mean over the seeds
    by_run: Mapping[str, float | None]  # run -> balanced accuracy on the fold it predicts
    by_fold: Mapping[str, float | None]  # fold -> balanced accuracy of the mean over the seeds
    by_seed: Mapping[int, float | None]  # seed -> balanced accuracy of its predictions of all folds
    caveats: tuple[str, ...]

    @property
    def over_folds(self) -> MeanAndStd:
        """Of the balanced accuracies by fold."""
        return MeanAndStd.of(list(self.by_fold.values()))

    @property
    def over_seeds(self) -> MeanAndStd:
        """Of the balanced accuracies by seed."""
        return MeanAndStd.of(list(self.by_seed.values()))

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return {
            "digest": self.digest,
            "images_sha256": self.images_sha256,
            "folds": list(self.by_fold),
            "seeds": list(self.by_seed),
            "settings": asdict(self.config.fit),
            "caveats": list(self.caveats),
            "intervals": DESCRIPTION,
            **self.report.as_json(),
            "balanced_accuracy_by_fold": {**self.by_fold},
            "balanced_accuracy_over_folds": asdict(self.over_folds),
            "balanced_accuracy_by_seed": {str(seed): value for seed, value in self.by_seed.items()},
            "balanced_accuracy_over_seeds": asdict(self.over_seeds),
            "balanced_accuracy_by_run": {**self.by_run},
        }


@holding()
def crossval(
    shards: Location | str,
    run: Path | str | None = None,
    *,
    resume: bool = False,
    json_file: Path | None = None,
    log: Callable[[str], None] = print,
    show_progress: bool = True,
    **settings: Any,
) -> CrossvalResult:
    """Train one model for each fold and seed, predict every fold by those that were not exposed to it, and report.

    shards: a folder made by `octprep build --split kfold`, or its URL. If all folds are larger than the cache may be,
    all trainings have the feed `stream`, and fetch shards as they are read.  run: the folder for all runs and the
    results; None: a new one in the folder `runs`, or with `resume` the latest of these shards there. One that was
    started with the same settings is resumed: finished runs are kept.  resume: use the settings it was started with,
    where no others are given.  json_file: a copy of the results; Path("-") is standard output.  settings: fields of
    CrossvalConfig and of FitConfig, such as `seeds=3`, `epochs=20`.  log, show_progress: as of `octtrain.fit`.

    Raises SettingError for shards without folds, or with fewer than three, and settings out of range; LeakError if
    a model is, or would be, exposed to patients that it is to predict, before any training where that can be known;
    OutputError if the folder holds something else or was started with other settings; SourceError if there is nothing
    to resume; and what `octtrain.fit` raises.
    """
    place, folder = location(shards), Path(run) if run is not None else None
    data = open_dataset(place)
    manifest = Manifest.load(data)
    folds = _require_folds(manifest, place)
    if json_file:
        json_output.check(json_file)
    if resume and folder is None:
        folder = latest_crossval(manifest.digest)
        log(f"resuming {path_to_text(str(folder))}, the latest cross-validation of these shards")
    stored = read_stored(folder) if folder else None
    if resume and not stored:
        assert folder
        raise nothing_to_resume(folder)
    config = (stored.config if resume and stored else CrossvalConfig()).merged(settings)
    config = dataclasses.replace(config, fit=with_absolute_paths(config.fit))
    if stored and folder:
        require_same(folder, stored, config, manifest)
    streams = streaming_of(place, data, manifest, folds, PARALLEL_SHARDS) is not None
    if not streams:
        fetch_shards(place, data, manifest, folds, log)
        manifest.check_files(data, folds)
    rows = images_csv.read_checked(data, manifest).rows
    plan = Plan(config, place, data, manifest, rows, streams=streams)
    plan.check()
    is_new = folder is None
    folder = folder or new_run(place, f"{config.fit.model}-crossval")
    with lock_run(folder, is_new=is_new, what="octtrain crossval"):
        with _writing_to(folder):
            write_stored(folder, config, manifest, stored.started if stored else None)
        command = f"octtrain crossval {quoted(place)} --run {quoted(folder)} --resume"
        with interrupts.keep_advising(f"resume by `{command}`"):
            runs = _train(plan, folder, log, show_progress)
            result, predictions = _predict(plan, folder, runs, log)
        content = result.as_json()
        with _writing_to(folder):
            atomic_write(folder / CROSSVAL_PREDICTIONS, predictions_csv(manifest.class_names, predictions))
            atomic_write(folder / CROSSVAL_RESULT, json_output.encode(content))
    interrupts.advise("the results were written")
    if json_file:
        json_output.write(json_file, content)
    for line in _report(result, plan, runs, json_file):
        log(line)
    return result


class Plan:
    """Which runs a cross-validation has.

    place: the dataset. data: the folder that it is read from. rows: the images of the dataset, from images.csv.
    streams: whether the cache may not have all folds, so that all trainings read them in the order of a stream.
    """

    def __init__(
        self,
        config: CrossvalConfig,
        place: Location,
        data: Path,
        manifest: Manifest,
        rows: Sequence[ImageRow],
        *,
        streams: bool = False,
    ) -> None:
        self.config, self.place, self.data, self.manifest, self.rows = config, place, data, manifest, rows
        self.streams = streams
        count = len(fold_names(manifest))
        self.folds = tuple(range(count)) if config.folds == "all" else tuple(sorted(config.folds))
        if self.folds[-1] >= count:
            raise SettingError(f"folds must be between 0 and {count - 1}; got {self.folds[-1]}")
        self.seeds = tuple(config.fit.seed + i for i in range(config.seeds))
        self.trainings = {
            (fold, seed): config.training(fold, i, count) for fold in self.folds for i, seed in enumerate(self.seeds)
        }
        if streams and config.fit.feed == "auto":
            self.trainings = {
                key: dataclasses.replace(training, feed="stream") for key, training in self.trainings.items()
            }

    def check(self) -> None:
        """Raise LeakError if a model would be exposed to patients that it is to predict, before any is trained.

        Raises SettingError or ManifestError as well for what `fit` would not take.
        """
        for (fold, seed), config in self.trainings.items():
            choose_splits(self.manifest, config.fold, config.test_fold)
            if seed == self.seeds[0]:
                planned = Run(
                    folder=Path(run_name(fold, seed)), config=config, manifest=self.manifest, shards=self.place
                )
                known = exposure_of_training(planned, self.rows)
                require_unexposed(known, self.rows, f"fold{fold}", f"the model of {planned.folder}")


Runs = Mapping[tuple[int, int], Run]  # by fold and seed


def run_name(fold: int, seed: int) -> str:
    """The name of a run's folder."""
    return f"fold{fold}-seed{seed}"


def _require_folds(manifest: Manifest, shards: Location) -> tuple[str, ...]:
    folds = fold_names(manifest)
    if len(folds) < MIN_FOLDS:
        state = f"has {number(len(folds), 'fold')}" if folds else f"has no folds but {', '.join(manifest.splits)}"
        raise SettingError(
            f"{shards} {state}, and a cross-validation needs {MIN_FOLDS}: one to predict, one to select the best epoch "
            "on, and the rest to train on. Build such shards by `octprep build SOURCE SHARDS --split kfold --folds 5`"
        )
    return folds


def _train(plan: Plan, folder: Path, log: Callable[[str], None], show_progress: bool) -> Runs:
    """Train what is not yet trained."""

    def log_training(line: str) -> None:
        if not line.startswith("next: "):  # that is for a run of its own
            log(line)

    runs: dict[tuple[int, int], Run] = {}
    for i, ((fold, seed), config) in enumerate(plan.trainings.items(), 1):
        path = folder / run_name(fold, seed)
        log(f"{'' if i == 1 else chr(10)}training {i} of {len(plan.trainings)}, without fold{fold}: {path.name}")
        runs[fold, seed] = fit(
            plan.place, path, config, resume=not is_vacant(path), log=log_training, show_progress=show_progress
        )
        gc.collect()  # images on the device are freed before the next training asks how much of it is free
    return runs


def _predict(
    plan: Plan, folder: Path, runs: Runs, log: Callable[[str], None]
) -> tuple[CrossvalResult, SplitPredictions]:
    """Predict every fold, and compute all metrics."""
    log("")
    class_names = plan.manifest.class_names
    members: dict[tuple[int, int], SplitPredictions] = {}
    caveats: list[str] = []
    for (fold, seed), run in runs.items():
        known = run.exposure()
        require_unexposed(known, plan.rows, f"fold{fold}", f"the model in {run.folder}")
        if not known.complete:
            caveats.append(
                f"the models learnt from {run.sources_of_exposure}, whose training patients are unknown; they may "
                "include patients that are predicted here"
            )
        name, streaming = f"fold{fold}", None
        with holding():  # then the next fold has room
            if plan.streams:
                _, streaming = fetch_or_stream(plan.place, plan.data, plan.manifest, (name,), 1)
            members[fold, seed] = predict_split(
                run.load_model(), plan.manifest, plan.data, name, plan.rows, streaming=streaming
            )
    by_fold = {fold: mean_over_seeds([members[fold, seed] for seed in plan.seeds]) for fold in plan.folds}
    require_each_once({f"fold{fold}": predictions for fold, predictions in by_fold.items()}, plan.rows)
    predictions = pooled(list(by_fold.values()))
    report = report_of(predictions, class_names)
    result = CrossvalResult(
        folder=folder,
        digest=plan.manifest.digest,
        images_sha256=images_sha256(predictions.paths, plan.rows),
        config=plan.config,
        report=report,
        by_run={run_name(*key): balanced_accuracy_of(part) for key, part in members.items()},
        by_fold={f"fold{fold}": balanced_accuracy_of(part) for fold, part in by_fold.items()},
        by_seed={
            seed: balanced_accuracy_of(pooled([members[fold, seed] for fold in plan.folds])) for seed in plan.seeds
        },
        caveats=(
            *dict.fromkeys(caveats),
            *reports.caveats(report, patients_per_class(predictions, class_names), "the folds"),
        ),
    )
    return result, predictions


def _report(result: CrossvalResult, plan: Plan, runs: Runs, json_file: Path | None) -> list[str]:
    """The lines of the report."""
    total = len(fold_names(plan.manifest))
    lines = [
        f"{number(result.report.accuracy.total, 'image')} of {number(result.report.patients, 'patient')} in "
        f"{len(plan.folds)} of {number(total, 'fold')}, each predicted by {number(len(plan.seeds), 'model')} that had "
        f"not been exposed to its patient (dataset {result.digest[:12]})",
        *result.caveats,
        "",
        format_report(result.report),
        "",
        "balanced accuracy by fold and seed",
        f"{'':8}" + "".join(f"{f'seed {seed}':>10}" for seed in plan.seeds) + f"{'mean':>10}",
    ]
    for fold in plan.folds:
        values = [result.by_run[run_name(fold, seed)] for seed in plan.seeds]
        cells = [*values, result.by_fold[f"fold{fold}"]]
        lines.append(f"{f'fold{fold}':8}" + "".join(f"{format_value(value):>10}" for value in cells))
    cells = [*result.by_seed.values(), result.report.balanced_accuracy.value]
    lines.append(f"{'pooled':8}" + "".join(f"{format_value(value):>10}" for value in cells))
    lines.append("the last column is of the mean of the seeds' probabilities, the last line of all folds together")
    for name, count, summary in (
        ("folds", len(plan.folds), result.over_folds),
        ("seeds", len(plan.seeds), result.over_seeds),
    ):
        if count > 1:
            lines.append(
                f"over {count} {name}: {format_value(summary.mean)}, standard deviation {format_value(summary.std)}"
            )
    written = [result.folder / CROSSVAL_RESULT, result.folder / CROSSVAL_PREDICTIONS]
    if json_file and json_file != STDOUT:
        written.append(json_file)
    lines += ["", "wrote " + " and ".join(path_to_text(str(path)) for path in written)]
    if plan.manifest.splits.get("test") and plan.manifest.records("test"):
        folders = " ".join(quoted(run.folder) for run in runs.values())
        lines.append(f"next: `octtrain evaluate {folders}` evaluates the mean of all models on test")
    return lines


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Raise OutputError if the disk does not take what is written in the block."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"nothing can be written to {folder} ({error.strerror or error}); correct that, and run the same command "
            "again with --resume."
        ) from None
