"""The stages of a build that run in worker processes: cache the prepared scans, write the shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from octprep.duplicates.descriptors import dct_descriptor
from octprep.duplicates.search import PixelPair
from octprep.format.config import BuildConfig
from octprep.format.manifest import Shard
from octprep.shards import cache, prepared, writer
from octprep.shards.cache import CachedScan, KnownFile
from octprep.shards.plan import ShardPlan
from octprep.source.files import Exclusion, ScanFile, SourceListing
from octprep.source.pseudonyms import Pseudonyms
from octprep.storage.remote import Source
from octprep.workers import Pool, Progress

_FEW_RECORDS = 10_000  # that are written, about a second's work, before another process is started for it


@dataclass(frozen=True)
class CachedSource:
    """What was found in the files of a source."""

    folder: Path  # of the cache, relative to which the stored pixels of the scans are
    files: tuple[KnownFile, ...]  # sorted by path
    records_key: str = ""  # of the records that scans have in a finished folder, as `writer.records_key` gives it
    # Of scans whose stored pixels were compared before.
    correlations: Mapping[PixelPair, float] = field(default_factory=dict)

    def under(self, pseudonyms: Pseudonyms, listing: SourceListing) -> CachedSource:
        """The same under pseudonyms. listing: of the source, without them."""
        if not pseudonyms:
            return self
        new_paths = pseudonyms.new_paths(listing)
        files = []
        for file in self.files:
            result = file.result
            if isinstance(result, Exclusion):
                result = pseudonyms.unreadable(result, new_paths)
            else:
                result = result.with_scan(pseudonyms.renamed(result.scan, new_paths[file.path]))
            files.append(dataclasses.replace(file, result=result))
        return dataclasses.replace(self, files=tuple(sorted(files, key=lambda file: file.path)))

    @cached_property
    def scans(self) -> tuple[CachedScan, ...]:
        """The scans that could be read, sorted by path."""
        return tuple(file.result for file in self.files if isinstance(file.result, CachedScan))

    @cached_property
    def unreadable(self) -> tuple[Exclusion, ...]:
        """The files that are not usable scans, sorted by path."""
        return tuple(file.result for file in self.files if isinstance(file.result, Exclusion))


def cache_scans(
    src: Source,
    folder: Path,
    files: Sequence[ScanFile],
    config: BuildConfig,
    pool: Pool,
    progress: Progress,
    *,
    finished: Path | None = None,
    before_long: Callable[[], object] = lambda: None,
) -> CachedSource:
    """Read, decode and preprocess every file once, and keep the result in a folder, which is made if it is missing.

    finished: a folder of shards; of the files that it was built from, only those that have changed are prepared again,
    as of those that are cached already. before_long: called first if most files are to be prepared.
    """
    folder.mkdir(exist_ok=True)
    key = cache.preparation_key(config.recipe, config.encoding)
    known, correlations = cache.read_receipts(folder, key), cache.read_correlations(folder, key)
    records_key = ""
    if finished is not None and (before := prepared.read(finished, folder, config)) is not None:
        known, correlations = before.files | known, before.correlations | correlations
        records_key = before.records_key
    found = prepared.find_known(src, files, known, pool, progress)
    if len(found.unknown) > len(found.known):
        before_long()
    results = list(found.known)
    progress("preparing scans", 0, len(files))
    progress("preparing scans", len(results), len(files))
    tasks = cache.batch_tasks(
        src, folder, found.unknown, config.recipe, config.encoding, described=config.near_duplicates
    )
    by_name = {task.name: task for task in tasks}
    for name in pool.run(cache.cache_batch, tasks):
        batch = cache.read_receipt(by_name[name])
        results += batch
        progress("preparing scans", len(batch), len(files))
    if config.near_duplicates:
        results = [_described(folder, file, config) for file in results]
    return CachedSource(folder, tuple(sorted(results, key=lambda file: file.path)), records_key, correlations)


def _described(folder: Path, file: KnownFile, config: BuildConfig) -> KnownFile:
    """A file with the descriptor of its scan, which is made here if an earlier build prepared it without."""
    scan = file.result
    if isinstance(scan, Exclusion) or scan.descriptor:
        return file
    descriptor = dct_descriptor(cache.read_pixels(folder, scan, config.recipe, config.encoding))
    return dataclasses.replace(file, result=scan.with_descriptor(descriptor))


def write_shards(
    work: Path,
    cached: CachedSource,
    plans: Mapping[str, Sequence[ShardPlan]],
    class_names: tuple[str, ...],
    stated: tuple[str, ...],
    config: BuildConfig,
    pool: Pool,
    progress: Progress,
) -> dict[str, tuple[Shard, ...]]:
    """Write the planned shards, by split, to work/shards: those of each split in the order of their plans.

    Of shards that are there, only those are written that are not as their receipts say. stated: the features of
    `octprep.format.manifest.STATED` that records have.
    """
    by_path = {item.scan.path: item for item in cached.scans}
    copies = cached.records_key == writer.records_key(class_names, config.recipe, stated)
    tasks = [
        writer.ShardTask(
            folder=work / "shards",
            cache_folder=cached.folder,
            name=plan.name,
            class_names=class_names,
            recipe=config.recipe,
            stated=stated,
            copies=copies,
            items=tuple((by_path[scan.path], repeat) for scan, repeat in plan.items),
        )
        for split_plans in plans.values()
        for plan in split_plans
    ]
    records = sum(len(task.items) for task in tasks)
    progress("writing records", 0, records)
    # Threads, as hashing releases the interpreter's lock: starting processes takes longer than to resume a small build,
    # or to write one in which most scans are known.
    with ThreadPoolExecutor(max(pool.workers, 1)) as threads:
        written = {shard.name: shard for shard in threads.map(writer.existing_shard, tasks) if shard}
        progress("writing records", sum(shard.records for shard in written.values()), records)
        missing = [task for task in tasks if task.name not in written]
        is_short = pool.would_start and sum(len(task.items) for task in missing) <= _FEW_RECORDS
        run = threads.map if is_short else pool.run
        for shard in run(writer.write_shard, missing):
            written[shard.name] = shard
            progress("writing records", shard.records, records)
    return {split: tuple(written[plan.name] for plan in split_plans) for split, split_plans in plans.items()}
