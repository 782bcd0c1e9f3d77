"""Lesions that change the layers of a retina: each has a place and a size, and changes a `Retina` in place.

Positions and widths are millimetres, heights micrometres, as in `anatomy`. A lesion's size varies along the volume but
never reaches zero, so that every scan of a patient shows the class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np

from octprep.arrays import Float32
from octprep.synthetic.anatomy import (
    BRUCH,
    COLUMNS,
    FLUID,
    GCL,
    HENLE,
    INL,
    IPL,
    IZ,
    MATERIAL,
    NFL,
    ONL,
    OPL,
    OS,
    OUTER,
    RPE,
    UNDER,
    Retina,
)
from octprep.synthetic.random_fields import RandomField

_LEAST_ONL = 5  # rows that the outer nuclear layer keeps where something pushes it up


class Lesion(Protocol):
    """What changes the layers of a B-scan."""

    def reshape(self, retina: Retina) -> None:
        """Change the thickness, brightness and light of the retina in place."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Where a lesion lies, and its outline: exp(-|u|^power), u the distance from its centre in half widths."""

    centre: float
    width: float  # half of it
    power: float = 2.0  # 2: a bell; 6: a plateau with steep flanks
    skew: float = 0.0  # -0.7..0.7: how much steeper one flank is than the other
    drift: float = 0.0  # of the centre, for each millimetre from one B-scan to the next
    peak: float = 0.0  # the B-scan in which it is largest, millimetres
    rough: tuple[float, RandomField] | None = None  # of the outline: amplitude 0..1

    def at(self, retina: Retina) -> Float32:
        """0..1, and a little more where it is rough: (COLUMNS,)."""
        size = 0.75 + 0.25 * math.exp(-((retina.y - self.peak) ** 2))
        u = (retina.x - self.centre - self.drift * retina.y) / (self.width * size)
        u = u * (1 + self.skew * np.tanh(u))
        outline = size * np.exp(-(np.abs(u) ** self.power))
        if self.rough is not None:
            amount, field = self.rough
            outline = outline * np.clip(1 + amount * field.at(retina.x, retina.y), 0.1, 2)
        return np.asarray(outline, np.float32)


def _push(retina: Retina, lift: Float32) -> None:
    """Make room for `lift` rows under the outer nuclear layer: it gives 0.6 of it, the surface rises by the rest."""
    onl = retina.thickness[ONL]
    give = np.minimum(0.6 * lift, np.maximum(onl - _LEAST_ONL, 0))
    onl -= give


