"""Inspection of a folder of B-scans as it is: what it holds and what is wrong with it, as `octprep inspect` reports it.

`inspect` reads every scan once and returns an `Inspection`. Without pixels it finds (`findings`) patients and files in
more than one split, contradictory labels and files that cannot be used; with pixels also near-duplicates, how similar
scans are (`similarity`), and numbers that give the class away (`shortcuts`). `checks` and `text` put it in sentences,
`page` makes a web page of it. Nothing is written under the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from octprep import preprocessing
from octprep.cluster import WAIT, WorkerNeeds
from octprep.duplicates.exact import DuplicatePair
from octprep.format.config import Patients
from octprep.format.errors import SettingError, SourceError
from octprep.format.flags import Flags
from octprep.inspection import features, shortcuts, similarity
from octprep.inspection.findings import collect_findings
from octprep.inspection.inspection import Inspection, PixelFindings
from octprep.inspection.shared_ids import measure_shared_ids
from octprep.source.files import Exclusion, Scan, SourceListing
from octprep.source.layouts import KermanyLayout
from octprep.source.listing import list_sources, shared_paths
from octprep.source.options import Rules, SourceSpec, quick_inspection, source_of, source_specs
from octprep.source.published import recognise
from octprep.splits.patients import PatientGroup, group_keys, group_patients
from octprep.storage.remote import Location, Source
from octprep.workers import Pool, Progress, no_progress, open_pool

__all__ = ["Inspection", "PixelFindings", "inspect"]


def inspect(
    src: Location | SourceSpec | Sequence[SourceSpec] | str,
    *,
    patients: Patients = "auto",
    classes: str = "",
    quick: bool = False,
    follow_links: bool = False,
    keep_out: Sequence[Path] = (),
    workers: int | None = None,
    cluster: Path | str | None = None,
    cluster_wait: float = WAIT,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Inspection:
    """Inspect a folder of B-scans, or a URL, as it is; nothing is written.

    src: as for `octprep.build`. patients, classes: as the settings of a build, but an image without a patient id counts
    as a patient of its own. quick: only decode the scans, which finds damaged files, and compare names and bytes.
    Otherwise every scan is also preprocessed with the default settings, compared with the others on its
    pixels, and measured.
    follow_links, keep_out: as for `list_source`. workers: processes; None means one for each core, 0 none. cluster,
    cluster_wait: as for `octprep.build`. The result does not depend on them, but a file that makes the image decoder
    crash is only excluded in a process of its own. seed: draws the pairs of scans whose similarity is measured, and the
    folds of the shortcut test.

    Raises SourceError if there is nothing to read, or, unless quick, no scan that can be read; StoppedError if a file
    that is listed cannot be read, or the cluster is lost; SettingError for a negative seed, for workers below 0, for a
    class in `classes` that no source has, or for a cluster that cannot be used.
    """
    if seed < 0:
        raise SettingError(f"seed must be 0 or more; got {seed}")
    specs = source_specs(src)
    if cluster is not None:
        specs = [spec.absolute() for spec in specs]
    rules = Rules("unknown" if patients == "auto" else patients, classes, any_layout=True)
    listing = list_sources(specs, rules=rules, follow_links=follow_links, keep_out=keep_out)
    place = source_of(specs)
    folders, first = shared_paths(place, listing)
    needs = WorkerNeeds(partial(preprocessing.library_versions, features.RECIPE), folders, first)
    with open_pool(workers, cluster, cluster_wait, needs) as pool:
        if quick:
            return _inspect_quickly(place, listing, pool, progress)
        again = quick_inspection(specs, patients=patients, classes=classes, follow_links=follow_links)
        return _inspect(place, listing, pool, seed, progress, again)


def _inspect_quickly(src: Source, listing: SourceListing, pool: Pool, progress: Progress) -> Inspection:
    decoded, exclusions = features.decode_scans(src, listing, pool, progress)
    scans = tuple(item.scan for item in decoded)
    flags = {item.scan.path: item.flags for item in decoded}
    return _inspection(listing, scans, exclusions, group_patients(scans), flags)


def _inspect(
    src: Source, listing: SourceListing, pool: Pool, seed: int, progress: Progress, quick_command: str
) -> Inspection:
    scan_features, exclusions = features.measure_scans(src, listing, pool, progress)
    if not scan_features:
        raise SourceError(f"--src {src} has no readable scan; `{quick_command}` says why.")
    scans = tuple(item.scan for item in scan_features)
    progress("comparing scans", 0, len(scans))
    compared = similarity.compare_candidates(src, scan_features, pool)
    progress("comparing scans", len(scans), len(scans))
    near_duplicates = [pair for pair in compared if pair.correlation >= similarity.THRESHOLD]
    groups = group_patients(scans, near_duplicates)
    group_of = group_keys(groups)
    scan_groups = [group_of[scan.path] for scan in scans]
    shortcut_test = shortcuts.measure_shortcuts(scan_features, scan_groups, seed=seed, progress=progress)
    pixels = PixelFindings(
        features=scan_features,
        similarity=similarity.measure_similarity(
            src, scan_features, groups, compared, seed=seed, pool=pool, progress=progress
        ),
        shortcuts=shortcut_test,
        shared_ids=measure_shared_ids(scan_features, seed),
        typical_values=shortcuts.typical_values(scan_features, shortcut_test.labels),
    )
    flags = {item.scan.path: item.flags for item in scan_features}
    return _inspection(listing, scans, exclusions, groups, flags, near_duplicates, pixels)


def _inspection(
    listing: SourceListing,
    scans: tuple[Scan, ...],
    exclusions: tuple[Exclusion, ...],
    groups: Sequence[PatientGroup],
    flags: Mapping[str, Flags],
    near_duplicates: Sequence[DuplicatePair] = (),
    pixels: PixelFindings | None = None,
) -> Inspection:
    return Inspection(
        root=listing.root,
        layouts=listing.layouts,
        file_count=listing.file_count,
        published=recognise(listing.scan_files) if listing.layouts == (KermanyLayout().title,) else None,
        scans=scans,
        exclusions=exclusions,
        group_of=group_keys(groups),
        flags_of=flags,
        findings=collect_findings(scans, groups, near_duplicates),
        pixels=pixels,
    )
