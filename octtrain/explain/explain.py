"""Draw where a run's model finds evidence for a class in B-scans, and check it by occlusion."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from octprep.format.config import IMAGE_FORMATS
from octprep.format.errors import OutputError, SettingError, SourceError, StoppedError
from octprep.format.files import write_output_file
from octprep.format.paths import path_to_text
from octprep.terminal import interrupts
from octprep.wording import listed, number
from octtrain import json_output
from octtrain.explain.explainer import Explainer
from octtrain.explain.field import TOLERANCE
from octtrain.explain.occlusion import Patches
from octtrain.explain.result import ExplainedScan, draw_scan, explain_scan
from octtrain.inference import require_shapes
from octtrain.prediction.classify import check_preprocessing, prepare_scan, with_frames
from octtrain.prediction.inputs import Exclusion, find_files, path_of
from octtrain.prediction.preparing import UNREAD, frame_of
from octtrain.runs.run import Run

Log = Callable[[str], None]
_MAX_STEM = 150  # characters of a file's name that its picture's has


def explain(
    run: Run | Path | str,
    paths: Sequence[Path],
    out: Path,
    *,
    class_name: str | None = None,
    with_occlusion: bool = True,
    patch: int | None = None,
    stride: int | None = None,
    json_file: Path | None = None,
    log: Log = print,
    warn: Log = print,
) -> list[ExplainedScan | Exclusion]:
    """Write a picture of every scan with the evidence for its most probable class, or another one, drawn over it.

    paths: files, and folders of them.  out: folder for the pictures, made if need be; they are named after the files.
    class_name: the class to explain.  patch, stride: of the occlusion map, in stored pixels; see `Patches.over`.
    json_file: all numbers; Path("-") is standard output.  log, warn: take lines of text.

    Returns for each file what was found, or an Exclusion with the reason why it could not be read.

    Raises what `load_run` raises; SettingError for an unknown class, or a patch that does not fit; OutputError if
    nothing can be written; SourceError if no file could be read; after all other files are done, StoppedError if some
    could not be read.
    """
    run = run if isinstance(run, Run) else Run.load(Path(run))
    class_names = run.manifest.class_names
    if class_name is not None and class_name not in class_names:
        raise SettingError(f"--class {class_name} is not a class of {run.folder}; give one of {listed(class_names)}.")
    patches = Patches.over(*run.image_shape[:2], patch, stride) if with_occlusion else None
    if json_file:
        json_output.check(json_file)
    files = with_frames(find_files(paths))
    _prepare_folder(out)
    for line in check_preprocessing(run):
        warn(f"WARNING: {line}")
    model = run.load_model()
    require_shapes(model, run.image_shape, len(class_names))
    explainer = Explainer(model)
    if explainer.head is None and patches is None:
        raise SettingError(
            f"{_NO_EVIDENCE.format(run=run.folder)}; run it without --no-occlusion for an occlusion map."
        )
    for line in _method(explainer, patches, run):
        log(line)
    results: list[ExplainedScan | Exclusion] = []
    for file, picture in zip(files, picture_names([path_of(file) for file in files], out), strict=True):
        interrupts.advise(f"pictures of {len(results):,} of {number(len(files), 'file')} are in {_text(out)}")
        prepared = file if isinstance(file, Exclusion) else prepare_scan(file, run.manifest.recipe)
        if isinstance(prepared, Exclusion):
            results.append(prepared)
            warn(f"excluded {_text(prepared.path)}: {prepared.reason}")
            continue
        scan = explain_scan(path_of(file), picture, *prepared, explainer, class_names, class_name, patches)
        write_output_file("--out", out / picture, draw_scan(scan))
        results.append(scan)
        log(scan.line())
    if json_file:
        json_output.write(json_file, _as_json(run, explainer, patches, results))
    explained = [result for result in results if isinstance(result, ExplainedScan)]
    log(f"wrote {number(len(explained), 'picture')} to {_text(out)}, which show scans and their file names")
    _require_read(results)
    return results


_NO_EVIDENCE = "the model of {run} does not end in global pooling and one dense layer, so it has no evidence map"


def _method(explainer: Explainer, patches: Patches | None, run: Run) -> Iterator[str]:
    """Lines about what the maps are."""
    if explainer.field is None or explainer.map_shape is None:
        yield f"{_NO_EVIDENCE.format(run=_text(run.folder))}; the pictures show an occlusion map only"
    else:
        rows, columns = explainer.map_shape
        height, width = explainer.field.image
        seen = "all" if explainer.field.is_whole_image else "{}x{}".format(*explainer.field.size)
        yield (
            f"evidence: {rows}x{columns} places of the last feature map, of which the middle one sees {seen} of the "
            f"{height}x{width} stored pixels (by a probe: noise beyond changes it by less than {TOLERANCE:g})"
        )
    if patches:
        yield (
            f"occlusion: {len(patches.rows)}x{len(patches.columns)} gray patches of {patches.side}x{patches.side} "
            "stored pixels"
        )


def picture_names(paths: Sequence[Path], out: Path) -> Iterator[str]:
    """A name for the picture of each file: its own with -evidence.png, numbered where that is taken.

    Names that differ in nothing but capitals count as one, for disks that do not tell them apart. No picture takes the
    place of a file that is an input.
    """
    taken = {path.name.casefold() for path in paths if path.absolute().parent == out.absolute()}
    for path in paths:
        file, frame = frame_of(path)
        stem = path_to_text(f"{file.stem}-{frame}" if frame else file.stem)[:_MAX_STEM]
        numbered = (f"{stem}-evidence-{k}.png" for k in itertools.count(2))
        name = next(
            name for name in itertools.chain([f"{stem}-evidence.png"], numbered) if name.casefold() not in taken
        )
        taken.add(name.casefold())
        yield name


def _prepare_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OutputError(
            f"--out {_text(out)} cannot be written to ({error.strerror or error}); name another folder."
        ) from None


def _as_json(
    run: Run, explainer: Explainer, patches: Patches | None, results: Sequence[ExplainedScan | Exclusion]
) -> dict[str, Any]:
    """The content of --json; docs/explain.md names the keys."""
    field = explainer.field
    return {
        "run": _text(run.folder.resolve()),
        "digest": run.manifest.digest,
        "model": run.config.model,
        "class_names": list(run.manifest.class_names),
        "stored_size": list(run.image_shape[:2]),
        "field": None if field is None else {"stored_pixels": list(field.size), "measured_by": "probe"},
        "patches": None
        if patches is None
        else {"side": patches.side, "rows": list(patches.rows), "columns": list(patches.columns)},
        "images": [result.as_json() for result in results if isinstance(result, ExplainedScan)],
        "excluded": {_text(result.path): result.reason for result in results if isinstance(result, Exclusion)},
    }


def _require_read(results: Sequence[ExplainedScan | Exclusion]) -> None:
    """Raise StoppedError if some files could not be read, SourceError if none was explained."""
    unread = [result for result in results if isinstance(result, Exclusion) and result.is_unread]
    if unread:
        reason = unread[0].reason.removeprefix(UNREAD)
        raise StoppedError(
            f"{len(unread):,} of {number(len(results), 'file')} could not be read ({_text(unread[0].path)}: {reason}); "
            "all others are explained. Run the same command again to retry them."
        )
    if not any(isinstance(result, ExplainedScan) for result in results):
        raise SourceError(f"0 of {number(len(results), 'file')} could be read; give B-scans as {IMAGE_FORMATS} files.")


def _text(path: Path) -> str:
    return path_to_text(path.as_posix())
