"""The stages of a build that run in worker processes: cache the prepared scans, write the shards."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

from octprep.duplicates.descriptors import dct_descriptor
from octprep.duplicates.search import PixelPair
from octprep.format.config import BuildConfig
from octprep.format.manifest import Shard
from octprep.format.sequences import MadeOnAccess
from octprep.shards import cache, prepared, writer
from octprep.shards.cache import CachedScan, KnownFile
from octprep.shards.plan import ShardPlan
from octprep.shards.stored_files import StoredFiles, StoredScans
from octprep.source.files import Exclusion, Scan, ScanFile, SourceListing
from octprep.source.pseudonyms import Pseudonyms
from octprep.storage.remote import Source
from octprep.workers import Pool, Progress

_FEW_RECORDS = 10_000  # that are written, about a second's work, before another process is started for it


@dataclass(frozen=True)
class CachedSource:
    """What was found in the files of a source."""

    folder: Path  # of the cache, relative to which the stored pixels of the scans are
    files: StoredFiles  # sorted by path
    # Of scans whose stored pixels were compared before.
    correlations: Mapping[PixelPair, float] = field(default_factory=dict)
    finished: prepared.FinishedFiles | None = None  # what a finished folder says, if there was one that can be used

    def under(self, pseudonyms: Pseudonyms, listing: SourceListing) -> CachedSource:
        """The same under pseudonyms. listing: of the source, without them."""
        if not pseudonyms:
            return self
        new_paths = pseudonyms.new_paths(listing)
        files = StoredFiles(self.folder)
        for file in self.files:
            result = file.result
            if isinstance(result, Exclusion):
                result = pseudonyms.unreadable(result, new_paths)
            else:
                result = result.with_scan(pseudonyms.renamed(result.scan, new_paths[file.path]))
            files.append(dataclasses.replace(file, result=result))
        files.sort()
        return dataclasses.replace(self, files=files)

    @cached_property
    def scans(self) -> StoredScans:
        """The scans that could be read, sorted by path; each is made when it is asked for."""
        return StoredScans(self.files)

    @cached_property
    def plain_scans(self) -> tuple[Scan, ...]:
        """The same without where their pixels are and what was measured: these are in memory."""
        return tuple(result for result in self.files.results if isinstance(result, Scan))

    @cached_property
    def unreadable(self) -> tuple[Exclusion, ...]:
        """The files that are not usable scans, sorted by path."""
        return tuple(result for result in self.files.results if isinstance(result, Exclusion))


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
    known: Iterable[KnownFile]
    known, correlations = cache.read_receipts(folder, key), cache.read_correlations(folder, key)
    before = None if finished is None else prepared.read(finished, folder, config)
    if before is not None:
        known, correlations = chain(before.files, known), before.correlations | correlations
    stored = StoredFiles(folder)
    unknown = prepared.find_known(src, files, known, stored, pool, progress)
    if len(unknown) > len(stored):
        before_long()
    if config.near_duplicates:
        _describe(folder, stored, config)
    progress("preparing scans", 0, len(files))
    progress("preparing scans", len(stored), len(files))
    tasks = cache.batch_tasks(src, folder, unknown, config.recipe, config.encoding, described=config.near_duplicates)
    by_name = {task.name: task for task in tasks}
    for name in pool.run(cache.cache_batch, tasks):
        batch = cache.read_receipt(by_name[name])
        for file in batch:
            stored.append(file)
        progress("preparing scans", len(batch), len(files))
    stored.sort()
    return CachedSource(folder, stored, correlations, before)


def _describe(folder: Path, stored: StoredFiles, config: BuildConfig) -> None:
    """Make the descriptors of scans that an earlier build prepared without."""
    for index, file in enumerate(stored):
        scan = file.result
        if isinstance(scan, CachedScan) and not scan.descriptor:
            descriptor = dct_descriptor(cache.read_pixels(folder, scan, config.recipe, config.encoding))
            stored.replace(index, dataclasses.replace(file, result=scan.with_descriptor(descriptor)))


class _PlannedItems(MadeOnAccess[tuple[CachedScan, int]]):
    """The scans of a planned shard with the numbers of their repeats; each is made when it is asked for.

    A worker process is sent a tuple of them.
    """

    def __init__(self, cached: CachedSource, plan: ShardPlan) -> None:
        self._cached, self._plan = cached, plan

    def __len__(self) -> int:
        return len(self._plan.scans)

    def make(self, index: int) -> tuple[CachedScan, int]:
        """A scan and the number of its repeat."""
        number = bisect_left(self._cached.plain_scans, self._plan.scans[index].path, key=attrgetter("path"))
        return self._cached.scans[number], self._plan.repeats[index]

    def __reduce__(self) -> tuple[type[tuple[Any, ...]], tuple[tuple[Any, ...]]]:
        return tuple, (tuple(self),)


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

    Of shards that are there, only those are written that are not as their receipts say; those that a finished folder
    holds are linked. stated: the features of `octprep.format.manifest.STATED` that records have.
    """
    records_key = writer.records_key(class_names, config.recipe, stated)
    copies = cached.finished is not None and cached.finished.records_key == records_key
    tasks = [
        writer.ShardTask(
            folder=work / "shards",
            cache_folder=cached.folder,
            name=plan.name,
            class_names=class_names,
            recipe=config.recipe,
            stated=stated,
            records_key=records_key,
            copies=copies,
            items=_PlannedItems(cached, plan),
        )
        for split_plans in plans.values()
        for plan in split_plans
    ]
    records = sum(len(task.items) for task in tasks)
    progress("writing records", 0, records)
    # Threads, as hashing releases the interpreter's lock: starting processes takes longer than to resume a small build,
    # or to write one in which most scans are known.
    with ThreadPoolExecutor(max(pool.workers, 1)) as threads:
        written = _keep_unchanged(cached, tasks, threads)
        others = [task for task in tasks if task.name not in written]
        written |= {shard.name: shard for shard in threads.map(writer.existing_shard, others) if shard}
        progress("writing records", sum(shard.records for shard in written.values()), records)
        missing = [task for task in tasks if task.name not in written]
        is_short = pool.would_start and sum(len(task.items) for task in missing) <= _FEW_RECORDS
        run = threads.map if is_short else pool.run
        for shard in run(writer.write_shard, missing):
            written[shard.name] = shard
            progress("writing records", shard.records, records)
    return {split: tuple(written[plan.name] for plan in split_plans) for split, split_plans in plans.items()}


def _keep_unchanged(cached: CachedSource, tasks: Sequence[writer.ShardTask], threads: Executor) -> dict[str, Shard]:
    """Link the shards of the finished folder that are those of tasks, by name."""
    finished = cached.finished
    if finished is None or not finished.shard_keys:
        return {}
    unchanged = {task.name: task for task in tasks if finished.shard_keys.get(task.name) == writer.task_key(task)}
    pending = [
        threads.submit(writer.keep_shard, unchanged[name], finished.folder, content)
        for name, content in prepared.receipts(finished.folder, unchanged)
    ]
    linked = (future.result() for future in pending)
    return {shard.name: shard for shard in linked if shard}
