"""Classify B-scan files, prepared exactly as the training images were."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octprep import preprocessing
from octprep.format.config import PREPROCESSING_VERSION, Preprocessing
from octprep.format.errors import ManifestError, OctError, SettingError, SourceError, StoppedError, UnreadableImage
from octprep.format.files import path_to_text
from octprep.format.manifest import MANIFEST_NAME, Manifest, version_differences
from octprep.terminal import drop_output, printable
from octtrain import interrupts, rows
from octtrain.answers import answer
from octtrain.rows import Row, Rows
from octtrain.runs.folder import CONFIG_NAME, HISTORY_NAME, MODEL_NAME, Run, latest_run

BATCH = 32  # images
STAMPS = ("skipped", "bytes", "modified_ns", "model")  # of a row, after a probability for each class
UNREAD = "could not be read: "  # how the reason starts where nothing is known of the file, which may be good

_NAME = re.compile(r"(?P<label>[A-Za-z][A-Za-z0-9_]*)-[0-9]+-[0-9]+\.[A-Za-z0-9]+")


@dataclass(frozen=True)
class Skipped:
    """A file or folder that could not be classified, and why."""

    path: Path
    reason: str

    @property
    def unread(self) -> bool:
        """Whether it may be good: reading failed, not the image."""
        return self.reason.startswith(UNREAD)


@dataclass(frozen=True)
class Prediction:
    """What the model says of one file."""

    path: Path
    known: str | None  # the truth, where the file's name or folder says it
    prediction: str
    probabilities: NDArray[np.float32]  # (classes,), 0..1


Result = Prediction | Skipped


def choose_run(arguments: Sequence[Path]) -> tuple[Path, list[Path], bool]:
    """The run, the images, and whether the run was chosen: the first argument if it is a run, else the latest run.

    Raises SourceError if the first argument does not exist or is a damaged run, if no image is named, or if there is no
    run; SettingError if a run stands among the images.
    """
    first, *rest = arguments
    try:
        first.stat()
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be reached ({error.strerror})"
        raise SourceError(
            f"{first} {reason}; give a run made by `octtrain fit`, or B-scans or folders of them."
        ) from None
    for path in rest:
        if _is_run(path):
            raise SettingError(f"the run {path} stands after {first}; give the run first, then the images.")
    if _is_run(first):
        if not rest:
            raise SourceError(f"no image is named after the run {first}; give B-scans or folders of them.")
        return first, rest, False
    parts = [name for name in (CONFIG_NAME, MANIFEST_NAME, MODEL_NAME, HISTORY_NAME) if _holds(first, name)]
    if parts:
        missing = [name for name in (CONFIG_NAME, MANIFEST_NAME) if name not in parts]
        raise SourceError(
            f"{first} holds {', '.join(parts)} but no {' and no '.join(missing)}, so it is no run folder. Give a run "
            "made by `octtrain fit`; if these are B-scans, name a run before them."
        )
    return latest_run(), [first, *rest], True


def _is_run(path: Path) -> bool:
    return _holds(path, CONFIG_NAME) and _holds(path, MANIFEST_NAME)


def _holds(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except OSError:  # a folder that may not be entered
        return False


def predict(
    folder: Path,
    inputs: Sequence[Path],
    csv_file: Path | None = None,
    say: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> list[Result]:
    """Classify files, and all files in folders at any depth; one line each, and all probabilities in a CSV if asked.

    What is no good image is skipped with a reason. A file named CLASS-patient-number, or in a class folder, carries its
    truth if the model knows that class: how many predictions agree is counted. The CSV grows with every batch; if it is
    there already with answers of this model, its rows are kept and not made again, unless the file has changed since or
    could not be read.

    Raises SourceError if an input is not there or nothing at all could be classified; OutputError if the CSV cannot be
    used; ManifestError if this version of octprep would prepare other pixels; after all else is done StoppedError if
    files could not be read.
    """
    run = Run.load(folder)
    names = run.manifest.class_names
    check_pixels(run.manifest, folder, warn)
    if csv_file:
        rows.check(csv_file)
    found = find_files(inputs, csv_file)
    model = run.model()

    header = ["path", "prediction", *names, *STAMPS]
    with nullcontext() if csv_file is None else rows.growing(csv_file, header, _model_id(run)) as table:
        results = _before(table, found, names) if table else {}
        before = len(results)
        if table and before:
            say(f"{_shown(table.path)} holds {before:,} of the {len(found):,} files already; their rows are kept")
        todo = [one for one in found if _path(one) not in results]
        _advise(table, len(results), len(found))
        for start in range(0, len(todo), BATCH):
            some = todo[start : start + BATCH]
            stamps = [_stamp(_path(one)) for one in some]  # before they are read
            batch = list(_classify(some, run.manifest, model))
            if table:
                table.add([_row(result, names, stamp) for result, stamp in zip(batch, stamps, strict=True)])
            results |= {result.path: result for result in batch}
            _advise(table, len(results), len(found))
            try:
                _tell(batch, say, warn)
            except BrokenPipeError:
                if not table:
                    raise
                drop_output()  # nobody reads on, but the file is still wanted

    ordered = [results[_path(one)] for one in found]
    try:
        for line in _closing(ordered, names, csv_file, before):
            say(line)
    except BrokenPipeError:
        if not csv_file:
            raise
        drop_output()
    unread = [result for result in ordered if isinstance(result, Skipped) and result.unread]
    if unread:
        first = f"{_shown(unread[0].path)}: {unread[0].reason.removeprefix(UNREAD)}"
        raise StoppedError(
            f"{len(unread):,} of {len(found):,} could not be read ({first}), so nothing is known of them; the rest is "
            "done. The same command tries them again."
        )
    if not any(isinstance(result, Prediction) for result in ordered):
        raise SourceError(f"none of the {len(found):,} files could be classified; give B-scans as JPEG files.")
    return ordered


def check_pixels(manifest: Manifest, folder: Path, warn: Callable[[str], None]) -> None:
    """Warn where other libraries made the pixels that the model was trained on.

    Raises ManifestError if this version of octprep would give other pixels, SettingError if a library is missing.
    """
    revision = manifest.recipe.revision
    if revision != PREPROCESSING_VERSION:
        made_by = manifest.libraries.get("octprep", "another version")
        raise ManifestError(
            f"{folder} was trained on pixels of revision {revision} of the imaging (octprep {made_by}), but this "
            f"octprep ({version('octprep')}) has revision {PREPROCESSING_VERSION} and would show it other pixels. Install "
            "that one, or build the shards and train again with this one."
        )
    installed = {"octprep": version("octprep"), **preprocessing.library_versions(manifest.recipe)}
    for difference in version_differences(manifest, installed):
        warn(f"WARNING: {difference}; pixels, and so answers, may differ a little from those of the training.")


def find_files(inputs: Sequence[Path], csv_file: Path | None = None) -> list[Path | Skipped]:
    """The files given, and whatever is in the folders given, sorted; folders that are not entered, with the reason.

    Links to files are followed, links to folders inside a folder are not. The file of rows itself is no input. Raises
    SourceError if an input does not exist or there is nothing at all.
    """
    found: dict[Path, Path | Skipped] = {}
    for given in inputs:
        try:
            is_folder = given.is_dir()
            given.stat()
        except FileNotFoundError:
            raise SourceError(f"{given} does not exist; give B-scans or folders of them.") from None
        except OSError as error:
            raise SourceError(f"{given} cannot be reached ({error.strerror or error}).") from None
        for one in sorted(_walk(given), key=_path) if is_folder else [given]:
            found.setdefault(_path(one), one)
    if csv_file and csv_file.exists():
        names = {csv_file.name, csv_file.resolve().name}
        found = {path: one for path, one in found.items() if path.name not in names or not _same(path, csv_file)}
    if not found:
        raise SourceError(f"there is no file in {', '.join(map(str, inputs))}; give B-scans or folders of them.")
    return list(found.values())


def _walk(folder: Path) -> Iterator[Path | Skipped]:
    faults: list[Skipped] = []

    def unreadable(error: OSError) -> None:
        faults.append(Skipped(Path(error.filename), f"{UNREAD}{error.strerror or error}"))

    for here, folders, names in os.walk(folder, onerror=unreadable):
        yield from (Path(here, name) for name in names)
        for path in (Path(here, name) for name in folders):
            if path.is_symlink():
                yield Skipped(path, "is a link to a folder, which is not followed; give that folder itself")
    yield from faults


def known_class(path: Path, class_names: Sequence[str]) -> str | None:
    """The truth about a file: from a name CLASS-patient-number.jpeg, or the class folder it lies in.

    None if neither is a class that the model knows: a name such as OCT-2024-01.jpeg is no label.
    """
    return next((label for label in _labels(path) if label in class_names), None)


def foreign_classes(paths: Sequence[Path], class_names: Sequence[str]) -> Counter[str]:
    """How many files without a known class look as if they were of another one, and of which.

    By a name CLASS-patient-number.jpeg, or by a folder that stands beside class folders.
    """
    homes = {path.parent.parent for path in paths if path.parent.name.strip().upper() in class_names}
    foreign: Counter[str] = Counter()
    for path in paths:
        named, beside = bool(_NAME.fullmatch(path.name)), path.parent.parent in homes
        if known_class(path, class_names) is None and (named or beside):
            foreign[_labels(path)[0]] += 1
    return foreign


def _labels(path: Path) -> list[str]:
    match = _NAME.fullmatch(path.name)
    return [*([match["label"].upper()] if match else []), path.parent.name.strip().upper()]


def load(path: Path, recipe: Preprocessing) -> NDArray[np.uint8] | Skipped:
    """The pixels that training would have seen of a file, (height, width) uint8 in 0..255, or why there are none."""
    try:
        with preprocessing.memory_errors():
            return preprocessing.preprocess(preprocessing.read_image(path), recipe).pixels
    except UnreadableImage as error:
        return Skipped(path, printable(str(error)))
    except OSError as error:
        return Skipped(path, f"{UNREAD}{printable(error.strerror or str(error))}")
    except MemoryError:
        return Skipped(path, f"{UNREAD}not enough memory")
    except OctError:
        raise
    except Exception as error:
        error.add_note(f"while preparing {path_to_text(str(path))}")
        raise


def _classify(batch: Sequence[Path | Skipped], manifest: Manifest, model: object) -> Iterator[Result]:
    """What becomes of each of some files, in their order."""
    loaded = [one if isinstance(one, Skipped) else load(one, manifest.recipe) for one in batch]
    pixels = [image for image in loaded if not isinstance(image, Skipped)]
    names = manifest.class_names
    answers: Iterator[NDArray[np.float32]] = iter(())
    if pixels:
        answers = iter(answer(model, np.stack(pixels)[..., None], len(names)))
    for one, image in zip(batch, loaded, strict=True):
        if isinstance(image, Skipped):
            yield image
        else:
            path, probabilities = _path(one), next(answers)
            yield Prediction(path, known_class(path, names), names[int(probabilities.argmax())], probabilities)


def _advise(table: Rows | None, done: int, of: int) -> None:
    """What is to be said if the program is interrupted from here on."""
    if table:
        interrupts.advise(
            f"{_shown(table.path)} holds {done:,} of {of:,} files, and the same command goes on from there"
        )
    else:
        interrupts.advise(f"{done:,} of {of:,} files were done; with --csv FILE their answers are kept")


def _tell(batch: Iterable[Result], say: Callable[[str], None], warn: Callable[[str], None]) -> None:
    for result in batch:
        if isinstance(result, Skipped):
            warn(f"skipped {_shown(result.path)}: {result.reason}")
        else:
            say(f"{_shown(result.path)}  {result.prediction}  {result.probabilities.max():.3f}")


def _closing(results: Sequence[Result], names: Sequence[str], csv_file: Path | None, before: int) -> Iterator[str]:
    """What is said of all files together."""
    classified = [result for result in results if isinstance(result, Prediction)]
    named = [result for result in classified if result.known]
    if named:
        agree = sum(result.known == result.prediction for result in named)
        yield f"{agree:,} of {len(named):,} agree with the class that the file's name or folder tells"
    foreign = foreign_classes([result.path for result in classified], names)
    if foreign:
        listed = ", ".join(f"{label} {number:,}" for label, number in foreign.most_common(5))
        number, more = foreign.total(), ", ..." * (len(foreign) > 5)
        yield (
            f"{number:,} file{_s(number)} named or placed as of a class that the model does not know ({listed}{more}); "
            "if that is their class, no answer about them can be right"
        )
    counted = f"{len(classified):,} classified, {len(results) - len(classified):,} skipped"
    if csv_file:
        kept = f", {before:,} of them from before" if before else ""
        yield f"{counted}; wrote {_shown(csv_file)} ({len(results):,} row{_s(len(results))}{kept})"
    else:
        yield f"{counted}; --csv FILE keeps the probabilities of all classes and the reasons"


def _before(table: Rows, found: Sequence[Path | Skipped], names: Sequence[str]) -> dict[Path, Result]:
    """What the file of rows says of some files; rows of files that changed or could not be read are taken out of it."""
    kept: dict[Path, Result] = {}
    again = []
    for one in found:
        row = table.kept.get(_shown(_path(one)))
        if row is None:
            continue
        result = _result(_path(one), row, names)
        if result is None or (isinstance(result, Skipped) and result.unread) or row[-3:-1] != _stamp(_path(one)):
            again.append(row[0])
        else:
            kept[result.path] = result
    table.forget(again)
    return kept


def _row(result: Result, names: Sequence[str], stamp: list[str]) -> Row:
    """A result's cells in the file of rows, but for the model."""
    if isinstance(result, Skipped):
        return [_shown(result.path), "", *[""] * len(names), result.reason, *stamp]
    shown = [f"{probability:.6f}" for probability in result.probabilities]
    return [_shown(result.path), result.prediction, *shown, "", *stamp]


def _result(path: Path, row: Row, names: Sequence[str]) -> Result | None:
    """What `_row` made a row of, or None if it made it of nothing."""
    _, prediction, *cells, reason, _, _, _ = row
    if reason:
        return Skipped(path, reason)
    try:
        probabilities = np.array(cells, np.float32)
    except ValueError:
        return None
    return Prediction(path, known_class(path, names), prediction, probabilities) if prediction in names else None


def _stamp(path: Path) -> list[str]:
    """A file's size and the time it was last changed, as they stand in the file of rows."""
    try:
        status = path.stat()
    except OSError:
        return ["", ""]
    return [str(status.st_size), str(status.st_mtime_ns)]


def _model_id(run: Run) -> str:
    """What names a model in the file of rows: the first digits of its file's SHA-256."""
    with (run.folder / MODEL_NAME).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _s(number: int) -> str:
    return "s" * (number != 1)


def _path(one: Path | Result) -> Path:
    return one if isinstance(one, Path) else one.path


def _shown(path: Path) -> str:
    return path_to_text(path.as_posix())


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def _nowhere(line: str) -> None:
    pass
