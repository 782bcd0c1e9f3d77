"""The contract between octprep, which writes shards, and octtrain, which reads them.

Everything both programs must agree on stands here once: feature names, settings, the manifest, and the errors a user
can meet. Only the standard library is imported, so that either side can load it without the other's dependencies.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import re
import stat
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

from octprep.errors import LeakError as LeakError
from octprep.errors import ManifestError as ManifestError
from octprep.errors import OctError as OctError
from octprep.errors import OutputError as OutputError
from octprep.errors import SettingError as SettingError
from octprep.errors import SourceError as SourceError
from octprep.errors import StoppedError as StoppedError
from octprep.errors import UnreadableImage as UnreadableImage
from octprep.files import NotReadable, read_bytes
from octprep.files import write_whole as write_whole

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
IMAGES_NAME = "images.csv"
JOINS_NAME = "joins.json"
REPORT_NAME = "report.html"
WORK_NAME = ".octprep-work"  # a folder in the one that is built, as long as the build is not finished

_MOST_BYTES = 512_000_000  # of manifest.json, images.csv or joins.json; the whole archive's table has 30 MB
_MOST = 2**63  # every whole number is below it
_LARGEST = 1e300  # and every other one not above this
_SPLIT = re.compile(r"[A-Za-z0-9_]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# What one prepared image depends on besides the recipe: raise it whenever octprep.imaging would give other pixels.
IMAGING_REVISION = 4

# The libraries that decide pixels, by their names in the manifest, and what they are called.
DECIDING: Mapping[str, str] = {"octprep": "octprep", "opencv": "OpenCV", "pywavelets": "PyWavelets"}

# Features of one record, a tf.train.Example. README.md describes each.
IMAGE = "image"
LABEL = "label"
PATIENT = "patient"
SCAN = "scan"
NUMBER = "number"
SHA256 = "sha256"
SOURCE_SIZE = "source_size"
AFFINE = "affine"
SHIFT = "shift"  # only where the recipe flattens
COPY = "copy"

SPLIT_FOLDERS = ("train", "val", "test")
Crop = Literal["retina", "none"]
CROPS: tuple[str, ...] = get_args(Crop)
Fit = Literal["stretch", "pad"]
FITS: tuple[str, ...] = get_args(Fit)
# Degrees of the retina across a scan of so many columns. The archive's device, a Heidelberg Spectralis, takes 25.6
# A-scans a degree in its fast mode (384, 512, 768 columns) and 51.2 in its fine mode (1024, 1536). A file does not say
# its mode: a 768 that was taken in the fine mode, 15 degrees wide, would be taken for one of 30.
FIELDS: Mapping[int, float] = {384: 15.0, 512: 20.0, 768: 30.0, 1024: 20.0, 1536: 30.0}

Encoding = Literal["raw", "png"]
ENCODINGS: tuple[str, ...] = get_args(Encoding)
Strategy = Literal["auto", "repaired", "official", "grouped", "kfold", "file"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
Conflicts = Literal["drop", "keep", "error"]
CONFLICTS: tuple[str, ...] = get_args(Conflicts)
Balance = Literal["oversample", "undersample", "none"]
BALANCES: tuple[str, ...] = get_args(Balance)

Denoiser = Literal["median", "bilateral", "lee", "nlm", "wavelet", "none"]

# Each denoiser's default strength: the odd window side of the median in pixels, the bilateral filter's colour sigma in
# gray levels, the window side of Lee's filter in pixels, the filter parameter h of non-local means in gray levels, the
# factor on the wavelet filter's thresholds.
DENOISERS: Mapping[str, float] = {
    "median": 3.0,
    "bilateral": 25.0,
    "lee": 5.0,
    "nlm": 10.0,
    "wavelet": 2.0,
    "none": 0.0,
}


def choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value outside a closed set."""
    if value not in allowed:
        raise SettingError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `octprep.imaging.prepare` does to every B-scan; kept in the manifest and replayed at prediction time.

    Raises SettingError at birth if a value is outside its range.
    """

    height: int = 224  # of the stored image, pixels
    width: int = 224  # of the stored image, pixels
    clean: bool = True  # fill the white and black areas that rotation and shifting left at the border
    crop: str = "retina"  # retina: keep the band from the vitreous face into the choroid; none: keep all
    margin_above: float = 0.03  # of vitreous that the crop keeps, as a fraction of the retina's height
    margin_below: float = 0.12  # of choroid, likewise
    flatten: bool = False  # straighten the retina along the lower edge of the pigment epithelium
    field: float = 0.0  # degrees about the middle that a wider scan is cut to, by its width (FIELDS); 0: all of it
    denoise: str = "median"  # one of DENOISERS, applied after the crop at source resolution
    strength: float | None = None  # of the denoiser, in its own unit (see DENOISERS); None: its default
    fit: str = "stretch"  # stretch: both axes scaled to fill; pad: one scale for both, bars of black
    revision: int = IMAGING_REVISION

    def __post_init__(self) -> None:
        for name, value in (("height", self.height), ("width", self.width)):
            if not 16 <= value <= 4096:
                raise SettingError(f"size must be between 16 and 4096 pixels a side; got {name} {value}")
        choose("crop", self.crop, CROPS)
        choose("fit", self.fit, FITS)
        choose("denoise", self.denoise, tuple(DENOISERS))
        if self.strength is None:
            object.__setattr__(self, "strength", DENOISERS[self.denoise])
        assert self.strength is not None
        for name, margin in (("margin_above", self.margin_above), ("margin_below", self.margin_below)):
            if not 0 <= margin <= 2:
                raise SettingError(f"{name} must be between 0 and 2 times the retina's height; got {margin:g}")
        if self.denoise in ("median", "lee") and self.strength not in (3, 5, 7, 9):
            raise SettingError(
                f"the strength of {self.denoise} is its window and must be 3, 5, 7 or 9; got {self.strength:g}"
            )
        if self.denoise in ("bilateral", "nlm") and not 0 < self.strength <= 255:
            raise SettingError(
                f"the strength of {self.denoise} must be above 0 and at most 255 gray levels; got {self.strength:g}"
            )
        if self.denoise == "wavelet" and not 0 < self.strength <= 10:
            raise SettingError(
                "the strength of wavelet is a factor on its thresholds and must be above 0 and at most 10; "
                f"got {self.strength:g}"
            )
        if self.field and not 5 <= self.field <= 60:
            raise SettingError(f"field must be 0 for the whole scan, or between 5 and 60 degrees; got {self.field:g}")
        if self.denoise == "none" and self.strength != 0:
            raise SettingError(f"--denoise none takes no strength; got {self.strength:g}")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Everything the bytes of a folder of shards depend on, besides the source itself.

    Raises SettingError at birth if a value is outside its range.
    """

    recipe: Recipe = field(default_factory=Recipe)
    split: str = "auto"  # resolved to one of the others before it is written into a manifest
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)  # train, val, test; only ratios matter
    folds: int = 5  # for split kfold
    splits_sha256: str = ""  # for split file: of who is where (octprep.assignment), hex
    max_per_patient: int = 0  # scans of a patient that train and folds keep at most; 0: all
    allow_leaks: bool = False  # for splits as given: build although a patient is on two sides, and say so for ever
    near_duplicates: bool = True  # scans under different ids that show the same pixels are one patient's
    conflicts: str = "drop"  # what becomes of copies under different classes: left out, one of each kept, or refused
    balance: str = "oversample"
    encoding: str = "raw"
    shard_mb: float = 128.0  # wanted size of one shard, megabytes of 10**6 bytes
    seed: int = 0

    def __post_init__(self) -> None:
        choose("split", self.split, STRATEGIES)
        choose("balance", self.balance, BALANCES)
        choose("conflicts", self.conflicts, CONFLICTS)
        choose("encoding", self.encoding, ENCODINGS)
        good = len(self.fractions) == 3 and all(math.isfinite(f) and f > 0 for f in self.fractions)
        if not good:
            raise SettingError(
                "fractions must be three numbers above 0 for train, val and test such as 0.8,0.1,0.1; "
                f"got {','.join(f'{f:g}' for f in self.fractions)}"
            )
        if not 2 <= self.folds <= 100:
            raise SettingError(f"folds must be between 2 and 100; got {self.folds}")
        if not (math.isfinite(self.shard_mb) and self.shard_mb > 0):
            raise SettingError(f"shard-mb must be above 0; got {self.shard_mb:g}")
        if not 0 <= self.seed < 2**63:
            raise SettingError(f"seed must be between 0 and 2**63 - 1; got {self.seed}")
        if not 0 <= self.max_per_patient < 2**31:
            raise SettingError(
                f"max-per-patient must be a number of scans, or 0 to keep all; got {self.max_per_patient}"
            )
        if (self.split == "file") != bool(self.splits_sha256):
            raise SettingError(
                "--split file takes who is where from --splits FILE, and no other split does; "
                f"got split {self.split!r} {'with' if self.splits_sha256 else 'without'} such a file"
            )
        if self.allow_leaks and self.split not in ("official", "file"):
            raise SettingError(
                "allow-leaks is for --split official, which takes the folders as they are, and for --splits FILE; "
                f"split is {self.split!r} and lets no patient leak"
            )
        if self.split == "kfold" and self.balance != "none":
            raise SettingError(
                "folds take turns as validation, so each holds every image once: use --balance none with --split kfold "
                f"(octtrain then weights the classes); got balance {self.balance!r}"
            )

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """The config that `dataclasses.asdict` and JSON made `raw` of."""
        return cls(**{**raw, "recipe": Recipe(**raw["recipe"]), "fractions": tuple(raw["fractions"])})


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One TFRecord file of a split."""

    name: str  # relative to the folder, with forward slashes: train/00000-of-00058.tfrecord
    records: int
    per_class: tuple[int, ...]  # records per class, in the order of the manifest's class names
    bytes: int
    sha256: str  # of the file, hex


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """What stands on two sides of a split. Empty in every folder that was not built with --allow-leaks."""

    patients: tuple[str, ...] = ()  # bare ids
    contents: tuple[str, ...] = ()  # SHA-256 of source files, hex
    near: tuple[tuple[str, str], ...] = ()  # paths of near-identical scans under different patient ids

    def __bool__(self) -> bool:
        return bool(self.patients or self.contents or self.near)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a finished folder of shards says of itself.

    octtrain gets everything it knows about the data from here. `digest` is the SHA-256 of the canonical JSON of all
    other fields; as these hold every shard's SHA-256, it names the dataset.
    """

    class_names: tuple[str, ...]
    config: BuildConfig
    splits: Mapping[str, tuple[Shard, ...]]
    leaks: Leaks
    source: Mapping[str, Any]  # listing: SHA-256 over paths and sizes; found, kept, left_out: numbers of files
    images_sha256: str  # of images.csv, hex
    joins_sha256: str  # of joins.json, hex
    libraries: Mapping[str, str]  # name -> version of what made the pixels
    format_version: int = FORMAT_VERSION
    untouched: bool = field(default=True, compare=False, repr=False)  # False: loaded, and its digest did not match

    def to_json(self) -> dict[str, Any]:
        """All fields but the digest, as JSON knows them."""
        fields = dataclasses.asdict(self)
        del fields["untouched"]
        return fields

    @property
    def recipe(self) -> Recipe:
        """What was done to every image."""
        return self.config.recipe

    @property
    def digest(self) -> str:
        """SHA-256 in hex of this manifest's canonical JSON."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def records(self, split: str) -> int:
        """How many records a split holds."""
        return sum(shard.records for shard in self.splits[split])

    def per_class(self, split: str) -> dict[str, int]:
        """How many records of each class a split holds."""
        counts = [sum(column) for column in zip(*(shard.per_class for shard in self.splits[split]), strict=True)]
        return dict(zip(self.class_names, counts or [0] * len(self.class_names), strict=True))

    def to_bytes(self) -> bytes:
        """What manifest.json holds."""
        return (json.dumps({"digest": self.digest, **self.to_json()}, indent=1) + "\n").encode()

    def save(self, folder: Path) -> None:
        """Write manifest.json in one step: it is there whole or not at all."""
        write_whole(folder / MANIFEST_NAME, self.to_bytes())

    @classmethod
    def load(cls, folder: Path, *, trusting: bool = False) -> Self:
        """Read a folder's manifest.

        Raises ManifestError if there is none, if it is of another format, or if it is not what was written. With
        trusting, one that was changed is taken as it is, with `untouched` False, if it could be a manifest at all.
        """
        path = folder / MANIFEST_NAME
        try:
            raw = read_json(read_part(path))
        except (FileNotFoundError, NotADirectoryError):
            raise ManifestError(_no_manifest(folder)) from None
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ManifestError(
                f"{path} cannot be read ({what}). Copy it again, or rebuild the folder with `octprep build`."
            ) from None
        return cls.from_json(raw, path, trusting=trusting)

    @classmethod
    def from_json(cls, raw: Any, path: Path, *, trusting: bool = False) -> Self:
        """The manifest in decoded JSON; `path` is only for messages. Raises ManifestError as `load` does."""
        version = raw.get("format_version") if isinstance(raw, dict) else None
        if type(version) is not int or version != FORMAT_VERSION:
            shown = version if isinstance(version, int | str | None) else type(version).__name__
            raise ManifestError(
                f"{path} is of format {str(shown)[:20]}, but this version reads format {FORMAT_VERSION}. "
                "Rebuild the folder with `octprep build`."
            )
        try:
            fields = {key: value for key, value in raw.items() if key != "digest"}
            _check_type(raw["digest"], str, "digest")
            _check_type(fields, cls, "")
            manifest = cls(
                **{
                    **fields,
                    "class_names": tuple(raw["class_names"]),
                    "config": BuildConfig.from_json(raw["config"]),
                    "splits": {
                        name: tuple(Shard(**{**shard, "per_class": tuple(shard["per_class"])}) for shard in shards)
                        for name, shards in raw["splits"].items()
                    },
                    "leaks": Leaks(**{key: tuple(map(_tuple, value)) for key, value in raw["leaks"].items()}),
                }
            )
            _check_parts(manifest)
            good = manifest.digest == raw["digest"]
        except KeyError as error:
            raise _no_such_manifest(path, f"it lacks {error}") from None
        except ValueError as error:
            raise _no_such_manifest(path, error) from None
        if not good and trusting:
            return dataclasses.replace(manifest, untouched=False)
        if not good:
            raise ManifestError(
                f"{path} was changed after it was written: its digest does not match its content. "
                "Restore it, or rebuild the folder with `octprep build`."
            )
        return manifest

    def check_files(self, folder: Path, splits: tuple[str, ...]) -> None:
        """Compare the shards of some splits with the manifest: presence, size, SHA-256.

        Raises ManifestError naming the first shard that differs, is a link or lies behind one: nothing outside the
        folder is read. Reads every byte, 1-2 GB/s where the disk allows.
        """
        for split in splits:
            if split not in self.splits:
                raise ManifestError(f"{folder} has no split {split!r}; it has {', '.join(self.splits)}.")
            for shard in self.splits[split]:
                fault = file_fault(folder / shard.name, shard)
                if fault:
                    raise ManifestError(
                        f"{folder / shard.name} {fault}, so {folder} is not what was built. "
                        "Copy the folder again, or repair it by the `octprep build` that made it."
                    )


def version_differences(manifest: Manifest, installed: Mapping[str, str]) -> list[str]:
    """In words, where the libraries that decide pixels are not the versions that made these shards.

    installed: name -> version of what is there now, such as {"octprep": "1.0", "opencv": "4.12.0"}; names that it or
    the manifest lacks are passed over. Compared are DECIDING. [] if they agree.
    """
    return [
        f"{title} {manifest.libraries[name]} made the shards, {installed[name]} is installed"
        for name, title in DECIDING.items()
        if name in manifest.libraries and name in installed and manifest.libraries[name] != installed[name]
    ]


def read_part(path: Path) -> bytes:
    """The content of a folder's manifest.json, images.csv or joins.json.

    A pipe is not waited for, a link is not followed, and no more than 512 MB are read. Raises ValueError for these,
    OSError for what the system says, both without the path.
    """
    if path.is_symlink():
        raise ValueError("it is a link, not a file")
    try:
        return read_bytes(path, _MOST_BYTES, follow_links=False)[0]
    except NotReadable as error:
        raise ValueError(f"it {error}") from None


def read_json(data: bytes) -> Any:
    """Decoded JSON in UTF-8. Raises ValueError for anything else, for NaN and for what is nested too deeply."""
    try:
        return json.loads(data.decode(), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number that JSON knows")


def _no_manifest(folder: Path) -> str:
    """Why a folder has no manifest, and what to do."""
    if not folder.is_dir():
        return f"{folder} is not a folder. Make one with `octprep build --src DIR --out {folder}`."
    if (folder / WORK_NAME).is_dir():
        return (
            f"{folder} has no {MANIFEST_NAME} yet: it is being built, or its build was interrupted. Wait for "
            "`octprep build`, or run the same `octprep build` again, which goes on from there."
        )
    return (
        f"{folder} has no {MANIFEST_NAME}, so it is no finished folder of shards. Make one with "
        f"`octprep build --src DIR --out {folder}`."
    )


def _no_such_manifest(path: Path, why: object) -> ManifestError:
    return ManifestError(
        f"{path} is not a manifest that octprep wrote: {str(why)[:300]}. Restore it, or rebuild the folder with "
        "`octprep build`."
    )


_KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def _check_type(value: Any, kind: Any, where: str) -> None:
    """Raise ValueError if decoded JSON is not what a type, such as that of a field of Manifest, makes of it."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        wanted = _fields(typing.cast(type, kind))
        if not isinstance(value, dict) or value.keys() != wanted.keys():
            found = sorted(value.keys() ^ wanted.keys()) if isinstance(value, dict) else [type(value).__name__]
            raise ValueError(f"{where or 'it'} lacks or adds fields ({', '.join(map(repr, found[:5]))})")
        for name, part in wanted.items():
            _check_type(value[name], part, f"{where}.{name}".lstrip("."))
    elif origin is tuple:
        if not isinstance(value, list) or (... not in parts and len(value) != len(parts)):
            raise ValueError(f"{where} is no list of the right length")
        for place, item in enumerate(value):
            _check_type(item, parts[0] if ... in parts else parts[place], f"{where}[{place}]")
    elif origin is Mapping:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is no set of names and values")
        for name, item in value.items():
            _check_type(item, parts[1], f"{where}.{name if name.isprintable() else repr(name)}")
    elif origin is types.UnionType:
        if value is not None or type(None) not in parts:
            _check_type(value, parts[0], where)
    elif kind in _KINDS and not _is(value, kind):
        raise ValueError(f"{where} is no {_KINDS[kind]}: {_shown(value)}")
    elif kind is Any and not _plain(value, 3):
        raise ValueError(f"{where} holds what no build writes")


