"""Walk a folder; every file becomes a Scan or a Exclusion.

Kermany et al. name their B-scans CLASS-patientID-number.jpeg and sort them as [split/]CLASS/. Nothing under the source
is ever written. A link where a scan or its folder should be is an error, unless links are to be followed.

A file's key is its path below the source as text (`octprep.format.files.path_to_text`), so any name can be
printed and stored.
What could not be read says nothing about the image: it stops the work, naming the file. Only what was read whole, as it
was listed, and is no scan is left out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from octprep import preprocessing
from octprep.format import files
from octprep.format.config import SOURCE_SPLITS
from octprep.format.errors import OctError, SourceError, StoppedError, UnreadableImage
from octprep.format.files import path_to_text, text_to_path

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

_MOST_HOPS = 4  # links to folders, one behind the other, that are followed

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NAME = re.compile(
    r"(?P<label>[A-Za-z][A-Za-z0-9_]*)-(?P<patient>[0-9]{1,18})-(?P<number>[0-9]{1,9})(\.[A-Za-z0-9]{1,5})?"
)


Result = TypeVar("Result")


@dataclass(frozen=True, order=True)
class Exclusion:
    """A file that is left out, and why."""

    path: str  # relative to the source, with forward slashes, as text
    reason: str


@dataclass(frozen=True)
class PublishedDataset:
    """A published data set that a source is by its counts, and in words where they are not quite the same."""

    name: str
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.differences:
            return self.name
        return f"nearly {self.name} ({'; '.join(self.differences)})"


@dataclass(frozen=True, order=True)
class ScanFile:
    """A file that is a B-scan by its name and place; its content is not looked at yet."""

    path: str  # relative to the source, with forward slashes, as text (`path_to_text`): the key
    label: str  # class, upper case
    patient: str  # the bare id
    number: int  # of the image within the patient
    folder: str  # train, val or test, or "" where the source has only class folders
    bytes: int
    changed: int = field(default=-1, kw_only=True, compare=False)  # last, in ns since 1970, when listed; -1: not known
    linked: bool = field(default=False, kw_only=True, compare=False)  # a link, or behind one, that is followed


@dataclass(frozen=True, order=True)
class Scan(ScanFile):
    """A B-scan that was read and decoded."""

    sha256: str  # of the file, hex
    height: int  # pixels
    width: int  # pixels
    pixels: str = ""  # SHA-256 of the stored pixels, hex, once they are prepared; equal where the decoded pixels are


@dataclass(frozen=True)
class SourceListing:
    """Everything found under a source folder, sorted by path."""

    root: str  # the folder that holds the split or class folders, relative to the source; "" if the source itself
    named: tuple[ScanFile, ...]
    rejections: tuple[Exclusion, ...]
    listing: str  # SHA-256 over all paths and sizes, hex
    changed_ns: Mapping[str, int]  # path of a scan -> when its file, or its status, was last changed, ns since 1970

    @property
    def files(self) -> int:
        """How many files were found."""
        return len(self.named) + len(self.rejections)


def directory_problem(path: Path) -> str | None:
    """Why a path cannot be used as a folder, such as `does not exist`; None if it can, as far as may be seen."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be reached ({error.strerror or error})"
    return None if stat.S_ISDIR(mode) else "is a file"


