"""Read and prepare every scan once, keeping what an audit needs: numbers and digests, no pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from octprep import preprocessing
from octprep import workers as worker_pool
from octprep.arrays import Gray
from octprep.format.config import Preprocessing
from octprep.format.errors import StoppedError
from octprep.prepare import prepare_scan
from octprep.source import files
from octprep.source.files import Exclusion, Scan, ScanFile, SourceListing
from octprep.workers import Progress

RECIPE = Preprocessing()  # the default: what most will train on, and what `likeness` is measured on
_BATCH = 32  # scans per task: what is found of them goes through a pipe in one piece


@dataclass(frozen=True)
class ScanFeatures:
    """One scan, and the numbers that may give its class away."""

    scan: Scan  # with the digest of its stored pixels
    descriptor: bytes  # `likeness.describe` of the stored pixels
    border: float  # fraction of the source that is fill
    mean: float  # gray level of the decoded scan, fill and all
    deviation: float  # of its gray levels
    stored_mean: float  # of the stored pixels, which a network sees
    stored_deviation: float


def read_all(
    src: Path, source: SourceListing, workers: int | None, progress: Progress
) -> tuple[tuple[ScanFeatures, ...], tuple[Exclusion, ...]]:
    """Everything under a source that can be prepared, and everything that cannot; each sorted by path."""
    named = source.named
    tasks = [(src, named[start : start + _BATCH]) for start in range(0, len(named), _BATCH)]
    found: list[ScanFeatures] = []
    rejections = list(source.rejections)
    progress("preparing scans", 0, len(named))
    for results in worker_pool.run(_read_batch, tasks, workers):
        found += [result for result in results if isinstance(result, ScanFeatures)]
        rejections += [result for result in results if isinstance(result, Exclusion)]
        progress("preparing scans", len(results), len(named))
    return tuple(sorted(found, key=lambda item: item.scan.path)), tuple(sorted(rejections))


def stored_pixels(src: Path, known: Scan) -> Gray:
    """The stored pixels of a scan that was read before. Raises StoppedError if its file is another one now."""
    named = ScanFile(**{field.name: getattr(known, field.name) for field in dataclasses.fields(ScanFile)})
    return files.carefully(src, named, partial(_pixels_again, known.sha256))


def _pixels_again(sha256: str, src: Path, named: ScanFile) -> Gray:
    found = files.read(src, named)
    if isinstance(found, Exclusion) or found[0].sha256 != sha256:
        raise StoppedError(
            f"{named.path} was changed while it was audited; run the audit again when nothing writes there."
        )
    return preprocessing.preprocess(found[1], RECIPE).pixels


def _read_batch(task: tuple[Path, Sequence[ScanFile]]) -> list[ScanFeatures | Exclusion]:
    src, batch = task
    return [files.carefully(src, named, _read_one) for named in batch]


def _read_one(src: Path, named: ScanFile) -> ScanFeatures | Exclusion:
    prepared = prepare_scan(src, named, RECIPE)
    if isinstance(prepared, Exclusion):
        return prepared
    return ScanFeatures(
        scan=prepared.scan,
        descriptor=prepared.descriptor,
        border=prepared.measurements.fill_fraction,
        mean=prepared.decoded_mean,
        deviation=prepared.decoded_std,
        stored_mean=prepared.measurements.mean_intensity,
        stored_deviation=prepared.measurements.std_intensity,
    )
