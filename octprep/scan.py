"""Walk a folder; every file becomes a Scan or a Rejection.

Kermany et al. name their B-scans CLASS-patientID-number.jpeg and sort them as [split/]CLASS/. Nothing under the source
is ever written, and no link is followed out of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from octprep import imaging
from octprep.schema import SPLIT_FOLDERS, SourceError, UnreadableImage

MACOS = "macOS metadata, not a scan"  # the reason that an archive packed on a Mac gives once for every image

KERMANY_CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")

# Images per split and class of what was published, in the order of KERMANY_CLASSES.
# Kaggle: https://www.kaggle.com/datasets/paultimothymooney/kermany2018; Mendeley: doi 10.17632/rscbjbr9sj.
PUBLISHED: Mapping[str, Mapping[str, tuple[int, int, int, int]]] = {
    "Kaggle kermany2018": {"train": (37205, 11348, 8616, 26315), "test": (242,) * 4, "val": (8,) * 4},
    "Mendeley version 2": {"train": (37205, 11348, 8616, 26315), "test": (250,) * 4},
    "Mendeley version 3": {"train": (37205, 11348, 8616, 51140), "test": (250,) * 4},
}

_NEARLY = 0.01  # of a published data set's images that may be missing or too many for it to be recognised

_NAME = re.compile(
    r"(?P<label>[A-Za-z][A-Za-z0-9_]*)-(?P<patient>[0-9]{1,18})-(?P<number>[0-9]{1,9})(\.[A-Za-z0-9]{1,5})?"
)


@dataclass(frozen=True, order=True)
class Rejection:
    """A file that is left out, and why."""

    path: str  # relative to the source, with forward slashes
    reason: str


@dataclass(frozen=True)
class Version:
    """A published data set that a source is by its counts, and in words where they are not quite the same."""

    name: str
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.differences:
            return self.name
        return f"nearly {self.name} ({'; '.join(self.differences)})"


@dataclass(frozen=True, order=True)
class Named:
    """A file that is a B-scan by its name and place; its content is not looked at yet."""

    path: str  # relative to the source, with forward slashes: the key
    label: str  # class, upper case
    patient: str  # the bare id
    number: int  # of the image within the patient
    folder: str  # train, val or test, or "" where the source has only class folders
    bytes: int


@dataclass(frozen=True, order=True)
class Scan(Named):
    """A B-scan that was read and decoded."""

    sha256: str  # of the file, hex
    height: int  # pixels
    width: int  # pixels
    pixels: str = ""  # SHA-256 of the stored pixels, hex, once they are prepared; equal where the decoded pixels are


@dataclass(frozen=True)
class Source:
    """Everything found under a source folder, sorted by path."""

    root: str  # the folder that holds the split or class folders, relative to the source; "" if the source itself
    named: tuple[Named, ...]
    rejections: tuple[Rejection, ...]
    listing: str  # SHA-256 over all paths and sizes, hex

    @property
    def files(self) -> int:
        """How many files were found."""
        return len(self.named) + len(self.rejections)


def folder_fault(path: Path) -> str | None:
    """Why a path cannot be used as a folder, such as `does not exist`; None if it can, as far as may be seen."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be reached ({error.strerror or error})"
    return None if stat.S_ISDIR(mode) else "is a file"


def find(src: Path) -> Source:
    """List a source folder and read the names; no file is opened.

    Raises SourceError if there is no such folder, it is empty, it has no class folders, or several data sets.
    """
    if fault := folder_fault(src):
        raise SourceError(f"--src {src} {fault}; give the folder that holds train/ and test/, or the class folders.")
    files, rejections = _walk(src)
    if not files and not rejections:
        raise SourceError(f"--src {src} is empty; give the folder that holds train/ and test/, or the class folders.")
    root = _find_root(src, [path for path, _ in files])
    named = []
    for path, size in files:
        match read_name(path, size, root):
            case Named() as found:
                named.append(found)
            case Rejection() as rejection:
                rejections.append(rejection)
    digest = hashlib.sha256()
    for path, size in sorted([*files, *((rejection.path, -1) for rejection in rejections)]):
        digest.update(f"{path}\0{size}\n".encode(errors="surrogateescape"))
    return Source(root, tuple(sorted(named)), tuple(sorted(rejections)), digest.hexdigest())


def read_name(path: str, size: int, root: str) -> Named | Rejection:
    """What a file is by its path: [root/][split/]CLASS/CLASS-patient-number.jpeg, or why it is no B-scan."""
    inner = PurePosixPath(path)
    if "__MACOSX" in inner.parts or inner.name.startswith("._") or inner.name == ".DS_Store":
        return Rejection(path, MACOS)
    if inner.name.startswith("."):
        return Rejection(path, "hidden file")
    if root:
        if not inner.is_relative_to(root):
            return Rejection(path, f"outside {root}, which holds the class folders")
        inner = inner.relative_to(root)
    *folders, name = inner.parts
    split = folders[0].lower() if len(folders) == 2 else ""
    if not folders or len(folders) > 2 or (split and split not in SPLIT_FOLDERS):
        return Rejection(path, "not in a class folder")
    match = _NAME.fullmatch(name)
    if match is None:
        return Rejection(path, "name is not CLASS-patientID-number.jpeg")
    label = match["label"].upper()
    if label != folders[-1].strip().upper():
        return Rejection(path, f"name and folder disagree: {label} in {folders[-1]}")
    return Named(path, label, match["patient"], int(match["number"]), split, size)