@lru_cache
def _fields(kind: type) -> Mapping[str, Any]:
    """The fields of a dataclass that JSON holds, with their types."""
    kinds = typing.get_type_hints(kind)
    return {part.name: kinds[part.name] for part in dataclasses.fields(kind) if part.name != "untouched"}


def _shown(value: Any) -> str:
    """A JSON value in a sentence."""
    return repr(value)[:60] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _plain(value: Any, depth: int) -> bool:
    """Whether JSON holds nothing but text and numbers that can be, in no more than so many layers."""
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_plain(item, depth - 1) for item in inner)
    return value is None or any(_is(value, kind) for kind in _KINDS)


def _is(value: Any, kind: type) -> bool:
    """Whether a JSON value is of this kind; True is no number, and a whole number will do for any."""
    if kind is float and type(value) is float:
        return math.isfinite(value) and abs(value) <= _LARGEST
    return type(value) is (int if kind is float else kind) and (type(value) is not int or abs(value) < _MOST)


def _check_parts(manifest: Manifest) -> None:
    """Raise ValueError for what no build writes, whatever its digest says."""
    labels = manifest.class_names
    if not labels or "" in labels or len(set(labels)) < len(labels):
        raise ValueError("class_names must be different names, at least one")
    digests = {"images_sha256": manifest.images_sha256, "joins_sha256": manifest.joins_sha256}
    digests["source.listing"] = manifest.source["listing"]
    digests["config.splits_sha256"] = manifest.config.splits_sha256 or "0" * 64
    digests |= {f"leaks.contents[{place}]": content for place, content in enumerate(manifest.leaks.contents)}
    numbers = {f"source.{key}": manifest.source[key] for key in ("found", "kept", "left_out")}
    for split, part in manifest.splits.items():
        if not _SPLIT.fullmatch(split):
            raise ValueError(f"{split[:80]!r} is no name of a split")
        for place, shard in enumerate(part):
            name = f"{split}/{place:05d}-of-{len(part):05d}.tfrecord"
            if shard.name != name:
                raise ValueError(f"shard {shard.name[:80]!r} stands in split {split} where {name} belongs")
            if len(shard.per_class) != len(labels):
                raise ValueError(f"{name} counts {len(shard.per_class)} classes, but {len(labels)} are named")
            if sum(shard.per_class) != shard.records:
                raise ValueError(f"{name} has {shard.records} records, but those of its classes are not as many")
            digests[f"sha256 of {name}"] = shard.sha256
            numbers |= {f"records of {name}": min(shard.per_class), f"bytes of {name}": shard.bytes}
    for where, number in numbers.items():
        if type(number) is not int or not 0 <= number < _MOST:
            raise ValueError(f"{where} is no number of things: {_shown(number)}")
    for where, digest in digests.items():
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError(f"{where} is no SHA-256 in hexadecimal digits: {_shown(digest)}")


def _tuple(value: Any) -> Any:
    """What JSON made a list of."""
    return tuple(value) if isinstance(value, list) else value


def open_shard(path: Path) -> io.BufferedReader:
    """A shard, open for reading; a pipe is not waited for. Raises ValueError, in words, for what is no regular file.

    A link, and a file in a folder that is one, are refused: what they hold may lie anywhere and change at any time.
    """
    if path.is_symlink():
        raise ValueError("is a link, not a file")
    if path.parent.is_symlink():
        raise ValueError(f"lies in {path.parent.name}, which is a link, not a folder")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise ValueError("is not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("is not a regular file")
    return os.fdopen(descriptor, "rb")


def file_fault(path: Path, shard: Shard) -> str | None:
    """What is wrong with a shard's file, or None if it is one and its size and SHA-256 are as the manifest says."""
    try:
        with open_shard(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != shard.bytes:
                return f"has {size:,} bytes where the manifest says {shard.bytes:,}"
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except ValueError as error:
        return str(error)
    return (
        None if found == shard.sha256 else f"has SHA-256 {found[:16]}... where the manifest says {shard.sha256[:16]}..."
    )
