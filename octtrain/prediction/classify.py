"""Classify B-scan files, preprocessed exactly as the training images were."""

from __future__ import annotations

import shlex
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from octprep import preprocessing
from octprep.format.config import IMAGE_FORMATS, PREPROCESSING_VERSION, Preprocessing
from octprep.format.errors import (
    ManifestError,
    Notice,
    SettingError,
    SourceError,
    StoppedError,
    UnreadableImage,
)
from octprep.format.flags import MEANINGS, Flags
from octprep.format.manifest import version_differences
from octprep.format.names import PICTURE_ENDINGS
from octprep.format.paths import frame_path, path_to_text
from octprep.terminal import discard_stdout, interrupts, printable
from octprep.wording import listed, number
from octtrain.calibration.features import predict_with_distances, with_features
from octtrain.calibration.frozen import Calibration, load_calibration
from octtrain.inference import predict_probabilities
from octtrain.prediction import predictions_csv
from octtrain.prediction.inputs import (
    Exclusion,
    find_files,
    label_from_path,
    path_of,
    unknown_classes,
)
from octtrain.prediction.predictions_csv import PredictionsCsv, Row
from octtrain.prediction.preparing import UNREAD, Prepare, frame_of, prepare_file, prepare_here, preparing_apart
from octtrain.runs.ensemble import Runs, load_ensemble, load_runs, model_digests
from octtrain.runs.run import Run

BATCH = 32  # images
MARKS = ("referral", "uncertain", "unfamiliar")  # columns of a calibrated run, after the probabilities
MARK_WORDS = {"referral": "refer", "uncertain": "uncertain", "unfamiliar": "unfamiliar"}  # on a file's line
YES, NO = "yes", "no"  # what they hold; nothing where the calibration has no threshold
WITHHELD = "the scan is unlike those of the training, so the verdict is withheld"  # the reason with `strict`
# After a probability for each class: what is unusual about the scan, why it was excluded, and what gave the row.
STATE_COLUMNS = ("flags", "exclusion_reason", "bytes", "modified_ns", "model")


@dataclass(frozen=True)
class Prediction:
    """The model's output for one file."""

    path: Path
    label: str  # the most probable class
    true_label: str | None  # where the file's name or folder states a class that the model knows
    probabilities: NDArray[np.float32]  # (classes,), 0..1, in the order of the run's class names
    marks: Mapping[str, str] = field(default_factory=dict)  # of a calibrated run: column of MARKS -> yes, no, or ""
    flags: Flags = ()  # what is unusual about the scan: codes of `octprep.format.flags`, sorted

    @property
    def marked(self) -> list[str]:
        """The columns of MARKS that hold yes."""
        return [name for name, cell in self.marks.items() if cell == YES]


