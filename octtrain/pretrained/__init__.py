"""The weights that come with the package: a run that was trained on synthetic scans alone, in float16.

Where a run or `--weights` is named, the word `synthetic` stands for it. `python -m octtrain.runs.packing RUN` writes
its folder, and `make weights` trains the run before: docs/synthetic-weights.md.
"""

from __future__ import annotations

from pathlib import Path

from octprep.format.errors import SourceError

NAME = "synthetic"
FOLDER = Path(__file__).parent / NAME


def packaged_folder() -> Path:
    """The folder of the packaged run. Raises SourceError if this installation has none."""
    if not FOLDER.is_dir():
        raise SourceError(
            f"this installation has no weights `{NAME}`; make them by `make weights` in a checkout of the source, or "
            "name what `octtrain fit` made."
        )
    return FOLDER


def run_folder(path: Path) -> Path:
    """A run's folder as it was named, or that of the packaged run for the word `synthetic`.

    What has that name in the working folder comes first. Raises SourceError if the packaged run is named and missing.
    """
    return packaged_folder() if path == Path(NAME) and not path.exists() else path


def is_packaged(folder: Path) -> bool:
    """Whether a folder is that of the packaged run, which nothing may be written into."""
    return folder.absolute() == FOLDER.absolute()
