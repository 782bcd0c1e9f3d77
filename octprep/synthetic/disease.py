"""How drusen, macular edema and a neovascular membrane change the layers of a retina."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from octprep.arrays import Float32
from octprep.synthetic.anatomy import (
    COLUMNS,
    ELM,
    EZ,
    FLUID,
    GCL,
    INL,
    MATERIAL,
    MYOID,
    ONL,
    OS,
    RPE,
    UNDER,
    PatientAppearance,
    Retina,
    gaussian,
)
from octprep.synthetic.difficulty import EASY, Difficulty, Range, Rng, draw_count, draw_from

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """One focus of disease.

    Its size varies along the volume but never reaches zero, so that every scan shows its label.
    """

    centre: float  # along the scan, 0..1
    width: float  # half of it, fraction of the field
    height: float  # rows; of a cyst, half its height
    centre_shift: float  # from the first to the last B-scan of the volume, fraction of the field
    peak: float  # position in the volume where it is largest, 0..1

    def at(self, position: float) -> tuple[float, float, float]:
        """Centre, width and height in the B-scan at a position 0..1 of the volume."""
        swell = 0.86 + 0.14 * math.cos(2 * math.pi * (position - self.peak))
        return self.centre + self.centre_shift * (position - 0.5), self.width * swell, self.height * swell


@dataclass(frozen=True, kw_only=True)
class Disease:
    """The disease of one patient, for all scans of one class."""

    label: str  # of CLASSES
    lesions: tuple[Lesion, ...] = ()  # drusen, the swelling of an edema, the mound of a membrane
    side_drusen: tuple[Lesion, ...] = ()  # beside a membrane
    pockets: tuple[Lesion, ...] = ()  # of fluid under the retina
    cysts: tuple[Lesion, ...] = ()  # in the inner and the outer nuclear layer
    rough: tuple[float, ...] = ()  # phases of a membrane's uneven surface, radians
    cyst_light: float = 0.015  # reflectivity of the fluid in cysts, 0..1
    damage: float = 1.0  # part of the loss of the layers above a membrane and of the torn epithelium, 0..1
    material: float = 0.0  # the part of a membrane that has grown through the epithelium, 0..1
    shadow: float = 0.0  # how much of the light below is lost, or gained where the epithelium is gone, -1..1


def draw_disease(label: str, appearance: PatientAppearance, rng: Rng, difficulty: Difficulty = EASY) -> Disease:
    """Draw the lesions of a class at random, from the ranges of a difficulty: none for NORMAL."""
    near = float(np.clip(appearance.fovea + rng.normal(0, 0.07), 0.28, 0.72))
    if label == "DRUSEN":
        drusen = _draw_drusen(near, draw_count(difficulty.drusen, rng), appearance, difficulty, rng)
        return Disease(label=label, lesions=drusen, shadow=rng.uniform(-0.1, 0.25))
    if label == "DME":
        swelling = _lesion(near, difficulty.swelling_width, difficulty.swelling_height, rng)
        centres = _scattered(near, 1.3 * swelling.width, draw_count(difficulty.cysts, rng), appearance, rng)
        cysts = tuple(_lesion(centre, difficulty.cyst_width, difficulty.cyst_height, rng) for centre in centres)
        under = [appearance.fovea] if rng.random() < 0.25 else []
        pockets = tuple(_lesion(centre, (0.05, 0.10), (10, 22), rng) for centre in under)
        cyst_light = draw_from(difficulty.cyst_light, rng)
        return Disease(label=label, lesions=(swelling,), cysts=cysts, cyst_light=cyst_light, pockets=pockets)
    if label == "CNV":
        mound = _lesion(near, difficulty.membrane_width, difficulty.membrane_height, rng)
        sides = [side for side in (-1, 1) if rng.random() < difficulty.pocket_chance]
        sides = sides or [1] * difficulty.least_pockets
        pockets = tuple(
            _lesion(near + 1.7 * s * mound.width, (0.03, 0.06), difficulty.pocket_height, rng) for s in sides
        )
        cysts = tuple(
            _lesion(near + rng.uniform(-1, 1) * mound.width, (0.010, 0.024), (6, 11), rng)
            for _ in range(rng.integers(0, 4))
        )
        return Disease(
            label=label,
            lesions=(mound,),
            pockets=pockets,
            cysts=cysts,
            rough=tuple(rng.uniform(0, 2 * math.pi, 6)),
            material=rng.uniform(0.1, 0.6),
            shadow=rng.uniform(-0.5, 0.6),
            damage=draw_from(difficulty.membrane_damage, rng),
            cyst_light=draw_from(difficulty.cyst_light, rng),
            side_drusen=_draw_drusen(near, draw_count(difficulty.membrane_drusen, rng), appearance, difficulty, rng),
        )
    return Disease(label=label)


def _draw_drusen(
    near: float, count: int, appearance: PatientAppearance, difficulty: Difficulty, rng: Rng
) -> tuple[Lesion, ...]:
    centres = _scattered(near, 0.34, count, appearance, rng)
    return tuple(_lesion(centre, difficulty.drusen_width, difficulty.drusen_height, rng) for centre in centres)


def _scattered(centre: float, reach: float, count: int, appearance: PatientAppearance, rng: Rng) -> list[float]:
    """Centres within `reach` of one and inside the scan.

    One lies in each of `count` equal stretches, so that they seldom coincide.
    """
    steps = (np.arange(count) + rng.uniform(0.1, 0.9, count)) / count
    margin = 0.06 + max(appearance.left, 0)
    return [float(x) for x in np.clip(centre + reach * (2 * steps - 1), margin, 1 - margin)]


def _lesion(centre: float, width: Range, height: Range, rng: Rng) -> Lesion:
    return Lesion(
        centre=centre,
        width=draw_from(width, rng),
        height=draw_from(height, rng),
        centre_shift=rng.uniform(-0.05, 0.05),
        peak=rng.uniform(0, 1),
    )


def apply_disease(retina: Retina, disease: Disease, position: float, x: Float32) -> Float32:
    """Change a healthy retina's layers in place; returns the fraction of light that is left below, (COLUMNS,)."""
    thick = retina.thickness
    extent = np.zeros_like(x)  # 0..1, where the light below is changed
    if disease.label == "DRUSEN":
        extent = _lift_drusen(retina, disease.lesions, position, x)
    elif disease.label == "DME":
        extent = _swell(retina, disease, position, x)
    elif disease.label == "CNV":
        extent = _grow_membrane(retina, disease, position, x)
        if disease.side_drusen:
            _lift_drusen(retina, disease.side_drusen, position, x)
    for pocket in disease.pockets:
        centre, width, height = pocket.at(position)
        thick[FLUID] = np.maximum(thick[FLUID], height * np.clip(1.15 * gaussian(x, centre, width) - 0.15, 0, 1))
    if disease.label != "NORMAL":
        _settle(retina)
    return np.asarray(1 - disease.shadow * extent, np.float32)


