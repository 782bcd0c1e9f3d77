"""The settings of a build: in words, and as the command that makes it again."""

from __future__ import annotations

import shlex

from octprep.format.config import BuildConfig
from octprep.format.options import arguments, described


def in_words(config: BuildConfig) -> tuple[tuple[str, str], ...]:
    """Each step and setting with its value, in the order of the work."""
    return (*described(config.recipe), *described(config))


def command(config: BuildConfig) -> str:
    """`octprep build` with every option that differs from its default.

    DIR stands for both folders, FILE for the file given with --split-file.
    """
    words = ["octprep", "build", "--src", "DIR", "--out", "DIR"]
    if config.split == "file":
        words += ["--split-file", "FILE"]
    plain = BuildConfig()
    return shlex.join([*words, *arguments(config, plain), *arguments(config.recipe, plain.recipe)])
