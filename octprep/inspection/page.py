"""A full inspection as one self-contained page, in the style of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from octprep.duplicates.exact import DuplicatePair
from octprep.html import charts, page, pictures
from octprep.html.charts import Interval, Row
from octprep.html.pictures import Picture, SourceImages
from octprep.inspection import sentences
from octprep.inspection.checks import checks, headline, is_clean, recommendation
from octprep.inspection.inspection import Inspection, PixelFindings
from octprep.inspection.similarity import MAX_DISTANCE, THRESHOLD, Similarity
from octprep.report import duplicates
from octprep.source.files import MACOS_METADATA, Scan
from octprep.storage.remote import Source
from octprep.wording import listed, number

_MAX_CARDS = 24  # in a gallery
_MAX_BELOW_THRESHOLD = 4  # cards of pairs below the threshold
_MAX_LINES = 40  # of a list
_BINS = 25  # of correlations from -0.25 to 1, with an edge at the threshold
_MAX_PICTURE_WIDTH = 280  # pixels


@dataclass(frozen=True)
class CardScan:
    """One scan on a card."""

    path: str
    about: str  # class, patient and folder
    picture: Picture


@dataclass(frozen=True)
class Card:
    """Scans next to each other, for comparison by eye."""

    caption: str
    tag: str  # what is wrong with them; "" if nothing
    scans: tuple[CardScan, ...]


@dataclass(frozen=True)
class Lines:
    """The first lines of a list, and how many follow."""

    shown: tuple[str, ...]
    more: int


def render(src: Source, inspection: Inspection) -> bytes:
    """The page in UTF-8, without the time or a path of this machine. src is only read, for the pictures.

    Raises ValueError for a quick inspection, which has nothing to picture.
    """
    pixels, findings = inspection.pixels, inspection.findings
    if pixels is None:
        raise ValueError("a page needs a full inspection, but this one is quick; call inspect(src) without quick=True")
    style = page.asset("page.css") + page.asset("inspection.css", "octprep.inspection")
    script = page.asset("page.js")
    html = (
        page.environment("octprep.inspection")
        .get_template("inspection.html")
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=Markup(page.policy(style, script)),
            inspection=inspection,
            findings=findings,
            test=pixels.shortcuts,
            typical_values=pixels.typical_values,
            labels=pixels.shortcuts.labels,
            headline=headline(inspection),
            clean=is_clean(inspection),
            published=f"{sentences.published_sentence(inspection)}.",
            checks=checks(inspection),
            recommendation=recommendation(inspection),
            few_patients=sentences.few_patients_sentences(inspection),
            counts=_counts(inspection),
            overlaps=sentences.overlap_sentences(inspection),
            patient_leaks=_lines([sentences.format_leak(leak) for leak in findings.patient_leaks]),
            content_leaks=_lines([sentences.format_duplicates(same) for same in findings.content_leaks]),
            merged_ids=_lines([sentences.format_merged_ids(merged) for merged in findings.merged_ids]),
            label_conflicts=_lines([sentences.format_duplicates(same) for same in findings.label_conflicts]),
            near_duplicate_conflicts=_lines(
                [sentences.format_pair(pair) for pair in findings.near_duplicate_conflicts]
            ),
            shared_ids=sentences.shared_ids_sentence(inspection),
            patients_in_several_classes=_lines(
                [f"{patient}: {listed(labels)}" for patient, labels in findings.patients_in_several_classes.items()]
            ),
            flags=_lines(sentences.flag_lines(inspection)),
            exclusions=_lines(
                [
                    f"{exclusion.path}: {exclusion.reason}"
                    for exclusion in inspection.exclusions
                    if exclusion.reason != MACOS_METADATA
                ]
            ),
            threshold=sentences.threshold_sentences(pixels.similarity),
            sample=sentences.sample_sentence(pixels.similarity),
            sampled_distances=duplicates.sampled(pixels.similarity.distances),
            max_distance=MAX_DISTANCE,
            shortcuts=sentences.shortcut_sentences(pixels.shortcuts),
            **_galleries(src, inspection, pixels),
            **_charts(pixels),
        )
    )
    return html.encode()


def _counts(inspection: Inspection) -> list[tuple[str, str, list[int], int]]:
    """Folder, what is counted, how many of each class and in all."""
    rows = []
    for folder, scans in inspection.images.items():
        name = folder or "(no split folders)"
        ids = len({scan.patient for scan in inspection.scans if scan.source_split == folder})
        rows.append((name, "scans", list(scans.values()), sum(scans.values())))
        rows.append((name, "patient ids", list(inspection.patients[folder].values()), ids))
    return rows


def _galleries(src: Source, inspection: Inspection, pixels: PixelFindings) -> dict[str, object]:
    by_path = {scan.path: scan for scan in inspection.scans}
    source = SourceImages(src)

    def pair_card(pair: DuplicatePair) -> Card:
        return _card(source, f"Correlation {pair.correlation:.2f}", (by_path[pair.first], by_path[pair.second]))

    def severity(pair: DuplicatePair) -> tuple[bool, bool, float, DuplicatePair]:
        """Sorts pairs in two folders first, then pairs under two classes, then by correlation."""
        first, second = by_path[pair.first], by_path[pair.second]
        return first.source_split == second.source_split, first.label == second.label, -pair.correlation, pair

    near_duplicates = sorted(pixels.similarity.duplicates, key=severity)
    return {
        "near_duplicates": [pair_card(pair) for pair in near_duplicates[:_MAX_CARDS]],
        "near_duplicates_more": max(len(near_duplicates) - _MAX_CARDS, 0),
        "below_threshold": [pair_card(pair) for pair in pixels.similarity.below_threshold[:_MAX_BELOW_THRESHOLD]],
        "conflict_cards": [
            _card(source, same.reason.capitalize(), _first_of_each_class(same.scans))
            for same in inspection.findings.label_conflicts[:_MAX_CARDS]
        ],
    }


def _card(source: SourceImages, caption: str, scans: Sequence[Scan]) -> Card:
    tags = [
        *["in two folders"] * (len({scan.source_split for scan in scans}) > 1),
        *["under two classes"] * (len({scan.label for scan in scans}) > 1),
    ]
    return Card(caption, " and ".join(tags), tuple(_card_scan(source, scan) for scan in scans))


def _card_scan(source: SourceImages, scan: Scan) -> CardScan:
    about = f"{scan.label}, patient {scan.patient}{f', in {scan.source_split}' if scan.source_split else ''}"
    alt = f"Source of {scan.path}, {scan.width} x {scan.height} pixels"
    return CardScan(scan.path, about, pictures.whole(source, scan.path, scan.sha256, alt, _MAX_PICTURE_WIDTH))


def _first_of_each_class(scans: Sequence[Scan]) -> list[Scan]:
    return list({scan.label: scan for scan in reversed(scans)}.values())[::-1]


def _charts(pixels: PixelFindings) -> dict[str, object]:
    test = pixels.shortcuts
    return {
        "correlations": _correlations(pixels.similarity),
        "distances": _distances(pixels.similarity),
        "intervals": charts.intervals(
            "intervals",
            "Balanced accuracy of each feature",
            "balanced accuracy",
            [
                Interval(
                    accuracy.feature,
                    accuracy.low,
                    accuracy.balanced_accuracy,
                    accuracy.high,
                    accuracy.is_shortcut(test.chance),
                )
                for accuracy in test.accuracies
            ],
            test.chance,
        ),
    }


def _correlations(similarity: Similarity) -> Markup:
    edges = np.linspace(-0.25, 1, _BINS + 1)
    rows = [
        ("two patients", similarity.between),
        ("one patient", similarity.within),
        ("candidates", [pair.correlation for pair in (*similarity.duplicates, *similarity.below_threshold)]),
    ]
    return charts.distribution(
        "correlations",
        "Correlation of fine detail in pairs of scans",
        "correlation of fine detail",
        [
            Row(
                name,
                number(len(correlations), "pair"),
                np.histogram(np.clip(correlations, -0.25, 1), edges)[0].tolist(),
                colour,
            )
            for colour, (name, correlations) in enumerate(rows)
        ],
        edges.tolist(),
        THRESHOLD,
        "threshold",
    )


def _distances(similarity: Similarity) -> Markup:
    distances = similarity.distances
    rows = [
        ("two ids", distances.between, distances.between_total, 0),
        ("one id", distances.within, distances.within_total, 1),
    ]
    return charts.distribution(
        "distances",
        "Distance of descriptors in pairs of scans",
        "distance of descriptors",
        [
            Row(name, number(total, "pair") if sum(counts) == total else f"{sum(counts):,} drawn", counts, colour)
            for name, counts, total, colour in rows
        ],
        distances.edges,
        MAX_DISTANCE,
        "limit",
    )


def _lines(lines: Sequence[str]) -> Lines:
    return Lines(tuple(lines[:_MAX_LINES]), max(len(lines) - _MAX_LINES, 0))
