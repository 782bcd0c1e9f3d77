"""The layers of a healthy macula in one B-scan, and what all scans of a patient and of one visit share.

Light in tissue is not simulated. The drawing has what readers and networks rely on: the order and the reflectivity of
the layers after the consensus of Staurenghi et al., Ophthalmology 121:1572 (2014), and their thicknesses by the
distance from the fovea, as normative studies have them (Grover et al., Am J Ophthalmol 148:266, 2009, for the whole
retina; Demirkaya et al., IOVS 54:4934, 2013, for its layers). Thicknesses are micrometres, positions millimetres from
the fovea, nasal ones positive; the drawing is in rows of the scan.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from octprep.arrays import Float32
from octprep.synthetic.difficulty import DIFFICULTIES, Difficulty, Rng, between
from octprep.synthetic.random_fields import RandomField

HEIGHT = 496  # rows of the drawing, and of nearly all scans of the archive
_TALL = 512  # rows of some scans of as many columns
COLUMNS = 512  # the anatomy is drawn on so many and widened afterwards; speckle is drawn at full width
ROW_UM = 3.87  # micrometres a row: the axial scale of the Spectralis, Heidelberg Engineering


class Protocol(NamedTuple):
    """A kind of scan of the device."""

    width: int  # columns
    field: float  # millimetres
    share: float  # of the scans


# Fields of 15, 20 and 30 degrees at 0.29 mm to the degree; the shares are those of a sample of the archive.
PROTOCOLS = (
    Protocol(384, 4.4, 0.02),
    Protocol(512, 5.8, 0.52),
    Protocol(768, 8.7, 0.30),
    Protocol(1024, 5.8, 0.07),
    Protocol(1536, 8.7, 0.09),
)


class Layer(NamedTuple):
    """A layer's thickness in micrometres and its gray level, 0..1, in a scan of middling exposure."""

    thickness: float  # at its greatest
    foveal: float  # at the centre of the fovea, as a fraction of that
    brightness: float


# From the vitreous down.
LAYERS = {
    "nerve fibres": Layer(22, 0.2, 0.50),
    "ganglion cells": Layer(52, 0.04, 0.37),
    "inner plexiform": Layer(42, 0.04, 0.42),
    "inner nuclear": Layer(41, 0.08, 0.30),
    "outer plexiform": Layer(23, 0.2, 0.385),
    "Henle fibres": Layer(26, 0.9, 0.26),  # between the gray levels of its neighbours, by the angle of the light
    "outer nuclear": Layer(46, 1.7, 0.22),
    "external limiting membrane": Layer(7, 1.0, 0.30),
    "myoid zone": Layer(15, 1.4, 0.25),
    "ellipsoid zone": Layer(15, 1.1, 0.62),
    "outer segments": Layer(14, 1.6, 0.43),
    "subretinal fluid": Layer(0, 1.0, 0.07),
    "subretinal material": Layer(0, 1.0, 0.5),
    "interdigitation zone": Layer(9, 1.0, 0.56),
    "pigment epithelium": Layer(22, 1.0, 0.70),
    "under the epithelium": Layer(0, 1.0, 0.4),
    "Bruch's membrane": Layer(0, 1.0, 0.45),  # seen on its own only where the epithelium is lifted from it
}
NFL, GCL, IPL, INL, OPL, HENLE, ONL, ELM, MYOID, EZ, OS, FLUID, MATERIAL, IZ, RPE, UNDER, BRUCH = range(len(LAYERS))
_DISC_IN_PLANE = 0.45  # of the eyes: the disc lies above the height of the fovea, and many volumes end below it
_TALL_SHARE = 0.1  # of the scans of as many columns; of 62 genuine scans of all widths four are so
_BEYOND_SHARE = 0.03  # of the visits
_MOTION_SHARE = 0.04  # of the visits, for either kind
_BORDERS = ELM  # layers whose lower border is uneven on its own: those of the inner retina
OUTER = slice(ELM, OS + 1)  # what photoreceptors are lost with


