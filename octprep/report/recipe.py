"""What was done to every image and how they were dealt, in words."""

from __future__ import annotations

from octprep.format.config import BuildConfig, Preprocessing

_SPLITS = {
    "repaired": "the published test set stays, its patients' other images are left out, val is cut anew",
    "official": "the folders of the source as they are",
    "grouped": "all patients dealt anew",
    "kfold": "test as published, or dealt; the rest in folds that share no patient",
    "file": "as the file given with --splits says",
}
_BALANCES = {
    "oversample": "every image of train at least once, smaller classes repeated until all are equal in each shard",
    "undersample": "images of larger classes left out of train until all are equal in each shard",
    "none": "every image once",
}
_DENOISERS = {
    "median": "median of a window of {0:g} x {0:g} pixels",
    "bilateral": "bilateral filter, colour sigma {0:g} gray levels",
    "lee": "Lee's filter, window of {0:g} x {0:g} pixels",
    "nlm": "non-local means, h = {0:g} gray levels",
    "wavelet": "wavelet filter, thresholds times {0:g}",
    "none": "none",
}


def lines(config: BuildConfig) -> tuple[tuple[str, str], ...]:
    """Each step and setting with what it is, in the order of the work."""
    return (*_imaging(config.recipe), *_dealing(config))


def _imaging(recipe: Preprocessing) -> list[tuple[str, str]]:
    above, below = 100 * recipe.margin_above, 100 * recipe.margin_below
    crop = (
        f"to the retina, with {above:g} % of its height above and {below:g} % below"
        if recipe.crop == "retina"
        else "none: all rows kept"
    )
    fit = {"stretch": "both axes scaled to fill", "pad": "one scale for both axes, bars of black"}[recipe.fit]
    denoiser = _DENOISERS.get(recipe.denoise, recipe.denoise + ", strength {0:g}")
    return [
        ("Border", "white and black fill painted over" if recipe.clean else "left as it is"),
        ("Field", f"the middle {recipe.field:g} degrees of wider scans" if recipe.field else "the whole width"),
        ("Crop", crop),
        ("Flattening", "along the pigment epithelium" if recipe.flatten else "none"),
        ("Denoising", denoiser.format(recipe.strength)),
        ("Stored image", f"{recipe.width} x {recipe.height} pixels (width x height), 8-bit gray; {fit}"),
        ("Revision of the imaging", str(recipe.revision)),
    ]


def _dealing(config: BuildConfig) -> list[tuple[str, str]]:
    found = [("Split", f"{config.split}: {_SPLITS.get(config.split, '')}")]
    if config.split == "file":
        found.append(("SHA-256 of who is where", config.splits_sha256))
    if config.split in ("official", "file"):
        found.append(("Leaks", "allowed" if config.allow_leaks else "refused"))
    elif config.split == "kfold":
        found.append(("Folds", str(config.folds)))
    else:
        shares = " : ".join(f"{fraction:g}" for fraction in config.fractions)
        found.append(("Wanted shares of train, val, test", shares))
    near = "joined as one patient's" if config.near_duplicates else "not looked for"
    copies = {"drop": "all left out", "keep": "one of each class kept", "error": "refused"}[config.conflicts]
    found += [("Near-identical scans", near), ("Copies under different classes", copies)]
    if config.max_per_patient:
        found.append(("Scans of a patient in train or folds", f"at most {config.max_per_patient:,}, evenly spaced"))
    return [
        *found,
        ("Balance of train", f"{config.balance}: {_BALANCES[config.balance]}"),
        ("Encoding", "pixels row by row" if config.encoding == "raw" else "PNG"),
        ("Wanted size of a shard", f"{config.shard_mb:g} MB"),
        ("Seed", str(config.seed)),
    ]
