"""The layers of a healthy retina in one B-scan, and the appearance that all scans of a patient share.

Light in tissue is not simulated. The drawing has what readers and networks rely on: the order and the reflectivity
of the layers after the consensus of Staurenghi et al., Ophthalmology 121:1572 (2014), and a foveal pit. Heights are
rows of the scan, about 4 micrometres each; positions along the scan are fractions of the field, so that every device
width shows the same anatomy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from octprep.arrays import Float32
from octprep.synthetic.difficulty import EASY, Difficulty, Rng, draw_count, draw_from

HEIGHT = 496  # rows of every scan, as in the archive
COLUMNS = 256  # the anatomy is drawn on so many and widened afterwards; speckle is drawn at full width

WIDTHS = (512, 768, 1024, 1536)  # columns of the device's protocols
_WIDTH_SHARES = (0.53, 0.31, 0.07, 0.09)  # as in a sample of the archive


class Layer(NamedTuple):
    """One layer: its rows away from the fovea and at the centre of the fovea, and its reflectivity 0..1."""

    thickness: float
    foveal_thickness: float
    reflectivity: float


# From the vitreous down. In all 300 micrometres, and 220 at the centre of the fovea.
LAYERS = {
    "nerve fibres": Layer(8.0, 1.0, 0.54),
    "ganglion cells, inner plexiform": Layer(18.0, 2.0, 0.35),
    "inner nuclear": Layer(9.0, 1.5, 0.21),
    "outer plexiform": Layer(6.0, 2.0, 0.33),
    "outer nuclear": Layer(16.0, 26.0, 0.16),
    "external limiting membrane": Layer(2.0, 2.0, 0.27),
    "myoid zone": Layer(3.5, 4.5, 0.22),
    "ellipsoid zone": Layer(4.5, 5.0, 0.74),
    "outer segments": Layer(4.0, 6.0, 0.34),
    "subretinal fluid": Layer(0.0, 0.0, 0.02),
    "subretinal material": Layer(0.0, 0.0, 0.70),
    "pigment epithelium": Layer(6.5, 6.5, 0.95),
    "under the epithelium": Layer(0.0, 0.0, 0.42),
}
NFL, GCL, INL, OPL, ONL, ELM, MYOID, EZ, OS, FLUID, MATERIAL, RPE, UNDER = range(len(LAYERS))


@dataclass(frozen=True, kw_only=True)
class PatientAppearance:
    """What all scans of one patient share, drawn independently of the disease."""

    width: int  # columns of the device's protocol
    bruch_row: float  # row of Bruch's membrane in the middle of the scan
    tilt: float  # rows from the middle to the right end
    bow: float  # rows by which both ends stand higher than the middle
    undulation: tuple[float, float]  # of the layers: rows and phase
    thickness: float  # factor on all layers
    nasal_thickening: float  # by how much the nerve fibres thicken from one end to the other, 0..1
    fovea: float  # its centre along the scan, 0..1
    fovea_width: float  # standard deviation of the pit, fraction of the field
    gloss: tuple[float, float]  # amplitude and phase of the nerve fibres' uneven reflectivity
    vitreous: float  # its gray level
    mean: float  # gray level of the whole scan
    gamma: float  # of the reflectivities
    speckle: float  # standard deviation of the gray levels as a fraction of them
    noise: float  # standard deviation of the gray levels where it is black, gray levels
    grain: float  # sideways blur of the speckle, columns of a scan 512 wide
    vessels: tuple[tuple[float, float, float], ...]  # centre, width (fractions of the field), light left in the shadow
    hyaloid: float  # rows of the detached vitreous face above the retina; 0 if none
    haze: float  # reflectivity of the vitreous above that face
    choroid_decay: float  # rows in which its light falls to a third
    choroid_gain: float  # its reflectivity, 0..1
    texture_seed: int  # seeds the pattern of the choroidal vessels
    mirrored: bool  # a left eye
    field: float  # width of the scan, standard fields
    axial_scale: float  # rows in the place of one
    blur: float  # of the image, as a factor
    pit: float  # depth of the foveal pit, a fraction of the usual one
    bumps: tuple[tuple[float, float, float], ...]  # of Bruch's membrane: centre, width, height in rows
    mottling: tuple[float, float, float]  # of the ellipsoid zone and the epithelium: amplitude, waves, phase
    opacities: tuple[tuple[float, float, float], ...]  # in the vitreous; as vessels

    @property
    def left(self) -> float:
        """The position of the scan's left end; a standard field is 0..1."""
        return (1 - self.field) / 2


