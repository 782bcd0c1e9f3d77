"""Charts as inline SVG: histograms, shares, distributions with a limit, intervals, and curves.

Colours come from the page's style sheet, so they follow light, dark and print. All lengths are in the figure's own
units, of which it is 360 wide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from octprep.html.text import visible

_WIDTH, _LEFT, _RIGHT = 360, 90, 10  # of the figure, and its margins
_ROW, _GAP = 38, 12  # height of a row of bars, and the space between two
_TOP, _LIMIT_TOP = 6, 18  # above the first row, without and with the name of a limit
_TICKS, _TITLE = 14, 18  # below the last row: for the ticks' labels, and for the axis title
_VALUE = 13  # room above a bar for its value
_NAME_LENGTH = 12  # characters of a row's name that fit beside the bars
_INTERVAL_ROW, _INTERVAL_LEFT, _INTERVAL_RIGHT = 24, 174, 20  # of the chart of intervals, whose names are longer
_COLOURS = 8  # that the style sheet has
_PLOT_LEFT, _PLOT_RIGHT, _PLOT_TOP, _PLOT_HEIGHT = 48, 12, 8, 216  # of the chart of curves
_LEGEND_ROW, _LEGEND_LINE, _LEGEND_LENGTH = 16, 22, 27  # height of a line, length of its sample, characters of a name

Ticks = Sequence[tuple[float, str]]  # value, label

_FIGURE = Markup(
    '<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-title {key}-desc">'
    '<title id="{key}-title">{title}</title><desc id="{key}-desc">{desc}</desc>{body}</svg>'
)
_GRID = Markup('<path class="grid" d="M{x:.1f} {top}V{bottom}"/>')
_TICK = Markup('<text class="tick" x="{x:.1f}" y="{y}">{text}</text>')
_AXIS_TITLE = Markup('<text class="axis" x="{x}" y="{y}">{text}</text>')
_NAME = Markup('<text class="name" x="0" y="{y}">{text}</text><text class="sub" x="0" y="{below}">{sub}</text>')
_BARS = Markup('<path class="bars {colour}" d="{path}"/>')
_OVERALL = Markup('<path class="all" d="{path}"/>')
_MEDIAN = Markup('<path class="median {colour}" d="M{x:.1f} {y}l-4 7h8z"/>')
_BASE = Markup('<path class="base" d="M{left} {y}H{right}"/>')
_PERCENT = Markup('<text class="percent" x="{x:.1f}" y="{y:.1f}">{text}</text>')
_LIMIT = Markup(
    '<path class="limit" d="M{x:.1f} {top}V{bottom}"/><text class="limit-name" x="{text_x:.1f}" y="{y}">{text}</text>'
)
_WHISKER = Markup(
    '<path class="whisker {kind}" d="M{low:.1f} {y}H{high:.1f}"/>'
    '<circle class="dot {kind}" cx="{x:.1f}" cy="{y}" r="3.6"/>'
)
_LINE = Markup('<path class="line {colour}" d="{path}"/>')
_REFERENCE = Markup('<path class="reference" d="{path}"/>')
_MARK = Markup('<circle class="mark {colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>')
_ROW_TICK = Markup(
    '<path class="grid" d="M{left} {y:.1f}H{right}"/><text class="row-tick" x="{x}" y="{text_y:.1f}">{text}</text>'
)
_UP_TITLE = Markup('<text class="axis" transform="rotate(-90)" x="{x:.1f}" y="11">{text}</text>')
_LEGEND = Markup('<text class="legend" x="{x}" y="{y}">{text}</text>')
_FEATURE = Markup('<text class="feature" x="0" y="{y}">{text}</text>')


@dataclass(frozen=True)
class Row:
    """One row of bars."""

    name: str
    subtitle: str  # below the name, small
    values: Sequence[float]  # the bars' heights, in common bins
    colour: int | None  # number of a colour of the style sheet; None for gray
    median: float | None = None  # on the chart's axis


@dataclass(frozen=True)
class Interval:
    """A value from 0 to 1 and its confidence interval."""

    name: str
    low: float
    value: float
    high: float
    stands_out: bool  # drawn in the colour of errors


@dataclass(frozen=True)
class Curve:
    """Points joined by lines, or points alone."""

    name: str  # in the legend
    points: Sequence[tuple[float, float]]
    colour: int | None  # number of a colour of the style sheet; None for gray
    is_line: bool = True
    has_marks: bool = False  # a circle at each point


@dataclass(frozen=True)
class Scale:
    """An axis of a chart of curves: its ends, its ticks, and its title."""

    title: str
    low: float = 0.0
    high: float = 1.0
    ticks: Ticks = tuple((quarter / 4, f"{quarter / 4:g}") for quarter in range(5))


@dataclass(frozen=True)
class Axis:
    """A horizontal axis: maps values to positions in the figure."""

    low: float
    high: float
    left: float = _LEFT
    right: float = _WIDTH - _RIGHT

    def x(self, value: float) -> float:
        """The position of a value."""
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)

    def grid(self, ticks: Ticks, top: float, bottom: float) -> list[Markup]:
        """A vertical line at each tick."""
        return [_GRID.format(x=self.x(value), top=top, bottom=bottom) for value, _ in ticks]

    def labels(self, ticks: Ticks, title: str, y: float) -> list[Markup]:
        """The ticks' labels on a line at y, and the title below them."""
        labels = [_TICK.format(x=self.x(value), y=y, text=text) for value, text in ticks]
        if title:
            labels.append(_AXIS_TITLE.format(x=(self.left + self.right) / 2, y=y + 17, text=title))
        return labels


