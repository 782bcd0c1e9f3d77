"""The contract between octprep, which writes shards, and octtrain, which reads them.

Everything both programs must agree on stands here once: feature names, settings, the manifest, and the errors a user
can meet. Only the standard library is imported, so that either side can load it without the other's dependencies.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from octprep.errors import LeakError as LeakError
from octprep.errors import ManifestError as ManifestError
from octprep.errors import OctError as OctError
from octprep.errors import OutputError as OutputError
from octprep.errors import SettingError as SettingError
from octprep.errors import SourceError as SourceError
from octprep.errors import StoppedError as StoppedError
from octprep.errors import UnreadableImage as UnreadableImage
from octprep.files import write_whole as write_whole

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
IMAGES_NAME = "images.csv"
JOINS_NAME = "joins.json"
REPORT_NAME = "report.html"

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
CROPS = ("retina", "none")
FITS = ("stretch", "pad")
# Degrees of the retina across a scan of so many columns. The archive's device, a Heidelberg Spectralis, takes 25.6
# A-scans a degree in its fast mode (384, 512, 768 columns) and 51.2 in its fine mode (1024, 1536). A file does not say
# its mode: a 768 that was taken in the fine mode, 15 degrees wide, would be taken for one of 30.
FIELDS: Mapping[int, float] = {384: 15.0, 512: 20.0, 768: 30.0, 1024: 20.0, 1536: 30.0}

ENCODINGS = ("raw", "png")
STRATEGIES = ("auto", "repaired", "official", "grouped", "kfold", "file")
CONFLICTS = ("drop", "keep", "error")
BALANCES = ("oversample", "undersample", "none")

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

    def save(self, folder: Path) -> None:
        """Write manifest.json in one step: it is there whole or not at all."""
        text = json.dumps({"digest": self.digest, **self.to_json()}, indent=1)
        write_whole(folder / MANIFEST_NAME, (text + "\n").encode())

    @classmethod
    def load(cls, folder: Path, *, trusting: bool = False) -> Self:
        """Read a folder's manifest.

        Raises ManifestError if there is none, if it is of another format, or if it is not what was written. With
        trusting, one that was changed is taken as it is, with `untouched` False.
        """
        path = folder / MANIFEST_NAME
        try:
            raw = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            missing = f"has no {MANIFEST_NAME}, so it is no finished folder of shards"
            what = missing if folder.is_dir() else "is not a folder"
            raise ManifestError(f"{folder} {what}. Make one with `octprep build --src DIR --out {folder}`.") from None
        except (OSError, ValueError) as error:
            raise ManifestError(f"{path} cannot be read ({error}). Rebuild the folder with `octprep build`.") from None
        return cls.from_json(raw, path, trusting=trusting)

    @classmethod
    def from_json(cls, raw: Any, path: Path, *, trusting: bool = False) -> Self:
        """The manifest in decoded JSON; `path` is only for messages. Raises ManifestError as `load` does."""
        version = raw.get("format_version") if isinstance(raw, dict) else None
        if version != FORMAT_VERSION:
            raise ManifestError(
                f"{path} is of format {version}, but this version reads format {FORMAT_VERSION}. "
                "Rebuild the folder with `octprep build`."
            )
        try:
            fields = {key: value for key, value in raw.items() if key != "digest"}
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
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ManifestError(
                f"{path} is not a manifest that octprep wrote ({type(error).__name__}: {error}). "
                "Rebuild the folder with `octprep build`."
            ) from None
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

        Raises ManifestError naming the first shard that differs. Reads every byte, 1-2 GB/s where the disk allows.
        """
        for split in splits:
            if split not in self.splits:
                raise ManifestError(f"{folder} has no split {split!r}; it has {', '.join(self.splits)}.")
            for shard in self.splits[split]:
                fault = file_fault(folder / shard.name, shard)
                if fault:
                    raise ManifestError(
                        f"{folder / shard.name} {fault}, so {folder} is not what was built. "
                        "Copy the folder again or rebuild it with `octprep build --overwrite`."
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


def _check_parts(manifest: Manifest) -> None:
    """Raise ValueError for what no build writes, whatever its digest says."""
    numbers = [manifest.source[key] for key in ("found", "kept", "left_out")]
    for split, part in manifest.splits.items():
        for shard in part:
            if not shard.name.startswith(f"{split}/"):
                raise ValueError(f"shard {shard.name!r} stands in split {split}")
            if len(shard.per_class) != len(manifest.class_names):
                raise ValueError(
                    f"{shard.name} counts {len(shard.per_class)} classes, but {len(manifest.class_names)} are named"
                )
            numbers += [shard.records, shard.bytes, *shard.per_class]
    if wrong := [number for number in numbers if type(number) is not int or number < 0]:
        raise ValueError(f"{wrong[0]!r} is no number of things")


def _tuple(value: Any) -> Any:
    """What JSON made a list of."""
    return tuple(value) if isinstance(value, list) else value


def file_fault(path: Path, shard: Shard) -> str | None:
    """What is wrong with a shard's file, or None if size and SHA-256 are as the manifest says."""
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            return f"has {size:,} bytes where the manifest says {shard.bytes:,}"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return (
        None if found == shard.sha256 else f"has SHA-256 {found[:16]}... where the manifest says {shard.sha256[:16]}..."
    )