Result = Prediction | Exclusion
Log = Callable[[str], None]


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, or an ensemble, with everything needed to classify files. Made by `load_run`."""

    runs: tuple[Run, ...]  # of the model, or of the members of the ensemble
    calibration: Calibration | None = None  # that is applied, where the run was calibrated

    @property
    def run(self) -> Run:
        """The run, or the first member."""
        return self.runs[0]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.run.manifest.class_names

    @cached_property
    def model(self) -> keras.Model:
        """(n, height, width, 1) uint8 in 0..255, preprocessed, to (n, classes) float32 probabilities."""
        return load_ensemble(self.runs)

    @cached_property
    def _model_with_features(self) -> keras.Model:
        return with_features(self.model)[0]

    def predict(
        self, paths: Path | str | Iterable[Path | str], csv_file: Path | str | None = None, *, strict: bool = False
    ) -> list[Result]:
        """Classify files, and all files in folders at any depth; of a DICOM or .vol file each frame, `scan.dcm#07`.

        csv_file: for all probabilities and exclusions; grows with every batch, and is continued if it already holds
        predictions of this model: rows of files that have not changed since are kept.  strict: exclude scans that are
        unlike those of the training, of a run that was calibrated.

        Returns for each file, sorted by path within each folder, a Prediction (`label`, `probabilities` (classes,)
        float32 in 0..1, `true_label`, `flags`, and `marks` of a calibrated run) or an Exclusion with the reason why it
        could not be classified.

        Raises SourceError if a path does not exist or there is no file; OutputError if the CSV cannot be used;
        ManifestError if the model is damaged; StoppedError if the CSV can no longer be written or memory is short.
        """
        inputs = [paths] if isinstance(paths, Path | str) else list(paths)
        results, _ = self._predict(
            [Path(path) for path in inputs],
            Path(csv_file) if csv_file else None,
            strict,
            _discard,
            _discard,
            prepare_here,
        )
        return results

    def prepare_image(self, path: Path | str) -> NDArray[np.uint8] | Exclusion:
        """A file's pixels as the model takes them, (height, width) uint8 in 0..255, or an Exclusion with the reason."""
        return prepare_image(Path(path), self.run.manifest.recipe)

    def _predict(
        self, inputs: Sequence[Path], csv_file: Path | None, strict: bool, log: Log, warn: Log, prepare: Prepare
    ) -> tuple[list[Result], int]:
        """All results, and how many of them were in the CSV already."""
        if strict and not self.calibration:
            raise SettingError(
                "--strict needs the limits of a run, or an ensemble, that was calibrated; run `octtrain calibrate RUN` "
                "first, or omit --strict"
            )
        names = self.class_names
        marks = MARKS if self.calibration else ()
        if csv_file:
            predictions_csv.check(csv_file)
        files = with_frames(find_files(inputs, csv_file))
        _ = self.model  # loaded before the CSV is made
        header = ["path", "prediction", *names, *marks, *STATE_COLUMNS]
        with (
            nullcontext()
            if csv_file is None
            else predictions_csv.open_growing(csv_file, header, self._id(strict)) as table
        ):
            results = _earlier_results(table, files, names, marks) if table else {}
            earlier = len(results)
            if table and earlier:
                log(f"{_text(table.path)} already holds {earlier:,} of the {len(files):,} files; their rows are kept")
            remaining = [file for file in files if path_of(file) not in results]
            _advise(table, len(results), len(files))
            batch_size = min(BATCH, len(remaining))
            states_of = [_file_state(path_of(file)) for file in remaining] if table else []  # before they are read
            batches = [remaining[start : start + BATCH] for start in range(0, len(remaining), BATCH)]
            files_of = [[file for file in batch if isinstance(file, Path)] for batch in batches]
            for batch, scans in zip(batches, prepare(files_of, self.run.manifest.recipe), strict=True):
                batch_results = list(self._classify(batch, scans, batch_size, strict))
                if table:
                    states, states_of = states_of[: len(batch)], states_of[len(batch) :]
                    pairs = zip(batch_results, states, strict=True)
                    table.add([_row(result, names, marks, state) for result, state in pairs])
                results |= {result.path: result for result in batch_results}
                _advise(table, len(results), len(files))
                try:
                    _print(batch_results, log, warn)
                except BrokenPipeError:
                    if not table:
                        raise
                    discard_stdout()  # the reader of the output has gone; the CSV is written all the same
        return [results[path_of(file)] for file in files], earlier

    def _classify(
        self,
        batch: Sequence[Path | Exclusion],
        scans: Sequence[preprocessing.PreprocessedImage | str],
        batch_size: int,
        strict: bool,
    ) -> Iterator[Result]:
        """The results of some files, in their order.

        scans: of those that are no exclusions, or the reason why there is none. batch_size: images that the model is
        run on.
        """
        names = self.class_names
        prepared = [scan for scan in scans if not isinstance(scan, str)]
        rows = iter(self._probabilities_and_marks(prepared, batch_size) if prepared else ())
        found = iter(scans)
        for file in batch:
            if isinstance(file, Exclusion):
                yield file
                continue
            scan = next(found)
            if isinstance(scan, str):
                yield Exclusion(file, scan)
                continue
            path, (probabilities, marks) = file, next(rows)
            if strict and marks["unfamiliar"] == YES:
                yield Exclusion(path, WITHHELD)
            else:
                label = names[int(probabilities.argmax())]
                flags = scan.measurements.flags
                yield Prediction(path, label, label_from_path(path, names), probabilities, marks, flags)

    def _probabilities_and_marks(
        self, scans: Sequence[preprocessing.PreprocessedImage], batch_size: int
    ) -> list[tuple[NDArray[np.float32], dict[str, str]]]:
        """For each scan its probabilities, (classes,), and what it is marked with; {} without a calibration."""
        images, classes = np.stack([scan.pixels for scan in scans])[..., None], len(self.class_names)
        if self.calibration is None:
            return [(row, {}) for row in predict_probabilities(self.model, images, classes, batch_size)]
        raw, distances = predict_with_distances(
            self._model_with_features, self.calibration.scans, images, classes, batch_size
        )
        probabilities = self.calibration.probabilities(raw)
        crop_confidence = np.array([scan.measurements.crop_confidence for scan in scans]).round(4)  # as in images.csv
        marks = self.calibration.marks(probabilities, distances, crop_confidence)
        refer, uncertain, unfamiliar = (
            _cells(flags, len(scans)) for flags in (marks.refer, marks.uncertain, marks.is_unfamiliar)
        )
        cells = zip(refer, uncertain, unfamiliar, strict=True)
        return [(row, dict(zip(MARKS, each, strict=True))) for row, each in zip(probabilities, cells, strict=True)]

    def _id(self, strict: bool) -> str:
        """What gave a row of the CSV: the model, its calibration, and whether verdicts were withheld."""
        parts = [_model_id(self.runs)]
        if self.calibration:
            parts += [self.calibration.sha256[:16], *(["strict"] if strict else [])]
        return "/".join(parts)


