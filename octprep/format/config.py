"""The settings of a build, checked when they are made. Only the standard library is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from octprep.format.class_map import parse_class_map
from octprep.format.errors import SettingError
from octprep.format.options import option, text_of

# Increase it with every change of `octprep.preprocessing` that gives other pixels: stored pixels depend on it and the
# recipe alone.
PREPROCESSING_VERSION = 6

IMAGE_FORMATS = "JPEG, PNG, TIFF, BMP or WebP"  # that are read, by their content
SOURCE_SPLITS = ("train", "val", "test")  # folders of the published dataset
Colour = Literal["refuse", "luminance"]
COLOURS: tuple[str, ...] = get_args(Colour)
Crop = Literal["retina", "band", "none"]
CROPS: tuple[str, ...] = get_args(Crop)
Resize = Literal["stretch", "pad"]
RESIZES: tuple[str, ...] = get_args(Resize)
# Field of view in degrees of a scan, by its width in columns. The archive's device, a Heidelberg Spectralis, takes 25.6
# A-scans a degree in its fast mode (384, 512, 768 columns) and 51.2 in its fine mode (1024, 1536). A file does not say
# its mode: a 768 that was taken in the fine mode, 15 degrees wide, would be taken for one of 30.
FIELDS_OF_VIEW: Mapping[int, float] = {384: 15.0, 512: 20.0, 768: 30.0, 1024: 20.0, 1536: 30.0}

# Distance of two rows of a scan of that device in micrometres: 496 rows over 1.92 mm. It does not depend on the eye
# (Salmon et al., IOVS 59:3037, 2018).
AXIAL_UM = 3.87
_BELIEVED_UM = (0.5, 20.0)  # what a table or a file may say of it; devices have 2 to 8

Encoding = Literal["raw", "png"]
ENCODINGS: tuple[str, ...] = get_args(Encoding)
Strategy = Literal["auto", "keep-test", "as-given", "by-patient", "kfold", "file"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
LabelConflicts = Literal["drop", "keep", "error"]
LABEL_CONFLICTS: tuple[str, ...] = get_args(LabelConflicts)
Balance = Literal["auto", "oversample", "undersample", "none"]
BALANCES: tuple[str, ...] = get_args(Balance)
Patients = Literal["auto", "across-classes", "per-class", "unknown"]
PATIENTS: tuple[str, ...] = get_args(Patients)
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

_SOURCE, _IMAGE, _SPLIT, _SHARDS = "Source", "Image", "Splits", "Shards"  # panels of --help


def believed_axial_um(value: float) -> float:
    """A distance of two rows in micrometres, as a table or a file states it; 0 if no device has such a distance."""
    return round(value, 6) if _BELIEVED_UM[0] <= value <= _BELIEVED_UM[1] else 0.0


def require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise SettingError for a value outside a closed set."""
    if value not in allowed:
        raise SettingError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels, from a side such as 224 or from HEIGHTxWIDTH. Raises ValueError."""
    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--size must be a side such as 224, or HEIGHTxWIDTH such as 224x448, in pixels; got {text!r}")
    return int(parts[0]), int(parts[-1])


def parse_fractions(text: str) -> tuple[float, float, float]:
    """Three numbers with commas between them. Raises ValueError."""
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"--fractions must be three numbers for train, val and test such as 0.8,0.1,0.1; got {text!r}"
        ) from None
    return train, val, test


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What `octprep.preprocessing` does to every B-scan: the recipe, kept in the manifest and replayed at prediction.

    Validates on construction; raises SettingError if a value is outside its range.
    """

    colour: Colour = option(
        "refuse",
        help="Scans in false colour or drawn over. refuse: exclude them, as their luminance is no reflectance; "
        "luminance: take it.",
        panel=_IMAGE,
        title="Colour",
        words={"refuse": "scans in false colour excluded", "luminance": "the luminance of scans in false colour taken"},
    )
    inpaint_fill: bool = option(
        True,
        help="Replace white and black areas that rotation and shifting left at the edges by texture like the scan's.",
        panel=_IMAGE,
        title="Fill",
        words={True: "white and black areas at the edges inpainted", False: "left as it is"},
    )
    field_of_view: float = option(
        0.0,
        help="Crop wider scans to the central N degrees, by their width in pixels; 0 disables.",
        panel=_IMAGE,
        metavar="DEGREES",
        title="Field of view",
        words={0.0: "the whole width", None: "the central {field_of_view:g} degrees of wider scans"},
    )
    crop: Crop = option(
        "retina",
        help="retina: keep the rows around the retina; band: keep as many rows of every scan, --band-rows, with the "
        "retina among them, so that thickness is kept; none: keep all.",
        panel=_IMAGE,
        title="Crop",
        words={
            "retina": "to the retina, with {margin_above:.0%} of its height above and {margin_below:.0%} below",
            "band": "to a band of {band_rows} rows with the retina in it",
            "none": "none: all rows kept",
        },
    )
    band_rows: int = option(
        320, help="Rows of the source that --crop band keeps; 320 are 1.24 mm in the archive's scans.", panel=_IMAGE
    )
    margin_above: float = option(
        0.03, help="Vitreous that the crop keeps, as a fraction of the retina's height.", panel=_IMAGE
    )
    margin_below: float = option(
        0.12, help="Choroid that the crop keeps, as a fraction of the retina's height.", panel=_IMAGE
    )
    flatten: bool = option(
        False,
        help="Straighten the retina along the retinal pigment epithelium (RPE).",
        panel=_IMAGE,
        only_on=True,
        title="Flattening",
        words={True: "along the retinal pigment epithelium", False: "none"},
    )
    denoise: Denoiser = option(
        "median",
        help="Filter applied after the crop, at source resolution; nlm is slow.",
        panel=_IMAGE,
        title="Denoising",
        words={
            "median": "median of a window of {denoise_strength:g} x {denoise_strength:g} pixels",
            "bilateral": "bilateral filter, colour sigma {denoise_strength:g} gray levels",
            "lee": "Lee's filter, window of {denoise_strength:g} x {denoise_strength:g} pixels",
            "nlm": "non-local means, h = {denoise_strength:g} gray levels",
            "wavelet": "wavelet filter, thresholds times {denoise_strength:g}",
            "none": "none",
        },
    )
    denoise_strength: float | None = option(
        None,
        help="Window of median (3) or lee (5) in pixels, colour sigma of bilateral (25), h of nlm (10), factor on the "
        "thresholds of wavelet (2).",
        panel=_IMAGE,
        default_text="the filter's own",
        text=lambda recipe: (
            "" if recipe.denoise_strength == DENOISERS[recipe.denoise] else text_of(recipe.denoise_strength)
        ),
    )
    resize: Resize = option(
        "stretch",
        help="stretch: scale both axes to fill the image; pad: one scale for both, black bars.",
        panel=_IMAGE,
        title="Resizing",
        words={"stretch": "both axes scaled to fill", "pad": "one scale for both axes, black bars"},
    )
    height: int = option(
        224,
        name="--size",
        help="Stored image: side of a square, or HEIGHTxWIDTH, in pixels.",
        panel=_IMAGE,
        metavar="SIDE|HxW",
        parse=parse_size,
        also=("width",),
        text=lambda recipe: str(recipe.height) if recipe.height == recipe.width else f"{recipe.height}x{recipe.width}",
        title="Stored image",
        words="{width} x {height} pixels (width x height), 8-bit gray",
    )
    width: int = 224  # of the stored image, pixels; set by --size
    version: int = option(PREPROCESSING_VERSION, help="", title="Version of the preprocessing")

    def __post_init__(self) -> None:
        for name, value in (("height", self.height), ("width", self.width)):
            if not 16 <= value <= 4096:
                raise SettingError(f"size must be between 16 and 4096 pixels a side; got {name} {value}")
        require_one_of("colour", self.colour, COLOURS)
        require_one_of("crop", self.crop, CROPS)
        if not 64 <= self.band_rows <= 4096:
            raise SettingError(f"band-rows must be between 64 and 4096 rows of the source; got {self.band_rows}")
        require_one_of("resize", self.resize, RESIZES)
        require_one_of("denoise", self.denoise, tuple(DENOISERS))
        if self.denoise_strength is None:
            object.__setattr__(self, "denoise_strength", DENOISERS[self.denoise])
        strength = self.denoise_strength
        assert strength is not None
        for name, margin in (("margin-above", self.margin_above), ("margin-below", self.margin_below)):
            if not 0 <= margin <= 2:
                raise SettingError(f"{name} must be between 0 and 2 times the retina's height; got {margin:g}")
        if self.denoise in ("median", "lee") and strength not in (3, 5, 7, 9):
            raise SettingError(
                f"denoise-strength of {self.denoise} is its window and must be 3, 5, 7 or 9; got {strength:g}"
            )
        if self.denoise in ("bilateral", "nlm") and not 0 < strength <= 255:
            raise SettingError(
                f"denoise-strength of {self.denoise} must be above 0 and at most 255 gray levels; got {strength:g}"
            )
        if self.denoise == "wavelet" and not 0 < strength <= 10:
            raise SettingError(
                "denoise-strength of wavelet is a factor on its thresholds and must be above 0 and at most 10; "
                f"got {strength:g}"
            )
        if self.denoise == "none" and strength != 0:
            raise SettingError(f"--denoise none takes no --denoise-strength; got {strength:g}")
        if self.field_of_view and not 5 <= self.field_of_view <= 60:
            raise SettingError(
                f"field-of-view must be 0 for the whole scan, or between 5 and 60 degrees; got {self.field_of_view:g}"
            )


