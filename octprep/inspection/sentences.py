"""Findings as sentences, for the terminal and the page."""

from __future__ import annotations

from collections import defaultdict

from octprep.duplicates.exact import DuplicatePair
from octprep.format.flags import MEANINGS
from octprep.inspection.findings import DuplicateSet, MergedIds, PatientLeak
from octprep.inspection.inspection import Inspection
from octprep.inspection.shared_ids import bare_id
from octprep.inspection.shortcuts import ALL, FEATURES, MARGIN, SOURCE, FeatureAccuracy, Shortcuts
from octprep.inspection.similarity import THRESHOLD, Similarity
from octprep.source.layouts import NO_CLASS
from octprep.splits import deviations
from octprep.wording import listed, number

_MAX_FLAGGED = 3  # scans with a flag that are named


def published_sentence(inspection: Inspection) -> str:
    """Which published data set this is."""
    if inspection.published:
        return f"By its counts this is {inspection.published}"
    return "The counts match no published version that is known"


def layout_lines(inspection: Inspection) -> list[str]:
    """How the paths were read: the layout, what is in each folder, and three examples."""
    lines = [f"paths read as {title}" for title in inspection.layouts]
    for folder, counts in inspection.images.items():
        indent = "  "
        if inspection.has_splits:
            lines.append(f"  {folder or '(no split folder)'}")
            indent = "    "
        for label, count in counts.items():
            if count:
                patients = number(inspection.patients[folder][label], "patient")
                lines.append(f"{indent}{label}: {number(count, 'scan')} of {patients}")
    step = max(len(inspection.scans) // 3, 1)
    for scan in inspection.scans[::step][:3]:
        says = [f"class {scan.label}" if scan.label != NO_CLASS else "no class"]
        says.append("no patient id" if scan.patient == scan.path else f"patient {scan.patient}")
        says += [f"image {scan.image_number}"] if scan.image_number else []
        says += [f"eye {scan.eye}"] if scan.eye else []
        says += [f"volume {scan.volume}"] if scan.volume else []
        lines.append(f"  such as {scan.path}: {', '.join(says)}")
    if inspection.without_patient:
        lines.append(
            f"{number(inspection.without_patient, 'scan')} without a patient id: each counts as a patient of its own "
            "here, and octprep build asks for --patients unknown, or for a table or a pattern that has the ids"
        )
    if any(scan.label == NO_CLASS for scan in inspection.scans):
        lines.append(
            "octprep build needs the class of each image: give it --table FILE.csv, or --pattern such as "
            "'{class}/{patient}_{number}.{ext}'"
        )
    return lines


def overlap_sentences(inspection: Inspection) -> list[str]:
    """How many scans of each folder are of patients of the others."""
    return [
        f"of {number(overlap.scans, 'scan')} in {overlap.folder or 'no folder'}, {overlap.shared_scans:,} "
        f"({_percent(overlap.shared_scans / overlap.scans)}) {'is' if overlap.shared_scans == 1 else 'are'} of "
        "patients who have scans in another folder too"
        for overlap in inspection.findings.overlaps
        if overlap.shared_scans
    ]


def shared_ids_sentence(inspection: Inspection) -> str:
    """Whether patient ids under several classes are of one person; "" if there is none, or no pixels were read."""
    shared = inspection.pixels.shared_ids if inspection.pixels else None
    if shared is None or not shared.ids:
        return ""
    ids = f"{number(shared.ids, 'patient id')} {'is' if shared.ids == 1 else 'are'} under several classes."
    if not shared.comparisons:
        return f"{ids} There are too few other ids to tell whether they are of one person."
    held = any(bare_id(scan) != scan.patient for scan in inspection.scans)
    return (
        f"{ids} In {shared.nearer:.0%} of {number(shared.comparisons, 'comparison')} the scans of one id under two "
        "classes are nearer to each other than to those of another id (50 % if each class has ids of its own), and "
        f"{number(shared.same_content, 'id')} {'has' if shared.same_content == 1 else 'have'} the same content under "
        f"two. They count as {'one patient in each class' if held else 'one patient each'}; --patients "
        f"{'across-classes' if held else 'per-class'} changes that."
    )


def few_patients_sentences(inspection: Inspection) -> list[str]:
    """Which folders have too few patients of a class to say much; merged ids count as one patient."""
    groups: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for scan in inspection.scans:
        name = scan.source_split or ("the source" if not inspection.has_splits else "no folder")
        groups[name][scan.label].add(inspection.group_of[scan.path])
    return deviations.describe_few_patients(
        {name: {label: len(keys) for label, keys in of_folder.items()} for name, of_folder in groups.items()}
    )


def format_leak(leak: PatientLeak) -> str:
    """Such as `53018: test 1, train 2 (CNV and DRUSEN)`."""
    folders = ", ".join(f"{folder or 'no folder'} {scans:,}" for folder, scans in leak.scans.items())
    return f"{leak.patient}: {folders} ({listed(leak.labels)})"


def format_duplicates(duplicates: DuplicateSet) -> str:
    """Such as `train/CNV/CNV-1-1.jpeg = test/CNV/CNV-1-1.jpeg: same bytes`."""
    return f"{' = '.join(scan.path for scan in duplicates.scans)}: {duplicates.reason}"


def format_pair(pair: DuplicatePair) -> str:
    """Such as `a.jpeg = b.jpeg: near-identical, correlation 0.93`."""
    text = f"{pair.first} = {pair.second}: {pair.reason}"
    return text if pair.correlation == 1 else f"{text}, correlation {pair.correlation:.2f}"


def format_merged_ids(merged: MergedIds) -> str:
    """Such as `12 and 34 (5 scans): a.jpeg = b.jpeg: same bytes`."""
    return f"{listed(merged.patients)} ({number(merged.scans, 'scan')}): {'; '.join(map(format_pair, merged.pairs))}"


def threshold_sentences(similarity: Similarity) -> list[str]:
    """What the threshold is, and which correlations it separates."""
    sentences = [
        "There are two measures. The distance of descriptors, which are 256 numbers of a scan's coarse structure, "
        "selects the pairs that are compared on pixels; it merges no ids. The threshold is on the correlation of fine "
        f"detail, speckle included, once one scan is registered to the other: from {THRESHOLD:.2f} on, two scans under "
        "different ids are near-duplicates, and their ids count as one patient."
    ]
    if similarity.between:
        sentences.append(
            f"{number(len(similarity.between), 'pair')} of scans of two patients, drawn at random among "
            f"{similarity.group_count:,}, correlate at {max(similarity.between):.2f} at most."
        )
    if similarity.within:
        of_all = ""
        if len(similarity.within) < similarity.within_total:
            of_all = f", {len(similarity.within):,} drawn of {similarity.within_total:,} pairs,"
        sentences.append(
            f"Consecutive scans of one patient{of_all} correlate at "
            f"{similarity.within[len(similarity.within) // 2]:.2f} in the median and at {max(similarity.within):.2f} "
            "at most."
        )
    if similarity.duplicates:
        lowest = similarity.duplicates[-1].correlation
        sentences.append(f"The least similar pair of near-duplicates correlates at {lowest:.2f}.")
    else:
        sentences.append("No pair of near-duplicates was found.")
    if similarity.below_threshold:
        highest = similarity.below_threshold[0].correlation
        sentences.append(f"The most similar pair of two patients below the threshold correlates at {highest:.2f}.")
    else:
        sentences.append("No other pair was near enough by its descriptors to be compared.")
    return sentences


def sample_sentence(similarity: Similarity) -> str:
    """How many pairs within and between patients were compared on pixels, of how many."""
    return (
        f"Drawn were {len(similarity.within):,} of {number(similarity.within_total, 'pair')} within patients, and "
        f"{number(len(similarity.between), 'pair')} between {number(similarity.group_count, 'patient')}, no patient in "
        "more than two."
    )


def feature_sentence(accuracy: FeatureAccuracy, chance: float) -> str:
    """How well one feature, or all, predict the class."""
    plural = accuracy.feature == ALL or any(feature.plural for feature in FEATURES if feature.name == accuracy.feature)
    subject = "All these numbers together" if accuracy.feature == ALL else f"{accuracy.feature.capitalize()} alone"
    return (
        f"{subject} {'predict' if plural else 'predicts'} the class with a balanced accuracy of "
        f"{_percent(accuracy.balanced_accuracy)}, where {_percent(chance)} would be chance (95 % interval "
        f"{100 * accuracy.low:.0f} to {100 * accuracy.high:.0f} %): a network may learn {'them' if plural else 'it'} "
        "instead of the retina."
    )


def shortcut_sentences(test: Shortcuts) -> list[str]:
    """What the shortcut test means: a sentence or two for each shortcut, and one to close."""
    if test.not_run:
        return [f"The shortcut test did not run: {test.not_run}."]
    meanings = {feature.name: feature.meaning for feature in (*FEATURES, SOURCE)}
    shortcuts = [accuracy for accuracy in test.accuracies if accuracy.is_shortcut(test.chance)]
    if not shortcuts:
        highest = max(accuracy.high for accuracy in test.accuracies)
        return [
            f"None of these numbers is, with certainty, {100 * MARGIN:.0f} points better than chance. That does not "
            f"rule them out, as intervals reach up to {_percent(highest)}, and other shortcuts were not tested."
        ]
    sentences = [
        f"{feature_sentence(accuracy, test.chance)} {meanings.get(accuracy.feature, '')}".rstrip()
        for accuracy in shortcuts
    ]
    return [
        *sentences,
        "Part of this may be the disease itself, which changes brightness and texture; the rest is how the scans were "
        "acquired and saved, and will not hold elsewhere. The test cannot separate the two, so evaluate a network on "
        "scans of another device or hospital before trusting it.",
    ]


def flag_lines(inspection: Inspection) -> list[str]:
    """For each flag how many scans have it, what it means, and some of them."""
    return [
        f"{flag} {len(paths):,} ({MEANINGS[flag]}): {listed(paths, _MAX_FLAGGED)}"
        for flag, paths in inspection.flags.items()
    ]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.005 or not fraction else "under 1 %"
