"""Distributions and intervals as inline SVG, in the classes of the report's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from octprep.html.text import visible

_WIDTH, _LEFT, _RIGHT = 360, 84, 10  # of the figure, of its margins; all in the figure's own units
_ROW, _GAP, _TOP, _FOOT = 40, 14, 18, 34  # height of one row, room between two, above all, for the axis below
_LINE = 24  # height of one interval's row

_FIGURE = Markup(
    '<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-title {key}-desc">'
    '<title id="{key}-title">{title}</title><desc id="{key}-desc">{desc}</desc>{body}</svg>'
)
_GRID = Markup('<path class="grid" d="M{x:.1f} {top}V{bottom}"/>')
_TICK = Markup('<text class="tick" x="{x:.1f}" y="{y}">{text}</text>')
_AXIS = Markup('<text class="axis" x="{x}" y="{y}">{text}</text>')
_NAME = Markup('<text class="name" x="0" y="{y}">{text}</text><text class="sub" x="0" y="{below}">{sub}</text>')
_BARS = Markup('<path class="bars c{colour}" d="{path}"/>')
_BASE = Markup('<path class="base" d="M{left} {y}H{right}"/>')
_MARK = Markup(
    '<path class="limit" d="M{x:.1f} {top}V{bottom}"/><text class="limit-name" x="{at:.1f}" y="{y}">{text}</text>'
)
_WHISKER = Markup(
    '<path class="whisker {kind}" d="M{low:.1f} {y}H{high:.1f}"/>'
    '<circle class="dot {kind}" cx="{x:.1f}" cy="{y}" r="3.6"/>'
)
_SIDE = Markup('<text class="feature" x="{x}" y="{y}">{text}</text>')


@dataclass(frozen=True)
class Row:
    """One line of small bars: counts in common bins."""

    name: str
    sub: str  # below the name, small
    counts: Sequence[int]
    colour: int


@dataclass(frozen=True)
class Interval:
    """A value and how sure it is; all parts of one."""

    name: str
    low: float
    value: float
    high: float
    stands_out: bool


def distribution(
    key: str, title: str, axis: str, rows: Sequence[Row], edges: Sequence[float], limit: float, limit_name: str
) -> Markup:
    """One row of bars for each kind of pair over a common axis, each on its own scale, and a line at the limit."""
    low, high = edges[0], edges[-1]
    step = (_WIDTH - _LEFT - _RIGHT) / (len(edges) - 1)
    end = _TOP + len(rows) * (_ROW + _GAP)

    def place(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    ticks = [low + (high - low) * part / 5 for part in range(6)]
    parts = [_GRID.format(x=place(tick), top=_TOP, bottom=end - _GAP) for tick in ticks]
    for index, row in enumerate(rows):
        base = _TOP + index * (_ROW + _GAP) + _ROW
        most = max([*row.counts, 1])
        path = "".join(
            f"M{_LEFT + at * step:.1f} {base}v{-max(count / most * _ROW, 1):.1f}h{step:.1f}V{base}z"
            for at, count in enumerate(row.counts)
            if count
        )
        parts += [
            _NAME.format(y=base - 14, below=base - 2, text=visible(row.name), sub=visible(row.sub)),
            _BARS.format(colour=row.colour, path=path),
            _BASE.format(left=_LEFT, right=_WIDTH - _RIGHT, y=base),
        ]
    x = place(limit)
    parts.append(
        _MARK.format(x=x, at=min(x, _WIDTH - 40), top=_TOP - 4, bottom=end - _GAP, y=_TOP - 8, text=limit_name)
    )
    parts += [_TICK.format(x=place(tick), y=end + 8, text=f"{tick:.2g}") for tick in ticks]
    parts.append(_AXIS.format(x=(_LEFT + _WIDTH - _RIGHT) / 2, y=end + 25, text=axis))
    desc = "; ".join(f"{row.name}: {row.sub}" for row in rows) + f". {limit_name} at {limit:.2f}"
    return _drawn(key, title, desc, _WIDTH, end + _FOOT, parts)


def intervals(key: str, title: str, axis: str, found: Sequence[Interval], chance: float) -> Markup:
    """One line for each value with its interval, and a line at chance; the axis is 0 to 100 percent."""
    left, right = 174, 20
    end = _TOP + len(found) * _LINE

    def place(part: float) -> float:
        return left + part * (_WIDTH - left - right)

    ticks = [0, 0.25, 0.5, 0.75, 1]
    parts = [_GRID.format(x=place(tick), top=_TOP, bottom=end) for tick in ticks]
    parts.append(_MARK.format(x=place(chance), at=place(chance), top=_TOP - 4, bottom=end, y=_TOP - 8, text="chance"))
    for index, one in enumerate(found):
        y = _TOP + index * _LINE + _LINE / 2
        kind = "out" if one.stands_out else "in"
        parts += [
            _SIDE.format(x=0, y=y + 4, text=visible(one.name)),
            _WHISKER.format(kind=kind, low=place(one.low), high=place(one.high), x=place(one.value), y=y),
        ]
    parts += [_TICK.format(x=place(tick), y=end + 14, text=f"{100 * tick:.0f} %") for tick in ticks]
    parts.append(_AXIS.format(x=(left + _WIDTH - right) / 2, y=end + 30, text=axis))
    desc = "; ".join(
        f"{one.name}: {100 * one.value:.0f} %, interval {100 * one.low:.0f} to {100 * one.high:.0f} %" for one in found
    )
    return _drawn(key, title, f"{desc}. Chance is {100 * chance:.0f} %", _WIDTH, end + _FOOT, parts)


def _drawn(key: str, title: str, desc: str, width: int, height: float, parts: Sequence[Markup]) -> Markup:
    return _FIGURE.format(
        key=key, title=visible(title), desc=visible(desc), width=width, height=height, body=Markup("").join(parts)
    )
