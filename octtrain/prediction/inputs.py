"""The arguments of a prediction: the runs, the image files, and the class that a file's name or folder states."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from octprep.format.errors import SettingError, SourceError
from octprep.format.manifest import MANIFEST_NAME
from octprep.format.names import parse_scan_name
from octprep.format.paths import split_frame_path
from octtrain import pretrained
from octtrain.prediction.preparing import UNREAD, frame_of
from octtrain.runs.history import HISTORY_NAME
from octtrain.runs.locations import latest_run
from octtrain.runs.run import CONFIG_NAME, MODEL_NAME


@dataclass(frozen=True)
class Exclusion:
    """A file or folder that could not be classified, and why."""

    path: Path
    reason: str

    @property
    def is_unread(self) -> bool:
        """Whether reading failed, so that the image may be good."""
        return self.reason.startswith(UNREAD)


def choose_runs(arguments: Sequence[Path]) -> tuple[list[Path], list[Path], bool]:
    """The runs: the first arguments that are such, else the latest one. Returns them, the images, whether it is that.

    The word `synthetic` is the packaged run, see `octtrain.pretrained`.

    Raises SourceError if the first argument does not exist or is a damaged run, if no image is named, or if there is no
    run; SettingError if a run is named among the images.
    """
    arguments = [pretrained.run_folder(path) for path in arguments]
    first = arguments[0]
    try:
        first.stat()
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be reached ({error.strerror})"
        raise SourceError(
            f"{first} {reason}; give a run made by `octtrain fit`, or B-scans or folders of them."
        ) from None
    runs = list(takewhile(_is_run, arguments))
    images = list(arguments[len(runs) :])
    for path in images:
        if _is_run(path):
            raise SettingError(f"the run {path} is named after {images[0]}; name the run first, then the images.")
    if runs:
        if not images:
            raise SourceError(f"no image is named after the run {runs[-1]}; give B-scans or folders of them.")
        return runs, images, False
    run_files = [name for name in (CONFIG_NAME, MANIFEST_NAME, MODEL_NAME, HISTORY_NAME) if _has_file(first, name)]
    if run_files:
        missing = [name for name in (CONFIG_NAME, MANIFEST_NAME) if name not in run_files]
        raise SourceError(
            f"{first} holds {', '.join(run_files)} but no {' and no '.join(missing)}, so it is not a run folder. Give "
            "a run made by `octtrain fit`; if these are B-scans, name a run before them."
        )
    return [latest_run()], images, True


def find_files(inputs: Sequence[Path], csv_file: Path | None = None) -> list[Path | Exclusion]:
    """The files given, and all files in the folders given, sorted; folders that are not entered, with the reason.

    Links to files are followed, links to folders inside a folder are not. The CSV of predictions is not an input.
    Raises SourceError if an input does not exist or there is no file at all.
    """
    files: dict[Path, Path | Exclusion] = {}
    for path in inputs:
        try:
            is_folder = path.is_dir()
            path.stat()
        except FileNotFoundError:
            if frame_of(path)[0].is_file():
                files.setdefault(path, path)
                continue
            raise SourceError(f"{path} does not exist; give B-scans or folders of them.") from None
        except OSError as error:
            raise SourceError(f"{path} cannot be reached ({error.strerror or error}).") from None
        for file in sorted(_walk(path), key=path_of) if is_folder else [path]:
            files.setdefault(path_of(file), file)
    if csv_file and csv_file.exists():
        names = {csv_file.name, csv_file.resolve().name}
        files = {path: file for path, file in files.items() if path.name not in names or not _is_same(path, csv_file)}
    if not files:
        raise SourceError(f"there is no file in {', '.join(map(str, inputs))}; give B-scans or folders of them.")
    return list(files.values())


def label_from_path(path: Path, class_names: Sequence[str]) -> str | None:
    """The class of a file by its name CLASS-patient-number.jpeg, or by the class folder it lies in.

    None if neither is a class that the model knows: a name such as OCT-2024-01.jpeg states no class.
    """
    return next((label for label in _stated_labels(path) if label in class_names), None)


def unknown_classes(paths: Sequence[Path], class_names: Sequence[str]) -> Counter[str]:
    """Class that the model does not know -> number of files that state it.

    A file states it by a name CLASS-patient-number.jpeg, or by a folder that has class folders next to it.
    """
    parents = {path.parent.parent for path in paths if path.parent.name.strip().upper() in class_names}
    unknown: Counter[str] = Counter()
    for path in paths:
        states_class = parse_scan_name(split_frame_path(path.name)[0]) is not None or path.parent.parent in parents
        if states_class and label_from_path(path, class_names) is None:
            unknown[_stated_labels(path)[0]] += 1
    return unknown


def path_of(file: Path | Exclusion) -> Path:
    """The path of a file, whether it is excluded or not."""
    return file.path if isinstance(file, Exclusion) else file


def _walk(folder: Path) -> Iterator[Path | Exclusion]:
    """The files at any depth; an Exclusion for each folder that cannot be read and each link to a folder."""
    unreadable: list[Exclusion] = []

    def add_unreadable(error: OSError) -> None:
        unreadable.append(Exclusion(Path(error.filename), f"{UNREAD}{error.strerror or error}"))

    for parent, folders, names in os.walk(folder, onerror=add_unreadable):
        yield from (Path(parent, name) for name in names)
        for path in (Path(parent, name) for name in folders):
            if path.is_symlink():
                yield Exclusion(path, "is a link to a folder, which is not followed; give that folder itself")
    yield from unreadable


def _stated_labels(path: Path) -> list[str]:
    """The class in the file's name, if it has that form, and the name of its folder."""
    name = parse_scan_name(split_frame_path(path.name)[0])
    return [*([name.label] if name else []), path.parent.name.strip().upper()]


def _is_run(path: Path) -> bool:
    return _has_file(path, CONFIG_NAME) and _has_file(path, MANIFEST_NAME)


def _has_file(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except OSError:  # a folder that may not be entered
        return False


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False
