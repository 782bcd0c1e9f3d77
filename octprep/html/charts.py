"""Histograms as inline SVG. Colours come from the page's style sheet, so they follow light, dark and print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from octprep.duplicates import Distances
from octprep.html.text import visible
from octprep.report.statistics import Histogram

_WIDTH, _LEFT, _RIGHT = 360, 78, 8  # of the figure, of its margins; all in the figure's own units
_ROW, _GAP, _TOP, _FOOT = 38, 12, 6, 32  # height of one class, room between two, above all, for the axis below
_LABEL = 10  # characters of a class name that fit beside its row
_PAIRS = (("same", 5), ("different", 6))  # rows of the distances, and their colours, which most classes leave free

_FIGURE = Markup(
    '<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-title {key}-desc">'
    '<title id="{key}-title">{title}</title><desc id="{key}-desc">{desc}</desc>{body}</svg>'
)
_GRID = Markup('<path class="grid" d="M{x:.1f} {top}V{bottom}"/>')
_TICK = Markup('<text class="tick" x="{x:.1f}" y="{y}">{text}</text>')
_LABELLED = Markup('<text class="name" x="{x}" y="{y}">{text}</text><text class="sub" x="{x}" y="{below}">{sub}</text>')
_AXIS = Markup('<text class="axis" x="{x}" y="{y}">{text}</text>')
_BARS = Markup('<path class="bars c{colour}" d="{path}"/>')
_ALL = Markup('<path class="all" d="{path}"/>')
_MEDIAN = Markup('<path class="median c{colour}" d="M{x:.1f} {y}l-4 7h8z"/>')
_BASE = Markup('<path class="base" d="M{left} {y}H{right}"/>')
_PERCENT = Markup('<text class="percent" x="{x:.1f}" y="{y:.1f}">{text}</text>')


@dataclass(frozen=True)
class Row:
    """One line of small bars."""

    label: str
    sub: str  # below the label, small
    shares: Sequence[float]
    colour: int
    median: float | None = None  # as a place in bins


def histogram(key: str, title: str, axis: str, found: Histogram, labels: Sequence[str]) -> Markup:
    """One row of bars for each class over a common axis, all on one scale, the outline of all classes behind.

    key: names the figure in the page. axis: what the axis shows, with its unit. Empty without an image.
    """
    spreads = found.spreads or (None,) * len(found.shares)
    medians = found.medians or (None,) * len(found.shares)
    rows = [
        Row(label, f"{spread.number:,} images" if spread else "", shares, labels.index(label), median)
        for (label, shares), spread, median in zip(found.shares.items(), spreads, medians, strict=True)
    ]
    if found.spreads:
        desc = "; ".join(f"{spread.label}: median {spread.median:,.4g}" for spread in found.spreads)
    else:
        desc = "; ".join(f"{row.label}: {_listed(row.shares, found.ticks)}" for row in rows)
    return _draw(key, title, desc, axis, rows, found.everyone, found.ticks, written=not found.spreads)


def shares(key: str, title: str, mix: dict[str, tuple[float, ...]], labels: Sequence[str]) -> Markup:
    """One row of bars for each split: its share of every class."""
    ticks = tuple((place + 0.5, _short(label)) for place, label in enumerate(labels))
    rows = [Row(split, "", found, -1) for split, found in mix.items()]
    desc = "; ".join(f"{row.label}: {_listed(row.shares, ticks)}" for row in rows)
    return _draw(key, title, desc, "", rows, (), ticks, written=True)


def distances(key: str, title: str, axis: str, found: Distances) -> Markup:
    """One row of bars for pairs of one patient's scans and one for those of two, on one scale. Empty without a pair.

    Below a row's name is how many pairs there are, or how many of them were drawn.
    """
    bins = len(found.within)
    rows, told = [], []
    parts = ((found.within, found.within_total), (found.between, found.between_total))
    for (label, colour), (counts, all_pairs) in zip(_PAIRS, parts, strict=True):
        if total := sum(counts):
            middle = _middle(counts)
            at = min(int(middle), bins - 1)
            value = found.edges[at] + (middle - at) * (found.edges[at + 1] - found.edges[at])
            told.append(f"{label} patient{'s' * (label != 'same')}: median {value:.2f}")
            number = f"{total:,} pair{'s' * (total != 1)}" if total == all_pairs else f"{total:,} drawn"
            rows.append(Row(label, number, [count / total for count in counts], colour, middle))
    ticks = tuple((float(at), f"{found.edges[at]:g}") for at in range(0, bins + 1, max(bins // 4, 1)))
    return _draw(key, title, "; ".join(told), axis, rows, (), ticks, written=False)


def _middle(counts: Sequence[int]) -> float:
    """Where the median is, as a place in bins; there is at least one count."""
    half, below = sum(counts) / 2, 0
    for at, count in enumerate(counts):
        if count and below + count >= half:
            return at + (half - below) / count
        below += count
    return float(len(counts))


def _draw(
    key: str,
    title: str,
    desc: str,
    axis: str,
    rows: Sequence[Row],
    everyone: Sequence[float],
    ticks: Sequence[tuple[float, str]],
    *,
    written: bool,
) -> Markup:
    """written: each bar's share stands above it, and bars stand apart."""
    if not rows:
        return Markup("")
    bins = len(rows[0].shares)
    step = (_WIDTH - _LEFT - _RIGHT) / bins
    most = max(max(row.shares) for row in rows) or 1.0
    room = _ROW - 13 if written else _ROW
    end = _TOP + len(rows) * (_ROW + _GAP)
    parts = [_GRID.format(x=_LEFT + at * step, top=_TOP, bottom=end - _GAP) for at, _ in ticks if not written]
    for place, row in enumerate(rows):
        base = _TOP + place * (_ROW + _GAP) + _ROW
        heights = [share / most * room for share in row.shares]
        parts.append(
            _LABELLED.format(
                x=0, y=base - 14 if row.sub else base - 8, below=base - 3, text=_short(row.label), sub=row.sub
            )
        )
        inset = step * 0.14 if written else 0.0
        path = "".join(
            f"M{_LEFT + at * step + inset:.1f} {base}v{-height:.1f}h{step - 2 * inset:.1f}v{height:.1f}z"
            for at, height in enumerate(heights)
            if height > 0
        )
        parts.append(_BARS.format(colour=row.colour % 8 if row.colour >= 0 else "x", path=path))
        behind = [min(share / most, 1.1) * room for share in everyone]
        if everyone:
            parts.append(_ALL.format(path=_marks(behind, step, base) if written else _outline(behind, step, base)))
        parts.append(_BASE.format(left=_LEFT, right=_WIDTH - _RIGHT, y=base))
        if row.median is not None:
            parts.append(_MEDIAN.format(colour=row.colour % 8, x=_LEFT + row.median * step, y=base + 1))
        if written:
            tops = [max(pair) for pair in zip(heights, behind or heights, strict=True)]
            parts += [
                _PERCENT.format(x=_LEFT + (at + 0.5) * step, y=base - top - 3, text=percent(share))
                for at, (share, top) in enumerate(zip(row.shares, tops, strict=True))
                if share > 0
            ]
    parts += [_TICK.format(x=_LEFT + at * step, y=end + 8, text=text) for at, text in ticks]
    if axis:
        parts.append(_AXIS.format(x=(_LEFT + _WIDTH - _RIGHT) / 2, y=end + 25, text=axis))
    return _FIGURE.format(
        key=key,
        title=visible(title),
        desc=visible(desc),
        width=_WIDTH,
        height=end + _FOOT - (0 if axis else 18),
        body=Markup("").join(parts),
    )


def percent(share: float) -> str:
    """12 %, or <1 % for what would round to nothing."""
    if not share:
        return "0"
    return f"{share:.0%}"[:-1] + " %" if share >= 0.005 else "<1 %"


def _outline(heights: Sequence[float], step: float, base: float) -> str:
    path = f"M{_LEFT} {base}"
    for at, height in enumerate(heights):
        path += f"V{base - height:.1f}H{_LEFT + (at + 1) * step:.1f}"
    return path + f"V{base}"


def _marks(heights: Sequence[float], step: float, base: float) -> str:
    """A short line across each bar."""
    return "".join(
        f"M{_LEFT + (at + 0.04) * step:.1f} {base - height:.1f}h{0.92 * step:.1f}" for at, height in enumerate(heights)
    )


def _listed(found: Sequence[float], ticks: Sequence[tuple[float, str]]) -> str:
    return ", ".join(f"{text} {percent(share)}" for share, (_, text) in zip(found, ticks, strict=True))


def _short(label: str) -> str:
    label = visible(label)
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "\u2026"