def histogram(
    key: str, title: str, desc: str, axis_title: str, rows: Sequence[Row], ticks: Ticks, overall: Sequence[float] = ()
) -> Markup:
    """One row of touching bars for each class on one scale, with triangles at the medians.

    key: names the figure in its page. desc: its content in words. The axis counts bins from 0, so ticks and medians are
    positions in bins. overall: the bars of all classes together, drawn as an outline behind each row. Empty without a
    row.
    """
    if not rows:
        return Markup("")
    bins = len(rows[0].values)
    axis, tallest, bottom = Axis(0, bins), _tallest(rows), _bottom(rows)
    parts = axis.grid(ticks, _TOP, bottom - _GAP)
    for row, base in zip(rows, _baselines(len(rows)), strict=True):
        heights = [value / tallest * _ROW for value in row.values]
        parts += [*_name(row, base), _bars(axis, row, heights, base)]
        if overall:
            parts.append(_OVERALL.format(path=_outline(axis, _capped(overall, tallest, _ROW), base)))
        parts.append(_baseline(axis, base))
        if row.median is not None:
            parts.append(_MEDIAN.format(colour=_colour(row), x=axis.x(row.median), y=base + 1))
    parts += axis.labels(ticks, axis_title, bottom + 8)
    return _figure(key, title, desc, bottom + _TICKS, axis_title, parts)


def shares(
    key: str,
    title: str,
    names: Sequence[str],
    rows: Sequence[Row],
    overall: Sequence[float] = (),
    axis_title: str = "",
) -> Markup:
    """One row of separate bars for each split or class, the share above each bar; values are shares from 0 to 1.

    names: of the bars. overall: the shares of all rows together, drawn as lines across the bars. Empty without a row.
    """
    if not rows:
        return Markup("")
    axis, tallest, bottom, room = Axis(0, len(names)), _tallest(rows), _bottom(rows), _ROW - _VALUE
    ticks = [(index + 0.5, _shortened(name)) for index, name in enumerate(names)]
    parts: list[Markup] = []
    for row, base in zip(rows, _baselines(len(rows)), strict=True):
        heights = [value / tallest * room for value in row.values]
        lines = _capped(overall, tallest, room)
        parts += [*_name(row, base), _bars(axis, row, heights, base, inset=0.14)]
        if overall:
            parts.append(_OVERALL.format(path=_lines_across(axis, lines, base)))
        parts.append(_baseline(axis, base))
        tops = map(max, zip(heights, lines or heights, strict=True))
        parts += [
            _PERCENT.format(x=axis.x(index + 0.5), y=base - top - 3, text=percent(share))
            for index, (share, top) in enumerate(zip(row.values, tops, strict=True))
            if share > 0
        ]
    parts += axis.labels(ticks, axis_title, bottom + 8)
    desc = "; ".join(
        f"{row.name}: " + ", ".join(f"{name} {percent(share)}" for name, share in zip(names, row.values, strict=True))
        for row in rows
    )
    return _figure(key, title, desc, bottom + _TICKS, axis_title, parts)


