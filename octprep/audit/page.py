"""The audit as one self-contained page, in the look of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from octprep.audit import figures, words
from octprep.audit.closeness import NEAR_ENOUGH, THRESHOLD, Closeness
from octprep.audit.figures import Interval, Row
from octprep.audit.inspection import Audit
from octprep.patients import Join
from octprep.report import frame, persons, pictures
from octprep.report.pictures import Picture, Source
from octprep.scan import MACOS, Scan

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
    style = frame.asset("page.css") + frame.asset("audit.css", "octprep.audit")
    script = frame.asset("page.js")
    found = audit.findings
    text = (
        frame.environment("octprep.audit")
        .get_template("audit.html")
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=Markup(frame.policy(style, script)),
            audit=audit,
            labels=audit.shortcuts.labels,
            headline=words.headline(audit),
            bad=bool(found.leaks or found.copies or found.near or found.conflicts or found.near_conflicts),
            version=f"{words.version(audit)}.",
            checks=words.checks(audit),
            closing=words.closing(audit),
            scarce=words.scarce(audit),
            counts=_counts(audit),
            shared=words.shared(audit),
            leaks=_lines([words.leak(leak) for leak in found.leaks]),
            copies=_lines([words.copies(copies) for copies in found.copies]),
            groups=_lines([words.gathered(gathered) for gathered in found.groups]),
            conflicts=_lines([words.copies(copies) for copies in found.conflicts]),
            near_conflicts=_lines([words.pair(join) for join in found.near_conflicts]),
            two_classes=_lines([f"{key}: {words.listed(labels)}" for key, labels in found.two_classes.items()]),
            unusable=_lines([f"{one.path}: {one.reason}" for one in audit.rejections if one.reason != MACOS]),
            threshold=words.threshold(audit.closeness),
            drawn=words.drawn(audit.closeness),
            sampled=persons.sampled(audit.closeness.distances),
            near_distance=NEAR_ENOUGH,
            shortcuts=words.shortcuts(audit.shortcuts),
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
    source = Source(src)

    def twin(says: str, scans: Sequence[Scan]) -> Twin:
        parted = [
            *["in two folders"] * (len({one.folder for one in scans}) > 1),
            *["under two classes"] * (len({one.label for one in scans}) > 1),
        ]
        return Twin(says, " and ".join(parted), tuple(_shown(source, one) for one in scans))

    def pair(join: Join) -> Twin:
        return twin(f"Correlation {join.correlation:.2f}", (by_path[join.first], by_path[join.second]))

    def harm(join: Join) -> tuple[bool, bool, float, Join]:
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


def _shown(source: Source, one: Scan) -> tuple[str, str, Picture]:
    about = f"{one.label}, patient {one.patient}{f', in {one.folder}' if one.folder else ''}"
    alt = f"Source of {one.path}, {one.width} x {one.height} pixels"
    return one.path, about, pictures.whole(source, one.path, one.sha256, alt, _WIDTH)


def _figures(audit: Audit) -> dict[str, object]:
    test = audit.shortcuts
    return {
        "correlations": _correlations(audit.closeness),
        "distances": _distances(audit.closeness),
        "intervals": figures.intervals(
            "intervals",
            "How often the class is guessed right from each number",
            "guessed right",
            [Interval(one.feature, one.low, one.right, one.high, one.tells(test.chance)) for one in test.guesses],
            test.chance,
        ),
    }


def _correlations(found: Closeness) -> Markup:
    edges = np.linspace(-0.25, 1, _BINS + 1)
    rows = [
        ("strangers", found.different),
        ("neighbours", found.same),
        ("compared", [join.correlation for join in (*found.joined, *found.apart)]),
    ]
    return figures.distribution(
        "correlations",
        "Correlation of fine detail in pairs of scans",
        "correlation of fine detail",
        [
            Row(name, words.number(len(part), "pair"), np.histogram(np.clip(part, -0.25, 1), edges)[0].tolist(), colour)
            for colour, (name, part) in enumerate(rows)
        ],
        edges.tolist(),
        THRESHOLD,
        "threshold",
    )


def _distances(found: Closeness) -> Markup:
    apart = found.distances
    rows = [("two ids", apart.different, apart.different_of, 0), ("one id", apart.same, apart.same_of, 1)]
    return figures.distribution(
        "distances",
        "Distance of descriptors in pairs of scans",
        "distance of descriptors",
        [
            Row(name, words.number(total, "pair") if sum(part) == total else f"{sum(part):,} drawn", part, colour)
            for name, part, total, colour in rows
        ],
        apart.edges,
        NEAR_ENOUGH,
        "looked at",
    )


def _lines(lines: Sequence[str]) -> Lines:
    return Lines(tuple(lines[:_LINES]), max(len(lines) - _LINES, 0))