@dataclass(frozen=True, kw_only=True)
class View:
    """What the scans of one visit share: the device's protocol, how the eye is placed, and how clear the scans are."""

    rows: int  # HEIGHT, or some more below
    width: int  # columns
    field: float  # millimetres across
    centre: float  # position of the scan's middle
    row: float  # row of Bruch's membrane at the fovea
    beyond: float  # rows by which the retina reaches beyond the upper edge, where it appears mirrored; 0 if it does not
    tilt: float  # rows a millimetre
    row_um: float  # micrometres a row
    jump: tuple[float, float]  # the eye moved within the scan: from this position on, all is so many rows lower
    double: tuple[float, int, int]  # and between frames: this share of the light lies so many rows and columns aside
    blur: float  # standard deviation along a column, rows
    side_blur: float  # and along a row, columns
    looks: float  # independent frames that are averaged
    grain: tuple[float, float]  # standard deviations of the speckle's own blur, rows and columns
    noise: float  # gray level of the detector's noise, 0..1
    cut: float  # part of the mean noise that the device takes away
    black: float  # gray level of the darkest pixels, 0..1
    gain: float  # factor on the gray levels
    gamma: float  # their exponent
    roll_off: float  # of the signal from the upper to the lower edge, 0..1
    haze: float  # gray level of the vitreous, 0..1
    ghost: float  # brightness of the small reflex of the device's optics near the upper edge; 0 if none
    quality: int  # of the JPEG


@dataclass(frozen=True, kw_only=True)
class PatientAppearance:
    """What all scans of one patient share, drawn independently of the disease, and one visit's view."""

    view: View
    curvature: float  # rows a square millimetre by which Bruch's membrane rises away from the fovea
    waviness: tuple[float, RandomField]  # of the whole retina: rows
    thickness: tuple[float, ...]  # factor on each layer
    brightness: tuple[float, ...]  # factor on each layer
    henle: tuple[
        float, float
    ]  # how bright Henle's fibres are on the temporal and the nasal side: 0 as the outer nuclear,
    #   1 as the outer plexiform layer
    borders: tuple[float, tuple[RandomField, ...]]  # unevenness of the layers' borders, micrometres
    bands: tuple[float, tuple[RandomField, ...]]  # and of their brightness along the scan, 0..1
    contrast: float  # 1: layers as LAYERS has them; below that they are more alike
    pit_width: float  # factor on the width of the foveal pit
    pit_depth: float  # 0..1
    nerve_fibres: float  # by how much these thicken towards the disc, 0..2
    disc: float  # position of the optic disc's edge; infinite where the planes of the scans do not cross the disc
    rim: float  # height of its rim, micrometres
    cup: float  # depth of its cup, micrometres
    gloss: tuple[float, RandomField]  # uneven brightness of the nerve fibres
    mottling: tuple[float, RandomField, RandomField]  # uneven brightness of the outer bands
    unevenness: tuple[float, RandomField]  # of the epithelium: micrometres
    bumps: tuple[tuple[float, float, float], ...]  # of Bruch's membrane: position, half width, height in micrometres
    vessels: tuple[tuple[float, float, float], ...]  # position, half width in millimetres, light left in the shadow
    opacities: tuple[tuple[float, float, float], ...]  # in the vitreous; as vessels
    hyaloid: tuple[float, float, float, float] | None  # face of a detached vitreous: micrometres above the retina,
    #   rise towards the ends, brightness of its line, haze above it
    choroid: float  # its thickness, micrometres
    choroid_brightness: float  # 0..1
    choroid_decay: float  # micrometres over which its brightness falls to a third
    lumina: float  # how dark its vessels are, 0..1
    stripes: tuple[float, RandomField]  # of light below the epithelium
    texture_seed: int  # seeds the patterns of all tissue
    mirrored: bool  # a left eye