def _default_balance(config: BuildConfig) -> str:
    return "none" if config.split == "kfold" or config.is_test_only else "oversample"


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Everything the bytes of a folder of shards depend on, besides the source itself.

    Validates on construction; raises SettingError if a value is outside its range.
    """

    recipe: Preprocessing = field(default_factory=Preprocessing)
    patients: Patients = option(
        "auto",
        help="across-classes: an id is of the same patient under every class. per-class: each class has ids of its "
        "own. unknown: an image without an id counts as a patient of its own. auto: as the layout of the source is "
        "known to be, else across-classes.",
        panel=_SOURCE,
        title="Patient ids",
        words={
            "auto": "as the layout of the source says",
            "across-classes": "hold across classes",
            "per-class": "hold within a class only",
            "unknown": "not known: each image without an id counts as a patient of its own",
        },
    )
    classes: str = option(
        "",
        help="Classes made of those of the source, such as AMD=CNV+DRUSEN,NORMAL; those not named are excluded.",
        panel=_SOURCE,
        metavar="CLASS=A+B,...",
        title="Classes",
        words={"": "as in the source", None: "{classes}; others are excluded"},
    )
    split: Strategy = option(  # "auto" is resolved to one of the others before it is written into a manifest
        "auto",
        help="auto: keep-test if there is a test folder, else by-patient. keep-test: the published test set stays, "
        "its patients' other images are excluded from training, val is cut from the remaining patients. as-given: "
        "the folders as they are. by-patient: all patients assigned by --fractions. kfold: test as in keep-test, the "
        "rest in patient-disjoint folds. file: as --split-file says.",
        panel=_SPLIT,
        text=lambda config: "auto" if config.split == "file" else config.split,  # --split-file says so
        title="Split",
        words={
            "keep-test": "keep-test: the published test set stays, its patients' other images are excluded, val is cut "
            "from the remaining training patients",
            "as-given": "as-given: the folders of the source as they are",
            "by-patient": "by-patient: all patients assigned by the fractions",
            "kfold": "kfold: test as published, or cut by the fractions; the rest in folds that share no patient",
            "file": "file: as the file given with --split-file says",
        },
    )
    split_file_sha256: str = option(  # of the assignments in the file (`octprep.splits.split_file`), hex
        "", help="", title="SHA-256 of the split file's assignments", when=("split", ("file",))
    )
    fractions: tuple[float, float, float] = option(
        (0.8, 0.1, 0.1),
        help="Target fractions of train, val and test; only ratios matter. 0,0,1: a test split alone, for models "
        "that are trained on other data.",
        panel=_SPLIT,
        metavar="TRAIN,VAL,TEST",
        parse=parse_fractions,
        title="Target fractions of train, val, test",
        words="{fractions[0]:g} : {fractions[1]:g} : {fractions[2]:g}",
        when=("split", ("keep-test", "by-patient")),
    )
    folds: int = option(
        5, help="Number of folds for --split kfold.", panel=_SPLIT, title="Folds", when=("split", ("kfold",))
    )
    max_per_patient: int = option(
        0,
        help="Scans of a patient that training keeps at most, evenly spaced; 0: all.",
        panel=_SPLIT,
        title="Scans of a patient in train or folds",
        words={0: "all", None: "at most {max_per_patient:,}, evenly spaced"},
    )
    allow_leaks: bool = option(
        False,
        help="Build even if patients appear in more than one split, and record the leak in the manifest.",
        panel=_SPLIT,
        only_on=True,
        title="Leaks",
        words={True: "allowed", False: "an error"},
        when=("split", ("as-given", "file")),
    )
    near_duplicates: bool = option(
        True,
        help="Treat near-identical scans under different patient ids as one patient's.",
        panel=_SPLIT,
        title="Near-duplicates",
        words={True: "their patient ids count as one patient group", False: "not searched for"},
    )
    label_conflicts: LabelConflicts = option(
        "drop",
        help="Identical images with different labels: drop all, keep one per class, or fail with an error. A copy in "
        "the test folder is kept.",
        panel=_SPLIT,
        title="Identical images with different labels",
        words={"drop": "all excluded", "keep": "one of each class kept", "error": "an error"},
    )
    balance: Balance = option(  # "auto" is resolved to one of the others on construction
        "auto",
        help="Of the classes in train. oversample: repeat images of smaller classes. undersample: exclude images of "
        "larger classes. none: neither. auto: none for --split kfold, else oversample.",
        panel=_SHARDS,
        text=lambda config: "auto" if config.balance == _default_balance(config) else config.balance,
        title="Balance of train",
        words={
            "oversample": "oversample: every image at least once, smaller classes repeated until all classes are equal "
            "in each shard",
            "undersample": "undersample: images of larger classes excluded until all classes are equal in each shard",
            "none": "none: every image once",
        },
    )
    encoding: Encoding = option(
        "raw",
        help="raw: fast to read; png: about half the size.",
        panel=_SHARDS,
        title="Encoding",
        words={"raw": "raw: pixels row by row", "png": "PNG"},
    )
    shard_mb: float = option(
        128.0,
        help="Target size of a shard, in megabytes of 10**6 bytes.",
        panel=_SHARDS,
        metavar="MB",
        title="Target size of a shard",
        words="{shard_mb:g} MB",
    )
    seed: int = option(
        0,
        help="Decides which patient goes to which split, and the order in the shards.",
        panel=_SHARDS,
        title="Seed",
    )

    @property
    def is_test_only(self) -> bool:
        """Whether all patients are for test, so that there is nothing to train on."""
        return tuple(self.fractions[:2]) == (0, 0)

    def __post_init__(self) -> None:
        if self.split == "auto" and self.is_test_only:
            object.__setattr__(self, "split", "by-patient")
        if self.balance == "auto":
            object.__setattr__(self, "balance", _default_balance(self))
        require_one_of("patients", self.patients, PATIENTS)
        if self.classes:
            parse_class_map(self.classes, bare=True)
        if self.patients == "unknown" and not self.near_duplicates:
            raise SettingError(
                "--patients unknown needs near-duplicates, as only they show which images are of one patient; leave "
                "--no-near-duplicates out"
            )
        require_one_of("split", self.split, STRATEGIES)
        require_one_of("balance", self.balance, BALANCES)
        require_one_of("label-conflicts", self.label_conflicts, LABEL_CONFLICTS)
        require_one_of("encoding", self.encoding, ENCODINGS)
        shown = ",".join(f"{f:g}" for f in self.fractions)
        above_0 = self.fractions[2:] if self.is_test_only else self.fractions
        if len(self.fractions) != 3 or not all(math.isfinite(f) and f > 0 for f in above_0):
            raise SettingError(
                "fractions must be three numbers above 0 for train, val and test such as 0.8,0.1,0.1, or 0,0,1 for a "
                f"test split alone; got {shown}"
            )
        if self.is_test_only and self.split != "by-patient":
            raise SettingError(
                f"fractions {shown} put every patient in test, which is for --split by-patient; got split "
                f"{self.split!r}"
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
        if (self.split == "file") != bool(self.split_file_sha256):
            raise SettingError(
                "--split file takes the split of each path or patient from --split-file FILE, and no other split does; "
                f"got split {self.split!r} {'with' if self.split_file_sha256 else 'without'} such a file"
            )
        if self.allow_leaks and self.split not in ("as-given", "file"):
            raise SettingError(
                "allow-leaks is for --split as-given, which takes the folders as they are, and for --split-file FILE; "
                f"split is {self.split!r}, in which no patient can leak"
            )
        if self.split == "kfold" and self.balance != "none":
            raise SettingError(
                "folds take turns as validation, so each holds every image once: use --balance none with --split kfold "
                f"(octtrain then weights the classes); got balance {self.balance!r}"
            )

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """The config of decoded JSON, as `dataclasses.asdict` gives it. Raises SettingError, KeyError or TypeError."""
        return cls(**{**raw, "recipe": Preprocessing(**raw["recipe"]), "fractions": tuple(raw["fractions"])})
