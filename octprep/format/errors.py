"""The errors a user can meet. Only the standard library is imported."""

from __future__ import annotations

from typing import ClassVar


class OctError(Exception):
    """What a user can mend. The message is one or two sentences: what came, what was expected, what to do."""

    exit_code: ClassVar[int] = 1


class SettingError(OctError, ValueError):
    """A setting has a value that makes no sense."""

    exit_code = 2


class SourceError(OctError):
    """The folder or files given as input cannot be used."""

    exit_code = 2


class OutputError(OctError):
    """The place to write to cannot be used as asked."""

    exit_code = 2


class LeakError(OctError):
    """A patient or an image content would stand on two sides of a split."""


class ManifestError(OctError):
    """A folder of shards is missing, unfinished, edited, or disagrees with its manifest."""


class StoppedError(OctError):
    """The machine ended the work (disk full, worker killed, interrupted); the same command goes on from there."""


class UnreadableImage(OctError):
    """One image file cannot be used; the message is the reason, without the path."""


class Notice(UserWarning):
    """What a user should know while the work goes on: one or two sentences."""
