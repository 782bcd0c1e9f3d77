"""What is in a source folder: everything that `octprep scan` says."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octprep import workers as worker_pool
from octprep.format.manifest import Leaks
from octprep.source import files as source_files
from octprep.source.files import Exclusion, PublishedDataset, Scan, kind
from octprep.splits.leaks import find_leaks
from octprep.workers import Progress, no_progress

_BATCH = 64  # scans per task


@dataclass(frozen=True)
class Survey:
    """A source folder, read and decoded."""

    root: str  # where the split or class folders are, relative to the source
    files: int
    scans: tuple[Scan, ...]  # that could be read; sorted by path
    rejections: tuple[Exclusion, ...]
    version: PublishedDataset | None  # the published data set with these counts, or nearly
    leaks: Leaks  # between the source's own folders

    @property
    def images(self) -> dict[str, dict[str, int]]:
        """Scans per folder and class."""
        return source_files.count(self.scans)

    @property
    def patients(self) -> dict[str, dict[str, int]]:
        """Patients per folder and class."""
        people: dict[tuple[str, str], set[str]] = defaultdict(set)
        for found in self.scans:
            people[found.folder, found.label].add(found.patient)
        return {folder: {label: len(people[folder, label]) for label in row} for folder, row in self.images.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Scans per source size, as width x height, most frequent first."""
        return dict(Counter(f"{found.width}x{found.height}" for found in self.scans).most_common())

    @property
    def two_classes(self) -> dict[str, tuple[str, ...]]:
        """The classes of every patient id that occurs in more than one."""
        labels: dict[str, set[str]] = defaultdict(set)
        for found in self.scans:
            labels[found.patient].add(found.label)
        return {patient: tuple(sorted(found)) for patient, found in sorted(labels.items()) if len(found) > 1}

    @property
    def equal_contents(self) -> list[tuple[str, ...]]:
        """The paths of scans with the same bytes."""
        paths: dict[str, list[str]] = defaultdict(list)
        for found in self.scans:
            paths[found.sha256].append(found.path)
        return sorted(tuple(same) for same in paths.values() if len(same) > 1)

    @property
    def reasons(self) -> dict[str, int]:
        """Rejections per kind of reason, most frequent first."""
        return dict(Counter(kind(rejection.reason) for rejection in self.rejections).most_common())

    def to_json(self) -> str:
        """Everything, for other programs."""
        whole: Mapping[str, object] = {
            "root": self.root,
            "files": self.files,
            "version": self.version.name if self.version else None,
            "version_differences": self.version.differences if self.version else (),
            "images": self.images,
            "patients": self.patients,
            "sizes": self.sizes,
            "patients_on_two_sides": self.leaks.patients,
            "contents_on_two_sides": self.leaks.contents,
            "patients_in_two_classes": self.two_classes,
            "equal_contents": self.equal_contents,
            "reasons": self.reasons,
            "rejections": [dataclasses.asdict(rejection) for rejection in self.rejections],
            "scans": [source_files.facts(found) for found in self.scans],
        }
        return json.dumps(whole, indent=1) + "\n"


def survey(
    src: Path,
    *,
    follow_links: bool = False,
    keep_out: Sequence[Path] = (),
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Survey:
    """Read and decode everything under a source folder; for follow_links and keep_out see `scan.find`.

    Raises SourceError if it is no such folder, StoppedError if a file that is listed cannot be read.
    """
    source = source_files.find(src, follow_links=follow_links, keep_out=keep_out)
    tasks = [(src, source.named[start : start + _BATCH]) for start in range(0, len(source.named), _BATCH)]
    scans: list[Scan] = []
    rejections = list(source.rejections)
    progress("reading scans", 0, len(source.named))
    for results in worker_pool.run_tasks(source_files.inspect, tasks, workers):
        scans += [result for result in results if isinstance(result, Scan)]
        rejections += [result for result in results if isinstance(result, Exclusion)]
        progress("reading scans", len(results), len(source.named))
    scans.sort()
    sides = [[found for found in scans if found.folder == folder] for folder in source_files.count(scans)]
    return Survey(
        root=source.root,
        files=source.files,
        scans=tuple(scans),
        rejections=tuple(sorted(rejections)),
        version=source_files.published_version(scans),
        leaks=find_leaks(sides),
    )
