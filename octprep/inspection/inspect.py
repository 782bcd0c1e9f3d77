"""audit(): the table of contents of an audit."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octprep.format.errors import SettingError, SourceError
from octprep.inspection import features, findings, shortcuts, similarity
from octprep.inspection.features import ScanFeatures
from octprep.inspection.findings import Copies, Findings
from octprep.inspection.shortcuts import Shortcuts
from octprep.inspection.similarity import Similarity
from octprep.source import files as source_files
from octprep.source.files import Exclusion, PublishedDataset, kind
from octprep.splits.patients import group_patients
from octprep.workers import Progress, no_progress


@dataclass(frozen=True)
class Audit:
    """Everything found in a folder of B-scans as it is."""

    root: str  # where the split or class folders are, relative to the source
    files: int
    read: tuple[ScanFeatures, ...]  # scans that can be prepared; sorted by path
    rejections: tuple[Exclusion, ...]
    version: PublishedDataset | None  # the published data set with these counts of files, or nearly
    persons: Mapping[str, str]  # the group of each scan, by path
    findings: Findings
    closeness: Similarity
    shortcuts: Shortcuts
    usual: Mapping[str, tuple[str, ...]]  # what is usual of each feature in each class

    @property
    def images(self) -> dict[str, dict[str, int]]:
        """Scans per folder and class."""
        return source_files.count(item.scan for item in self.read)

    @property
    def patients(self) -> dict[str, dict[str, int]]:
        """Patient ids per folder and class."""
        people: dict[tuple[str, str], set[str]] = defaultdict(set)
        for item in self.read:
            people[item.scan.folder, item.scan.label].add(item.scan.patient)
        return {folder: {label: len(people[folder, label]) for label in row} for folder, row in self.images.items()}

    @property
    def ids(self) -> int:
        """How many patient ids there are."""
        return len({item.scan.patient for item in self.read})

    @property
    def has_folders(self) -> bool:
        """Whether there are split folders to leak between."""
        return len(self.images) > 1

    @property
    def reasons(self) -> dict[str, int]:
        """Unusable files per kind of reason, most frequent first."""
        return dict(Counter(kind(rejection.reason) for rejection in self.rejections).most_common())

    def to_json(self) -> bytes:
        """Everything, for other programs."""
        found, near = self.findings, self.closeness
        whole: Mapping[str, object] = {
            "root": self.root,
            "files": self.files,
            "version": self.version.name if self.version else None,
            "version_differences": self.version.differences if self.version else (),
            "images": self.images,
            "patients": self.patients,
            "patients_in_more_than_one_folder": [dataclasses.asdict(leak) for leak in found.leaks],
            "contents_in_more_than_one_folder": [_copies(copies) for copies in found.copies],
            "near_identical_in_more_than_one_folder": [dataclasses.asdict(join) for join in found.near],
            "scans_whose_patient_is_in_another_folder": [dataclasses.asdict(shared) for shared in found.shared],
            "groups_of_several_ids": [dataclasses.asdict(one) for one in found.groups],
            "contents_in_more_than_one_class": [_copies(copies) for copies in found.conflicts],
            "near_identical_in_more_than_one_class": [dataclasses.asdict(join) for join in found.near_conflicts],
            "patients_in_more_than_one_class": found.two_classes,
            "closeness": {
                "threshold": similarity.THRESHOLD,
                "joined": [dataclasses.asdict(join) for join in near.joined],
                "most_alike_not_joined": [dataclasses.asdict(join) for join in near.apart],
                "correlations_one_patient": near.same,
                "correlations_two_patients": near.different,
                "pairs_of_neighbours": near.same_of,
                "descriptor_distances": dataclasses.asdict(near.distances),
            },
            "shortcuts": dataclasses.asdict(self.shortcuts),
            "usual": self.usual,
            "reasons": self.reasons,
            "rejections": [dataclasses.asdict(rejection) for rejection in self.rejections],
            "scans": [_scan(item, self.persons[item.scan.path]) for item in self.read],
        }
        return (json.dumps(whole, indent=1) + "\n").encode()


def audit(
    src: Path,
    *,
    follow_links: bool = False,
    keep_out: Sequence[Path] = (),
    workers: int | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Audit:
    """Look at a source folder as it is; nothing is written. For follow_links and keep_out see `scan.find`.

    The result does not depend on workers. The seed draws the pairs that show how alike scans are, and the folds of the
    shortcut test. Raises SourceError if there is nothing to read, StoppedError if a file that is listed cannot be read,
    SettingError for a negative seed.
    """
    if seed < 0:
        raise SettingError(f"seed must be 0 or more; got {seed}")
    source = source_files.find(src, follow_links=follow_links, keep_out=keep_out)
    read, rejections = features.read_all(src, source, workers, progress)
    if not read:
        raise SourceError(f"--src {src} has no readable scan; `octprep scan --src {src}` says why.")
    scans = [item.scan for item in read]
    progress("comparing scans", 0, len(read))
    compared = similarity.compare(src, read, workers)
    progress("comparing scans", len(read), len(read))
    near = [join for join in compared if join.correlation >= similarity.THRESHOLD]
    groups = group_patients(scans, near)
    persons = {one.path: joined_ids.key for joined_ids in groups for one in joined_ids.scans}
    told = shortcuts.examine(read, [persons[one.path] for one in scans], seed=seed, progress=progress)
    return Audit(
        root=source.root,
        files=source.files,
        read=read,
        rejections=rejections,
        version=source_files.published_version(source.named),
        persons=persons,
        findings=findings.find(scans, groups, near),
        closeness=similarity.measure(src, read, groups, compared, seed=seed, workers=workers, progress=progress),
        shortcuts=told,
        usual=shortcuts.usual(read, told.labels),
    )


def _copies(copies: Copies) -> dict[str, object]:
    return {"reason": copies.reason, "paths": [one.path for one in copies.scans], "classes": copies.labels}


def _scan(item: ScanFeatures, group_key: str) -> dict[str, object]:
    numbers = ("border", "mean", "deviation", "stored_mean", "stored_deviation")
    return source_files.facts(item.scan) | {"group": group_key} | {name: getattr(item, name) for name in numbers}
