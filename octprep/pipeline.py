"""`build`: from a folder of B-scans to class-balanced shards, images.csv, duplicates.json, a report and a manifest.

The stages, in the order of `_build`: cache the prepared scans, split them and plan the shards, write the shards, write
the tables, the index and the report, publish.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from octprep import preprocessing, report
from octprep.cluster import WAIT, WorkerNeeds
from octprep.duplicates import duplicates_json as duplicates_file
from octprep.duplicates.exact import DuplicatePair
from octprep.duplicates.search import Correlations
from octprep.format import images_csv
from octprep.format.config import BuildConfig
from octprep.format.errors import Notice, OutputError, SettingError, SourceError
from octprep.format.files import atomic_write
from octprep.format.images_csv import ExcludedRow, Row
from octprep.format.locks import locked
from octprep.format.manifest import (
    DUPLICATES_NAME,
    IMAGES_NAME,
    PREPARED_NAME,
    REPORT_NAME,
    STATED,
    Manifest,
    Shard,
    read_folder_file,
    unlisted_shards,
    version_differences,
)
from octprep.format.paths import path_to_text, require_path
from octprep.format.record_index import INDEX_NAME
from octprep.shards import indexing, prepared, repair, workdir
from octprep.shards.image_rows import image_rows
from octprep.shards.plan import ShardPlan, plan_shards
from octprep.shards.searches import Searches
from octprep.shards.stages import CachedSource, cache_scans, write_shards
from octprep.shards.stored_files import StoredScans
from octprep.shards.system_errors import explain_system_errors
from octprep.shards.tfds import write_tfds_files
from octprep.shards.uploads import ExistingUpload, existing_upload, upload
from octprep.shards.workdir import ExistingBuild
from octprep.source.files import MACOS_METADATA, WITHOUT_ID, Exclusion, Scan, SourceListing, reason_kind
from octprep.source.layouts import KermanyLayout
from octprep.source.listing import list_sources, shared_paths
from octprep.source.options import Rules, SourceSpec, quick_inspection, source_of, source_specs
from octprep.source.pseudonyms import Pseudonyms
from octprep.splits import deviations as class_deviations
from octprep.splits.deviations import ClassDeviation
from octprep.splits.patients import describe_without_id
from octprep.splits.split_file import SplitFile
from octprep.splits.strategies import Splits, resolve_auto, split_scans
from octprep.storage.cache import build_folder
from octprep.storage.remote import Location, RemoteFolder, Source, SourceFolders, location, places
from octprep.wording import listed, number
from octprep.workers import Pool, Progress, no_progress, open_pool

# Bytes of a record besides its image: keys, framing and the other features, with a path of usual length.
_RECORD_OVERHEAD = 330

_MAX_NAMES = 5  # names that a notice lists


@dataclass(frozen=True)
class BuildCounts:
    """How many files a folder of shards was built from, and what became of them."""

    files: int  # found under the source
    images: Mapping[str, int]  # in the shards of each split, repeats not counted
    patients: Mapping[str, int]  # ids in the shards of each split
    patients_per_class: Mapping[str, Mapping[str, int]]  # by split and class; a patient group counts once
    excluded: Mapping[str, int]  # by the kind of reason, the most frequent first


@dataclass(frozen=True)
class BuildResult:
    """A finished folder of shards."""

    manifest: Manifest
    built: bool  # False if everything, but perhaps the report and the index, was there already and undamaged
    report_written: bool
    index_written: bool
    counts: BuildCounts
    deviations: tuple[ClassDeviation, ...]  # of class shares from their targets; () for splits taken as given


@dataclass(frozen=True)
class _Job:
    """What the stages of one build share."""

    src: Source
    out: Path
    work: Path  # the work folder, locked
    source: SourceListing
    pseudonyms: Pseudonyms
    published: SourceListing  # as the finished folder describes it: under pseudonyms, if there are any
    config: BuildConfig
    split_file: SplitFile | None  # as `published`
    inspection: str  # the command that says why files are excluded
    dry_run_split: Callable[[], None]
    pool: Pool
    progress: Progress


@dataclass(frozen=True)
class _Planned:
    """Which scan is in which split and shard."""

    splits: Splits
    near: tuple[DuplicatePair, ...]  # the near-duplicates that the patient groups of `splits` follow from
    plans: Mapping[str, Sequence[ShardPlan]]  # by split
    undersampled: tuple[Exclusion, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted({scan.label for members in self.splits.members.values() for scan in members}))

    @property
    def paths_in_shards(self) -> set[str]:
        return {scan.path for plans in self.plans.values() for plan in plans for scan in plan.scans}


@dataclass(frozen=True)
class _Tables:
    """The tables of a finished folder."""

    images_sha256: str  # of images.csv, hex
    duplicates: bytes  # duplicates.json
    counts: BuildCounts
    paths: Sequence[str]  # of the rows of images.csv


@dataclass(frozen=True)
class _Written:
    """What is kept of a dataset once it is in the work folder: little, as there may be millions of scans."""

    manifest: Manifest
    duplicates: bytes  # duplicates.json
    counts: BuildCounts
    deviations: tuple[ClassDeviation, ...]
    places: prepared.ImagePlaces
    names: Mapping[str, str]  # as `_names_in_source`


def build(
    src: Location | SourceSpec | Sequence[SourceSpec] | str,
    out: Location | str,
    config: BuildConfig | None = None,
    *,
    work: Path | str | None = None,
    split_file: SplitFile | None = None,
    workers: int | None = None,
    cluster: Path | str | None = None,
    cluster_wait: float = WAIT,
    overwrite: bool = False,
    follow_links: bool = False,
    pseudonyms: Path | str | None = None,
    progress: Progress = no_progress,
) -> BuildResult:
    """Turn a folder of B-scans into class-balanced shards, images.csv, a report and a manifest.

    src, out: folders, or URLs of an object store such as s3://bucket/folder; a SourceSpec also says by what table or
    pattern the paths of src are read, and several of them are several sources in one folder of shards. work: where the
    shards of an `out` that is a URL are built before they are uploaded, and kept; by default a folder in the user's
    cache, which is removed when the upload is complete. config: by default BuildConfig(). split_file: for split `file`;
    `config.split_file_sha256` must be its `sha256`. follow_links: read files behind links in the source too
    (`octprep.source.listing.list_source`). workers: processes; None: one for each core; 0: none, so that a file which
    makes the image decoder crash ends this process. cluster: instead, the workers of a Dask cluster, by the address of
    its scheduler (tcp://HOST:PORT) or its scheduler file; src and out (or work) must be on storage that they share.
    cluster_wait: seconds to wait while it has no worker. pseudonyms: a key file; patient ids, and the paths that hold
    them, are replaced by keyed hashes in all that is published (`octprep.source.pseudonyms`).

    Scans cached by an interrupted build with the same settings are used. A finished folder is checked: damaged shards
    are built again, or the whole folder if a table is damaged or a source file has changed; a Notice (a warning) says
    which. Raises SourceError, OutputError, LeakError or SettingError if the build is not possible, and StoppedError if
    the machine ended it; the same call resumes it then. Cached scans are kept, whatever the reason; if nothing was
    cached yet, nothing is left behind.
    """
    specs, out = source_specs(src), location(out)
    kept = None if work is None else Path(work)
    if kept is not None:
        require_path(kept)
    if isinstance(out, Path) and kept is not None:
        raise SettingError(f"--work {kept} is for an --out that is a URL; {out} is a folder, and is worked in itself.")
    if isinstance(out, RemoteFolder) and kept is None and cluster is not None:
        raise SettingError(f"--cluster with --out {out} needs --work DIR, a folder that all workers share.")
    names = Pseudonyms() if pseudonyms is None else Pseudonyms.load(Path(pseudonyms))
    folder = out if isinstance(out, Path) else kept or build_folder(out)
    if cluster is not None:
        specs, folder = [spec.absolute() for spec in specs], folder.absolute()
    for spec in specs:
        _require_disjoint_urls(spec.src, out)
    _require_key_outside(
        pseudonyms, [place for place in (*(spec.src for spec in specs), folder) if isinstance(place, Path)]
    )
    config = config or BuildConfig()
    source = list_sources(specs, rules=Rules.of(config), follow_links=follow_links, keep_out=[folder])
    config = dataclasses.replace(config, split=resolve_auto(config.split, source.scan_files))
    if config.split_file_sha256 != (split_file.sha256 if split_file else ""):
        raise SettingError("the config's split_file_sha256 must be the sha256 of the split file that is given with it")
    if split_file is not None:
        split_file = split_file.resolved(source.scan_files)
        config = dataclasses.replace(config, split_file_sha256=split_file.sha256)
    inspection = quick_inspection(specs, patients=config.patients, classes=config.classes, follow_links=follow_links)
    dry_run = partial(_dry_run_split, source, config, split_file, inspection)
    if split_file is not None and names:
        split_file = split_file.under(names, source)
        config = dataclasses.replace(config, split_file_sha256=split_file.sha256)
    here = _LocalBuild(
        src=source_of(specs),
        source=source,
        pseudonyms=names,
        published=names.listing(source),
        config=config,
        split_file=split_file,
        inspection=inspection,
        dry_run_split=dry_run,
        workers=workers,
        cluster=cluster,
        cluster_wait=cluster_wait,
        progress=progress,
    )
    if isinstance(out, Path):
        return here.build(folder, overwrite=overwrite)
    return _build_and_upload(here, out, folder, overwrite=overwrite, keep=kept is not None)


@dataclass(frozen=True, kw_only=True)
class _LocalBuild:
    """A build into a folder of this machine, all but the folder. The fields are those of _Job, and of `build`."""

    src: Source
    source: SourceListing
    pseudonyms: Pseudonyms
    published: SourceListing
    config: BuildConfig
    split_file: SplitFile | None
    inspection: str
    dry_run_split: Callable[[], None]
    workers: int | None
    cluster: Path | str | None
    cluster_wait: float
    progress: Progress

    def build(self, out: Path, *, overwrite: bool) -> BuildResult:
        """Build, resume or repair the folder."""
        with explain_system_errors(out):
            for place in places(self.src):
                if isinstance(place, Path):
                    _require_disjoint_paths(place, out)
            with ExitStack() as stack:
                work = stack.enter_context(workdir.locked_workdir(out))
                versions = partial(preprocessing.library_versions, self.config.recipe)
                folders, first = shared_paths(self.src, self.source)
                needs = WorkerNeeds(versions, (*folders, out), first, writes_to=out)
                pool = stack.enter_context(open_pool(self.workers, self.cluster, self.cluster_wait, needs))
                job = _Job(
                    src=self.src,
                    out=out,
                    work=work,
                    source=self.source,
                    pseudonyms=self.pseudonyms,
                    published=self.published,
                    config=self.config,
                    split_file=self.split_file,
                    inspection=self.inspection,
                    dry_run_split=self.dry_run_split,
                    pool=pool,
                    progress=self.progress,
                )
                existing = workdir.existing_build(
                    out,
                    self.config,
                    self.published.listing_sha256,
                    self.pseudonyms.fingerprint,
                    overwrite=overwrite,
                )
                if existing and (kept := _keep_existing(job, existing)):
                    return kept
                result = _build(job)
        if existing:
            _notice_other_dataset(out, existing.manifest, result.manifest)
        return result

    def changed_sources(self, existing: ExistingUpload) -> list[str]:
        """The source files that changed since a folder at a URL was built from them, by their paths."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            (out / IMAGES_NAME).write_bytes(existing.images)
            workdir.keep_newest_source_ns(out, existing.newest_source_ns)
            with open_pool(self.workers) as pool:
                return repair.changed_sources(
                    self.src, out, self.source, self.pseudonyms, self.config, pool, self.progress
                )


def _build_and_upload(
    here: _LocalBuild, out: RemoteFolder, folder: Path, *, overwrite: bool, keep: bool
) -> BuildResult:
    """Build into a folder of this machine and upload it; keep: leave the folder there."""
    with explain_system_errors(folder):
        created = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(folder, "octprep build"):
                notes, shards = folder / "uploaded.jsonl", folder / "shards"
                existing = existing_upload(
                    out,
                    here.config,
                    here.published.listing_sha256,
                    here.pseudonyms.fingerprint,
                    notes,
                    overwrite=overwrite,
                )
                if existing:
                    changed = [] if existing.damage else here.changed_sources(existing)
                    if not existing.damage and not changed:
                        return _finished_result(existing, here.config)
                    _notice_rebuild(out, existing, changed)
                result = here.build(shards, overwrite=overwrite)
                is_new = upload(shards, out, notes, here.source.newest_ns, here.progress)
                if existing:
                    _notice_other_dataset(out, existing.manifest, result.manifest)
                if not keep:
                    shutil.rmtree(folder, ignore_errors=True)
                return dataclasses.replace(result, built=result.built or is_new)
        finally:
            for path in created:  # those that are empty
                with suppress(OSError):
                    path.rmdir()


def _finished_result(existing: ExistingUpload, config: BuildConfig) -> BuildResult:
    table = images_csv.decode(existing.images)
    return BuildResult(
        existing.manifest,
        built=False,
        report_written=False,
        index_written=False,
        counts=_counts([*table.rows, *table.excluded]),
        deviations=tuple(class_deviations.deviations_from_table(table, config)),
    )


def _build(job: _Job) -> BuildResult:
    """The stages of a build."""
    preprocessing.library_versions(job.config.recipe)  # raises for one that is not installed, before anything is read
    workdir.begin(job.work, job.config)
    written = _write_dataset(job)
    _write_report(job, written)
    workdir.publish(job.out, job.work, [*chain(*written.manifest.splits.values())], written.manifest)
    return BuildResult(
        written.manifest,
        built=True,
        report_written=True,
        index_written=True,
        counts=written.counts,
        deviations=written.deviations,
    )


def _write_dataset(job: _Job) -> _Written:
    """Write the shards, the tables and the index to the work folder."""
    cached = cache_scans(
        job.src,
        job.work / "cache",
        job.source.scan_files,
        job.config,
        job.pool,
        job.progress,
        finished=job.out,
        before_long=job.dry_run_split,
    ).under(job.pseudonyms, job.source)
    if not cached.plain_scans:
        raise SourceError(f"--src {job.src} has no readable scan; `{job.inspection}` says why.")
    stated, names = _stated(job), _names_in_source(job)
    for listing in (job.source, job.published):
        listing.forget_scan_files()
    correlations = Correlations(cached.correlations)
    near_rows = cached.finished.near_rows if cached.finished else ()
    searches = Searches(cached.folder, job.config, correlations, near_rows)
    planned = _split_and_plan(job, cached, searches)
    shards = write_shards(
        job.work, cached, planned.plans, planned.class_names, stated, job.config, job.pool, job.progress
    )
    tables = _write_tables(job, cached, planned, searches)
    manifest = _manifest(job, planned, shards, tables, stated)
    deviations = tuple(class_deviations.deviations_from_splits(planned.splits, job.config))
    plans = planned.plans
    del planned  # the splits, which are not needed any more
    places = prepared.ImagePlaces(tables.paths)
    index = indexing.make_index_of_plans(job.work / "shards", manifest, plans, tables.paths, places.add)
    indexing.write_index(job.work, index)
    write_tfds_files(job.work, manifest)
    if not job.pseudonyms:  # it holds the paths in the source
        prepared.write(job.work / PREPARED_NAME, cached.files, searches.found, manifest, places, job.work / "shards")
    return _Written(manifest, tables.duplicates, tables.counts, deviations, places, names)


def _keep_existing(job: _Job, existing: ExistingBuild) -> BuildResult | None:
    """Keep a finished folder, with its damaged shards built again; None if all of it must be built."""
    if not all(damage.is_shard for damage in existing.damage):
        _notice_rebuild(job.out, existing, [])
        return None
    changed = repair.changed_sources(job.src, job.out, job.source, job.pseudonyms, job.config, job.pool, job.progress)
    if existing.damage or changed:
        _notice_rebuild(job.out, existing, changed)
    if changed:
        return None
    damaged = {damage.name for damage in existing.damage}
    if damaged and not repair.repair_shards(
        job.src, job.out, job.work, job.source, job.pseudonyms, existing.manifest, damaged, job.pool
    ):
        return None
    workdir.clean_up(job.out)
    _notice_other_shards(job.out, existing.manifest)
    report_missing = not (job.out / REPORT_NAME).exists()
    if report_missing:
        report.write_report(job.out, job.src, names=_names_in_source(job))
    table = images_csv.decode(read_folder_file(job.out / IMAGES_NAME))
    index_written = _write_missing_index(job.out, existing.manifest, table.paths)
    with suppress(OSError):  # such as a disk that is read-only; all else of the folder is there
        write_tfds_files(job.out, existing.manifest)
    return BuildResult(
        existing.manifest,
        built=bool(damaged),
        report_written=report_missing,
        index_written=index_written,
        counts=_counts([*table.rows, *table.excluded]),
        deviations=tuple(class_deviations.deviations_from_table(table, job.config)),
    )


def _write_missing_index(out: Path, manifest: Manifest, paths: Sequence[str]) -> bool:
    """Write the index of a finished folder if it is missing or not that of its shards; whether it was written."""
    if indexing.index_is_current(out, manifest):
        return False
    files = indexing.make_index(out, manifest, paths)
    try:
        indexing.write_index(out, files)
    except OSError as error:  # such as a disk that is read-only; all else of the folder is there
        text = f"{out / INDEX_NAME} could not be written ({error.strerror or error}); `octprep index {out}` writes it."
        warnings.warn(text, Notice, stacklevel=5)
        return False
    return True


class _RowCounter:
    """Counts rows of images.csv as they pass."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._images: Counter[str] = Counter()  # by split
        self._patients: dict[str, set[str]] = defaultdict(set)  # by split
        self._groups: dict[tuple[str, str], set[str]] = defaultdict(set)  # by split and class
        self._reasons: Counter[str] = Counter()

    def count(self, row: Row) -> Row:
        """Count a row, and give it back."""
        self.paths.append(row.path)
        if isinstance(row, ExcludedRow):
            self._reasons[reason_kind(row.exclusion_reason)] += 1
        else:
            self._images[row.split] += 1
            self._patients[row.split].add(row.patient)
            self._groups[row.split, row.label].add(row.patient_group)
        return row

    def result(self) -> BuildCounts:
        """What was counted."""
        per_class: dict[str, dict[str, int]] = defaultdict(dict)
        for (split, label), groups in self._groups.items():
            per_class[split][label] = len(groups)
        return BuildCounts(
            files=len(self.paths),
            images=self._images,
            patients={split: len(ids) for split, ids in self._patients.items()},
            patients_per_class=dict(per_class),
            excluded=dict(self._reasons.most_common()),
        )


def _counts(rows: Iterable[Row]) -> BuildCounts:
    counter = _RowCounter()
    for row in rows:
        counter.count(row)
    return counter.result()


def _require_disjoint_urls(src: Location, out: Location) -> None:
    """Raise OutputError if one URL lies in the other."""
    if isinstance(src, RemoteFolder) and isinstance(out, RemoteFolder):
        names = [f"{place.url}/" for place in (src, out)]
        if names[0].startswith(names[1]) or names[1].startswith(names[0]):
            raise OutputError(
                f"--out {out} and --src {src} lie one inside the other; give an --out outside the source."
            )


def _require_disjoint_paths(src: Path, out: Path) -> None:
    """Raise OutputError if one folder is in the other: the source is read-only, and its files are taken for scans."""
    try:
        source, target = src.resolve(), out.resolve()
    except RuntimeError:
        raise OutputError(f"--out {out} is a link that leads to itself; give a new folder.") from None
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise OutputError(f"--out {out} and --src {src} lie one inside the other; give an --out outside the source.")


def _require_key_outside(pseudonyms: Path | str | None, folders: Iterable[Path]) -> None:
    """Raise SettingError if the key would lie in one of these folders: that is published, or that holds the scans."""
    for folder in folders:
        if pseudonyms is not None and Path(pseudonyms).resolve().is_relative_to(folder.resolve()):
            raise SettingError(f"--pseudonyms {pseudonyms} lies in {folder}; keep the key elsewhere.")


@contextmanager
def _exclusions_in_errors(exclusions: Sequence[Exclusion], files: int, inspection: str) -> Iterator[None]:
    """Say in a SourceError how many files are excluded, where that may be why too few patients are left.

    files: how many there are, excluded ones among them. inspection: the command that says why.
    """
    try:
        yield
    except SourceError as error:
        kinds = Counter(reason_kind(one.reason) for one in exclusions)
        files -= kinds.pop(MACOS_METADATA, 0)
        if kinds[WITHOUT_ID]:
            raise SourceError(f"{error} {describe_without_id(kinds[WITHOUT_ID], files)}") from None
        if 2 * kinds.total() <= files:
            raise
        reasons = listed([f"{count:,} {kind}" for kind, count in kinds.most_common()], 3)
        raise SourceError(
            f"{error} {kinds.total():,} of {number(files, 'file')} {'is' if kinds.total() == 1 else 'are'} excluded: "
            f"{reasons}; `{inspection}` says why."
        ) from None


def _dry_run_split(source: SourceListing, config: BuildConfig, split_file: SplitFile | None, inspection: str) -> None:
    """Split by the file names alone, so that a split that is impossible fails before an hour of reading."""
    scans = [
        Scan.of(file, sha256=hashlib.sha256(file.path.encode()).hexdigest(), height=0, width=0)
        for file in source.scan_files
    ]
    with _exclusions_in_errors(source.exclusions, source.file_count, inspection):
        split_scans(scans, config, split_file=split_file)


def _split_and_plan(job: _Job, cached: CachedSource, searches: Searches) -> _Planned:
    """Split the scans and plan the shards; patient groups follow near-duplicates, unless the config turns that off."""

    exclusions = [*job.published.exclusions, *cached.unreadable]

    def split_and_plan(near: Sequence[DuplicatePair]) -> _Planned:
        with _exclusions_in_errors(exclusions, job.source.file_count, job.inspection):
            splits = split_scans(cached.plain_scans, job.config, near=near, split_file=job.split_file)
        plans, undersampled = _plan(splits, cached, job.config)
        return _Planned(splits, tuple(near), plans, tuple(undersampled))

    def compare(scans: StoredScans) -> list[DuplicatePair]:
        return searches.near_duplicates(scans, job.pool)

    if not job.config.near_duplicates:
        return split_and_plan([])
    job.progress("comparing scans", 0, len(cached.plain_scans))
    planned = _until_stable(compare, split_and_plan, cached)
    job.progress("comparing scans", len(cached.plain_scans), len(cached.plain_scans))
    return planned


def _until_stable(
    compare: Callable[[StoredScans], Sequence[DuplicatePair]],
    split_and_plan: Callable[[Sequence[DuplicatePair]], _Planned],
    cached: CachedSource,
) -> _Planned:
    """Compare and split in turn until the scans in the shards show no pair that the split does not respect.

    Which pairs are found depends a little on which scans are compared (the LSH's medians, its crowded buckets), and
    `octprep verify` compares only the scans in the shards. The set of pairs only grows, so this ends.
    """
    near = sorted(compare(cached.scans))
    compared = {scan.path for scan in cached.plain_scans}
    while True:
        planned = split_and_plan(near)
        in_shards = planned.paths_in_shards
        if in_shards == compared:
            return planned
        compared = in_shards
        added = set(compare(StoredScans(cached.files, compared))) - set(near)
        if not added:
            return planned
        near = sorted({*near, *added})


def _plan(
    splits: Splits, cached: CachedSource, config: BuildConfig
) -> tuple[dict[str, list[ShardPlan]], list[Exclusion]]:
    """The shards of every split; only train is balanced."""
    record_bytes = _RECORD_OVERHEAD + sum(item.length for item in cached.scans) / len(cached.plain_scans)
    plans: dict[str, list[ShardPlan]] = {}
    undersampled: list[Exclusion] = []
    for split, members in splits.members.items():
        split_balance = config.balance if split == "train" else "none"
        plans[split], exclusions = plan_shards(
            split, members, split_balance, record_bytes, config.shard_mb * 1e6, config.seed
        )
        undersampled += exclusions
    return plans, undersampled


def _write_tables(job: _Job, cached: CachedSource, planned: _Planned, searches: Searches) -> _Tables:
    """Write images.csv and duplicates.json to the work folder."""
    distances = searches.distances(cached.scans) if job.config.near_duplicates else None
    duplicates = duplicates_file.collect(cached.plain_scans, planned.near, distances).to_json()
    atomic_write(job.work / DUPLICATES_NAME, duplicates)
    exclusions = [*job.published.exclusions, *cached.unreadable, *planned.splits.excluded, *planned.undersampled]
    rows = image_rows(cached.scans, planned.splits.group_of, planned.plans, exclusions)
    counter = _RowCounter()
    images = images_csv.encode_sorted(map(counter.count, rows))
    atomic_write(job.work / IMAGES_NAME, images)
    workdir.keep_newest_source_ns(job.work, job.source.newest_ns)
    return _Tables(hashlib.sha256(images).hexdigest(), duplicates, counter.result(), counter.paths)


def _manifest(
    job: _Job,
    planned: _Planned,
    shards: Mapping[str, tuple[Shard, ...]],
    tables: _Tables,
    stated: tuple[str, ...],
) -> Manifest:
    excluded = sum(tables.counts.excluded.values())
    return Manifest(
        class_names=planned.class_names,
        config=job.config,
        splits=shards,
        leaks=planned.splits.leaks,
        source={
            "listing": job.published.listing_sha256,
            "found": job.source.file_count,
            "kept": job.source.file_count - excluded,
            "excluded": excluded,
            **({"layouts": list(job.source.layouts)} if _is_unusual(job) else {}),
            **({"features": list(stated)} if stated else {}),
            **({"pseudonym_key": job.pseudonyms.fingerprint} if job.pseudonyms else {}),
        },
        images_sha256=tables.images_sha256,
        duplicates_sha256=hashlib.sha256(tables.duplicates).hexdigest(),
        libraries={"octprep": version("octprep"), **preprocessing.library_versions(job.config.recipe)},
    )


def _is_unusual(job: _Job) -> bool:
    """Whether the paths are not those that Kermany et al. gave their scans."""
    return isinstance(job.src, SourceFolders) or job.source.layouts != (KermanyLayout().title,)


def _stated(job: _Job) -> tuple[str, ...]:
    """The features that the source states of a scan at least, so that all records have them."""
    return tuple(name for name in STATED if any(getattr(file, name) for file in job.source.scan_files))


def _write_report(job: _Job, written: _Written) -> None:
    """Write the report to the work folder."""
    job.progress("writing the report", 0, 1)
    source = report.SourceImages(job.src, written.names)
    shards = job.work / "shards"
    images = (job.work / IMAGES_NAME).read_bytes()
    page = report.render(
        shards, written.manifest, images, written.duplicates, source, written.places.record, is_checked=True
    )
    atomic_write(job.work / REPORT_NAME, page)
    job.progress("writing the report", 1, 1)


def _names_in_source(job: _Job) -> dict[str, str]:
    """Path as it is published -> path in the source, of every scan; empty without pseudonyms."""
    if not job.pseudonyms:
        return {}
    return {new: path for path, new in job.pseudonyms.new_paths(job.source).items()}


def _notice_rebuild(out: Location, existing: ExistingBuild | ExistingUpload, changed: Sequence[str]) -> None:
    """Say why a finished folder is built again, in whole or in part."""
    if changed:
        count = number(len(changed), "source file")
        text = f"{count} changed since {out} was built: {listed(changed, _MAX_NAMES)}. It is built again."
    else:
        text = f"{out} was damaged: {listed(list(map(str, existing.damage)), _MAX_NAMES)}; that is built again."
    warnings.warn(text, Notice, stacklevel=5)


def _notice_other_shards(out: Path, manifest: Manifest) -> None:
    """Say which shards in a finished folder are not of its dataset: they may be a user's, so they are not removed."""
    if others := unlisted_shards(out, manifest):
        text = (
            f"{out} holds {number(len(others), 'shard')} that its manifest does not have, such as "
            f"{path_to_text(others[0])}. `octprep verify` reports that; remove what is not of this dataset."
        )
        warnings.warn(text, Notice, stacklevel=5)


def _notice_other_dataset(out: Location, before: Manifest, now: Manifest) -> None:
    """Say that a folder holds another dataset than before, and which libraries differ."""
    if before.digest_ok and before.digest != now.digest:
        digests = f"digest {before.digest[:16]} then, {now.digest[:16]} now"
        text = f"{out} holds another dataset than before: {digests}"
        differences = version_differences(before, now.libraries)
        warnings.warn(f"{'; '.join([text, *differences])}.", Notice, stacklevel=4)
