"""Repairing a finished folder whose shards are damaged, and finding source files that changed after it was built.

Damaged shards are built again from their scans alone, as the plan and the bytes of a shard follow from images.csv and
the manifest. If a source file has changed, so has the dataset, and everything must be built again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

from octprep.format import images_csv
from octprep.format.config import BuildConfig
from octprep.format.images_csv import UNDERSAMPLED, ScanRow
from octprep.format.manifest import IMAGES_NAME, Manifest, read_folder_file
from octprep.shards import cache, workdir
from octprep.shards.plan import ShardPlan, plan_shards
from octprep.shards.stages import cache_scans, write_shards
from octprep.source.files import Scan, SourceListing
from octprep.source.pseudonyms import Pseudonyms
from octprep.source.reading import hash_files
from octprep.storage.remote import Source
from octprep.workers import Pool, Progress, WorkerPool, no_progress


def changed_sources(
    src: Source,
    out: Path,
    source: SourceListing,
    pseudonyms: Pseudonyms,
    config: BuildConfig,
    pool: Pool,
    progress: Progress,
) -> list[str]:
    """The paths of the source files whose content is not the one that a finished folder was built from, sorted.

    Only files newer than the newest one of that build are read, or all where that time is not known, as in a copy of
    the folder. If none of them changed, as where the source was copied, the time of the newest is kept for next time.
    images.csv must be undamaged. Raises StoppedError for a file that cannot be read.
    """
    newest = workdir.newest_source_ns(out)
    is_known = any(file.changed_ns == newest for file in source.scan_files)
    candidates = [file for file in source.scan_files if not is_known or file.changed_ns > newest]
    if not candidates:
        return []
    table = images_csv.decode(read_folder_file(out / IMAGES_NAME))
    sha256 = {row.path: row.sha256 for row in table.scans}
    reasons = {row.path: row.exclusion_reason for row in table.excluded if row.scan is None}  # unreadable when built
    stored = pseudonyms.new_paths(source)
    changed = [file.path for file in candidates if stored[file.path] not in sha256.keys() | reasons.keys()]

    hashed = [file for file in candidates if stored[file.path] in sha256]
    progress("reading changed files", 0, len(hashed))
    batches = [hashed[start : start + cache.BATCH] for start in range(0, len(hashed), cache.BATCH)]
    for paths, digests in pool.run(hash_files, [(src, batch) for batch in batches]):
        progress("reading changed files", len(paths), len(hashed))
        changed += [path for path, digest in zip(paths, digests, strict=True) if digest != sha256[stored[path]]]

    if unreadable := [file for file in candidates if stored[file.path] in reasons]:
        with tempfile.TemporaryDirectory() as folder, WorkerPool(pool.workers) as local:
            # On this machine, as a cluster does not see the folder.
            cached = cache_scans(src, Path(folder), unreadable, config, local, progress)
        changed += [scan.path for scan in cached.plain_scans]
        changed += [
            file.path
            for file in cached.unreadable
            if pseudonyms.unreadable(file, stored).reason != reasons[stored[file.path]]
        ]
    if not changed:
        workdir.keep_newest_source_ns(out, source.newest_ns)
    return sorted(changed)


def repair_shards(
    src: Source,
    out: Path,
    work: Path,
    source: SourceListing,
    pseudonyms: Pseudonyms,
    manifest: Manifest,
    damaged: Collection[str],
    pool: Pool,
) -> bool:
    """Build the named shards of a finished folder again, from their scans alone; whether that gave the same shards.

    images.csv must be undamaged, as it says which scans the shards hold.
    """
    plans = _plans_of(out, manifest, damaged)
    paths = {scan.path for split_plans in plans.values() for plan in split_plans for scan in plan.scans}
    work.mkdir(exist_ok=True)
    stored = pseudonyms.new_paths(source)
    files = [file for file in source.scan_files if stored[file.path] in paths]
    cached = cache_scans(src, work / "repair", files, manifest.config, pool, no_progress)
    cached = cached.under(pseudonyms, source)
    if {scan.path for scan in cached.plain_scans} != paths:
        return False
    written = write_shards(
        work, cached, plans, manifest.class_names, manifest.stated, manifest.config, pool, no_progress
    )
    repaired = [shard for shards in written.values() for shard in shards]
    expected = {shard for shards in manifest.splits.values() for shard in shards}
    if {shard.name for shard in repaired} != set(damaged) or not expected.issuperset(repaired):
        return False
    workdir.move_shards(out, work, repaired)
    return True


def _plans_of(out: Path, manifest: Manifest, names: Collection[str]) -> dict[str, list[ShardPlan]]:
    """The plans of some shards of a finished folder, by split."""
    plans = {}
    for split, scans in _scans_by_split(out, manifest).items():
        balance = manifest.config.balance if split == "train" else "none"
        count = len(manifest.splits[split])
        split_plans, _ = plan_shards(split, scans, balance, 1, 1, manifest.config.seed, shards=count)
        plans[split] = [plan for plan in split_plans if plan.name in names]
    return plans


def _scans_by_split(out: Path, manifest: Manifest) -> dict[str, list[Scan]]:
    """The scans that were planned into the shards of each split, undersampled ones included, from images.csv."""
    scans: dict[str, list[Scan]] = {split: [] for split in manifest.splits}
    table = images_csv.decode(read_folder_file(out / IMAGES_NAME))
    for row in table.rows:
        scans[row.split].append(_as_scan(row))
    for excluded in table.excluded:
        if excluded.exclusion_reason == UNDERSAMPLED and excluded.scan:
            scans["train"].append(_as_scan(excluded.scan))
    return scans


def _as_scan(row: ScanRow) -> Scan:
    return Scan(
        path=row.path,
        label=row.label,
        patient=row.patient,
        image_number=row.image_number,
        source_split=row.source_split,
        source=row.source,
        eye=row.eye,
        volume=row.volume,
        bytes=row.bytes,
        digests=bytes.fromhex(row.sha256),
        height=row.height,
        width=row.width,
    )
