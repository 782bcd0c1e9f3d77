"""Write report.html, the model card and the figures of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octprep.format.config import require_one_of
from octprep.format.errors import ManifestError, OctError, OutputError
from octprep.format.files import atomic_write
from octprep.format.manifest import Manifest
from octprep.format.paths import path_to_text
from octprep.html import pictures
from octprep.wording import listed, number
from octtrain.data.passes import one_pass
from octtrain.report import card, facts, page
from octtrain.report.evaluation import Evaluation, load_evaluation
from octtrain.report.evidence import evidence_pictures
from octtrain.report.figures import as_pdf, draw_figures, standalone
from octtrain.runs.ensemble import Runs

_BATCH = 64  # images read at once
_WRITERS = {"svg": standalone, "pdf": as_pdf}
Log = Callable[[str], None]


def report(run: Runs, split: str = "test", shards: Path | str | None = None, *, log: Log = print) -> tuple[Path, Path]:
    """Write report.html and model-card.md of a run that was evaluated, and return their paths.

    run: what `octtrain.fit` returned, or its folder; or several that were evaluated as one, whose files are written
    into the folder of the first.  split: of the results, as in the names of their files; of others than test the files
    are report-SPLIT.html and model-card-SPLIT.md, of several runs report-SPLIT-ensemble.html and so on.  shards: what
    was evaluated on, by default the run's own where they were, unless that is a URL; without them the page has no
    pictures.  log: takes lines of text.

    Raises SourceError, SettingError and ManifestError as `load_evaluation`; OutputError if a file cannot be written.
    """
    paths = write_pages(run, split, Path(shards) if shards else None)
    log(f"wrote {listed([_text(path) for path in paths])}")
    return paths


def write_pages(run: Runs, name: str, shards: Path | None = None) -> tuple[Path, Path]:
    """The same without a line of text."""
    evaluation = load_evaluation(run, name)
    folder = evaluation.run.folder
    suffix = "" if evaluation.name == "test" else f"-{evaluation.name}"
    paths = folder / f"report{suffix}.html", folder / f"model-card{suffix}.md"
    stored = _stored_pixels(evaluation, shards)
    shown = {path: pictures.jpeg(f"Stored pixels of {path}", pixels) for path, pixels in stored.items()}
    contents = page.render(evaluation, shown, evidence_pictures(evaluation, stored)), card.write(evaluation)
    for path, content in zip(paths, contents, strict=True):
        _write(path, content)
    return paths


def figures(run: Runs, out: Path, split: str = "test", *, file_format: str = "svg", log: Log = print) -> Sequence[Path]:
    """Write the charts of the report as SVG or PDF files, or both, into a folder, made if need be; return their paths.

    file_format: svg, pdf or both.  Other arguments and errors as of `report`; SettingError for another format, and
    MissingPackage for a PDF if typst, which writes it, is not installed, both before anything is written.
    """
    require_one_of("format", file_format, (*_WRITERS, "both"))
    contents = {
        out / f"{figure.key}.{suffix}": write(figure)
        for figure in draw_figures(load_evaluation(run, split))
        for suffix, write in _WRITERS.items()
        if file_format in (suffix, "both")
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"--out {_text(out)} cannot be made ({error.strerror or error}); name another folder."
        ) from None
    for path, content in contents.items():
        _write(path, content)
    log(f"wrote {number(len(contents), 'file')} into {_text(out)}: {listed([path.name for path in contents])}")
    return list(contents)


def _stored_pixels(evaluation: Evaluation, shards: Path | None) -> Mapping[str, NDArray[np.uint8]]:
    """The stored pixels of the worst errors, by path: (height, width) uint8 in 0..255.

    None if the shards cannot be read or are of another dataset.
    """
    own = evaluation.run.shards
    folder = shards or (own if evaluation.is_own_dataset and isinstance(own, Path) else None)
    wanted = {error.path for error in facts.worst_errors(evaluation)[0]}
    if folder is None or not wanted:
        return {}
    found: dict[str, NDArray[np.uint8]] = {}
    try:
        manifest = Manifest.load(folder)
        if manifest.digest != evaluation.content["digest"]:
            raise ManifestError(f"{_text(folder)} is not the dataset that was evaluated.")
        for batch in one_pass(folder, (evaluation.content["split"],), batch_size=_BATCH, manifest=manifest):
            for path, pixels in zip(batch.paths, batch.pixels, strict=True):
                if path in wanted and path not in found:
                    found[path] = pixels[..., 0].copy()
            if len(found) == len(wanted):
                break
    except (OctError, OSError):
        if shards:
            raise
        return {}
    return found


def _write(path: Path, content: bytes) -> None:
    try:
        atomic_write(path, content)
    except OSError as error:
        raise OutputError(f"{_text(path)} cannot be written ({error.strerror or error}).") from None


def _text(path: Path) -> str:
    return path_to_text(path.as_posix())