def find(src: Path, *, follow_links: bool = False, keep_out: Sequence[Path] = ()) -> SourceListing:
    """List a source folder and read the names; no file is opened.

    With follow_links what is behind links is taken too, each file once; keep_out: paths that are written to, which no
    link may lead to. Without, a link is an error where a scan or its folder should be, and left out elsewhere.

    Raises SourceError if there is no such folder, it is empty, it has no class folders, or several data sets, if a
    folder where scans should be cannot be read, or for the links above.
    """
    shown = path_to_text(str(src))
    if fault := directory_problem(src):
        raise SourceError(f"--src {shown} {fault}; give the folder that holds train/ and test/, or the class folders.")
    walk = _Walk(src, follow_links)
    if not (walk.files or walk.rejections or walk.passed):
        raise SourceError(f"--src {shown} is empty; give the folder that holds train/ and test/, or the class folders.")
    for key, target in walk.targets:
        _check_target(src, key, target, keep_out)
    root = _find_root(src, [file.key for file in walk.files], walk.passed, follow_links)
    named: list[ScanFile] = []
    rejections = walk.rejections
    real: dict[str, str] = {}
    changed_ns: dict[str, int] = {}
    for file in walk.files:
        match read_name(file.key, file.bytes, root, changed=file.changed, linked=file.linked):
            case ScanFile() as found:
                named.append(found)
                real[found.path] = file.real
                changed_ns[found.path] = max(file.changed, file.status_changed)
            case Exclusion() as rejection:
                rejections.append(rejection)
    _check_passed(walk, root, named)
    rejections += [Exclusion(one.key, one.reason) for one in walk.passed]
    if follow_links:
        named, same = _each_once(named, real)
        rejections += same
    digest = hashlib.sha256()
    sizes = [(file.key, file.bytes) for file in walk.files]
    for key, size in sorted([*sizes, *((rejection.path, -1) for rejection in rejections)]):
        digest.update(f"{key}\0{size}\n".encode())
    changed_ns = {one.path: changed_ns[one.path] for one in named}
    return SourceListing(root, tuple(sorted(named)), tuple(sorted(rejections)), digest.hexdigest(), changed_ns)


def read_name(path: str, size: int, root: str, *, changed: int = -1, linked: bool = False) -> ScanFile | Exclusion:
    """What a file is by its path: [root/][split/]CLASS/CLASS-patient-number.jpeg, or why it is no B-scan."""
    inner = PurePosixPath(path)
    if "__MACOSX" in inner.parts or inner.name.startswith("._") or inner.name in (".DS_Store", "Icon\\x0d"):
        return Exclusion(path, MACOS)
    if inner.name.startswith("."):
        return Exclusion(path, "hidden file")
    if root:
        if not inner.is_relative_to(root):
            return Exclusion(path, f"outside {root}, which holds the class folders")
        inner = inner.relative_to(root)
    *folders, name = inner.parts
    split = folders[0].lower() if len(folders) == 2 else ""
    if not folders or len(folders) > 2 or (split and split not in SOURCE_SPLITS):
        return Exclusion(path, "not in a class folder")
    match = _NAME.fullmatch(name)
    if match is None:
        return Exclusion(path, "name is not CLASS-patientID-number.jpeg")
    label = match["label"].upper()
    if label != folders[-1].strip().upper():
        return Exclusion(path, f"name and folder disagree: {label} in {folders[-1]}")
    number = int(match["number"])
    return ScanFile(path, label, match["patient"], number, split, size, changed=changed, linked=linked)


def read(src: Path, named: ScanFile) -> tuple[Scan, NDArray[np.uint8]] | Exclusion:
    """Read and decode one B-scan: what it is and its gray values, (rows, columns) uint8 in 0..255.

    A Exclusion is for a file that was read whole and is no good image, or is over imaging.MAX_BYTES. Raises
    StoppedError if the file is gone or not the one that was listed; OSError or MemoryError, as `carefully` takes them,
    if the machine could not read it.
    """
    if named.bytes > preprocessing.MAX_BYTES:
        return Exclusion(
            named.path, f"too large: {named.bytes:,} bytes, more than {preprocessing.MAX_BYTES // 10**6} MB"
        )
    path = src / text_to_path(named.path)
    try:
        data, status = files.read_bytes(path, preprocessing.MAX_BYTES, follow_links=named.linked)
    except (FileNotFoundError, NotADirectoryError):
        raise _other(src, named, "is gone") from None
    except files.NotReadable as error:
        raise _other(src, named, str(error)) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _other(src, named, "is a link") from None
        raise
    if len(data) != named.bytes or status.st_size != named.bytes or status.st_mtime_ns != named.changed != -1:
        raise _other(src, named, "has another size or time of change")
    if not named.linked and not _stands(src, path, status):
        raise _other(src, named, "is in another place, behind a link")
    try:
        gray = preprocessing.decode(data)
    except UnreadableImage as error:
        return Exclusion(named.path, str(error))
    height, width = gray.shape
    return Scan(**vars(named), sha256=hashlib.sha256(data).hexdigest(), height=height, width=width), gray


