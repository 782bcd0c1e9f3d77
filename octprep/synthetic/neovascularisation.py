"""Choroidal neovascularisation: types 1 to 3, serous detachments, and scars, with the fluid that leaks from it.

After Freund et al. (Retina 30:1333, 2010) for the types, and Schmidt-Erfurth and Waldstein (Prog Retin Eye Res 50:1,
2016) for the findings in OCT. How often each occurs is our choice.
"""

from __future__ import annotations

import numpy as np

from octprep.synthetic.anatomy import INL, ONL, OPL, PatientAppearance
from octprep.synthetic.difficulty import Rng, between
from octprep.synthetic.drusen import draw_druse_group
from octprep.synthetic.findings import (
    Findings,
    draw_count,
    draw_cysts,
    draw_extent,
    draw_foci,
    draw_place,
    draw_traction,
    happens,
)
from octprep.synthetic.lesions import (
    Elevation,
    Haemorrhage,
    Lesion,
    Material,
    OuterLoss,
    SubretinalFluid,
    Swelling,
    Thinning,
)
from octprep.synthetic.marks import Mark, Tubes


def draw_neovascularisation(severity: float, appearance: PatientAppearance, rng: Rng) -> Findings:
    """The neovascularisation of one patient. severity: 0, early, to 1, end stage."""
    severity = 0.2 + 0.8 * severity
    kind = rng.choice(["flat", "type 1", "serous", "type 2", "type 3", "scar"], p=[0.36, 0.22, 0.07, 0.14, 0.06, 0.15])
    centre = draw_place(appearance, rng, 0.55)
    lesions: list[Lesion] = []
    marks: list[Mark] = []
    width = between(0.3, 1.6, np.clip(severity * rng.uniform(0.4, 1.2), 0, 1))
    wet = rng.uniform(0, 1)
    if kind == "flat":  # early, or after treatment: a low irregular elevation with broken bands
        width = between(0.5, 2.2, rng.random())
        lesions.append(_membrane(centre, width, between(30, 150, severity * rng.random()), rng, rough=(0.3, 0.7)))
        lesions += _scattered_elevations(centre, width, draw_count(2, 10, rng), severity, rng)
        wet *= 0.6
    if kind == "type 1":
        lesions.append(
            _membrane(centre, width, between(70, 420, severity * rng.random() ** 0.7), rng, rough=(0.12, 0.5))
        )
        lesions += _scattered_elevations(centre, 1.4 * width, draw_count(0, 5, rng), severity, rng)
    if kind == "serous":
        width = between(0.4, 1.5, severity)
        outline = draw_extent(centre, width, rng, power=(2.0, 4.0), rough=rng.uniform(0, 0.15), scale=0.4)
        content = rng.uniform(0.08, 0.3)
        lesions.append(
            Elevation(
                extent=outline,
                height=between(90, 480, severity * rng.random()),
                content=content,
                fading=rng.uniform(0.1, 0.5),
                light=rng.uniform(-0.6, 0.1),
            )
        )
        lesions += _scattered_elevations(
            centre + 1.2 * width * rng.choice([-1, 1]), 0.6, draw_count(0, 5, rng), severity, rng
        )
    if kind == "type 2":
        lesions += _subretinal_membrane(centre, width, severity, rng)
    if kind == "type 3":
        small = between(0.15, 0.5, severity)
        lesions.append(_membrane(centre, small, between(35, 160, severity), rng, rough=(0.1, 0.4)))
        marks.append(
            draw_foci(centre, 0.6 * small, draw_count(3, 12, rng), OPL, ONL, rng, shade=0.2, size=(0.012, 0.05))
        )
        wet = max(wet, 0.55)
    if kind == "scar":
        lesions += _scar(centre, severity, rng)
        if happens(rng, 0.5):
            places = tuple((centre + rng.normal(0, 0.7), rng.uniform(0.05, 0.14)) for _ in range(draw_count(1, 5, rng)))
            marks.append(Tubes(places=places, layer=ONL))
    if kind in ("flat", "type 1", "serous") and happens(rng, 0.3):
        lesions += _subretinal_membrane(centre + rng.normal(0, 0.4), 0.6 * width, 0.6 * severity, rng)
    if happens(rng, 0.12):
        lesions.append(_haemorrhage(centre + rng.normal(0, 0.6 * width), severity, rng))
    lesions.append(
        OuterLoss(
            extent=draw_extent(centre, 1.15 * width, rng, power=(2, 6), rough=rng.uniform(0.1, 0.5), scale=0.2),
            amount=rng.uniform(0.25, 1.0),
            thinning=rng.uniform(0, 0.45),
            epithelium=rng.choice([0, 0, 1]) * rng.uniform(0, 0.7),
            light=rng.uniform(0, 0.9) ** 2,
        )
    )
    lesions += _stripes_below(centre, width, rng)
    _add_fluid(lesions, marks, centre, width, wet, severity, rng)
    if happens(rng, 0.5):
        marks.append(draw_foci(centre, width, draw_count(2, 14, rng), INL, ONL, rng, shade=0.1))
    if happens(rng, 0.4):
        lesions += draw_druse_group(draw_count(1, 5, rng), (0.05, 0.2), (22, 90), severity, appearance, rng)
    if happens(rng, 0.15):
        lesions += draw_traction(centre, 0.5 * severity, rng)
    return lesions, marks


