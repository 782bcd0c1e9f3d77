"""The settings of a preparation, checked when they are made. Only the standard library is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from octprep.format.errors import SettingError

# What one prepared image depends on besides the recipe: raise it whenever octprep.preprocessing would give other pixels.
PREPROCESSING_VERSION = 4


SOURCE_SPLITS = ("train", "val", "test")


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
class Preprocessing:
    """What `octprep.preprocessing.preprocess` does to every B-scan; kept in the manifest and replayed at prediction time.

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
    revision: int = PREPROCESSING_VERSION

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

    recipe: Preprocessing = field(default_factory=Preprocessing)
    split: str = "auto"  # resolved to one of the others before it is written into a manifest
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)  # train, val, test; only ratios matter
    folds: int = 5  # for split kfold
    splits_sha256: str = ""  # for split file: of who is where (octprep.splits.split_file), hex
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
        return cls(**{**raw, "recipe": Preprocessing(**raw["recipe"]), "fractions": tuple(raw["fractions"])})