def carefully(src: Path, named: ScanFile, work: Callable[[Path, ScanFile], Result]) -> Result:
    """work(src, named), tried again where the machine fails it for a moment.

    Raises StoppedError, naming the file, for what goes on failing (OSError, MemoryError) and for any mistake in `work`;
    OctErrors are raised as they are.
    """

    def attempt() -> Result:
        with preprocessing.memory_errors():
            return work(src, named)

    where = path_to_text(str(src / text_to_path(named.path)))
    try:
        return files.patiently(attempt)
    except OctError:
        raise
    except OSError as error:
        raise StoppedError(
            f"{where} cannot be read: {error.strerror or error}. That says nothing about the scan, so it was not left "
            "out: see that the disk can be read, then run the same command again."
        ) from error
    except MemoryError:
        raise StoppedError(
            f"there is too little memory for {where}. That says nothing about the scan, so it was not left out: run "
            "the same command again with fewer --workers, or with more memory."
        ) from None
    except Exception as error:
        raise StoppedError(
            f"{where} made octprep fail ({type(error).__name__}: {path_to_text(str(error))}). This is a mistake in "
            "octprep: please report it. What was prepared is kept; without that file the same command goes on."
        ) from error


def inspect(task: tuple[Path, Sequence[ScanFile]]) -> list[Scan | Exclusion]:
    """Read and decode some B-scans, keeping only what they are."""
    src, batch = task
    found = (carefully(src, named, read) for named in batch)
    return [one if isinstance(one, Exclusion) else one[0] for one in found]


def facts(scan: Scan) -> dict[str, object]:
    """What a scan is, by field, for other programs: without what depends on the disk that it lies on."""
    return {name: value for name, value in vars(scan).items() if name not in ("changed", "linked")}


def count(scans: Iterable[ScanFile]) -> dict[str, dict[str, int]]:
    """Images per split folder and class."""
    counts = Counter((scan.folder, scan.label) for scan in scans)
    folders = sorted({folder for folder, _ in counts}, key=lambda folder: [*SOURCE_SPLITS, ""].index(folder))
    labels = sorted({label for _, label in counts})
    return {folder: {label: counts[folder, label] for label in labels} for folder in folders}


def kind(reason: str) -> str:
    """A reason without the details that follow its colon."""
    return reason.partition(":")[0]


def published_version(scans: Iterable[ScanFile]) -> PublishedDataset | None:
    """The published data set whose counts per split and class are these, or nearly; None if none is near.

    Nearly: all differences together are at most 1 % of its images, as where a download lacks some files.
    """
    found = {(folder, label): number for folder, row in count(scans).items() for label, number in row.items()}
    versions: list[tuple[int, int, PublishedDataset]] = []
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
            versions.append((distance, len(versions), PublishedDataset(name, differences)))
    return min(versions)[-1] if versions else None


@dataclass(frozen=True)
class _File:
    """A regular file that was found."""

    key: str
    bytes: int
    changed: int  # ns
    status_changed: int  # ns
    linked: bool
    real: str  # its path without links


@dataclass(frozen=True)
class _Passed:
    """A link that was not followed, or a folder or file that cannot be read."""

    key: str
    reason: str
    is_file: bool  # False: a folder, or nothing is known of what it is
    target: str = ""  # of a link: its real path