def _membrane(centre: float, width: float, height: float, rng: Rng, *, rough: tuple[float, float]) -> Elevation:
    """Vessels below the epithelium: a broad elevation of uneven outline and content."""
    uneven = min(rng.uniform(*rough), 45 / height)
    outline = draw_extent(centre, width, rng, power=(1.7, 6), rough=uneven, scale=between(0.09, 0.4, rng.random()))
    return Elevation(
        extent=outline,
        height=height,
        content=rng.uniform(0.25, 0.6),
        fading=rng.uniform(0.3, 1.0),
        thinning=rng.uniform(0, 0.6),
        light=rng.uniform(-0.55, 0.25),
    )


def _scattered_elevations(centre: float, width: float, count: int, severity: float, rng: Rng) -> list[Lesion]:
    return [
        _membrane(
            centre + width * rng.uniform(-1, 1),
            between(0.06, 0.4, rng.random()),
            between(20, 110, severity * rng.random()),
            rng,
            rough=(0.0, 0.4),
        )
        for _ in range(count)
    ]


def _subretinal_membrane(centre: float, width: float, severity: float, rng: Rng) -> list[Lesion]:
    """Type 2: material above the epithelium, of unclear outline, in which the bands are lost."""
    height = between(35, 230, severity * rng.uniform(0.3, 1))
    uneven = min(rng.uniform(0.1, 0.55), 45 / height)
    outline = draw_extent(centre, width, rng, power=(1.7, 4), rough=uneven, scale=between(0.08, 0.4, rng.random()))
    lesions: list[Lesion] = [
        Material(
            extent=outline,
            height=height,
            content=rng.uniform(0.38, 0.72),
            fading=rng.uniform(0.5, 1.0),
            light=rng.uniform(-0.6, 0.1),
        )
    ]
    if happens(rng, 0.5):
        broken = draw_extent(centre, 0.7 * width, rng, power=(2, 5), rough=0.5, scale=0.1)
        lesions.append(
            OuterLoss(extent=broken, amount=1, epithelium=rng.uniform(0.2, 0.9), light=rng.uniform(-0.2, 0.4))
        )
    return lesions


def _haemorrhage(centre: float, severity: float, rng: Rng) -> Haemorrhage:
    outline = draw_extent(centre, between(0.2, 1.8, rng.random()), rng, power=(1.8, 5), rough=rng.uniform(0, 0.3))
    return Haemorrhage(
        extent=outline,
        height=between(35, 260, severity * rng.random()),
        content=rng.uniform(0.4, 0.7),
        shade=rng.uniform(0.4, 0.9),
    )


def _scar(centre: float, severity: float, rng: Rng) -> list[Lesion]:
    """A bright lamella in place of the outer layers, with an atrophic retina above and light below."""
    width = between(0.7, 2.2, severity)
    outline = draw_extent(
        centre, width, rng, power=(2, 6), rough=rng.uniform(0.15, 0.5), scale=between(0.08, 0.5, rng.random())
    )
    wide = draw_extent(centre, width * between(1.1, 2.5, rng.random()), rng, power=(3, 8))
    return [
        Material(
            extent=outline,
            height=between(40, 220, severity * rng.random()),
            content=rng.uniform(0.42, 0.75),
            fading=1.0,
        ),
        OuterLoss(
            extent=wide,
            amount=1.0,
            thinning=rng.uniform(0.2, 0.6),
            epithelium=rng.uniform(0.2, 1.0),
            light=rng.uniform(0.0, 2.0),
        ),
        Thinning(extent=wide, amount=rng.uniform(0, 0.5)),
    ]


def _stripes_below(centre: float, width: float, rng: Rng) -> list[Lesion]:
    """Columns of more or less light below an epithelium that is thin or heaped up."""
    return [
        OuterLoss(
            extent=draw_extent(
                centre + width * rng.uniform(-1.1, 1.1), between(0.02, 0.3, rng.random()), rng, power=(2, 10)
            ),
            amount=0.0,
            thinning=0.0,
            epithelium=rng.uniform(0, 0.4),
            light=rng.uniform(-0.4, 1.0),
        )
        for _ in range(draw_count(0, 6, rng))
    ]


def _add_fluid(
    lesions: list[Lesion], marks: list[Mark], centre: float, width: float, wet: float, severity: float, rng: Rng
) -> None:
    """Subretinal fluid beside and above a membrane, cysts and thickening of the retina above it."""
    if happens(rng, 0.2 + 0.55 * wet):
        for _ in range(draw_count(1, 4, rng)):
            side = centre + width * rng.uniform(-1.4, 1.4)
            outline = draw_extent(side, between(0.15, 0.9, rng.random()), rng, power=(1.8, 3.5))
            height = between(18, 170, severity * rng.random())
            lesions.append(SubretinalFluid(extent=outline, height=height, content=rng.uniform(0.04, 0.14)))
    if happens(rng, 0.25 + 0.5 * wet):
        outline = draw_extent(centre, rng.uniform(0.6, 1.6), rng)
        lesions.append(
            Swelling(
                extent=outline,
                height=between(20, 190, severity * rng.random()),
                darkening=rng.uniform(0, 0.25),
                mixing=rng.uniform(0, 0.7),
            )
        )
    if happens(rng, 0.1 + 0.45 * wet):
        for _ in range(draw_count(1, 4, rng)):
            marks.append(draw_cysts(centre + rng.normal(0, 0.7 * width), severity, rng))