def draw_view(rng: Rng, difficulty: Difficulty = DIFFICULTIES["default"]) -> View:
    """Draw what the scans of one visit share.

    Brightness, contrast and noise differ far more between visits than any disease changes them, so that a classifier
    gains nothing from them.
    """
    protocol = PROTOCOLS[int(rng.choice(len(PROTOCOLS), p=[each.share for each in PROTOCOLS]))]
    bad = rng.uniform(*difficulty.degradation)
    is_square = protocol.width == _TALL
    return View(
        rows=_TALL if is_square and rng.random() < _TALL_SHARE else HEIGHT,
        width=protocol.width,
        field=protocol.field * rng.uniform(0.95, 1.06),
        centre=rng.normal(0.25, 0.45),
        row=rng.uniform(180, 340),
        beyond=rng.uniform(4, 60) if rng.random() < _BEYOND_SHARE else 0.0,
        tilt=rng.normal(0, 11),
        row_um=ROW_UM * rng.uniform(0.93, 1.07),
        jump=(rng.uniform(-4, 4), rng.normal(0, 3)) if rng.random() < _MOTION_SHARE else (0.0, 0.0),
        double=_draw_double(rng),
        blur=between(0.75, 1.9, bad) * rng.uniform(0.85, 1.15),
        side_blur=between(0.5, 1.7, bad) * rng.uniform(0.8, 1.2) * (protocol.width / protocol.field / 88),
        looks=between(15, 3.5, bad) * between(0.6, 1.6, rng.random()),
        grain=(rng.uniform(0.6, 0.95), rng.uniform(0.35, 0.8)),
        noise=rng.uniform(0.08, 0.16) + 0.03 * bad,
        cut=rng.uniform(0.55, 0.97),
        black=float(rng.choice([0, 0, 0, 1]) * rng.uniform(0, 0.05)),
        gain=between(0.9, 1.28, rng.random()),
        gamma=rng.uniform(0.85, 1.25),
        roll_off=rng.uniform(0, 0.35),
        haze=rng.uniform(0.0, 0.09),
        ghost=rng.uniform(0.08, 0.3) if rng.random() < 0.4 else 0.0,
        quality=int(rng.integers(72, 93)),
    )


def _draw_double(rng: Rng) -> tuple[float, int, int]:
    if rng.random() > _MOTION_SHARE:
        return 0.0, 0, 0
    return rng.uniform(0.15, 0.5), int(rng.integers(-4, 5)), int(rng.integers(-12, 13))


def draw_appearance(rng: Rng, difficulty: Difficulty = DIFFICULTIES["default"]) -> PatientAppearance:
    """Draw a patient and a first visit at random."""
    overlap = rng.uniform(*difficulty.overlap)
    whole = rng.normal(1.03, 0.09)
    count = len(LAYERS)
    field = RandomField.draw
    return PatientAppearance(
        view=draw_view(rng, difficulty),
        curvature=max(rng.normal(2.6, 2.2), -2.0) if rng.random() < 0.9 else rng.uniform(5, 11),
        waviness=(rng.uniform(0, 2.5), field(1.6, rng)),
        thickness=tuple(np.clip(whole * rng.normal(1, 0.1, count), 0.6, 1.5)),
        brightness=tuple(np.clip(rng.normal(1, 0.07, count), 0.75, 1.25)),
        henle=tuple(np.clip(rng.uniform(0, 0.55) + rng.uniform(-0.4, 0.4) * np.array([1, -1]), 0, 1)),
        borders=(rng.uniform(1, 4), tuple(field(between(0.1, 0.5, rng.random()), rng) for _ in range(_BORDERS))),
        bands=(rng.uniform(0.02, 0.09), tuple(field(between(0.15, 1.2, rng.random()), rng) for _ in range(_BORDERS))),
        contrast=rng.uniform(0.8, 1.3),
        pit_width=between(0.45, 1.5, rng.random()),
        pit_depth=min(rng.uniform(0.7, 1.15), 1.0),
        nerve_fibres=rng.uniform(0.4, 2.5),
        disc=rng.uniform(3.3, 4.1) if rng.random() < _DISC_IN_PLANE else math.inf,
        rim=rng.uniform(0, 150),
        cup=between(40, 600, rng.random()),
        gloss=(rng.uniform(0.05, 0.45), field(0.8, rng)),
        mottling=(rng.uniform(0.03, 0.1) + 0.15 * overlap * rng.random(), field(0.5, rng), field(0.06, rng)),
        unevenness=(
            rng.uniform(0.3, 1.2) + 4 * overlap * rng.random() ** 2,
            field(between(0.05, 0.3, rng.random()), rng),
        ),
        bumps=tuple(
            (rng.uniform(-4, 4), rng.uniform(0.04, 0.2), rng.uniform(4, 14)) for _ in range(rng.poisson(1.2 * overlap))
        ),
        vessels=_draw_vessels(rng),
        opacities=tuple(
            (rng.uniform(-4, 4), rng.uniform(0.08, 0.5), rng.uniform(0.45, 0.85)) for _ in range(rng.poisson(0.25))
        ),
        hyaloid=_draw_hyaloid(rng),
        choroid=between(90, 420, rng.random()),
        choroid_brightness=rng.uniform(0.22, 0.39),
        choroid_decay=between(150, 520, rng.random()),
        lumina=rng.uniform(0.1, 0.55),
        stripes=(rng.uniform(0.01, 0.07), field(0.03, rng)),
        texture_seed=int(rng.integers(2**32)),
        mirrored=bool(rng.random() < 0.5),
    )