def draw_appearance(rng: Rng, difficulty: Difficulty = EASY) -> PatientAppearance:
    """Draw a patient at random, from the ranges of a difficulty.

    The ranges are wide on purpose: brightness, contrast, noise and thickness differ far more between patients than any
    disease changes them, so that a classifier gains nothing from them.
    """
    return PatientAppearance(
        width=int(rng.choice(WIDTHS, p=_WIDTH_SHARES)),
        bruch_row=rng.uniform(210, 330),
        tilt=rng.normal(0, difficulty.tilt),
        bow=rng.normal(12, difficulty.bow),
        undulation=(rng.uniform(0, 5), rng.uniform(0, 2 * math.pi)),
        thickness=draw_from(difficulty.thickness, rng),
        nasal_thickening=rng.uniform(0.2, 1.0),
        fovea=rng.uniform(0.36, 0.64),
        fovea_width=rng.uniform(0.055, 0.10),
        gloss=(rng.uniform(0.05, 0.3), rng.uniform(0, 2 * math.pi)),
        vitreous=rng.uniform(8, 34),
        mean=draw_from(difficulty.mean, rng),
        gamma=draw_from(difficulty.gamma, rng),
        speckle=draw_from(difficulty.speckle, rng),
        noise=draw_from(difficulty.noise, rng),
        grain=draw_from(difficulty.grain, rng),
        vessels=tuple(
            (rng.uniform(0, 1), rng.uniform(0.002, 0.007), rng.uniform(0.4, 0.8)) for _ in range(rng.integers(2, 8))
        ),
        hyaloid=rng.uniform(14, 70) if rng.random() < 0.25 else 0.0,
        haze=rng.uniform(0.05, 0.11) if rng.random() < 0.5 else 0.02,
        choroid_decay=rng.uniform(22, 70),
        choroid_gain=rng.uniform(0.32, 0.52),
        texture_seed=int(rng.integers(2**32)),
        mirrored=bool(rng.random() < 0.5),
        field=draw_from(difficulty.field, rng),
        axial_scale=draw_from(difficulty.axial_scale, rng),
        blur=draw_from(difficulty.blur, rng),
        pit=draw_from(difficulty.pit, rng),
        bumps=tuple(
            (
                rng.uniform(0.05, 0.95),
                draw_from(difficulty.bump_width, rng),
                draw_from(difficulty.bump_height, rng),
            )
            for _ in range(draw_count(difficulty.bumps, rng))
        ),
        mottling=_draw_mottling(difficulty, rng),
        opacities=tuple(
            (rng.uniform(0, 1), rng.uniform(0.01, 0.05), rng.uniform(0.35, 0.8))
            for _ in range(draw_count(difficulty.opacities, rng))
        ),
    )


def _draw_mottling(difficulty: Difficulty, rng: Rng) -> tuple[float, float, float]:
    """Amplitude, waves across a standard field, and phase in radians."""
    amplitude = draw_from(difficulty.mottling, rng)
    return (amplitude, rng.uniform(8, 30), rng.uniform(0, 2 * math.pi)) if amplitude else (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Retina:
    """The layers of one B-scan as they lie on Bruch's membrane; a disease changes the arrays in place."""

    bruch: Float32  # (COLUMNS,) row of Bruch's membrane
    thickness: Float32  # (layers, COLUMNS) rows
    reflectivity: Float32  # (layers, COLUMNS) 0..1

    def edges(self) -> Float32:
        """Rows of the upper edge of each layer and, last, of Bruch's membrane: (layers + 1, COLUMNS)."""
        above = np.cumsum(self.thickness[::-1], axis=0)[::-1]
        return np.concatenate((self.bruch - above, self.bruch[None]))


def healthy(appearance: PatientAppearance, position: float, x: Float32) -> Retina:
    """The patient's retina in the B-scan at a position 0..1 of the volume; the pit is deepest half way.

    x: (COLUMNS,) positions along the scan; a standard field is 0..1.
    """
    u = 2 * x - 1
    bruch = (
        appearance.bruch_row
        + appearance.tilt * u
        - appearance.bow * u**2
        + appearance.undulation[0] * np.sin(4 * u + appearance.undulation[1] + position)
    )
    depth = appearance.pit * (0.25 + 0.75 * math.exp(-(((position - 0.5) / 0.4) ** 2)))
    away = (1 - depth * gaussian(x, appearance.fovea, appearance.fovea_width)) * (
        1 + 0.2 * gaussian(x, appearance.fovea, 0.22)
    )
    thickness = np.stack(
        [
            appearance.thickness * (layer.foveal_thickness + (layer.thickness - layer.foveal_thickness) * away)
            for layer in LAYERS.values()
        ]
    )
    thickness[NFL] *= np.maximum(1 + appearance.nasal_thickening * (1.6 * x - 0.8), 0.2)
    for centre, width, height in appearance.bumps:
        bump = height * gaussian(x, centre + 0.06 * (position - 0.5), width)
        bruch -= bump
        thickness[ONL] = np.maximum(thickness[ONL] - bump, 4)
    reflectivity = np.repeat([[layer.reflectivity**appearance.gamma] for layer in LAYERS.values()], COLUMNS, axis=1)
    amplitude, phase = appearance.gloss
    reflectivity[NFL] *= 1 + amplitude * np.sin(7 * x + phase + position)
    amplitude, waves, phase = appearance.mottling
    if amplitude:
        wave = np.sin(2 * math.pi * waves * x + phase + 2 * position) * np.sin(9 * x + phase)
        reflectivity[[EZ, RPE]] *= 1 - amplitude * (0.5 + 0.5 * wave)
    return Retina(bruch.astype(np.float32), thickness.astype(np.float32), reflectivity.astype(np.float32))


def gaussian(x: Float32, centre: float, width: float) -> Float32:
    """A Gaussian of height 1; width is its standard deviation."""
    return np.asarray(np.exp(-0.5 * ((x - centre) / width) ** 2), np.float32)