def distribution(
    key: str,
    title: str,
    axis_title: str,
    rows: Sequence[Row],
    edges: Sequence[float],
    limit: float,
    limit_name: str,
) -> Markup:
    """One row of bars for each kind of pair, each on its own scale, and a vertical line at a limit.

    edges: of the bins, evenly spaced; values are counts, and a count above 0 always shows.
    """
    axis, bottom = Axis(edges[0], edges[-1]), _bottom(rows, _LIMIT_TOP)
    values = [edges[0] + (edges[-1] - edges[0]) * fifth / 5 for fifth in range(6)]
    ticks = [(value, f"{value:.2g}") for value in values]
    parts = axis.grid(ticks, _LIMIT_TOP, bottom - _GAP)
    bars = Axis(0, len(edges) - 1)
    for row, base in zip(rows, _baselines(len(rows), _LIMIT_TOP), strict=True):
        tallest = max([*row.values, 1])
        heights = [max(count / tallest * _ROW, 1) if count else 0 for count in row.values]
        parts += [*_name(row, base), _bars(bars, row, heights, base), _baseline(axis, base)]
    parts += [_limit(axis, limit, limit_name, bottom - _GAP), *axis.labels(ticks, axis_title, bottom + 8)]
    desc = "; ".join(f"{row.name}: {row.subtitle}" for row in rows) + f". {limit_name} at {limit:.2f}"
    return _figure(key, title, desc, bottom + _TICKS, axis_title, parts)