class _Walk:
    """Everything below a source folder: regular files, and the rest with a reason."""

    def __init__(self, src: Path, follow_links: bool) -> None:
        self.src = src
        self.follow_links = follow_links
        self.home = os.path.realpath(src)
        self.files: list[_File] = []
        self.rejections: list[Exclusion] = []
        self.passed: list[_Passed] = []
        self.targets: list[tuple[str, str]] = []  # of followed links: key, real path
        # Folders still to list: the path below src, and the real paths of those that led there through links and of it.
        self.waiting: list[tuple[str, tuple[str, ...]]] = [("", (self.home,))]
        while self.waiting:
            folder, reals = self.waiting.pop()
            try:
                entries = files.patiently(partial(_entries, src / folder))
            except OSError as error:
                self._fail(folder, error, is_file=False)
                continue
            if isinstance(entries, PermissionError):
                self._fail(folder, entries, is_file=False)
                continue
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    self._take(entry, path, reals)
                except OSError as error:
                    self._fail(path, error, is_file=True)
        self.passed.sort(key=lambda one: one.key)

    def _take(self, entry: os.DirEntry[str], path: str, reals: tuple[str, ...]) -> None:
        key, real, linked = path_to_text(path), str(Path(reals[-1], entry.name)), len(reals) > 1
        if entry.is_symlink():
            real, linked = os.path.realpath(entry.path), True
            if not self.follow_links:
                try:
                    is_file = not stat.S_ISDIR(Path(entry.path).stat().st_mode)
                except OSError:
                    is_file = False
                self.passed.append(_Passed(key, "link, not followed", is_file, real))
                return
            try:
                status = Path(entry.path).stat()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                self.passed.append(_Passed(key, "link that leads nowhere", False, real))
                return
            if stat.S_ISDIR(status.st_mode):
                if any(Path(one).is_relative_to(real) for one in reals):
                    self.passed.append(_Passed(key, "link back to a folder above it", False, real))
                elif len(reals) > _MOST_HOPS:
                    self.passed.append(_Passed(key, f"link behind {_MOST_HOPS} others", False, real))
                else:
                    self.targets.append((key, real))
                    self.waiting.append((path, (*reals, real)))
                return
            self.targets.append((key, real))
        elif entry.is_dir(follow_symlinks=False):
            self.waiting.append((path, (*reals[:-1], real)))
            return
        else:
            status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            self.files.append(_File(key, status.st_size, status.st_mtime_ns, status.st_ctime_ns, linked, real))
        else:
            self.rejections.append(Exclusion(key, "not a regular file"))

    def _fail(self, path: str, error: OSError, *, is_file: bool) -> None:
        """Keep what may not be read, or went away, to be judged by its place; raise SourceError for a failing disk."""
        key, why = path_to_text(path), error.strerror or str(error)
        if path and error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR):
            self.passed.append(_Passed(key, f"cannot be read: {why}", is_file))
            return
        where = f"--src {path_to_text(str(self.src))}" + (f": {key}" if key else "")
        raise SourceError(f"{where} cannot be read: {why}. Run the same command again when it can be.") from None


