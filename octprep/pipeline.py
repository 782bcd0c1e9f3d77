"""build(): the table of contents of the whole preparation."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from octprep import images, imaging, joined, plan, prepared, report, scan, shards, split, workplace
from octprep.assignment import Assignment
from octprep.engine import Engine, Progress, silent
from octprep.patients import Join
from octprep.plan import ShardPlan
from octprep.prepared import PreparedScan
from octprep.scan import Rejection, Scan, Source
from octprep.schema import (
    IMAGES_NAME,
    JOINS_NAME,
    REPORT_NAME,
    BuildConfig,
    Manifest,
    OutputError,
    Recipe,
    SettingError,
    Shard,
    SourceError,
    StoppedError,
    write_whole,
)
from octprep.split import Splits

# What a record takes besides its image: keys, framing and the other features, with a path of usual length.
_RECORD_OVERHEAD = 330


@dataclass(frozen=True)
class Built:
    """A finished folder of shards."""

    manifest: Manifest
    fresh: bool  # False if everything, but perhaps the report, was there already
    reported: bool = True  # whether the report was written


def build(
    src: Path,
    out: Path,
    config: BuildConfig,
    *,
    assignment: Assignment | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    follow_links: bool = False,
    progress: Progress = silent,
) -> Built:
    """Turn a folder of B-scans into class-balanced shards, images.csv, a report and a manifest.

    For split `file`, `assignment` is who is where, and the config has its `sha256`. With follow_links what is behind
    links in the source is taken too (`scan.find`).
    What an interrupted build with the same settings left is used. Raises SourceError, OutputError, LeakError or
    SettingError if it cannot be done, and leaves nothing behind then; StoppedError if the machine ended the work, which
    the same call continues.
    """
    source = scan.find(src, follow_links=follow_links, keep_out=[out])
    try:
        _keep_apart(src, out)
        config = dataclasses.replace(config, split=split.resolve(config.split, source.named))
        done = workplace.finished(out, config, source.listing, overwrite=overwrite)
        if done is not None:
            missing = not (out / REPORT_NAME).exists()
            if missing:
                report.write(out, src)
            return Built(done, fresh=False, reported=missing)
        imaging.libraries(config.recipe)  # one that is missing is told before anything is read
        _rehearse(source, config, assignment)
        with workplace.claimed(out, config, overwrite=overwrite) as work, Engine(workers) as engine:
            ready, unreadable = _prepare(src, work, source, config, engine, progress)
            if not ready:
                raise SourceError(f"--src {src} has no readable scan; `octprep scan --src {src}` says why.")
            splits, near = _split(work, ready, config, assignment, engine.workers, progress)
            plans, surplus = _plan(splits, ready, config)
            class_names = tuple(sorted({scan.label for members in splits.members.values() for scan in members}))
            written = _write_shards(work, plans, ready, class_names, config.recipe, engine, progress)
            left_out = sorted([*source.rejections, *unreadable, *splits.rejections, *surplus])
            scans = [item.scan for item in ready]
            table = images.table(ready, splits.groups, plans, left_out)
            write_whole(work / IMAGES_NAME, table)
            described = [item.descriptor for item in ready] if config.near_duplicates else None
            joins = joined.all_joins(scans, near, described, config.seed).to_json()
            write_whole(work / JOINS_NAME, joins)
            manifest = Manifest(
                class_names=class_names,
                config=config,
                splits=written,
                leaks=splits.leaks,
                source={
                    "listing": source.listing,
                    "found": source.files,
                    "kept": source.files - len(left_out),
                    "left_out": len(left_out),
                },
                images_sha256=hashlib.sha256(table).hexdigest(),
                joins_sha256=hashlib.sha256(joins).hexdigest(),
                libraries={"octprep": version("octprep"), **imaging.libraries(config.recipe)},
            )
            progress("writing the report", 0, 1)
            write_whole(work / REPORT_NAME, report.render(work / "shards", manifest, table, joins, report.Source(src)))
            progress("writing the report", 1, 1)
            workplace.seal(out, work, [shard for part in written.values() for shard in part], manifest)
    except OSError as error:
        raise _explain(error, out) from error
    return Built(manifest, fresh=True)


def _split(
    work: Path,
    ready: Sequence[PreparedScan],
    config: BuildConfig,
    assignment: Assignment | None,
    workers: int,
    progress: Progress,
) -> tuple[Splits, list[Join]]:
    """Who is in which split, and the near-identical scans that were joined for it."""
    scans = [item.scan for item in ready]
    if not config.near_duplicates:
        return split.split(scans, config, assignment=assignment), []

    def near_among(items: Sequence[PreparedScan]) -> list[Join]:
        return joined.find_near(
            [item.scan for item in items],
            [item.descriptor for item in items],
            lambda i: prepared.stored_pixels(work / "prepared", items[i], config.recipe, config.encoding),
            workers=workers,
        )

    progress("comparing scans", 0, len(ready))
    near = near_among(ready)
    while True:
        splits = split.split(scans, config, near=near, assignment=assignment)
        kept = {scan.path for members in splits.members.values() for scan in members}
        if len(kept) == len(ready):
            break
        # What is compared with what depends a little on who is there. Whoever checks the shards has these alone.
        more = set(near_among([item for item in ready if item.scan.path in kept])) - set(near)
        if not more:
            break
        near = sorted({*near, *more})
    progress("comparing scans", len(ready), len(ready))
    return splits, near


def _keep_apart(src: Path, out: Path) -> None:
    """The source is read-only, and shards among the scans would be taken for scans."""
    source, target = src.resolve(), out.resolve()
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise OutputError(f"--out {out} and --src {src} lie one inside the other; give an --out outside the source.")


def _rehearse(source: Source, config: BuildConfig, assignment: Assignment | None) -> None:
    """Split by the names alone, so that what can never work fails before an hour of reading."""
    if config.splits_sha256 != (assignment.sha256 if assignment else ""):
        raise SettingError("the config's splits_sha256 must be the sha256 of the assignment that is given with it")
    if assignment is not None:
        assignment.check(source.named)
    pretended = [
        Scan(**vars(named), sha256=hashlib.sha256(named.path.encode()).hexdigest(), height=0, width=0)
        for named in source.named
    ]
    split.split(pretended, config, assignment=assignment)


def _prepare(
    src: Path, work: Path, source: Source, config: BuildConfig, engine: Engine, progress: Progress
) -> tuple[list[PreparedScan], list[Rejection]]:
    """Read, decode and prepare every scan, once; sorted by path."""
    folder = work / "prepared"
    folder.mkdir(exist_ok=True)
    tasks = prepared.batch_tasks(src, folder, source.named, config.recipe, config.encoding)
    ready: list[PreparedScan] = []
    unreadable: list[Rejection] = []
    progress("preparing scans", 0, len(source.named))
    for name in engine.run(prepared.prepare_batch, tasks):
        results = prepared.results(folder, name)
        for result in results:
            if isinstance(result, Rejection):
                unreadable.append(result)
            else:
                ready.append(result)
        progress("preparing scans", len(results), len(source.named))
    return sorted(ready, key=lambda item: item.scan.path), unreadable


def _plan(
    splits: Splits, ready: Sequence[PreparedScan], config: BuildConfig
) -> tuple[dict[str, list[ShardPlan]], list[Rejection]]:
    """The shards of every split; only train is balanced."""
    record_bytes = _RECORD_OVERHEAD + sum(item.length for item in ready) / len(ready)
    plans: dict[str, list[ShardPlan]] = {}
    surplus: list[Rejection] = []
    for name, members in splits.members.items():
        balance = config.balance if name == "train" else "none"
        plans[name], left_out = plan.plan_split(
            name, members, balance, record_bytes, config.shard_mb * 1e6, config.seed
        )
        surplus += left_out
    return plans, surplus


def _write_shards(
    work: Path,
    plans: Mapping[str, Sequence[ShardPlan]],
    ready: Sequence[PreparedScan],
    class_names: tuple[str, ...],
    recipe: Recipe,
    engine: Engine,
    progress: Progress,
) -> dict[str, tuple[Shard, ...]]:
    by_path = {item.scan.path: item for item in ready}
    tasks = [
        shards.ShardTask(
            folder=work / "shards",
            batches=work / "prepared",
            name=planned.name,
            class_names=class_names,
            recipe=recipe,
            items=tuple((by_path[scan.path], copy) for scan, copy in planned.items),
        )
        for part in plans.values()
        for planned in part
    ]
    records = sum(len(task.items) for task in tasks)
    progress("writing records", 0, records)
    written: dict[str, Shard] = {}
    for shard in engine.run(shards.write_shard, tasks):
        written[shard.name] = shard
        progress("writing records", shard.records, records)
    return {name: tuple(written[planned.name] for planned in part) for name, part in plans.items()}


def _explain(error: OSError, out: Path) -> Exception:
    """A disk or permission error as a sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoppedError(
            f"the disk of --out {out} is full. What is done is kept: free some space (at most twice what the shards "
            "will take is needed while they are made) and run the same command again to go on."
        )
    where = f" ({error.filename})" if error.filename else ""
    return OutputError(f"--out {out} cannot be written: {error.strerror or error}{where}.")