def load_run(folder: Runs, *, warn: Log | None = None) -> LoadedRun:
    """Open a trained run to classify files with it: `octtrain.load_run("runs/a").predict(["scan.jpeg"])`.

    folder: of the run, or what `octtrain.fit` returned; of several, the mean of their probabilities is given.  warn:
    takes a line if other library versions than the installed ones made the pixels that the model was trained on; by
    default it is issued as a Notice, a warning.

    The model itself is loaded when it is first used. Raises SourceError if the folder is not a run, ManifestError
    if it was edited, several differ in classes or preprocessing, or this version of octprep would preprocess
    differently, SettingError if a library is missing.
    """
    runs = load_runs(folder)
    for line in dict.fromkeys(line for run in runs for line in check_preprocessing(run)):
        if warn:
            warn(f"WARNING: {line}")
        else:
            warnings.warn(line, Notice, stacklevel=2)
    return LoadedRun(runs, load_calibration(runs, warn or _discard))


def predict(
    run: Runs,
    paths: Sequence[Path],
    csv_file: Path | None = None,
    *,
    strict: bool = False,
    log: Log = print,
    warn: Log = print,
) -> list[Result]:
    """Classify files as `LoadedRun.predict` does, and print a line for each and a summary.

    A file named CLASS-patient-number, or in a class folder, states its class: how many predictions agree is counted.
    Files are decoded in a process of their own, so that one on which the image decoder crashes or hangs is excluded.

    Raises what `load_run` and `LoadedRun.predict` raise; SourceError if no file at all could be classified; after all
    other files are done, StoppedError if some could not be read.
    """
    loaded = load_run(run, warn=warn)
    with preparing_apart() as prepare:
        results, earlier = loaded._predict(paths, csv_file, strict, log, warn, prepare)
    try:
        for line in _summary(results, loaded, csv_file, earlier):
            log(line)
    except BrokenPipeError:
        if not csv_file:
            raise
        discard_stdout()
    unread = [result for result in results if isinstance(result, Exclusion) and result.is_unread]
    if unread:
        first = f"{_text(unread[0].path)}: {unread[0].reason.removeprefix(UNREAD)}"
        raise StoppedError(
            f"{len(unread):,} of {number(len(results), 'file')} could not be read ({first}) and are not "
            "classified; all others are. Run the same command again to retry them."
        )
    if not any(isinstance(result, Prediction) for result in results):
        raise SourceError(
            f"0 of {number(len(results), 'file')} could be classified; give B-scans as {IMAGE_FORMATS} files."
        )
    return results