def _entries(folder: Path) -> list[os.DirEntry[str]] | PermissionError:
    """What is in a folder, or why it may not be listed, which waiting would not change."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError as error:
        return error


def _stands(src: Path, path: Path, status: os.stat_result) -> bool:
    """Whether a file that was opened is the one at its path, with no link on the way from the source to it."""
    if os.path.realpath(path.parent) != str(Path(os.path.realpath(src), path.parent.relative_to(src))):
        return False
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)


def _other(src: Path, named: ScanFile, what: str) -> StoppedError:
    where = path_to_text(str(src / text_to_path(named.path)))
    return StoppedError(
        f"{where} {what}, so it is not the file that was listed when this run began. When the source is whole and "
        "nothing writes there, run the same command again; it goes on with what was prepared."
    )


def _check_target(src: Path, key: str, target: str, keep_out: Sequence[Path]) -> None:
    """Raise SourceError if a followed link leads to where something is to be written, or that lies behind it."""
    for place in keep_out:
        written, behind = place.resolve(), Path(target)
        if written.is_relative_to(behind) or behind.is_relative_to(written):
            raise SourceError(
                f"--src {path_to_text(str(src))}: the link {key} leads to {path_to_text(target)}, which is only read, "
                f"but {path_to_text(str(place))} is to be written there; name another place to write to."
            )


def _check_passed(walk: _Walk, root: str, named: Sequence[ScanFile]) -> None:
    """Raise SourceError if scans may be missing because a link was not followed or a folder cannot be read."""
    labels = {*KERMANY_CLASSES, *(one.label for one in named)}
    has_splits = any(one.folder for one in named)
    missed = [one for one in walk.passed if _is_missed(walk, one, root, labels, has_splits)]
    if not missed:
        return
    src = path_to_text(str(walk.src))
    if any(one.target for one in missed) and not walk.follow_links:
        missed = [one for one in missed if one.target]
        raise SourceError(
            f"--src {src} has {_links(missed)} where scans or their folders should be, and links are not followed, so "
            "what is behind would be missing. Give --follow-links to take it, or put the files themselves there."
        )
    raise SourceError(
        f"--src {src}: {_some([f'{one.key} ({one.reason})' for one in missed])} would be missing, where scans or their "
        "folders should be. Mend or remove what is named, then run the same command again."
    )


def _is_missed(walk: _Walk, one: _Passed, root: str, labels: set[str], has_splits: bool) -> bool:
    """Whether a scan, a class folder, a split folder or a data set may be missing, by the name and place."""
    path = PurePosixPath(one.key)
    if path.name.startswith(".") or "__MACOSX" in path.parts:
        return False
    if isinstance(read_name(one.key, 0, root), ScanFile):
        return True
    if one.is_file:
        return False
    if not root or path.is_relative_to(root):
        *above, name = path.relative_to(root).parts
        label = name.strip().upper()
        in_split = len(above) == 1 and above[0].lower() in SOURCE_SPLITS
        if not above and name.lower() in SOURCE_SPLITS:
            return True
        # Beside train and test, only what is called like a known class is taken for one.
        if (in_split or not above) and (label in labels or (_LABEL.fullmatch(label) and (in_split or not has_splits))):
            return True
    if not one.target or Path(one.target).is_relative_to(walk.home) or Path(walk.home).is_relative_to(one.target):
        return False
    return _shows_scans(walk.src / text_to_path(one.key))


def _shows_scans(folder: Path) -> bool:
    """Whether a folder has scans by their names and places, as far as its first thousands of names show."""
    seen = 0
    for path, folders, names in os.walk(folder):
        label = Path(path).name.strip().upper()
        if any((match := _NAME.fullmatch(name)) and match["label"].upper() == label for name in names):
            return True
        seen += len(folders) + len(names)
        if seen > 10_000:
            break
    return False


def _each_once(named: Sequence[ScanFile], real: Mapping[str, str]) -> tuple[list[ScanFile], list[Exclusion]]:
    """Files that links show several times as the same scan are taken once; under another class or split they stay.

    real: the path without links, by key.
    """
    first: dict[tuple[str, ...], ScanFile] = {}
    rejections: list[Exclusion] = []
    for one in sorted(named, key=lambda one: (one.linked, one.path)):
        of = first.setdefault((real[one.path], one.folder, one.label, one.patient), one)
        if of is not one:
            rejections.append(Exclusion(one.path, f"link to a scan that is there by another name: {of.path}"))
    return list(first.values()), rejections


def _find_root(src: Path, paths: Sequence[str], passed: Sequence[_Passed], follow_links: bool) -> str:
    """The folder, relative to src, below which class folders stand, directly or under train, val and test."""
    roots = set()
    for path in paths:
        *folders, name = PurePosixPath(path).parts
        match = _NAME.fullmatch(name)
        if not folders or match is None or match["label"].upper() != folders[-1].strip().upper():
            continue
        above = folders[:-2] if len(folders) > 1 and folders[-2].lower() in SOURCE_SPLITS else folders[:-1]
        if "__MACOSX" not in above:
            roots.add("/".join(above))
    shown = path_to_text(str(src))
    if not roots:
        links = [one for one in passed if one.target]
        more = "" if not passed else f" Not read: {_some([f'{one.key} ({one.reason})' for one in passed])}."
        if links and not follow_links:
            more = f" It has {_links(links)}, and links are not followed; give --follow-links to take what is behind."
        raise SourceError(
            f"--src {shown} has no class folders: expected [train|val|test/]CLASS/CLASS-patientID-number.jpeg, "
            f"such as train/CNV/CNV-1016042-1.jpeg; found {_some(sorted(paths)) or 'no regular file'}.{more}"
        )
    if len(roots) > 1:
        listed = ", ".join(f"'{root or '.'}'" for root in sorted(roots)[:5])
        raise SourceError(f"--src {shown} holds {len(roots)} data sets ({listed}); give one of these folders as --src.")
    return roots.pop()


def _links(links: Sequence[_Passed]) -> str:
    return f"{len(links):,} link{'s' * (len(links) != 1)} ({_some([one.key for one in links])})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
