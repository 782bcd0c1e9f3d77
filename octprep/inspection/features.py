"""Reading every scan of a source once, and keeping what an inspection needs: numbers and digests, no pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from octprep import preprocessing
from octprep.arrays import Gray
from octprep.duplicates.descriptors import dct_descriptor
from octprep.format.config import Preprocessing
from octprep.format.errors import StoppedError
from octprep.format.flags import Flags
from octprep.prepare import prepare_scan
from octprep.source.files import FIELDS, Exclusion, Scan, ScanFile, SourceListing
from octprep.source.reading import DecodedBatch, FileBatch, FlaggedScan, read_scan, read_scans, with_retries
from octprep.storage.remote import Source
from octprep.workers import Pool, Progress

# The default settings, for which the thresholds of `octprep.duplicates` were measured.
RECIPE = Preprocessing()
_DECODE_BATCH, _MEASURE_BATCH = 64, 32  # scans per task; a task's results go through a pipe in one piece

Result = TypeVar("Result", "ScanFeatures", FlaggedScan)
Batch = TypeVar("Batch", bound=FileBatch)


@dataclass(frozen=True)
class ScanFeatures:
    """One scan, and the numbers that may give its class away. Gray levels are from 0 to 255."""

    scan: Scan  # with the digest of its stored pixels
    descriptor: bytes  # `duplicates.dct_descriptor` of the stored pixels
    fill_fraction: float  # of the source that is fill, 0..1
    decoded_mean: float  # gray level of the decoded scan, fill included
    decoded_std: float  # of its gray levels
    stored_mean: float  # gray level of the stored pixels, which a network sees
    stored_std: float
    flags: Flags = ()  # of the scan, as in images.csv

    def measured(self) -> dict[str, object]:
        """The numbers, by name."""
        return {name: value for name, value in vars(self).items() if name not in ("scan", "descriptor")}


def decode_scans(
    src: Source, listing: SourceListing, pool: Pool, progress: Progress
) -> tuple[tuple[FlaggedScan, ...], tuple[Exclusion, ...]]:
    """Decode every scan of a source: those that can be, and every other file; each sorted by path."""
    batches = [DecodedBatch(src, files) for files in _batches(listing, _DECODE_BATCH)]
    scans, exclusions = _read(read_scans, FlaggedScan, batches, "reading scans", listing, pool, progress)
    return tuple(sorted(scans, key=lambda item: item.scan.path)), exclusions


def measure_scans(
    src: Source, listing: SourceListing, pool: Pool, progress: Progress
) -> tuple[tuple[ScanFeatures, ...], tuple[Exclusion, ...]]:
    """Preprocess and measure every scan of a source: those that can be, and every other file; each sorted by path."""
    batches = [_MeasuredBatch(src, files) for files in _batches(listing, _MEASURE_BATCH)]
    scan_features, exclusions = _read(_measure_batch, ScanFeatures, batches, "preparing scans", listing, pool, progress)
    return tuple(sorted(scan_features, key=lambda item: item.scan.path)), exclusions


def stored_pixels(src: Source, scan: Scan) -> Gray:
    """The stored pixels of a scan that was read before. Raises StoppedError if its file has changed since."""
    scan_file = ScanFile(**{name: getattr(scan, name) for name in FIELDS[ScanFile]})
    return with_retries(src, scan_file, partial(_pixels_again, scan.sha256))


def _pixels_again(sha256: str, src: Source, scan_file: ScanFile) -> Gray:
    result = read_scan(src, scan_file, RECIPE.colour)
    if isinstance(result, Exclusion) or result[0].sha256 != sha256:
        raise StoppedError(
            f"{scan_file.path} changed during the inspection; run it again when nothing writes to the source."
        )
    return preprocessing.preprocess(result[1], RECIPE).pixels


def _batches(listing: SourceListing, size: int) -> list[tuple[ScanFile, ...]]:
    """The scan files of a source in batches of a size."""
    files = listing.scan_files
    return [files[start : start + size] for start in range(0, len(files), size)]


def _read(
    read_batch: Callable[[Batch], Sequence[Result | Exclusion]],
    result_type: type[Result],
    batches: Sequence[Batch],
    stage: str,
    listing: SourceListing,
    pool: Pool,
    progress: Progress,
) -> tuple[tuple[Result, ...], tuple[Exclusion, ...]]:
    scan_files = listing.scan_files
    results: list[Result] = []
    exclusions = list(listing.exclusions)
    progress(stage, 0, len(scan_files))
    for batch_results in pool.run(read_batch, batches):
        results += [result for result in batch_results if isinstance(result, result_type)]
        exclusions += [result for result in batch_results if isinstance(result, Exclusion)]
        progress(stage, len(batch_results), len(scan_files))
    return tuple(results), tuple(sorted(exclusions))


class _MeasuredBatch(FileBatch):
    """Files that are preprocessed and measured."""

    def read(self, scan_file: ScanFile) -> ScanFeatures | Exclusion:
        """The features of one scan, or an Exclusion. Raises as `prepare_scan` does."""
        prepared = prepare_scan(self.src, scan_file, RECIPE)
        if isinstance(prepared, Exclusion):
            return prepared
        mean, std = preprocessing.mean_and_std(prepared.source)
        return ScanFeatures(
            scan=prepared.scan,
            descriptor=dct_descriptor(prepared.pixels),
            fill_fraction=prepared.measurements.fill_fraction,
            decoded_mean=round(mean, 2),
            decoded_std=round(std, 2),
            stored_mean=prepared.measurements.mean_intensity,
            stored_std=prepared.measurements.std_intensity,
            flags=prepared.measurements.flags,
        )


def _measure_batch(batch: _MeasuredBatch) -> list[ScanFeatures | Exclusion]:
    return [batch.result(scan_file, batch.read) for scan_file in batch.files]
