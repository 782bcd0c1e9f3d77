"""build(): the table of contents of the whole preparation."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import cv2

from octprep import preprocessing, report
from octprep.duplicates import file as duplicates_file
from octprep.duplicates.exact import DuplicatePair
from octprep.format import images_csv
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import Notice, OctError, OutputError, SettingError, SourceError, StoppedError
from octprep.format.files import NotReadable, atomic_write, read_bytes, text_to_path
from octprep.format.images_csv import ScanRow
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, REPORT_NAME, Manifest, Shard, read_part
from octprep.shards import cache, plan, workdir, writer
from octprep.shards.cache import CachedScan
from octprep.shards.plan import ShardPlan
from octprep.shards.table import image_rows
from octprep.source import files
from octprep.source.files import Exclusion, Scan, ScanFile, SourceListing
from octprep.splits.split_file import SplitFile
from octprep.splits.strategies import Splits, resolve, split
from octprep.workers import Progress, WorkerPool, no_progress

# What a record takes besides its image: keys, framing and the other features, with a path of usual length.
_RECORD_OVERHEAD = 330

_MOST = 5  # names that a sentence lists


@dataclass(frozen=True)
class BuildResult:
    """A finished folder of shards."""

    manifest: Manifest
    fresh: bool  # False if everything, but perhaps the report, was there already and whole
    reported: bool = True  # whether the report was written


def build(
    src: Path,
    out: Path,
    config: BuildConfig,
    *,
    assignment: SplitFile | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    follow_links: bool = False,
    progress: Progress = no_progress,
) -> BuildResult:
    """Turn a folder of B-scans into class-balanced shards, images.csv, a report and a manifest.

    For split `file`, `assignment` is who is where, and the config has its `sha256`. With follow_links what is behind
    links in the source is taken too (`scan.find`).
    What an interrupted build with the same settings left is used. A finished folder is looked at again: shards that are
    damaged are built again, and all of it where a table is, or a source file that has another content now; a Notice
    (a warning) says which. Raises SourceError, OutputError, LeakError or SettingError if it cannot be done, and
    StoppedError if the machine ended the work, which the same call continues. What was prepared is kept, whatever the
    reason; before anything is, nothing is left behind.
    """
    source = files.find(src, follow_links=follow_links, keep_out=[out])
    try:
        _keep_apart(src, out)
        config = dataclasses.replace(config, split=resolve(config.split, source.named))
        stamps = _stamps(src, source)
        with workdir.claimed(out) as work, WorkerPool(workers) as engine:
            before = None
            if found := workdir.finished(out, config, source.listing, overwrite=overwrite):
                before, damaged = found
                changed: list[str] = []
                shards_alone = all("/" in fault.partition(" ")[0] for fault in damaged)
                if shards_alone:
                    changed = _changed(src, out, source, stamps, config, engine, progress)
                if damaged or changed:
                    _notice_again(out, damaged, changed)
                if not changed and (not damaged or (shards_alone and _mend(src, out, work, source, before, engine))):
                    workdir.tidy(out)
                    missing = not (out / REPORT_NAME).exists()
                    if missing:
                        report.write_report(out, src)
                    return BuildResult(before, fresh=bool(damaged), reported=missing)
            preprocessing.libraries(config.recipe)  # one that is missing is said before anything is read
            _rehearse(source, config, assignment)
            workdir.begin(work, config)
            ready, unreadable = _prepare(src, work / "prepared", source.named, config, engine, progress)
            if not ready:
                raise SourceError(f"--src {src} has no readable scan; `octprep scan --src {src}` says why.")
            splits, near, plans, surplus = _split(work, ready, config, assignment, engine.workers, progress)
            class_names = tuple(sorted({scan.label for members in splits.members.values() for scan in members}))
            written = _write_shards(work, "prepared", plans, ready, class_names, config.recipe, engine, progress)
            left_out = sorted([*source.rejections, *unreadable, *splits.rejections, *surplus])
            scans = [item.scan for item in ready]
            table = images_csv.encode(image_rows(ready, splits.groups, plans, left_out))
            atomic_write(work / IMAGES_NAME, table)
            described = [item.descriptor for item in ready] if config.near_duplicates else None
            joins = duplicates_file.collect(scans, near, described, config.seed).to_json()
            atomic_write(work / DUPLICATES_NAME, joins)
            workdir.stamp(work, max(stamps))
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
                duplicates_sha256=hashlib.sha256(joins).hexdigest(),
                libraries={"octprep": version("octprep"), **preprocessing.libraries(config.recipe)},
            )
            progress("writing the report", 0, 1)
            atomic_write(
                work / REPORT_NAME, report.render(work / "shards", manifest, table, joins, report.SourceImages(src))
            )
            progress("writing the report", 1, 1)
            workdir.seal(out, work, [shard for part in written.values() for shard in part], manifest)
    except OSError as error:
        raise _explain(error, out) from error
    except (MemoryError, RuntimeError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.STS_NO_MEM:
            raise
        if isinstance(error, RuntimeError) and "start new thread" not in str(error):
            raise
        raise StoppedError(
            "memory ran out. What is done is kept: close other programs, or use fewer --workers, and run the same "
            "command again to go on."
        ) from error
    if before is not None and before.digest_ok and before.digest != manifest.digest:
        _notice_other(out, before, manifest)
    return BuildResult(manifest, fresh=True)


def _stamps(src: Path, source: SourceListing) -> list[int]:
    """When each file or its status was last changed, in nanoseconds; -1 where that cannot be said."""
    stamps = []
    for named in source.named:
        try:
            status = (src / text_to_path(named.path)).stat()
            stamps.append(max(status.st_mtime_ns, status.st_ctime_ns))
        except OSError:
            stamps.append(-1)
    return stamps


def _changed(
    src: Path,
    out: Path,
    source: SourceListing,
    stamps: Sequence[int],
    config: BuildConfig,
    engine: WorkerPool,
    progress: Progress,
) -> list[str]:
    """The paths of source files that have another content than the one that a finished folder was built from.

    Only files that are newer than those were are read, or all where it is not known how new they were, as in a copy of
    the folder. If none of them has changed, as where the source was copied, the new time is kept.
    """
    newest = workdir.stamped(out)
    known = newest in stamps
    doubtful = [one for one, now in zip(source.named, stamps, strict=True) if not known or now > newest or now < 0]
    if not doubtful:
        return []
    table = images_csv.decode(read_part(out / IMAGES_NAME))
    sha256 = {scan.path: scan.sha256 for scan in table.scans}
    reasons = {row.path: row.exclusion_reason for row in table.excluded if row.scan is None}
    changed = [named.path for named in doubtful if named.path not in sha256 and named.path not in reasons]
    hashed = [named for named in doubtful if named.path in sha256]
    progress("reading changed files", 0, len(hashed))
    batches = [hashed[start : start + cache.BATCH] for start in range(0, len(hashed), cache.BATCH)]
    for batch, digests in engine.run(_digests, [(src, batch) for batch in batches]):
        progress("reading changed files", len(batch), len(hashed))
        changed += [path for path, digest in zip(batch, digests, strict=True) if digest != sha256[path]]
    if refused := [named for named in doubtful if named.path in reasons]:  # no scans when they were read
        with tempfile.TemporaryDirectory() as folder:
            ready, unreadable = _prepare(src, Path(folder), refused, config, engine, progress)
        changed += [item.scan.path for item in ready]
        changed += [one.path for one in unreadable if one.reason != reasons[one.path]]
    if not changed:
        workdir.stamp(out, max(stamps))
    return sorted(changed)


def _digests(task: tuple[Path, Sequence[ScanFile]]) -> tuple[list[str], list[str]]:
    """The paths and SHA-256, in hex, of some files; "" for one that is no regular file of its size any more."""
    src, batch = task
    digests = []
    for named in batch:
        try:
            path = src / text_to_path(named.path)
            digests.append(hashlib.sha256(read_bytes(path, named.bytes)[0]).hexdigest())
        except NotReadable:
            digests.append("")
    return [named.path for named in batch], digests


def _mend(src: Path, out: Path, work: Path, source: SourceListing, manifest: Manifest, engine: WorkerPool) -> bool:
    """Build the damaged shards of a finished folder again, from their scans alone; whether that was possible.

    images.csv must be whole: it says which scans they hold.
    """
    members: dict[str, list[Scan]] = {name: [] for name in manifest.splits}
    table = images_csv.decode(read_part(out / IMAGES_NAME))
    for row in table.rows:
        members[row.split].append(_as_scan(row))
    for excluded in table.excluded:
        if excluded.exclusion_reason == plan.UNDERSAMPLED and excluded.scan:
            members["train"].append(_as_scan(excluded.scan))
    damaged = {fault.partition(" ")[0] for fault in workdir.damage(out, manifest)}
    plans: dict[str, list[ShardPlan]] = {}
    for name, part in manifest.splits.items():
        balance = manifest.config.balance if name == "train" else "none"
        planned, _ = plan.plan_split(name, members[name], balance, 1, 1, manifest.config.seed, shards=len(part))
        plans[name] = [one for one in planned if one.name in damaged]
    wanted = {one.path for part in plans.values() for planned in part for one, _ in planned.items}
    work.mkdir(exist_ok=True)
    named = [one for one in source.named if one.path in wanted]
    ready, _ = _prepare(src, work / "again", named, manifest.config, engine, no_progress)
    if {item.scan.path for item in ready} != wanted:
        return False
    written = _write_shards(work, "again", plans, ready, manifest.class_names, manifest.recipe, engine, no_progress)
    there = {shard for part in manifest.splits.values() for shard in part}
    made = [shard for part in written.values() for shard in part]
    if {shard.name for shard in made} != damaged or not there.issuperset(made):
        return False
    workdir.place(out, work, made)
    return True


def _as_scan(row: ScanRow) -> Scan:
    return Scan(
        path=row.path,
        label=row.label,
        patient=row.patient,
        number=row.image_number,
        folder=row.source_split,
        bytes=row.bytes,
        sha256=row.sha256,
        height=row.height,
        width=row.width,
    )


def _notice_again(out: Path, damaged: Sequence[str], changed: Sequence[str]) -> None:
    """Say why a finished folder is worked on again."""
    if changed:
        what = f"{len(changed):,} source file{'s' * (len(changed) != 1)} changed since {out} was built"
        text = f"{what}: {_some(changed)}. It is built again."
    else:
        text = f"{out} was damaged: {_some(damaged)}; that is built again."
    warnings.warn(text, Notice, stacklevel=3)


def _notice_other(out: Path, before: Manifest, now: Manifest) -> None:
    """Say that a folder holds another dataset than before, and which libraries differ."""
    libraries = [
        f"{name} {before.libraries.get(name, 'absent')} then, {number} now"
        for name, number in now.libraries.items()
        if before.libraries.get(name) != number
    ]
    text = f"{out} holds another dataset than before: digest {before.digest[:16]} then, {now.digest[:16]} now"
    warnings.warn(f"{'; '.join([text, *libraries])}.", Notice, stacklevel=3)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST:,} more" if len(names) > _MOST else "")


def _split(
    work: Path,
    ready: Sequence[CachedScan],
    config: BuildConfig,
    assignment: SplitFile | None,
    workers: int,
    progress: Progress,
) -> tuple[Splits, list[DuplicatePair], dict[str, list[ShardPlan]], list[Exclusion]]:
    """Who is in which split, the near-identical scans that were joined for it, the shards, and what is in none."""
    scans = [item.scan for item in ready]
    if not config.near_duplicates:
        splits = split(scans, config, assignment=assignment)
        return splits, [], *_plan(splits, ready, config)

    def near_among(items: Sequence[CachedScan]) -> list[DuplicatePair]:
        return duplicates_file.near_duplicate_pairs(
            [item.scan for item in items],
            [item.descriptor for item in items],
            lambda i: cache.stored_pixels(work / "prepared", items[i], config.recipe, config.encoding),
            workers=workers,
        )

    progress("comparing scans", 0, len(ready))
    near = near_among(ready)
    compared = {item.scan.path for item in ready}
    while True:
        splits = split(scans, config, near=near, assignment=assignment)
        plans, surplus = _plan(splits, ready, config)
        kept = {scan.path for part in plans.values() for planned in part for scan, _ in planned.items}
        if kept == compared:
            break
        # What is compared with what depends a little on who is there. Whoever checks the shards has these alone.
        compared = kept
        more = set(near_among([item for item in ready if item.scan.path in kept])) - set(near)
        if not more:
            break
        near = sorted({*near, *more})
    progress("comparing scans", len(ready), len(ready))
    return splits, near, plans, surplus


def _keep_apart(src: Path, out: Path) -> None:
    """The source is read-only, and shards among the scans would be taken for scans."""
    try:
        source, target = src.resolve(), out.resolve()
    except RuntimeError:
        raise OutputError(f"--out {out} is a link that leads to itself; give a new folder.") from None
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise OutputError(f"--out {out} and --src {src} lie one inside the other; give an --out outside the source.")


def _rehearse(source: SourceListing, config: BuildConfig, assignment: SplitFile | None) -> None:
    """Split by the names alone, so that what can never work fails before an hour of reading."""
    if config.splits_sha256 != (assignment.sha256 if assignment else ""):
        raise SettingError("the config's splits_sha256 must be the sha256 of the assignment that is given with it")
    if assignment is not None:
        assignment.check(source.named)
    pretended = [
        Scan(**vars(named), sha256=hashlib.sha256(named.path.encode()).hexdigest(), height=0, width=0)
        for named in source.named
    ]
    split(pretended, config, assignment=assignment)


def _prepare(
    src: Path, folder: Path, named: Sequence[ScanFile], config: BuildConfig, engine: WorkerPool, progress: Progress
) -> tuple[list[CachedScan], list[Exclusion]]:
    """Read, decode and prepare scans, each once; sorted by path."""
    folder.mkdir(exist_ok=True)
    tasks = cache.batch_tasks(src, folder, named, config.recipe, config.encoding)
    ready: list[CachedScan] = []
    unreadable: list[Exclusion] = []
    progress("preparing scans", 0, len(named))
    for name in engine.run(cache.prepare_batch, tasks):
        results = cache.results(folder, name)
        for result in results:
            if isinstance(result, Exclusion):
                unreadable.append(result)
            else:
                ready.append(result)
        progress("preparing scans", len(results), len(named))
    return sorted(ready, key=lambda item: item.scan.path), unreadable


def _plan(
    splits: Splits, ready: Sequence[CachedScan], config: BuildConfig
) -> tuple[dict[str, list[ShardPlan]], list[Exclusion]]:
    """The shards of every split; only train is balanced."""
    record_bytes = _RECORD_OVERHEAD + sum(item.length for item in ready) / len(ready)
    plans: dict[str, list[ShardPlan]] = {}
    surplus: list[Exclusion] = []
    for name, members in splits.members.items():
        balance = config.balance if name == "train" else "none"
        plans[name], left_out = plan.plan_split(
            name, members, balance, record_bytes, config.shard_mb * 1e6, config.seed
        )
        surplus += left_out
    return plans, surplus


def _write_shards(
    work: Path,
    batches: str,
    plans: Mapping[str, Sequence[ShardPlan]],
    ready: Sequence[CachedScan],
    class_names: tuple[str, ...],
    recipe: Preprocessing,
    engine: WorkerPool,
    progress: Progress,
) -> dict[str, tuple[Shard, ...]]:
    by_path = {item.scan.path: item for item in ready}
    tasks = [
        writer.ShardTask(
            folder=work / "shards",
            batches=work / batches,
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
    for shard in engine.run(writer.write_shard, tasks):
        written[shard.name] = shard
        progress("writing records", shard.records, records)
    return {name: tuple(written[planned.name] for planned in part) for name, part in plans.items()}


def _explain(error: OSError, out: Path) -> OctError:
    """What the system refused, as a sentence."""
    kept = "What is done is kept"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoppedError(
            f"the disk of --out {out} is full. {kept}: free some space (at most twice what the shards "
            "will take is needed while they are made) and run the same command again to go on."
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StoppedError(
            f"no more files can be opened ({error.strerror}). {kept}: allow more with `ulimit -n`, or use fewer "
            "--workers, and run the same command again to go on."
        )
    if error.errno in (errno.ENOMEM, errno.EAGAIN):
        return StoppedError(
            f"the system gives no more memory or processes ({error.strerror}). {kept}: close other programs, or use "
            "fewer --workers, and run the same command again to go on."
        )
    where = Path(error.filename).absolute() if isinstance(error.filename, str) else None
    ours = out.absolute()
    if where is not None and not where.is_relative_to(ours) and not ours.is_relative_to(where):
        return StoppedError(
            f"{error.filename}: {error.strerror or error}. {kept}: mend that and run the same command again to go on."
        )
    file = f" ({error.filename})" if error.filename else ""
    return OutputError(f"--out {out} cannot be written: {error.strerror or error}{file}.")
