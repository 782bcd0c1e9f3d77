"""The files of a source: what each is by its path, and how many there are.

Kermany et al. named their B-scans CLASS-patientID-number.jpeg and sorted them as [split/]CLASS/. A file's key is its
path below the source as text (`octprep.format.paths.path_to_text`), so any name can be printed and stored.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from octprep.format.config import SOURCE_SPLITS
from octprep.format.paths import split_frame_path
from octprep.source.layouts import KermanyLayout, Layout, PathFacts

DIGEST_BYTES = 32  # of a SHA-256
WITHOUT_ID = "patient is not known"  # why an image is left out
MACOS_METADATA = "macOS metadata, not a scan"  # an archive packed on a Mac has one such file for each image


@dataclass(frozen=True, order=True, slots=True)
class Exclusion:
    """A file that is not used, and why."""

    path: str  # relative to the source, with forward slashes, as text
    reason: str


@dataclass(frozen=True, order=True, slots=True)
class ScanFile:
    """A file that is a B-scan by its name and folder; its content has not been read yet."""

    path: (
        str  # relative to the source, with forward slashes, as text (`path_to_text`): the key; of a frame `frame_path`
    )
    label: str  # class, upper case
    patient: str  # the bare id; of several sources, or of ids that hold within a class, with that before it
    image_number: int  # of the image within the patient; 0 where the source does not state it
    source_split: str  # train, val or test, or "" where the source has only class folders
    bytes: int
    source: str = field(default="", kw_only=True)  # the name of the source, where a build has several
    eye: str = field(default="", kw_only=True)  # OD (right) or OS (left), "" where the source does not state it
    volume: str = field(
        default="", kw_only=True
    )  # the examination that it is of, "" where the source does not state it
    axial_um: float = field(default=0.0, kw_only=True)  # distance of two rows, micrometres; 0: not stated
    frame: int = field(default=0, kw_only=True, compare=False, repr=False)  # of a file of many B-scans, from 1
    # When listed; ns since 1970, -1: not known. The last change of its content, and of its content or status.
    modified_ns: int = field(default=-1, kw_only=True, compare=False, repr=False)
    changed_ns: int = field(default=-1, kw_only=True, compare=False, repr=False)
    linked: bool = field(default=False, kw_only=True, compare=False, repr=False)  # a followed link, or behind one

    @property
    def file(self) -> str:
        """The path of the file that holds it: without the number of a frame."""
        return split_frame_path(self.path)[0] if self.frame else self.path


@dataclass(frozen=True, order=True, slots=True)
class Scan(ScanFile):
    """A B-scan that was read and decoded."""

    digests: bytes  # `file_digest` and `pixel_digest`, one after the other: there may be millions of scans
    height: int  # pixels
    width: int  # pixels

    @classmethod
    def of(cls, file: ScanFile, *, sha256: str, height: int, width: int, pixels_sha256: str = "") -> Scan:
        """The scan in a file: see the fields and properties. Raises ValueError for a digest that is not hex."""
        return cls(**field_values(file), digests=bytes.fromhex(sha256 + pixels_sha256), height=height, width=width)

    def with_pixels(self, digest: bytes) -> Scan:
        """The same once its pixels are prepared. digest: the SHA-256 of the stored pixels."""
        return dataclasses.replace(self, digests=self.file_digest + digest)

    @property
    def file_digest(self) -> bytes:
        """The SHA-256 of the file, or of a frame as its file stores it."""
        return self.digests[:DIGEST_BYTES]

    @property
    def pixel_digest(self) -> bytes:
        """The SHA-256 of the stored pixels, b"" until they are prepared; equal where the decoded pixels are."""
        return self.digests[DIGEST_BYTES:]

    @property
    def sha256(self) -> str:
        """`file_digest`, hex."""
        return self.file_digest.hex()

    @property
    def pixels_sha256(self) -> str:
        """`pixel_digest`, hex."""
        return self.pixel_digest.hex()


@dataclass
class SourceListing:
    """Every file under a source folder, sorted by path."""

    root: str  # the folder that holds the split or class folders, relative to the source; "" if the source itself
    scan_files: tuple[ScanFile, ...]
    exclusions: tuple[Exclusion, ...]
    listing_sha256: str  # over all paths and sizes, and what layouts other than the usual one say of them, hex
    layouts: tuple[str, ...] = ()  # how the paths of each source were read
    file_count: int = field(init=False)  # how many files there are, scans and others
    newest_ns: int = field(init=False)  # the last change of any scan file, ns since 1970; -1 if there is none

    def __post_init__(self) -> None:
        self.file_count = len(self.scan_files) + len(self.exclusions)
        self.newest_ns = max((file.changed_ns for file in self.scan_files), default=-1)

    def forget_scan_files(self) -> None:
        """Empty `scan_files`, of which there may be millions, once each has been read; what was counted stays."""
        self.scan_files = ()


def parse_scan_path(path: str, size: int, root: str) -> ScanFile | Exclusion:
    """What a file is by its path: [root/][split/]CLASS/CLASS-patient-number.jpeg, or why it is not a B-scan.

    path: relative to the source, as text; size: in bytes.
    """
    facts = read_path(path, KermanyLayout(root))
    return facts if isinstance(facts, Exclusion) else make_scan_file(path, facts, size)


def read_path(path: str, layout: Layout) -> PathFacts | Exclusion:
    """What a layout says of a path, relative to the source, or why the file is not a B-scan."""
    *folders, name = path.split("/")
    if "__MACOSX" in (*folders, name) or name.startswith("._") or name in (".DS_Store", "Icon\\x0d"):
        return Exclusion(path, MACOS_METADATA)
    if name.startswith("."):
        return Exclusion(path, "hidden file")
    facts = layout.read(path)
    return Exclusion(path, facts) if isinstance(facts, str) else facts


def make_scan_file(path: str, facts: PathFacts, size: int, **disk: Any) -> ScanFile:
    """A file by what is known of it. disk: the fields of ScanFile on the disk that it lies on."""
    return ScanFile(
        path,
        sys.intern(facts.label),
        sys.intern(facts.patient),
        facts.number,
        sys.intern(facts.split),
        size,
        eye=sys.intern(facts.eye),
        volume=sys.intern(facts.volume),
        axial_um=facts.axial_um,
        **disk,
    )


def count_by_split_and_class(scans: Iterable[ScanFile]) -> dict[str, dict[str, int]]:
    """Images per split folder and class; every folder has every class, with 0 where there is none."""
    counts = Counter((scan.source_split, scan.label) for scan in scans)
    folders = sorted({folder for folder, _ in counts}, key=lambda folder: [*SOURCE_SPLITS, ""].index(folder))
    labels = sorted({label for _, label in counts})
    return {folder: {label: counts[folder, label] for label in labels} for folder in folders}


def reason_kind(reason: str) -> str:
    """An exclusion's reason without the details that follow its colon."""
    return reason.partition(":")[0]


def portable_fields(scan: Scan) -> dict[str, object]:
    """A scan's fields by name, for other programs: without those that depend on the disk that it lies on."""
    return {name: getattr(scan, name) for name in DESCRIBED}


def field_values(scan: ScanFile) -> dict[str, Any]:
    """What is stored of a file or scan, by name."""
    return {name: getattr(scan, name) for name in FIELDS[type(scan)]}


_OF_THE_DISK = ("modified_ns", "changed_ns", "linked", "frame")
_FILE_FIELDS = tuple(field.name for field in dataclasses.fields(ScanFile))
# What is stored of each, by these names; the digests of a scan as hex.
FIELDS = {ScanFile: _FILE_FIELDS, Scan: (*_FILE_FIELDS, "sha256", "height", "width", "pixels_sha256")}
DESCRIBED = tuple(name for name in FIELDS[Scan] if name not in _OF_THE_DISK)  # of a scan, wherever it lies
