"""The stages of a build that run in worker processes: cache the prepared scans, write the shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octprep.format.config import BuildConfig
from octprep.format.manifest import Shard
from octprep.shards import cache, writer
from octprep.shards.cache import CachedScan
from octprep.shards.plan import ShardPlan
from octprep.source.files import Exclusion, ScanFile
from octprep.workers import Pool, Progress


@dataclass(frozen=True)
class CachedSource:
    """The scans of a source that could be read, and the files that are not usable scans."""

    folder: Path  # of the cache, with the stored pixels of the scans
    scans: tuple[CachedScan, ...]  # sorted by path
    unreadable: tuple[Exclusion, ...]


def cache_scans(
    src: Path, folder: Path, files: Sequence[ScanFile], config: BuildConfig, pool: Pool, progress: Progress
) -> CachedSource:
    """Read, decode and preprocess every file once, and keep the result in a folder, which is made if it is missing."""
    folder.mkdir(exist_ok=True)
    scans: list[CachedScan] = []
    unreadable: list[Exclusion] = []
    progress("preparing scans", 0, len(files))
    tasks = cache.batch_tasks(src, folder, files, config.recipe, config.encoding)
    by_name = {task.name: task for task in tasks}
    for name in pool.run(cache.cache_batch, tasks):
        results = cache.read_receipt(by_name[name])
        for result in results:
            if isinstance(result, Exclusion):
                unreadable.append(result)
            else:
                scans.append(result)
        progress("preparing scans", len(results), len(files))
    return CachedSource(folder, tuple(sorted(scans, key=lambda item: item.scan.path)), tuple(unreadable))


def write_shards(
    work: Path,
    cached: CachedSource,
    plans: Mapping[str, Sequence[ShardPlan]],
    class_names: tuple[str, ...],
    config: BuildConfig,
    pool: Pool,
    progress: Progress,
) -> dict[str, tuple[Shard, ...]]:
    """Write the planned shards, by split, to work/shards: those of each split in the order of their plans."""
    by_path = {item.scan.path: item for item in cached.scans}
    tasks = [
        writer.ShardTask(
            folder=work / "shards",
            cache_folder=cached.folder,
            name=plan.name,
            class_names=class_names,
            recipe=config.recipe,
            items=tuple((by_path[scan.path], repeat) for scan, repeat in plan.items),
        )
        for split_plans in plans.values()
        for plan in split_plans
    ]
    records = sum(len(task.items) for task in tasks)
    progress("writing records", 0, records)
    written: dict[str, Shard] = {}
    for shard in pool.run(writer.write_shard, tasks):
        written[shard.name] = shard
        progress("writing records", shard.records, records)
    return {split: tuple(written[plan.name] for plan in split_plans) for split, split_plans in plans.items()}