def _settle(retina: Retina) -> None:
    """Let the outer nuclear layer level out what is ragged below it, as the inner retina follows only smooth shapes."""
    above = np.asarray(retina.thickness[ONL:].sum(axis=0), np.float32)
    smooth = cv2.GaussianBlur(above[None], (0, 0), sigmaX=COLUMNS / 36, borderType=cv2.BORDER_REPLICATE)[0]
    retina.thickness[ONL] = np.maximum(retina.thickness[ONL] + smooth - above, 3)


def _lift_drusen(retina: Retina, drusen: Sequence[Lesion], position: float, x: Float32) -> Float32:
    """Smooth small domes between Bruch's membrane and the epithelium; the outer nuclear layer becomes thinner."""
    lift = np.zeros_like(x)
    for druse in drusen:
        centre, width, height = druse.at(position)
        # A flat top and steep flanks rather than a bell.
        lift = np.maximum(lift, height * np.minimum(1.25 * gaussian(x, centre, width), 1))
    retina.thickness[UNDER] += lift
    retina.thickness[ONL] = np.maximum(retina.thickness[ONL] - 0.85 * lift, 4)
    raised = np.clip(lift / 12, 0, 1)
    retina.reflectivity[EZ] *= 1 - 0.35 * raised
    return np.asarray(raised, np.float32)


def _swell(retina: Retina, disease: Disease, position: float, x: Float32) -> Float32:
    """A dome: the nuclear layers take up fluid and lose some light."""
    centre, width, height = disease.lesions[0].at(position)
    dome = gaussian(x, centre, width)
    for layer, share in ((GCL, 0.1), (INL, 0.35), (ONL, 0.55)):
        retina.thickness[layer] += share * height * dome
    retina.reflectivity[GCL] *= 1 - 0.15 * dome
    return dome


def _grow_membrane(retina: Retina, disease: Disease, position: float, x: Float32) -> Float32:
    """A ragged bright mound under and through the epithelium, which is torn, with the outer layers lost above it."""
    centre, width, height = disease.lesions[0].at(position)
    mound = np.minimum(1.3 * gaussian(x, centre, width), 1)
    waves = zip((9, 15, 23, 34, 50), (0.30, 0.24, 0.18, 0.14, 0.10), disease.rough, strict=False)
    ragged = np.sum(
        [a * np.sin(2 * math.pi * f * (x - centre) + phase + 2 * position) for f, a, phase in waves], axis=0
    )
    lift = height * mound * np.clip(0.78 + 0.5 * ragged, 0.2, 1.25)
    retina.thickness[UNDER] += (1 - disease.material) * lift
    retina.thickness[MATERIAL] += disease.material * lift
    gone = disease.damage * np.clip(1.5 * mound - 0.2, 0, 1)
    for layer in (ELM, MYOID, EZ, OS):
        retina.thickness[layer] *= 1 - 0.85 * gone
    retina.thickness[ONL] = np.maximum(retina.thickness[ONL] - 0.35 * lift, 5)
    torn = 0.5 + 0.5 * np.sin(2 * math.pi * 19 * x + disease.rough[5] + 3 * ragged)
    retina.thickness[RPE] *= 1 - 0.6 * gone * torn
    retina.reflectivity[RPE] *= 1 - 0.45 * gone * torn
    retina.reflectivity[UNDER] *= 1 + 0.35 * mound
    return np.asarray(mound, np.float32)