def read(src: Path, named: Named) -> tuple[Scan, NDArray[np.uint8]] | Rejection:
    """Read and decode one B-scan: what it is and its gray values, (rows, columns) uint8 in 0..255."""
    try:
        data = (src / named.path).read_bytes()
        gray = imaging.decode(data)
    except UnreadableImage as error:
        return Rejection(named.path, str(error))
    except OSError as error:
        return Rejection(named.path, f"cannot be read: {error.strerror or error}")
    height, width = gray.shape
    return Scan(**vars(named), sha256=hashlib.sha256(data).hexdigest(), height=height, width=width), gray


def inspect(task: tuple[Path, Sequence[Named]]) -> list[Scan | Rejection]:
    """Read and decode some B-scans, keeping only what they are."""
    src, batch = task
    return [found if isinstance(found, Rejection) else found[0] for found in (read(src, named) for named in batch)]


def count(scans: Iterable[Named]) -> dict[str, dict[str, int]]:
    """Images per split folder and class."""
    counts = Counter((scan.folder, scan.label) for scan in scans)
    folders = sorted({folder for folder, _ in counts}, key=lambda folder: [*SPLIT_FOLDERS, ""].index(folder))
    labels = sorted({label for _, label in counts})
    return {folder: {label: counts[folder, label] for label in labels} for folder in folders}


def kind(reason: str) -> str:
    """A reason without the details that follow its colon."""
    return reason.partition(":")[0]


def published_version(scans: Iterable[Named]) -> Version | None:
    """The published data set whose counts per split and class are these, or nearly; None if none is near.

    Nearly: all differences together are at most 1 % of its images, as where a download lacks some files.
    """
    found = {(folder, label): number for folder, row in count(scans).items() for label, number in row.items()}
    versions: list[tuple[int, int, Version]] = []
    for name, splits in PUBLISHED.items():
        wanted = {
            (folder, label): number
            for folder, numbers in splits.items()
            for label, number in zip(KERMANY_CLASSES, numbers, strict=True)
        }
        off = {place: found.get(place, 0) - wanted.get(place, 0) for place in sorted({*found, *wanted})}
        differences = tuple(
            f"{'/'.join(filter(None, place))} {wanted.get(place, 0):,} there, {found.get(place, 0):,} here"
            for place, number in off.items()
            if number
        )
        distance = sum(map(abs, off.values()))
        if distance <= _NEARLY * sum(wanted.values()):
            versions.append((distance, len(versions), Version(name, differences)))
    return min(versions)[-1] if versions else None


def _walk(src: Path) -> tuple[list[tuple[str, int]], list[Rejection]]:
    """All regular files below src as (path, bytes), and everything else with a reason."""
    files: list[tuple[str, int]] = []
    rejections: list[Rejection] = []
    home = src.resolve()

    def relative(path: str) -> str:
        return Path(path).relative_to(src).as_posix()

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == src:
            raise SourceError(f"--src {src} cannot be read: {error.strerror}.")
        rejections.append(Rejection(relative(error.filename), f"folder cannot be read: {error.strerror}"))

    for folder, subfolders, names in os.walk(src, onerror=unreadable):
        for name in subfolders:
            path = str(Path(folder, name))
            if os.path.islink(path):  # noqa: PTH114 (os.walk's own test)
                rejections.append(Rejection(relative(path), "link to a folder, not followed"))
        for name in names:
            path = str(Path(folder, name))
            key = relative(path)
            if not _is_text(key):
                rejections.append(
                    Rejection(
                        key.encode(errors="surrogateescape").decode(errors="backslashreplace"), "name is not UTF-8"
                    )
                )
                continue
            try:
                if os.path.islink(path) and not Path(path).resolve(strict=True).is_relative_to(home):  # noqa: PTH114
                    rejections.append(Rejection(key, "link out of the source, not followed"))
                    continue
                status = Path(path).stat()
            except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
                rejections.append(Rejection(key, f"cannot be read: {getattr(error, 'strerror', None) or error}"))
                continue
            if stat.S_ISREG(status.st_mode):
                files.append((key, status.st_size))
            else:
                rejections.append(Rejection(key, "not a regular file"))
    return files, rejections


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _find_root(src: Path, paths: Sequence[str]) -> str:
    """The folder, relative to src, below which class folders stand, directly or under train, val and test."""
    roots = set()
    for path in paths:
        *folders, name = PurePosixPath(path).parts
        match = _NAME.fullmatch(name)
        if not folders or match is None or match["label"].upper() != folders[-1].strip().upper():
            continue
        above = folders[:-2] if len(folders) > 1 and folders[-2].lower() in SPLIT_FOLDERS else folders[:-1]
        if "__MACOSX" not in above:
            roots.add("/".join(above))
    if not roots:
        raise SourceError(
            f"--src {src} has no class folders: expected [train|val|test/]CLASS/CLASS-patientID-number.jpeg, "
            f"such as train/CNV/CNV-1016042-1.jpeg; found {_sample(paths)}."
        )
    if len(roots) > 1:
        listed = ", ".join(repr(root or ".") for root in sorted(roots)[:5])
        raise SourceError(f"--src {src} holds {len(roots)} data sets ({listed}); give one of these folders as --src.")
    return roots.pop()


def _sample(paths: Sequence[str]) -> str:
    shown = ", ".join(sorted(paths)[:3]) or "no regular file"
    return shown + (f" and {len(paths) - 3:,} more" if len(paths) > 3 else "")