def next_visit(
    appearance: PatientAppearance, rng: Rng, difficulty: Difficulty = DIFFICULTIES["default"]
) -> PatientAppearance:
    """The same patient at another visit, of the same or the other eye; what was in view before is in view again."""
    before, view = appearance.view, draw_view(rng, difficulty)
    if view.field < before.field:
        view = dataclasses.replace(view, rows=before.rows, width=before.width, field=before.field)
    view = dataclasses.replace(view, centre=before.centre)
    return dataclasses.replace(appearance, view=view, mirrored=bool(rng.random() < 0.5))


def _draw_vessels(rng: Rng) -> tuple[tuple[float, float, float], ...]:
    """Retinal vessels: none at the fovea, more and wider ones towards the disc (Sun et al., IOVS 50:4404, 2009)."""
    density = rng.uniform(0.2, 1.8)
    positions = [x for x in rng.uniform(-5, 5, rng.poisson(10 * density)) if abs(x) > 0.45]
    return tuple(
        (x, between(0.007, 0.026, rng.random()) * (1 + 0.25 * max(x, 0)), rng.uniform(0.45, 0.95)) for x in positions
    )


def _draw_hyaloid(rng: Rng) -> tuple[float, float, float, float] | None:
    if rng.random() > 0.3:
        return None
    return between(15, 500, rng.random()), rng.uniform(-60, 60), rng.uniform(0.12, 0.3), rng.uniform(0.0, 0.07)


@dataclass(frozen=True)
class Retina:
    """The layers of one B-scan as they lie on Bruch's membrane; a disease changes the arrays in place."""

    x: Float32  # (COLUMNS,) positions, millimetres
    y: float  # position of the B-scan, millimetres above the fovea
    bruch: Float32  # (COLUMNS,) row of Bruch's membrane
    thickness: Float32  # (layers, COLUMNS) rows
    brightness: Float32  # (layers, COLUMNS) 0..1
    light: Float32  # (COLUMNS,) factor on what lies below Bruch's membrane
    row_um: float  # micrometres a row

    def edges(self) -> Float32:
        """Rows of the upper edge of each layer and, last, of Bruch's membrane: (layers + 1, COLUMNS)."""
        above = np.cumsum(self.thickness[::-1], axis=0)[::-1]
        return np.concatenate((self.bruch - above, self.bruch[None]))


def positions(view: View) -> Float32:
    """The positions of the drawing's columns, (COLUMNS,) millimetres, before a left eye is mirrored."""
    return np.linspace(view.centre - view.field / 2, view.centre + view.field / 2, COLUMNS, dtype=np.float32)


def healthy(appearance: PatientAppearance, y: float) -> Retina:
    """The patient's retina in the B-scan at y millimetres above the fovea."""
    view = appearance.view
    x = positions(view)
    rows, field = appearance.waviness
    height, unevenness = appearance.unevenness
    bruch = view.row + view.tilt * x - appearance.curvature * x**2 + rows * field.at(x, y)
    r = np.sqrt(x**2 + np.float32(y * y))
    thickness = _thickness(appearance, x, r) / np.float32(view.row_um)
    amount, fields = appearance.borders
    for layer, field in enumerate(fields):
        change = np.minimum(amount / view.row_um, 0.25 * thickness[layer]) * field.at(x, y)
        thickness[layer] += change
        thickness[layer + 1] -= np.minimum(change, 0.5 * thickness[layer + 1])
    np.maximum(thickness, 0, out=thickness)
    for centre, width, bump in appearance.bumps:
        rise = bump / view.row_um * gaussian(x, centre, width)
        bruch -= rise
        thickness[ONL] = np.maximum(thickness[ONL] - rise, 4)
    bruch -= np.asarray(height / view.row_um * unevenness.at(x, y), np.float32)
    brightness = _brightness(appearance, x, y, r)
    amount, stripes = appearance.stripes
    inside = _in_disc(appearance, x)
    bruch += appearance.cup / view.row_um * _logistic((x - appearance.disc - 0.55) / 0.12)
    light = np.clip(1 + amount * stripes.at(x, y), 0.5, 1.5) * (1 - 0.6 * inside)
    return Retina(
        x, y, np.asarray(bruch, np.float32), thickness, brightness, np.asarray(light, np.float32), view.row_um
    )


