"""Diabetic macular edema: cysts, sponge-like thickening, subretinal fluid, exudates, and membranes that pull.

After Otani et al. (Am J Ophthalmol 127:688, 1999) and Panozzo et al. (Eur J Ophthalmol 30:8, 2020). How often each
occurs is our choice.
"""

from __future__ import annotations

import numpy as np

from octprep.synthetic.anatomy import GCL, HENLE, INL, IPL, NFL, ONL, OPL, PatientAppearance
from octprep.synthetic.difficulty import Rng, between
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
from octprep.synthetic.lesions import Extent, Lesion, OuterLoss, SubretinalFluid, Swelling, Thinning
from octprep.synthetic.marks import Cavity, Mark


def draw_edema(severity: float, appearance: PatientAppearance, rng: Rng) -> Findings:
    """The edema of one patient. severity: 0, just visible, to 1."""
    lesions: list[Lesion] = []
    marks: list[Mark] = []
    kind = rng.choice(["cystoid", "sponge", "both", "traction"], p=[0.44, 0.08, 0.31, 0.17])
    severity = 0.15 + 0.85 * severity
    if kind == "sponge":
        severity = 0.4 + 0.6 * severity
    centre = draw_place(appearance, rng, 0.7)
    width = rng.uniform(0.6, 1.9)
    onl = rng.uniform(0.15, 0.65)
    inl = rng.uniform(0.1, 0.35)
    rest = (1 - onl - inl) / 3
    lesions.append(
        Swelling(
            extent=draw_extent(centre, width, rng, power=(1.8, 5), rough=rng.uniform(0, 0.2), scale=0.5),
            height=min(between(75, 330, np.clip(severity * rng.uniform(0.4, 1.1), 0, 1)), 320 * width),
            shares={GCL: rest, IPL: rest, INL: inl, OPL: rest, HENLE: 0.5 * onl, ONL: 0.5 * onl},
            darkening=rng.uniform(0.05, 0.3),
            mixing=rng.uniform(0, 0.9),
        )
    )
    if happens(rng, 0.4):
        outline = draw_extent(centre + rng.uniform(-2, 2), rng.uniform(0.3, 1), rng)
        lesions.append(
            Swelling(extent=outline, height=between(25, 150, severity * rng.random()), mixing=rng.uniform(0, 0.8))
        )
    if kind == "traction" or happens(rng, 0.25):
        lesions += draw_traction(centre, severity, rng)
        if happens(rng, 0.5):  # the wall of a steep pit, thickened on one side
            side = rng.choice([-1, 1]) * rng.uniform(0.7, 1.3)
            wall = Extent(centre=side, width=rng.uniform(0.5, 1.1), power=rng.uniform(3, 6), skew=-0.3 * np.sign(side))
            lesions.append(Swelling(extent=wall, height=between(40, 170, severity), mixing=rng.uniform(0, 0.9)))
    if kind in ("cystoid", "both") or happens(rng, 0.45):
        for _ in range(round(between(2, 9, severity * rng.uniform(0.3, 1)))):
            marks.append(draw_cysts(centre + rng.normal(0, 0.6 * width), severity, rng))
        if happens(rng, 0.3 + 0.25 * severity):
            marks.append(
                Cavity(
                    upper=INL if happens(rng, 0.6) else GCL,
                    lower=ONL,
                    centre=rng.normal(0, 0.25),
                    width=between(0.07, 0.5, np.clip(0.4 * severity + 0.6 * rng.random(), 0, 1)),
                    filling=rng.uniform(0.5, 0.95),
                    level=rng.uniform(0.02, 0.13),
                    seed=int(rng.integers(2**32)),
                )
            )
    if happens(rng, 0.2):
        outline = draw_extent(rng.normal(0, 0.3), rng.uniform(0.3, 0.9), rng)
        lesions.append(
            SubretinalFluid(
                extent=outline, height=between(30, 190, severity * rng.random()), content=rng.uniform(0.04, 0.12)
            )
        )
    if happens(rng, 0.5):
        marks.append(draw_foci(centre, 1.5 * width, draw_count(1, 16, rng), GCL, ONL, rng, shade=0.1))
    if happens(rng, 0.3):
        marks.append(
            draw_foci(
                centre, width, draw_count(1, 9, rng), OPL, HENLE, rng, shade=rng.uniform(0.2, 0.6), size=(0.012, 0.05)
            )
        )
    if happens(rng, 0.2):  # haemorrhages: flat ones among the nerve fibres, round ones in the nuclear layer
        upper, lower = (NFL, GCL) if happens(rng, 0.5) else (INL, INL)
        shade, count = rng.uniform(0.3, 0.8), draw_count(1, 5, rng)
        marks.append(draw_foci(centre, 2 * width, count, upper, lower, rng, shade=shade, size=(0.03, 0.14)))
    if happens(rng, 0.25):
        lesions.append(
            Thinning(
                extent=draw_extent(centre + rng.choice([-1, 1]) * rng.uniform(1, 2.5), rng.uniform(0.4, 1), rng),
                amount=rng.uniform(0.1, 0.4),
            )
        )
    if happens(rng, 0.15):
        lesions.append(
            OuterLoss(
                extent=draw_extent(rng.normal(0, 0.4), rng.uniform(0.1, 0.5), rng),
                amount=rng.uniform(0.2, 0.8),
                thinning=0.1,
            )
        )
    if happens(rng, 0.15):  # scars of laser treatment
        lesions += [
            OuterLoss(
                extent=draw_extent(rng.uniform(-3, 3), rng.uniform(0.05, 0.4), rng, power=(3, 8)),
                amount=rng.uniform(0.3, 1),
                epithelium=rng.uniform(0.1, 0.6),
                light=rng.uniform(0.2, 1.0),
            )
            for _ in range(draw_count(1, 3, rng))
        ]
    return lesions, marks