@dataclass(frozen=True, kw_only=True)
class Elevation:
    """Druse or detachment: the pigment epithelium lifted off Bruch's membrane, with something below it."""

    extent: Extent
    height: float
    content: float  # gray level of what lies below, 0..1
    fading: float = 0.3  # of the photoreceptors' bands above it, 0..1
    thinning: float = 0.0  # of the epithelium on it, 0..1
    light: float = 0.0  # change of the light below, -1..1

    def reshape(self, retina: Retina) -> None:
        """Change the layers where the lesion lies."""
        outline = self.extent.at(retina)
        lift = self.height / retina.row_um * outline
        before = retina.thickness[UNDER]
        risen = np.maximum(before, lift) + 0.25 * np.minimum(before, lift)  # neighbours merge
        share = np.where(risen > 0.1, lift / (lift + before + 1e-3), 0)
        retina.brightness[UNDER] += share * (self.content - retina.brightness[UNDER])
        _push(retina, np.asarray(risen - before, np.float32))
        retina.thickness[UNDER] = risen
        raised = np.clip(risen / 9, 0, 1)
        retina.thickness[BRUCH] = np.maximum(retina.thickness[BRUCH], 1.6 * np.clip(risen / 5 - 0.4, 0, 1))
        retina.brightness[OUTER] *= 1 - self.fading * raised * np.minimum(outline, 1)
        retina.thickness[OUTER] *= 1 - 0.4 * self.fading * raised * np.minimum(outline, 1)
        retina.thickness[RPE] *= 1 - self.thinning * np.clip(outline, 0, 1)
        retina.thickness[IZ] *= 1 - 0.8 * raised
        retina.light[:] *= 1 + self.light * np.clip(outline, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Material:
    """Hyper-reflective material between the epithelium and the photoreceptors: deposits, membranes."""

    extent: Extent
    height: float
    content: float  # its gray level, 0..1
    fading: float = 0.6  # of the photoreceptors' bands above it, 0..1
    light: float = 0.0

    def reshape(self, retina: Retina) -> None:
        """Change the layers where the lesion lies."""
        outline = self.extent.at(retina)
        lift = self.height / retina.row_um * outline
        before = retina.thickness[MATERIAL]
        share = lift / (lift + before + 1e-3)
        retina.brightness[MATERIAL] += share * (self.content - retina.brightness[MATERIAL])
        _push(retina, lift)
        retina.thickness[MATERIAL] += lift
        raised = np.clip(lift / 6, 0, 1)
        retina.brightness[OUTER] *= 1 - self.fading * raised
        retina.thickness[OUTER] *= 1 - 0.7 * self.fading * raised
        retina.light[:] *= 1 + self.light * np.clip(outline, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Haemorrhage:
    """Blood between the epithelium and the photoreceptors, which lets little light through."""

    extent: Extent
    height: float
    content: float  # its gray level, 0..1
    shade: float  # of the light below that it takes, 0..1

    def reshape(self, retina: Retina) -> None:
        """Change the layers where the lesion lies."""
        blood = Material(extent=self.extent, height=self.height, content=self.content, light=-self.shade)
        blood.reshape(retina)
        retina.brightness[IZ:] *= 1 - 0.6 * self.shade * np.clip(self.extent.at(retina), 0, 1)


@dataclass(frozen=True, kw_only=True)
class SubretinalFluid:
    """Dark fluid between the photoreceptors and the epithelium."""

    extent: Extent
    height: float
    content: float = 0.07

    def reshape(self, retina: Retina) -> None:
        """Change the layers where the lesion lies."""
        lift = self.height / retina.row_um * self.extent.at(retina)
        lift[lift < 0.6] = 0
        _push(retina, 0.6 * lift)
        retina.thickness[FLUID] += lift
        retina.brightness[FLUID] = self.content
        retina.brightness[OS] *= 1 + 0.15 * np.clip(lift / 8, 0, 1)
        retina.thickness[OS] *= 1 - 0.3 * np.clip(lift / 8, 0, 1)


@dataclass(frozen=True, kw_only=True)
class OuterLoss:
    """Photoreceptors' bands that are faint, broken or gone, and an outer nuclear layer that is thinner."""

    extent: Extent
    amount: float  # 0..1
    thinning: float = 0.3  # of the outer nuclear layer, 0..1
    epithelium: float = 0.0  # part of the pigment epithelium that is lost, 0..1
    light: float = 0.0  # gained below, 0..2, where the epithelium is lost

    def reshape(self, retina: Retina) -> None:
        """Change the layers where the lesion lies."""
        outline = np.clip(self.extent.at(retina), 0, 1)
        gone = self.amount * outline
        retina.thickness[OUTER] *= 1 - 0.8 * gone
        outer = retina.brightness[OUTER]
        retina.brightness[OUTER] = outer + 0.8 * gone * (0.32 - outer)
        retina.thickness[IZ] *= 1 - 0.8 * gone
        retina.thickness[ONL] *= 1 - self.thinning * outline
        retina.thickness[RPE] *= 1 - 0.8 * self.epithelium * outline
        retina.brightness[RPE] *= 1 - 0.45 * self.epithelium * outline
        retina.light[:] *= 1 + self.light * outline


@dataclass(frozen=True, kw_only=True)
class Swelling:
    """Layers thickened by fluid, which makes them darker and their borders unclear."""

    extent: Extent
    height: float
    shares: Mapping[int, float] = field(
        default_factory=lambda: {GCL: 0.06, IPL: 0.06, INL: 0.3, OPL: 0.08, HENLE: 0.2, ONL: 0.3}
    )
    darkening: float = 0.12  # of the swollen layers, 0..1
    mixing: float = 0.0  # of the inner layers' gray levels, 0..1

    def reshape(self, retina: Retina) -> None:
        """Change the layers where the lesion lies."""
        outline = self.extent.at(retina)
        for layer, share in self.shares.items():
            retina.thickness[layer] += share * self.height / retina.row_um * outline
            if layer in (INL, HENLE, ONL):
                retina.brightness[layer] *= 1 - self.darkening * np.clip(outline, 0, 1)
        inner = retina.brightness[GCL : OPL + 1]
        mean = inner.mean(axis=0, keepdims=True)
        retina.brightness[GCL : OPL + 1] = inner + self.mixing * np.clip(outline, 0, 1) * (mean - inner)


@dataclass(frozen=True, kw_only=True)
class Thinning:
    """Inner and outer layers that have atrophied, above a scar or where an edema was."""

    extent: Extent
    amount: float  # 0..0.7

    def reshape(self, retina: Retina) -> None:
        """Change the layers where the lesion lies."""
        retina.thickness[GCL : ONL + 1] *= 1 - self.amount * np.clip(self.extent.at(retina), 0, 1)


@dataclass(frozen=True, kw_only=True)
class Traction:
    """An epiretinal membrane: a bright line on a wrinkled surface, with the pit flattened or steepened."""

    extent: Extent
    wrinkles: tuple[float, RandomField]  # micrometres
    thickness: float  # of the membrane, micrometres
    brightness: float  # 0..1
    filling: float  # micrometres by which the pit is filled

    def reshape(self, retina: Retina) -> None:
        """Change the layers where the lesion lies."""
        outline = np.clip(self.extent.at(retina), 0, 1)
        height, field = self.wrinkles
        pit = np.exp(-((retina.x / 0.6) ** 2))
        change = outline * (height * field.at(retina.x, retina.y) + self.filling * pit) / retina.row_um
        change = np.maximum(change, -0.5 * retina.thickness[GCL])
        retina.thickness[GCL] += 0.6 * change
        retina.thickness[INL] += 0.4 * np.maximum(change, 0)
        retina.thickness[NFL] += self.thickness / retina.row_um * outline
        retina.brightness[NFL] += outline * (self.brightness - retina.brightness[NFL])


def settle(retina: Retina, before: Float32) -> None:
    """Let the outer nuclear layer level out what is ragged below it, as the inner retina follows only smooth shapes.

    before: (layers, COLUMNS) rows of each layer without lesions.
    """
    raised = (retina.thickness[ONL:] - before[ONL:]).sum(axis=0)
    if not raised.any():
        return
    scale = 0.16 * COLUMNS / float(retina.x[-1] - retina.x[0])
    onl = retina.thickness[ONL]
    least = (raised - onl + np.minimum(onl, _LEAST_ONL))[None]  # more, and the layer would have no room
    envelope = cv2.dilate(least, np.ones((1, 2 * round(1.5 * scale) + 1), np.uint8))
    smooth = np.maximum(*(cv2.GaussianBlur(each, (0, 0), scale) for each in (raised[None], envelope)))[0]
    onl[:] = np.maximum(onl + smooth - raised, np.minimum(onl, _LEAST_ONL))
