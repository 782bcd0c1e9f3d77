"""The audit as one self-contained page, in the look of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from octprep.duplicates.exact import DuplicatePair
from octprep.html import charts, page, pictures
from octprep.html.charts import Interval, Row
from octprep.html.pictures import Picture, SourceImages
from octprep.inspection import text as sentences
from octprep.inspection.inspect import Audit
from octprep.inspection.similarity import NEAR_ENOUGH, THRESHOLD, Similarity
from octprep.report import duplicates
from octprep.source.files import MACOS, Scan

_PAIRS = 24  # that are pictured in a gallery
_APART = 4  # pairs that were not joined, pictured
_LINES = 40  # of a list
_BINS = 25  # of correlations from -0.25 to 1, with an edge at the threshold
_WIDTH = 280  # of a picture at most, pixels


@dataclass(frozen=True)
class Twin:
    """Scans beside each other."""

    says: str
    tag: str  # what is wrong with the pair; "" if nothing
    scans: tuple[tuple[str, str, Picture], ...]  # path, what it is, picture


@dataclass(frozen=True)
class Lines:
    """The first lines of a list, and how many follow."""

    shown: tuple[str, ...]
    more: int


def render(src: Path, audit: Audit) -> bytes:
    """The page in UTF-8: no clock, no path of this machine. src is only read, for the pictures."""
    style = page.asset("page.css") + page.asset("audit.css", "octprep.inspection")
    script = page.asset("page.js")
    found = audit.findings
    text = (
        page.environment("octprep.inspection")
        .get_template("audit.html")
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=Markup(page.policy(style, script)),
            audit=audit,
            labels=audit.shortcuts.labels,
            headline=sentences.headline(audit),
            bad=bool(found.leaks or found.copies or found.near or found.conflicts or found.near_conflicts),
            version=f"{sentences.version(audit)}.",
            checks=sentences.checks(audit),
            closing=sentences.closing(audit),
            scarce=sentences.scarce(audit),
            counts=_counts(audit),
            shared=sentences.shared(audit),
            leaks=_lines([sentences.leak(leak) for leak in found.leaks]),
            copies=_lines([sentences.copies(copies) for copies in found.copies]),
            groups=_lines([sentences.gathered(gathered) for gathered in found.groups]),
            conflicts=_lines([sentences.copies(copies) for copies in found.conflicts]),
            near_conflicts=_lines([sentences.pair(join) for join in found.near_conflicts]),
            two_classes=_lines([f"{key}: {sentences.listed(labels)}" for key, labels in found.two_classes.items()]),
            unusable=_lines([f"{one.path}: {one.reason}" for one in audit.rejections if one.reason != MACOS]),
            threshold=sentences.threshold(audit.closeness),
            drawn=sentences.drawn(audit.closeness),
            sampled=duplicates.sampled(audit.closeness.distances),
            near_distance=NEAR_ENOUGH,
            shortcuts=sentences.shortcuts(audit.shortcuts),
            **_galleries(src, audit),
            **_figures(audit),
        )
    )
    return text.encode()


def _counts(audit: Audit) -> list[tuple[str, str, list[int], int]]:
    """Folder, what is counted, how many of each class and in all."""
    found = []
    for folder, scans in audit.images.items():
        name = folder or "(no split folders)"
        people = len({item.scan.patient for item in audit.read if item.scan.folder == folder})
        found.append((name, "scans", list(scans.values()), sum(scans.values())))
        found.append((name, "patient ids", list(audit.patients[folder].values()), people))
    return found


def _galleries(src: Path, audit: Audit) -> dict[str, object]:
    by_path = {item.scan.path: item.scan for item in audit.read}
    source = SourceImages(src)

    def twin(says: str, scans: Sequence[Scan]) -> Twin:
        parted = [
            *["in two folders"] * (len({one.folder for one in scans}) > 1),
            *["under two classes"] * (len({one.label for one in scans}) > 1),
        ]
        return Twin(says, " and ".join(parted), tuple(_shown(source, one) for one in scans))

    def pair(join: DuplicatePair) -> Twin:
        return twin(f"Correlation {join.correlation:.2f}", (by_path[join.first], by_path[join.second]))

    def harm(join: DuplicatePair) -> tuple[bool, bool, float, DuplicatePair]:
        first, second = by_path[join.first], by_path[join.second]
        return first.folder == second.folder, first.label == second.label, -join.correlation, join

    near = sorted(audit.closeness.joined, key=harm)
    return {
        "near": [pair(join) for join in near[:_PAIRS]],
        "near_more": max(len(near) - _PAIRS, 0),
        "apart": [pair(join) for join in audit.closeness.apart[:_APART]],
        "conflict_pairs": [
            twin(copies.reason.capitalize(), _one_of_each(copies.scans)) for copies in audit.findings.conflicts[:_PAIRS]
        ],
    }


def _one_of_each(scans: Sequence[Scan]) -> list[Scan]:
    """The first scan of every class."""
    return list({one.label: one for one in reversed(scans)}.values())[::-1]


def _shown(source: SourceImages, one: Scan) -> tuple[str, str, Picture]:
    about = f"{one.label}, patient {one.patient}{f', in {one.folder}' if one.folder else ''}"
    alt = f"Source of {one.path}, {one.width} x {one.height} pixels"
    return one.path, about, pictures.whole(source, one.path, one.sha256, alt, _WIDTH)


def _figures(audit: Audit) -> dict[str, object]:
    test = audit.shortcuts
    return {
        "correlations": _correlations(audit.closeness),
        "distances": _distances(audit.closeness),
        "intervals": charts.intervals(
            "intervals",
            "How often the class is guessed right from each number",
            "guessed right",
            [Interval(one.feature, one.low, one.right, one.high, one.tells(test.chance)) for one in test.guesses],
            test.chance,
        ),
    }


def _correlations(found: Similarity) -> Markup:
    edges = np.linspace(-0.25, 1, _BINS + 1)
    rows = [
        ("strangers", found.different),
        ("neighbours", found.same),
        ("compared", [join.correlation for join in (*found.joined, *found.apart)]),
    ]
    return charts.distribution(
        "correlations",
        "Correlation of fine detail in pairs of scans",
        "correlation of fine detail",
        [
            Row(
                name,
                sentences.number(len(part), "pair"),
                np.histogram(np.clip(part, -0.25, 1), edges)[0].tolist(),
                colour,
            )
            for colour, (name, part) in enumerate(rows)
        ],
        edges.tolist(),
        THRESHOLD,
        "threshold",
    )


def _distances(found: Similarity) -> Markup:
    apart = found.distances
    rows = [("two ids", apart.different, apart.different_of, 0), ("one id", apart.same, apart.same_of, 1)]
    return charts.distribution(
        "distances",
        "Distance of descriptors in pairs of scans",
        "distance of descriptors",
        [
            Row(name, sentences.number(total, "pair") if sum(part) == total else f"{sum(part):,} drawn", part, colour)
            for name, part, total, colour in rows
        ],
        apart.edges,
        NEAR_ENOUGH,
        "looked at",
    )


def _lines(lines: Sequence[str]) -> Lines:
    return Lines(tuple(lines[:_LINES]), max(len(lines) - _LINES, 0))
