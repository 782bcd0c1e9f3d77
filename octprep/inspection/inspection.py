"""The result of an inspection, and its JSON."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from octprep.duplicates.exact import DuplicatePair
from octprep.format.flags import Flags
from octprep.inspection.features import ScanFeatures
from octprep.inspection.findings import DuplicateSet, Findings
from octprep.inspection.shared_ids import SharedIds
from octprep.inspection.shortcuts import Shortcuts
from octprep.inspection.similarity import THRESHOLD, Similarity
from octprep.source.files import Exclusion, Scan, count_by_split_and_class, portable_fields, reason_kind
from octprep.source.published import PublishedDataset


@dataclass(frozen=True)
class PixelFindings:
    """What only the pixels show."""

    features: tuple[ScanFeatures, ...]  # of each scan, sorted by path
    similarity: Similarity
    shortcuts: Shortcuts
    shared_ids: SharedIds
    typical_values: Mapping[str, tuple[str, ...]]  # of each feature, for each class of `shortcuts.labels`


@dataclass(frozen=True)
class Inspection:
    """A folder of B-scans as it is."""

    root: str  # the folder that holds the split or class folders, relative to the source
    layouts: tuple[str, ...]  # how the paths of each source were read
    file_count: int
    published: PublishedDataset | None  # the published data set with these counts of files, or nearly
    scans: tuple[Scan, ...]  # that can be read, and in a full inspection preprocessed; sorted by path
    exclusions: tuple[Exclusion, ...]  # every other file; sorted by path
    group_of: Mapping[str, str]  # path of each scan -> key of its patient group
    flags_of: Mapping[str, Flags]  # path of each scan -> what is unusual about it, as in images.csv
    findings: Findings
    pixels: PixelFindings | None  # None in a quick inspection

    @property
    def images(self) -> dict[str, dict[str, int]]:
        """Scans per folder and class."""
        return count_by_split_and_class(self.scans)

    @property
    def patients(self) -> dict[str, dict[str, int]]:
        """Patient ids per folder and class."""
        ids: dict[tuple[str, str], set[str]] = defaultdict(set)
        for scan in self.scans:
            ids[scan.source_split, scan.label].add(scan.patient)
        return {folder: {label: len(ids[folder, label]) for label in row} for folder, row in self.images.items()}

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(sorted({scan.label for scan in self.scans}))

    @property
    def patient_count(self) -> int:
        """How many patient ids there are."""
        return len({scan.patient for scan in self.scans})

    @property
    def without_patient(self) -> int:
        """How many scans have no patient id; each counts as a patient of its own."""
        return sum(scan.patient == scan.path for scan in self.scans)

    @property
    def has_splits(self) -> bool:
        """Whether there are split folders that patients could leak between."""
        return len(self.images) > 1

    @property
    def sizes(self) -> dict[str, int]:
        """Scans per source size, as width x height in pixels, most frequent first."""
        return dict(Counter(f"{scan.width}x{scan.height}" for scan in self.scans).most_common())

    @property
    def exclusion_reasons(self) -> dict[str, int]:
        """Files per kind of reason for excluding them, most frequent first."""
        return dict(Counter(reason_kind(exclusion.reason) for exclusion in self.exclusions).most_common())

    @property
    def flags(self) -> dict[str, list[str]]:
        """The paths of the scans with each flag, most frequent first."""
        paths: dict[str, list[str]] = defaultdict(list)
        for scan in self.scans:
            for flag in self.flags_of[scan.path]:
                paths[flag].append(scan.path)
        return dict(sorted(paths.items(), key=lambda found: (-len(found[1]), found[0])))

    def to_json(self) -> bytes:
        """All results as JSON, for other programs. What needs pixels is null in a quick inspection."""
        findings, pixels = self.findings, self.pixels
        whole: Mapping[str, object] = {
            "quick": pixels is None,
            "root": self.root,
            "layouts": self.layouts,
            "scans_without_patient_id": self.without_patient,
            "files": self.file_count,
            "published_version": self.published.name if self.published else None,
            "published_version_differences": self.published.differences if self.published else (),
            "images": self.images,
            "patients": self.patients,
            "sizes": self.sizes,
            "patients_in_several_splits": [dataclasses.asdict(leak) for leak in findings.patient_leaks],
            "contents_in_several_splits": _sets(findings.content_leaks),
            "near_duplicates_in_several_splits": _pairs(findings.near_duplicate_leaks) if pixels else None,
            "scans_whose_patient_is_in_another_split": [dataclasses.asdict(overlap) for overlap in findings.overlaps],
            "merged_patient_ids": [dataclasses.asdict(merged) for merged in findings.merged_ids],
            "equal_contents": _sets(findings.duplicates),
            "contents_in_several_classes": _sets(findings.label_conflicts),
            "near_duplicates_in_several_classes": _pairs(findings.near_duplicate_conflicts) if pixels else None,
            "patients_in_several_classes": findings.patients_in_several_classes,
            "patient_ids_across_classes": dataclasses.asdict(pixels.shared_ids) if pixels else None,
            "similarity": _similarity(pixels.similarity) if pixels else None,
            "shortcut_features": dataclasses.asdict(pixels.shortcuts) if pixels else None,
            "typical_values": pixels.typical_values if pixels else None,
            "flags": {flag: len(paths) for flag, paths in self.flags.items()},
            "exclusion_reasons": self.exclusion_reasons,
            "exclusions": [dataclasses.asdict(exclusion) for exclusion in self.exclusions],
            "scans": [
                portable_fields(scan) | {"patient_group": self.group_of[scan.path]} | measured
                for scan, measured in zip(self.scans, self._measured(), strict=True)
            ],
        }
        return (json.dumps(whole, indent=1) + "\n").encode()

    def _measured(self) -> list[dict[str, object]]:
        """What was measured on the pixels of each scan, by name."""
        if self.pixels is None:
            return [{} for _ in self.scans]
        return [item.measured() for item in self.pixels.features]


def _sets(sets: Iterable[DuplicateSet]) -> list[dict[str, object]]:
    return [
        {"reason": same.reason, "paths": [scan.path for scan in same.scans], "classes": same.labels} for same in sets
    ]


def _pairs(pairs: Iterable[DuplicatePair]) -> list[dict[str, object]]:
    return [dataclasses.asdict(pair) for pair in pairs]


def _similarity(similarity: Similarity) -> dict[str, object]:
    return {
        "threshold": THRESHOLD,
        "near_duplicates": _pairs(similarity.duplicates),
        "below_threshold": _pairs(similarity.below_threshold),
        "correlations_within_patients": similarity.within,
        "correlations_between_patients": similarity.between,
        "pairs_within_patients": similarity.within_total,
        "descriptor_distances": dataclasses.asdict(similarity.distances),
    }
