"""What `octprep inspect` prints: the headline, all findings with their reasons, and what they mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from octprep.console.layout import command_line, indented, printable, section, shown_path, table
from octprep.format.config import Patients
from octprep.inspection import Inspection
from octprep.inspection import sentences as sentences
from octprep.inspection.checks import headline, recommendation
from octprep.inspection.findings import Findings
from octprep.inspection.shortcuts import Shortcuts
from octprep.source.files import MACOS_METADATA
from octprep.source.layouts import NO_CLASS
from octprep.source.options import SourceSpec, source_arguments
from octprep.storage.remote import Source
from octprep.wording import first_lines, listed, number

_MAX_NAMES = 12  # patient ids that a line names


def inspection_summary(src: Source, inspection: Inspection) -> str:
    """What `octprep inspect` prints."""
    return _quick_summary(src, inspection) if inspection.pixels is None else _full_summary(src, inspection)


def build_command(
    specs: Sequence[SourceSpec], inspection: Inspection, *, patients: Patients, classes: str, follow_links: bool
) -> str:
    """The `octprep build` that reads the sources as the inspection did.

    FILE.csv stands for the table of a source whose classes are not known. Where no scan has a patient id, it takes
    each for a patient of its own, as the inspection did; without that it would be refused.
    """
    unlabelled = {scan.source for scan in inspection.scans if scan.label == NO_CLASS}
    specs = [dataclasses.replace(spec, table=Path("FILE.csv")) if spec.name in unlabelled else spec for spec in specs]
    if patients == "auto" and not unlabelled and 0 < len(inspection.scans) == inspection.without_patient:
        patients = "unknown"
    sources = source_arguments(specs, patients=patients, classes=classes, follow_links=follow_links)
    return command_line(["octprep", "build", *sources, "--out", "shards"])


def _quick_summary(src: Source, inspection: Inspection) -> str:
    paragraphs = [
        f"{number(inspection.file_count, 'file')} in {_source_folder(src, inspection.root)}: "
        f"{number(len(inspection.scans), 'scan')}, {len(inspection.exclusions):,} excluded",
        "\n".join(sentences.layout_lines(inspection)),
        _counts(inspection),
        f"published version: {inspection.published or 'the counts match none that is known'}",
        f"sizes (width x height): {listed([f'{size} {count:,}' for size, count in inspection.sizes.items()], 8)}",
        "excluded: "
        + (
            f"\n{indented(f'{count:>7,}  {reason}' for reason, count in inspection.exclusion_reasons.items())}"
            if inspection.exclusions
            else "none"
        ),
    ]
    details = [exclusion for exclusion in inspection.exclusions if exclusion.reason != MACOS_METADATA]
    if details:
        paragraphs.append("of these:\n" + indented(f"{exclusion.path}: {exclusion.reason}" for exclusion in details))
    leaks = [leak.patient for leak in inspection.findings.patient_leaks]
    paragraphs.append(
        f"patients in more than one folder of the split: {len(leaks):,}"
        + (f" ({listed(leaks)})" if leaks else "")
        + f"\ncontents in more than one folder of the split: {len(inspection.findings.content_leaks):,}"
    )
    several = inspection.findings.patients_in_several_classes
    paragraphs.append(f"patient ids in more than one class: {len(several):,}" + _classes_by_patient(several))
    same = [[scan.path for scan in duplicates.scans] for duplicates in inspection.findings.duplicates]
    paragraphs.append(
        f"scans with equal bytes: {sum(map(len, same)):,} in {len(same):,} sets"
        + (f"\n{indented(' = '.join(paths) for paths in same)}" if same else "")
    )
    return printable("\n\n".join(filter(None, [*paragraphs, _flags(inspection)])))


def _counts(inspection: Inspection) -> str:
    rows: list[list[object]] = [["scans (patients)", *inspection.labels, "all"]]
    for folder, counts in inspection.images.items():
        cells = (f"{counts[label]:,} ({inspection.patients[folder][label]:,})" for label in inspection.labels)
        rows.append([folder or "(no split folders)", *cells, sum(counts.values())])
    return table(rows)


def _full_summary(src: Source, inspection: Inspection) -> str:
    """The headline, all findings with their reasons, and what they mean."""
    assert inspection.pixels is not None
    shortcut_test = inspection.pixels.shortcuts
    reasons = [f"{count:,}  {reason}" for reason, count in inspection.exclusion_reasons.items()]
    paragraphs = [
        headline(inspection),
        f"{number(inspection.file_count, 'file')} in {_source_folder(src, inspection.root)}: "
        f"{number(len(inspection.scans), 'scan')} of {number(inspection.patient_count, 'patient id')}, "
        f"{len(inspection.exclusions):,} excluded\n{sentences.published_sentence(inspection)}",
        "\n".join(sentences.layout_lines(inspection)),
        _counts(inspection),
        "\n".join(sentences.few_patients_sentences(inspection)),
        section("excluded files", reasons, len(inspection.exclusions)),
        _flags(inspection),
        *(_leak_sections(inspection) if inspection.has_splits else []),
        *_label_sections(inspection.findings),
        sentences.shared_ids_sentence(inspection),
        _accuracy_table(shortcut_test),
        "\n".join(sentences.shortcut_sentences(shortcut_test)),
        recommendation(inspection),
    ]
    return printable("\n\n".join(filter(None, paragraphs)))


def _flags(inspection: Inspection) -> str:
    """How many scans have which flag; "" without one."""
    lines = sentences.flag_lines(inspection)
    flagged = {path for paths in inspection.flags.values() for path in paths}
    return section("scans with a flag", lines, len(flagged)) if lines else ""


def _leak_sections(inspection: Inspection) -> list[str]:
    """What is in more than one split folder."""
    findings = inspection.findings
    patients = [sentences.format_leak(leak) for leak in findings.patient_leaks]
    contents = [sentences.format_duplicates(same) for same in findings.content_leaks]
    pairs = [sentences.format_pair(pair) for pair in findings.near_duplicate_leaks]
    has_overlaps = bool(findings.patient_leaks or findings.merged_ids)
    return [
        section("patients in more than one folder", patients),
        section("contents in more than one folder", contents),
        section("near-identical pairs in more than one folder", pairs),
        "\n".join(sentences.overlap_sentences(inspection)) if has_overlaps else "",
    ]


def _label_sections(findings: Findings) -> list[str]:
    """Merged patient ids, and what is under more than one class."""
    several = findings.patients_in_several_classes
    merged_ids = [sentences.format_merged_ids(merged) for merged in findings.merged_ids]
    contents = [sentences.format_duplicates(same) for same in findings.label_conflicts]
    pairs = [sentences.format_pair(pair) for pair in findings.near_duplicate_conflicts]
    return [
        section("merged patient ids", merged_ids),
        section("contents under more than one class", contents),
        section("near-identical pairs under two classes", pairs),
        f"patient ids in more than one class: {len(several):,}{_classes_by_patient(several)}",
    ]


def _accuracy_table(test: Shortcuts) -> str:
    """How well each feature predicts the class; "" if the test did not run."""
    if not test.accuracies:
        return ""
    rows: list[list[object]] = [["shortcut features", "balanced accuracy", "95 % interval", "chance"]]
    for accuracy in test.accuracies:
        interval = f"{accuracy.low:.0%} to {accuracy.high:.0%}"
        rows.append([accuracy.feature, f"{accuracy.balanced_accuracy:.0%}", interval, f"{test.chance:.0%}"])
    return f"class predicted from one number of a scan, on held-out patients:\n{table(rows)}"


def _classes_by_patient(classes: Mapping[str, Sequence[str]]) -> str:
    """The classes of each patient id, in parentheses; "" without an id."""
    if not classes:
        return ""
    shown = first_lines([f"{patient}: {listed(labels)}" for patient, labels in classes.items()], _MAX_NAMES)
    return f" ({'; '.join(shown)})"


def _source_folder(src: Source, root: str) -> str:
    """A folder in the source; root is text already."""
    return f"{shown_path(src)}/{root}" if root else shown_path(src)
