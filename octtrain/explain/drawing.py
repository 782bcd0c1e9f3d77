"""The picture of an explanation: the source scan, and beside it the same with a map over it, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Float64 = NDArray[np.float64]
Rgb = NDArray[np.uint8]  # (rows, columns, 3)

# The ends of the diverging scale RdBu of ColorBrewer, which people who confuse red and green can tell apart.
FOR, AGAINST = (202, 0, 32), (5, 113, 176)
STRENGTH = 0.65  # of the colour at the end of the scale, where 1 would hide the scan
_MAX_WIDTH = 640  # of a panel; a wider scan is made smaller
_MARGIN, _LINE, _BAR = 12, 20, 12  # pixels
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class Map:
    """A map over the source scan."""

    title: str
    values: Float64  # (rows, columns) of the source scan; positive: for the class
    inside: NDArray[np.bool_]  # whether the pixel lies in the crop
    limit: float  # the absolute value at both ends of the scale


def draw(source: NDArray[np.uint8], maps: Sequence[Map], header: Sequence[str], footer: Sequence[str]) -> bytes:
    """A PNG of the source scan, (rows, columns) uint8, and of every map over it, with lines of text above and below."""
    scale = min(1.0, _MAX_WIDTH / source.shape[1])
    width, height = round(source.shape[1] * scale), round(source.shape[0] * scale)
    panels = [(None, np.repeat(source[..., None], 3, axis=2)), *((one, overlay(source, one)) for one in maps)]
    top = _MARGIN + _LINE * (len(header) + 1)
    page = Image.new(
        "RGB",
        (_MARGIN + len(panels) * (width + _MARGIN), top + height + _BAR + _LINE * (len(footer) + 2) + _MARGIN),
        _PAPER,
    )
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for k, line in enumerate(header):
        pen.text((_MARGIN, _MARGIN + k * _LINE), line, _INK, font)
    for k, (one, pixels) in enumerate(panels):
        left = _MARGIN + k * (width + _MARGIN)
        pen.text((left, top - _LINE), one.title if one else "the source scan", _INK, font)
        page.paste(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR), (left, top))
        if one:
            bar = min(width, 300)
            page.paste(Image.fromarray(_scale(bar)), (left, top + height + 6))
            labels = (f"-{one.limit:.2g}", "0", f"+{one.limit:.2g}")
            for text, x, anchor in zip(labels, (0, bar // 2, bar), ("lt", "mt", "rt"), strict=True):
                pen.text((left + x, top + height + _BAR + 10), text, _INK, font, anchor=anchor)
    for k, line in enumerate(footer):
        pen.text((_MARGIN, top + height + _BAR + _LINE * (k + 2) - 6), line, _INK, font)
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def overlay(source: NDArray[np.uint8], one: Map) -> Rgb:
    """The scan with red where a map is positive and blue where it is negative; gray outside the crop."""
    scan = np.repeat(source[..., None].astype(np.float64), 3, axis=2)
    coloured = _blend(scan, one.values / one.limit if one.limit else one.values)
    gray = 0.35 * scan + 0.65 * 128
    return np.asarray(np.rint(np.where(one.inside[..., None], coloured, gray)), np.uint8)


def _blend(gray: Float64, share: Float64) -> Float64:
    """Pixels, (..., 3), with so much of the scale's end over them: share, (...), -1..1."""
    strength = STRENGTH * np.clip(np.abs(share), 0, 1)[..., None]
    hue = np.where((share > 0)[..., None], FOR, AGAINST)
    return np.asarray((1 - strength) * gray + strength * hue)


def _scale(width: int) -> Rgb:
    """The scale from -1 to 1, over middle gray."""
    share = np.broadcast_to(np.linspace(-1, 1, width), (_BAR, width))
    return np.asarray(np.rint(_blend(np.full((_BAR, width, 3), 128.0), share)), np.uint8)
