"""Classify B-scan files, prepared exactly as the training images were."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octprep import imaging
from octprep.schema import OutputError, Recipe, SourceError, UnreadableImage, write_whole
from octtrain.run import Run

BATCH = 32  # images

_NAME = re.compile(r"(?P<label>[A-Za-z][A-Za-z0-9_]*)-[0-9]+-[0-9]+\.[A-Za-z0-9]+")


@dataclass(frozen=True)
class Skipped:
    """A file that could not be classified, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Classified:
    """What the model says of one file."""

    path: Path
    known: str | None  # the truth, where the file's name or folder tells it
    prediction: str
    probabilities: NDArray[np.float32]  # (classes,), 0..1


def predict(
    folder: Path,
    inputs: Sequence[Path],
    csv_file: Path | None = None,
    say: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> list[Classified | Skipped]:
    """Classify files, and all files in folders at any depth; one line each, and all probabilities in a CSV if asked.

    What cannot be read is skipped with a reason. A file named CLASS-patient-number, or in a class folder, carries its
    truth: how many predictions agree is counted, and a class that the model does not know is an error, because every
    answer would be wrong. Raises SourceError if an input is not there, a class is unknown, or nothing at all could be
    classified; OutputError if the CSV cannot be written.
    """
    run = Run.load(folder)
    names = run.manifest.class_names
    files = find_files(inputs)
    check_classes(files, names, folder)
    if csv_file and not csv_file.absolute().parent.is_dir():
        raise OutputError(f"the folder of --csv {csv_file} does not exist; make it first.")
    model = run.model()

    results: list[Classified | Skipped] = []
    for start in range(0, len(files), BATCH):
        some = files[start : start + BATCH]
        loaded = [load(path, run.manifest.recipe) for path in some]
        pixels = [image for image in loaded if not isinstance(image, Skipped)]
        answers = iter(np.asarray(model.predict_on_batch(np.stack(pixels)[..., None])) if pixels else [])
        for path, image in zip(some, loaded, strict=True):
            if isinstance(image, Skipped):
                results.append(image)
                warn(f"skipped {path}: {image.reason}")
            else:
                answer = next(answers)
                best = int(answer.argmax())
                results.append(Classified(path, known_class(path, names), names[best], answer))
                say(f"{path}  {names[best]}  {answer[best]:.3f}")

    if csv_file:
        write_csv(csv_file, results, names)
    classified = [result for result in results if isinstance(result, Classified)]
    if not classified:
        raise SourceError(f"none of the {len(files):,} files could be classified; give B-scans as JPEG files.")
    named = [result for result in classified if result.known]
    if named:
        agree = sum(result.known == result.prediction for result in named)
        say(f"{agree:,} of {len(named):,} agree with the class that the file's name or folder tells")
    return results


def find_files(inputs: Sequence[Path]) -> list[Path]:
    """The files given, and all files in the folders given, sorted. Raises SourceError if there are none."""
    files: list[Path] = []
    for given in inputs:
        if given.is_dir():
            files += sorted(path for path in given.rglob("*") if path.is_file())
        elif given.exists():
            files.append(given)
        else:
            raise SourceError(f"{given} does not exist; give B-scans or folders of them.")
    files = list(dict.fromkeys(files))
    if not files:
        raise SourceError(f"there is no file in {', '.join(map(str, inputs))}; give B-scans or folders of them.")
    return files


def known_class(path: Path, class_names: Sequence[str]) -> str | None:
    """The truth about a file, upper case: from a name CLASS-patient-number.jpeg, or the class folder it lies in."""
    if match := _NAME.fullmatch(path.name):
        return match["label"].upper()
    folder = path.parent.name.strip().upper()
    return folder if folder in class_names else None


def check_classes(files: Sequence[Path], class_names: Sequence[str], run: Path) -> None:
    """Refuse files of a class that the model does not know: by their name, or by a folder next to class folders.

    Raises SourceError.
    """
    homes = {path.parent.parent for path in files if path.parent.name.strip().upper() in class_names}
    for path in files:
        label = known_class(path, class_names)
        if label is None and path.parent.parent in homes and not path.name.startswith("."):
            label = path.parent.name.strip().upper()
        if label is not None and label not in class_names:
            raise SourceError(
                f"{path} is of class {label}, but {run} was trained on {', '.join(class_names)} and can only answer "
                "with these; leave such files out, or rename them if the name means something else."
            )


def load(path: Path, recipe: Recipe) -> NDArray[np.uint8] | Skipped:
    """The pixels that training would have seen of a file, (height, width) uint8 in 0..255, or why there are none."""
    try:
        return imaging.prepare(imaging.decode(path.read_bytes()), recipe).pixels
    except UnreadableImage as error:
        return Skipped(path, str(error))
    except OSError as error:
        return Skipped(path, f"cannot be read: {error.strerror or error}")


def write_csv(path: Path, results: Sequence[Classified | Skipped], class_names: Sequence[str]) -> None:
    """One row per file: prediction and probabilities, or the reason it was skipped. Raises OutputError."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "prediction", *class_names, "skipped"])
    for result in results:
        if isinstance(result, Skipped):
            writer.writerow([result.path, "", *[""] * len(class_names), result.reason])
        else:
            writer.writerow([result.path, result.prediction, *[f"{p:.6f}" for p in result.probabilities], ""])
    try:
        write_whole(path, out.getvalue().encode("utf-8", errors="surrogateescape"))
    except OSError as error:
        raise OutputError(f"--csv {path} cannot be written ({error.strerror or error}).") from None