def check_preprocessing(run: Run) -> list[str]:
    """Warnings that other library versions than the installed ones made the pixels of the training, if so.

    Raises ManifestError if this version of octprep would give other pixels, SettingError if a library is missing.
    """
    manifest = run.manifest
    trained_with = manifest.recipe.version
    if trained_with != PREPROCESSING_VERSION:
        made_by = manifest.libraries.get("octprep", "another version")
        raise ManifestError(
            f"{run.folder} was trained on pixels of preprocessing version {trained_with} (octprep {made_by}), but this "
            f"octprep ({version('octprep')}) has version {PREPROCESSING_VERSION} and would give other pixels. Install "
            "that one, or build the shards and train again with this one."
        )
    installed = {"octprep": version("octprep"), **preprocessing.library_versions(manifest.recipe)}
    return [
        f"{difference}; pixels, and so predictions, may differ a little from those of the training."
        for difference in version_differences(manifest, installed)
    ]


def with_frames(files: Iterable[Path | Exclusion]) -> list[Path | Exclusion]:
    """The files, with the frames in place of those that hold many B-scans; an Exclusion of one that cannot be used."""
    return [frame for file in files for frame in _frames(file)]


def _frames(file: Path | Exclusion) -> list[Path | Exclusion]:
    if isinstance(file, Exclusion) or file.suffix.lower() in PICTURE_ENDINGS or frame_of(file)[1]:
        return [file]
    try:
        header = preprocessing.read_volume_header(file)
    except UnreadableImage as error:
        return [Exclusion(file, printable(str(error)))]
    except OSError:  # whoever reads it says why
        return [file]
    if header is None:
        return [file]
    count = len(header.frames)
    return [Path(frame_path(str(file), number, count)) for number in range(1, count + 1)]


def prepare_image(path: Path, recipe: Preprocessing) -> NDArray[np.uint8] | Exclusion:
    """A file's pixels as in training, (height, width) uint8 in 0..255, or an Exclusion with the reason."""
    prepared = prepare_scan(path, recipe)
    return prepared if isinstance(prepared, Exclusion) else prepared[1].pixels


def prepare_scan(
    path: Path, recipe: Preprocessing
) -> tuple[NDArray[np.uint8], preprocessing.PreprocessedImage] | Exclusion:
    """A file's source scan, (rows, columns) uint8 in 0..255, and the same as in training, or an Exclusion."""
    prepared = prepare_file(path, recipe)
    return Exclusion(path, prepared) if isinstance(prepared, str) else prepared


def _advise(table: PredictionsCsv | None, done: int, total: int) -> None:
    """Set what is printed if the program is interrupted from here on."""
    if table:
        interrupts.advise(f"{_text(table.path)} holds {done:,} of {total:,} files; rerun the same command to resume")
    else:
        interrupts.advise(f"{done:,} of {total:,} files were classified; --csv FILE would keep their predictions")


def _print(results: Iterable[Result], log: Log, warn: Log) -> None:
    for result in results:
        if isinstance(result, Exclusion):
            warn(f"excluded {_text(result.path)}: {result.reason}")
        else:
            marked = "".join(f"  {word}" for word in (*(MARK_WORDS[name] for name in result.marked), *result.flags))
            log(f"{_text(result.path)}  {result.label}  {result.probabilities.max():.3f}{marked}")


def _summary(results: Sequence[Result], loaded: LoadedRun, csv_file: Path | None, earlier: int) -> Iterator[str]:
    """The lines that are printed after those of the files."""
    predictions = [result for result in results if isinstance(result, Prediction)]
    labelled = [prediction for prediction in predictions if prediction.true_label]
    if labelled:
        agreeing = sum(prediction.true_label == prediction.label for prediction in labelled)
        yield f"{agreeing:,} of {len(labelled):,} agree with the class that the file's name or folder states"
    unknown = unknown_classes([prediction.path for prediction in predictions], loaded.class_names)
    if unknown:
        classes = listed([f"{label} {count:,}" for label, count in unknown.most_common()], 5)
        yield (
            f"{number(unknown.total(), 'file')} named after, or in a folder of, a class that the model does not know "
            f"({classes}); if that is their class, no prediction for them can be right"
        )
    if loaded.calibration:
        yield _calibrated_summary(results, loaded.calibration)
    counts = f"{len(predictions):,} classified, {len(results) - len(predictions):,} excluded"
    if csv_file:
        kept_rows = f", {earlier:,} of them from before" if earlier else ""
        yield f"{counts}; wrote {_text(csv_file)} ({number(len(results), 'row')}{kept_rows})"
        folders = " ".join(shlex.quote(_text(run.folder)) for run in loaded.runs)
        yield (
            f"next: `octtrain evaluate {folders}` shows how reliable such predictions are on patients of the test split"
        )
    else:
        yield f"{counts}; wrote no file"
        yield "next: --csv FILE keeps the probabilities of all classes and the reasons of exclusions"