def _thickness(appearance: PatientAppearance, x: Float32, r: Float32) -> Float32:
    """Micrometres of each layer, (layers, COLUMNS), by the distance r from the fovea."""
    factors = np.asarray(appearance.thickness, np.float32)
    peak = np.asarray([layer.thickness for layer in LAYERS.values()], np.float32) * factors
    foveal = np.asarray([layer.foveal for layer in LAYERS.values()], np.float32)
    pit = appearance.pit_depth * np.exp(-((r / (0.42 * appearance.pit_width)) ** 1.5))
    fall = 1 - 0.45 * np.clip((r - 1.0) / 3.2, 0, 1)  # of the inner layers towards the periphery
    thickness = peak[:, None] * (1 + (foveal[:, None] - 1) * pit)
    thickness[GCL:OPL] *= fall
    thickness[[GCL, IPL]] *= 0.8 + 0.35 * np.exp(-(((r - 0.95) / 0.7) ** 2))
    thickness[ONL] *= 1 - 0.2 * np.clip(r / 3, 0, 1)
    thickness[NFL] *= 0.55 + appearance.nerve_fibres * np.clip((x + 0.6) / 4.2, 0, 1.1) ** 1.3 * (1 - pit)
    inside = _in_disc(appearance, x)  # only nerve fibres go on there
    thickness[GCL:] *= 1 - inside
    rim = appearance.rim * np.exp(-(((x - appearance.disc - 0.1) / 0.3) ** 2))
    thickness[NFL] += rim * np.float32(0.5 + 0.5 * appearance.nerve_fibres)
    return np.asarray(thickness, np.float32)


def _brightness(appearance: PatientAppearance, x: Float32, y: float, r: Float32) -> Float32:
    """Gray levels of each layer, (layers, COLUMNS), 0..1."""
    level = np.asarray([layer.brightness for layer in LAYERS.values()], np.float32)
    middle = np.float32(0.36)
    level = middle * (level / middle) ** np.float32(appearance.contrast)
    brightness = np.repeat((level * np.asarray(appearance.brightness, np.float32))[:, None], COLUMNS, axis=1)
    amount, fields = appearance.bands
    for layer, field in enumerate(fields):
        brightness[layer] *= np.clip(1 + amount * field.at(x, y), 0.7, 1.3)
    temporal, nasal = appearance.henle
    share = temporal + (nasal - temporal) * _logistic(x / 0.15)
    brightness[HENLE] = brightness[ONL] + np.asarray(share, np.float32) * (brightness[OPL] - brightness[ONL])
    amount, field = appearance.gloss
    brightness[NFL] *= 1 + amount * np.clip(field.at(x, y), -1.5, 2)
    amount, broad, fine = appearance.mottling
    outer = [ELM, EZ, OS, IZ, RPE]
    brightness[outer] *= np.clip(1 + amount * (broad.at(x, y) + fine.at(x, y)), 0.4, 1.6)
    brightness[EZ] *= 1 + 0.06 * np.exp(-((r / 0.5) ** 2))
    return np.asarray(brightness, np.float32)


def gaussian(x: Float32, centre: float, width: float) -> Float32:
    """A Gaussian of height 1; width is its standard deviation."""
    return np.asarray(np.exp(-0.5 * ((x - centre) / width) ** 2), np.float32)


def _in_disc(appearance: PatientAppearance, x: Float32) -> Float32:
    """0 in the retina, 1 in the optic disc."""
    return _logistic((x - appearance.disc) / 0.07)


def _logistic(x: Float32) -> Float32:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))), np.float32)
