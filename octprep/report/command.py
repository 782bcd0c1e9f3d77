"""The command that makes a build again, from its config."""

from __future__ import annotations

import shlex
from dataclasses import fields

from octprep.format.config import DENOISERS, BuildConfig, Preprocessing


def command(config: BuildConfig) -> str:
    """`octprep build` with every option that differs from its default.

    DIR stands for both folders, FILE for what --splits was given.
    """
    recipe, plain = config.recipe, BuildConfig()
    size = f"{recipe.height}x{recipe.width}" if recipe.height != recipe.width else str(recipe.height)
    options = {
        "--split": ("auto" if config.split == "file" else config.split, plain.split),
        "--splits": ("FILE" if config.split == "file" else "", ""),
        "--fractions": (_joined(config.fractions), _joined(plain.fractions)),
        "--folds": (config.folds, plain.folds),
        "--near-duplicates": (("off", "on")[config.near_duplicates], "on"),
        "--conflicts": (config.conflicts, plain.conflicts),
        "--max-per-patient": (config.max_per_patient, plain.max_per_patient),
        "--balance": (config.balance, "none" if config.split == "kfold" else plain.balance),
        "--size": (size, str(plain.recipe.height)),
        "--denoise": (recipe.denoise, plain.recipe.denoise),
        "--strength": (_number(recipe.strength or 0), _number(DENOISERS[recipe.denoise])),
        "--crop": (recipe.crop, plain.recipe.crop),
        "--field": (_number(recipe.field), _number(plain.recipe.field)),
        "--fit": (recipe.fit, plain.recipe.fit),
        "--encoding": (config.encoding, plain.encoding),
        "--shard-mb": (_number(config.shard_mb), _number(plain.shard_mb)),
        "--seed": (config.seed, plain.seed),
    }
    words = ["octprep", "build", "--src", "DIR", "--out", "DIR"]
    for option, (value, default) in options.items():
        if value != default:
            words += [option, str(value)]
    words += ["--allow-leaks"] * config.allow_leaks + ["--flatten"] * recipe.flatten
    return shlex.join(words)


def unsaid(config: BuildConfig) -> dict[str, object]:
    """The settings of the recipe that differ from their defaults and have no option: they were set from Python."""
    said = {"height", "width", "denoise", "strength", "crop", "flatten", "field", "fit"}
    plain = Preprocessing()
    names = [field.name for field in fields(Preprocessing) if field.name not in said]
    return {
        name: getattr(config.recipe, name) for name in names if getattr(config.recipe, name) != getattr(plain, name)
    }


def _joined(numbers: tuple[float, ...]) -> str:
    return ",".join(map(_number, numbers))


def _number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
