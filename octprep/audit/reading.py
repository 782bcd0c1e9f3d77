"""Read and prepare every scan once, keeping what an audit needs: numbers and digests, no pixels."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep import engine, imaging, likeness, scan
from octprep.engine import Progress
from octprep.prepared import MOST_FILL
from octprep.scan import Named, Rejection, Scan, Source
from octprep.schema import Recipe, StoppedError

Gray = NDArray[np.uint8]

RECIPE = Recipe()  # the default: what most will train on, and what `likeness` is measured on
_BATCH = 32  # scans per task: what is found of them goes through a pipe in one piece


@dataclass(frozen=True)
class Read:
    """One scan, and the numbers that may give its class away."""

    scan: Scan  # with the digest of its stored pixels
    descriptor: bytes  # `likeness.describe` of the stored pixels
    border: float  # fraction of the source that is fill
    mean: float  # gray level of the decoded scan, fill and all
    deviation: float  # of its gray levels
    stored_mean: float  # of the stored pixels, which a network sees
    stored_deviation: float


def read_all(
    src: Path, source: Source, workers: int | None, progress: Progress
) -> tuple[tuple[Read, ...], tuple[Rejection, ...]]:
    """Everything under a source that can be prepared, and everything that cannot; each sorted by path."""
    named = source.named
    tasks = [(src, named[start : start + _BATCH]) for start in range(0, len(named), _BATCH)]
    found: list[Read] = []
    rejections = list(source.rejections)
    progress("preparing scans", 0, len(named))
    for results in engine.run(_read_batch, tasks, workers):
        found += [result for result in results if isinstance(result, Read)]
        rejections += [result for result in results if isinstance(result, Rejection)]
        progress("preparing scans", len(results), len(named))
    return tuple(sorted(found, key=lambda item: item.scan.path)), tuple(sorted(rejections))


def stored_pixels(src: Path, known: Scan) -> Gray:
    """The stored pixels of a scan that was read before. Raises StoppedError if its file is another one now."""
    named = Named(**{field.name: getattr(known, field.name) for field in dataclasses.fields(Named)})
    return scan.carefully(src, named, partial(_pixels_again, known.sha256))


def _pixels_again(sha256: str, src: Path, named: Named) -> Gray:
    found = scan.read(src, named)
    if isinstance(found, Rejection) or found[0].sha256 != sha256:
        raise StoppedError(
            f"{named.path} was changed while it was audited; run the audit again when nothing writes there."
        )
    return imaging.prepare(found[1], RECIPE).pixels


def _read_batch(task: tuple[Path, Sequence[Named]]) -> list[Read | Rejection]:
    src, batch = task
    return [scan.carefully(src, named, _read_one) for named in batch]


def _read_one(src: Path, named: Named) -> Read | Rejection:
    found = scan.read(src, named)
    if isinstance(found, Rejection):
        return found
    kept, gray = found
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(gray))
    ready = imaging.prepare(gray, RECIPE)
    if ready.border > MOST_FILL:
        return Rejection(named.path, f"nothing but fill: {ready.border:.0%} of it is white or black from the border on")
    return Read(
        scan=dataclasses.replace(kept, pixels=hashlib.sha256(ready.pixels.tobytes()).hexdigest()),
        descriptor=likeness.describe(ready.pixels),
        border=round(ready.border, 6),
        mean=round(mean, 2),
        deviation=round(deviation, 2),
        stored_mean=round(ready.mean, 2),
        stored_deviation=round(ready.deviation, 2),
    )