def _calibrated_summary(results: Sequence[Result], calibration: Calibration) -> str:
    """How many scans are marked with what; those whose verdict is withheld are unfamiliar too."""
    counts = Counter(name for result in results if isinstance(result, Prediction) for name in result.marked)
    counts["unfamiliar"] += sum(isinstance(result, Exclusion) and result.reason == WITHHELD for result in results)
    frozen = calibration.frozen
    parts = [
        f"{counts['referral']:,} to refer" if frozen.referral_threshold is not None else "no referral threshold",
        f"{counts['uncertain']:,} uncertain" if frozen.abstention_threshold is not None else "no abstention threshold",
        f"{counts['unfamiliar']:,} unfamiliar",
    ]
    return f"calibration {calibration.sha256[:12]}: {', '.join(parts)}"


def _earlier_results(
    table: PredictionsCsv, files: Sequence[Path | Exclusion], names: Sequence[str], marks: Sequence[str]
) -> dict[Path, Result]:
    """The results that a CSV already holds; rows of files that changed or could not be read are removed from it."""
    results: dict[Path, Result] = {}
    outdated = []
    for file in files:
        row = table.earlier.get(_text(path_of(file)))
        if row is None:
            continue
        result = _result(path_of(file), row, names, marks)
        is_unread = isinstance(result, Exclusion) and result.is_unread
        if result is None or is_unread or row[-3:-1] != _file_state(path_of(file)):
            outdated.append(row[0])
        else:
            results[result.path] = result
    table.remove(outdated)
    return results


def _row(result: Result, names: Sequence[str], marks: Sequence[str], state: list[str]) -> Row:
    """A result as a row of the CSV, without its last cell, the model. marks: the columns that the file has of MARKS."""
    if isinstance(result, Exclusion):
        withheld = {"unfamiliar": YES} if result.reason == WITHHELD else {}
        empty = [""] * len(names)
        return [_text(result.path), "", *empty, *(withheld.get(name, "") for name in marks), "", result.reason, *state]
    cells = [*(f"{probability:.6f}" for probability in result.probabilities), *(result.marks[name] for name in marks)]
    return [_text(result.path), result.label, *cells, " ".join(result.flags), "", *state]


def _result(path: Path, row: Row, names: Sequence[str], marks: Sequence[str]) -> Result | None:
    """The result that `_row` made a row of, or None for any other row."""
    _, label, *cells, flag_cell, reason, _, _, _ = row
    if reason:
        return Exclusion(path, reason)
    marked, flags = cells[len(names) :], tuple(flag_cell.split())
    if label not in names or any(cell not in (YES, NO, "") for cell in marked) or not set(flags) <= MEANINGS.keys():
        return None
    try:
        probabilities = np.array(cells[: len(names)], np.float32)
    except ValueError:
        return None
    marks_of_scan = dict(zip(marks, marked, strict=True))
    return Prediction(path, label, label_from_path(path, names), probabilities, marks_of_scan, flags)


def _cells(flags: NDArray[np.bool_] | None, count: int) -> list[str]:
    """The cells of a column of MARKS."""
    return [""] * count if flags is None else [YES if flag else NO for flag in flags]


def _file_state(path: Path) -> list[str]:
    """A file's size and modification time as cells of the CSV."""
    try:
        status = frame_of(path)[0].stat()
    except OSError:
        return ["", ""]
    return [str(status.st_size), str(status.st_mtime_ns)]


def _model_id(runs: Sequence[Run]) -> str:
    """The model's identity in the CSV: the first digits of its file's SHA-256; of an ensemble those of all members."""
    return "+".join(sorted(digest[:16] for digest in model_digests(runs)))


def _text(path: Path) -> str:
    return path_to_text(path.as_posix())


def _discard(line: str) -> None:
    pass