def curves(
    key: str,
    title: str,
    desc: str,
    across: Scale,
    up: Scale,
    rows: Sequence[Curve],
    reference: Sequence[tuple[float, float]] = (),
) -> Markup:
    """Lines and points on two axes, with a legend below. What lies outside the axes is drawn at their ends.

    desc: the content in words.  reference: a thin line, such as that of chance.
    """
    bottom = _PLOT_TOP + _PLOT_HEIGHT
    axis = Axis(across.low, across.high, _PLOT_LEFT, _WIDTH - _PLOT_RIGHT)
    rising = Axis(up.low, up.high, bottom, _PLOT_TOP)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = (min(max(value, scale.low), scale.high) for value, scale in zip(point, (across, up), strict=True))
        return axis.x(x), rising.x(y)

    def path(points: Iterable[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in map(place, points))

    parts = axis.grid(across.ticks, _PLOT_TOP, bottom)
    parts += [
        _ROW_TICK.format(
            left=axis.left,
            right=axis.right,
            y=rising.x(value),
            text_y=rising.x(value) + 3.5,
            x=axis.left - 5,
            text=text,
        )
        for value, text in up.ticks
    ]
    parts += [_BASE.format(left=axis.left, right=axis.right, y=bottom)]
    if reference:
        parts.append(_REFERENCE.format(path=path(reference)))
    for row in rows:
        if row.is_line and len(row.points) > 1:
            parts.append(_LINE.format(colour=_colour(row), path=path(row.points)))
        if row.has_marks or not row.is_line or len(row.points) == 1:
            radius = 3 if row.is_line else 4.5
            parts += [_MARK.format(colour=_colour(row), x=x, y=y, radius=radius) for x, y in map(place, row.points)]
    parts += axis.labels(across.ticks, across.title, bottom + 13)
    parts.append(_UP_TITLE.format(x=-(bottom + _PLOT_TOP) / 2, text=up.title))
    top = bottom + 48
    for index, row in enumerate(rows):
        x, y = _PLOT_LEFT + (index % 2) * (_WIDTH - _PLOT_LEFT) // 2, top + index // 2 * _LEGEND_ROW
        if row.is_line:
            parts.append(_LINE.format(colour=_colour(row), path=f"M{x} {y - 3.5}h{_LEGEND_LINE - 6}"))
        if row.has_marks or not row.is_line:
            parts.append(_MARK.format(colour=_colour(row), x=x + _LEGEND_LINE / 2 - 3, y=y - 3.5, radius=3))
        parts.append(_LEGEND.format(x=x + _LEGEND_LINE, y=y, text=_shortened(row.name, _LEGEND_LENGTH)))
    height = top + (len(rows) + 1) // 2 * _LEGEND_ROW - 8
    return _figure(key, title, desc, height, "", parts)


def intervals(key: str, title: str, axis_title: str, rows: Sequence[Interval], chance: float | None = None) -> Markup:
    """One line for each value with its interval, on an axis from 0 to 100 %, and a vertical line at chance."""
    axis = Axis(0, 1, _INTERVAL_LEFT, _WIDTH - _INTERVAL_RIGHT)
    bottom = _LIMIT_TOP + len(rows) * _INTERVAL_ROW
    ticks = [(quarter / 4, f"{25 * quarter} %") for quarter in range(5)]
    parts = axis.grid(ticks, _LIMIT_TOP, bottom)
    if chance is not None:
        parts.append(_limit(axis, chance, "chance", bottom))
    for index, row in enumerate(rows):
        y = _LIMIT_TOP + (index + 0.5) * _INTERVAL_ROW
        kind = "out" if row.stands_out else "in"
        parts += [
            _FEATURE.format(y=y + 4, text=visible(row.name)),
            _WHISKER.format(kind=kind, low=axis.x(row.low), high=axis.x(row.high), x=axis.x(row.value), y=y),
        ]
    parts += axis.labels(ticks, axis_title, bottom + 14)
    values = "; ".join(
        f"{row.name}: {100 * row.value:.0f} %, interval {100 * row.low:.0f} to {100 * row.high:.0f} %" for row in rows
    )
    desc = values if chance is None else f"{values}. Chance is {100 * chance:.0f} %"
    return _figure(key, title, desc, bottom + _TICKS + 6, axis_title, parts)


def percent(share: float) -> str:
    """12 %, or <1 % for what would round to nothing."""
    if not share:
        return "0"
    return f"{share:.0%}"[:-1] + " %" if share >= 0.005 else "<1 %"


def _figure(key: str, title: str, desc: str, height: float, axis_title: str, parts: Iterable[Markup]) -> Markup:
    return _FIGURE.format(
        key=key,
        title=visible(title),
        desc=visible(desc),
        width=_WIDTH,
        height=height + (_TITLE if axis_title else 0),
        body=Markup("").join(parts),
    )


def _baselines(rows: int, top: float = _TOP) -> list[float]:
    """The y of the base line of each row."""
    return [top + index * (_ROW + _GAP) + _ROW for index in range(rows)]


def _bottom(rows: Sequence[Row], top: float = _TOP) -> float:
    return top + len(rows) * (_ROW + _GAP)


def _tallest(rows: Sequence[Row]) -> float:
    return max(max(row.values) for row in rows) or 1.0


def _capped(values: Sequence[float], tallest: float, room: float) -> list[float]:
    """Heights that reach at most a little above the tallest bar."""
    return [min(value / tallest, 1.1) * room for value in values]


def _colour(row: Row | Curve) -> str:
    return "cx" if row.colour is None else f"c{row.colour % _COLOURS}"


def _name(row: Row, base: float) -> list[Markup]:
    y = base - 14 if row.subtitle else base - 8
    return [_NAME.format(y=y, below=base - 3, text=_shortened(row.name), sub=visible(row.subtitle))]


def _bars(axis: Axis, row: Row, heights: Sequence[float], base: float, inset: float = 0.0) -> Markup:
    """One path of all bars of a row; inset: the space on each side of a bar, in bins."""
    path = "".join(
        f"M{axis.x(index + inset):.1f} {base}v{-height:.1f}H{axis.x(index + 1 - inset):.1f}V{base}z"
        for index, height in enumerate(heights)
        if height > 0
    )
    return _BARS.format(colour=_colour(row), path=path)


def _baseline(axis: Axis, base: float) -> Markup:
    return _BASE.format(left=axis.left, right=axis.right, y=base)


def _limit(axis: Axis, value: float, name: str, bottom: float) -> Markup:
    x = axis.x(value)
    return _LIMIT.format(
        x=x, text_x=min(x, _WIDTH - 40), top=_LIMIT_TOP - 4, bottom=bottom, y=_LIMIT_TOP - 8, text=name
    )


def _outline(axis: Axis, heights: Sequence[float], base: float) -> str:
    steps = "".join(f"V{base - height:.1f}H{axis.x(index + 1):.1f}" for index, height in enumerate(heights))
    return f"M{axis.left} {base}{steps}V{base}"


def _lines_across(axis: Axis, heights: Sequence[float], base: float) -> str:
    return "".join(
        f"M{axis.x(index + 0.04):.1f} {base - height:.1f}H{axis.x(index + 0.96):.1f}"
        for index, height in enumerate(heights)
    )


def _shortened(name: str, length: int = _NAME_LENGTH) -> str:
    name = visible(name)
    return name if len(name) <= length else name[: length - 1] + "\u2026"
