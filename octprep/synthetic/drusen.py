"""Drusen: hard, soft, confluent, cuticular, and subretinal drusenoid deposits, from one small druse to many.

After Khanifar et al. (Ophthalmology 115:1883, 2008) and Spaide and Curcio (Ophthalmology 117:303, 2010). How often each
occurs is our choice.
"""

from __future__ import annotations

import numpy as np

from octprep.synthetic.anatomy import ONL, PatientAppearance
from octprep.synthetic.difficulty import Rng, between
from octprep.synthetic.findings import Findings, draw_count, draw_extent, draw_foci, draw_place, happens
from octprep.synthetic.lesions import Elevation, Lesion, Material, OuterLoss
from octprep.synthetic.marks import Mark


def draw_drusen(severity: float, appearance: PatientAppearance, rng: Rng) -> Findings:
    """Drusen of one patient. severity: 0, just visible, to 1."""
    kind = rng.choice(
        ["hard", "soft", "mixed", "confluent", "cuticular", "deposits"], p=[0.26, 0.22, 0.16, 0.08, 0.05, 0.23]
    )
    lesions: list[Lesion] = []
    marks: list[Mark] = []
    if kind in ("hard", "mixed"):
        lesions += draw_druse_group(
            round(between(1, 10, severity * rng.uniform(0.2, 1))), (0.035, 0.085), (22, 62), severity, appearance, rng
        )
    if kind in ("soft", "mixed"):
        number = round(between(1, 7, severity * rng.uniform(0.2, 1)))
        lesions += draw_druse_group(number, (0.06, 0.17), (26, 95), severity, appearance, rng)
    if kind == "confluent":
        centre = draw_place(appearance, rng, 0.8)
        width = between(0.2, 0.65, severity)
        height = between(30, 120, severity * rng.random())
        outline = draw_extent(
            centre, width, rng, power=(1.8, 5), rough=rng.uniform(0.03, 0.25), scale=rng.uniform(0.1, 0.3)
        )
        lesions.append(
            Elevation(extent=outline, height=height, content=rng.uniform(0.36, 0.6), fading=rng.uniform(0.1, 0.5))
        )
        lesions += draw_druse_group(round(between(1, 6, severity)), (0.06, 0.2), (25, 80), severity, appearance, rng)
    if kind == "cuticular":
        step = rng.uniform(0.09, 0.2)
        centre, reach = draw_place(appearance, rng, 0.6), between(0.4, 2.2, severity)
        for place in np.arange(centre - reach, centre + reach, step):
            outline = draw_extent(float(place + rng.normal(0, 0.2 * step)), 0.36 * step, rng)
            lesions.append(
                Elevation(extent=outline, height=rng.uniform(14, 50), content=rng.uniform(0.3, 0.5), fading=0.3)
            )
    if kind == "deposits":
        lesions += _subretinal_deposits(severity, appearance, rng)
        lesions += draw_druse_group(round(between(0.6, 4, severity)), (0.05, 0.2), (22, 70), severity, appearance, rng)
    elif happens(rng, 0.15):
        lesions += _subretinal_deposits(0.5 * severity, appearance, rng)
    if happens(rng, 0.12 + 0.15 * severity):  # atrophy at one of them
        outline = draw_extent(draw_place(appearance, rng, 0.7), rng.uniform(0.08, 0.35), rng)
        lesions.append(
            OuterLoss(
                extent=outline,
                amount=rng.uniform(0.3, 0.9),
                epithelium=rng.uniform(0, 0.7),
                light=rng.uniform(0.1, 0.7),
            )
        )
    if happens(rng, 0.3):
        marks.append(draw_foci(draw_place(appearance, rng, 0.8), 0.5, draw_count(1, 5, rng), ONL, ONL, rng, shade=0.05))
    return lesions, marks


def draw_druse_group(
    number: int,
    width: tuple[float, float],
    height: tuple[float, float],
    severity: float,
    appearance: PatientAppearance,
    rng: Rng,
) -> list[Lesion]:
    """Drusen side by side, with gaps of any width between them, anywhere in the scan.

    width, height: ranges of their half widths, millimetres, and heights, micrometres.
    """
    number = max(number, 1)
    content, fading = rng.uniform(0.36, 0.68), rng.uniform(0.1, 0.55)
    low, high = _visible_retina(appearance)
    centre = rng.uniform(low, high) if happens(rng, 0.45) else draw_place(appearance, rng, 1.0)
    halves = np.array([between(*width, rng.random()) for _ in range(number)])
    wide = between(1.3, 6.0, rng.random())
    steps = (halves[1:] + halves[:-1]) * rng.uniform(0.7, 1.5, number - 1) * wide
    places = np.concatenate(([0.0], np.cumsum(steps)))
    places += centre - places.mean()
    inside = (places > low) & (places < high)
    if not inside.any():
        places, halves, inside = np.array([centre]), halves[:1], np.array([True])
    lesions: list[Lesion] = []
    for place, half in zip(places[inside], halves[inside], strict=True):
        outline = draw_extent(
            float(place), float(half), rng, power=(1.7, 4.5), rough=rng.uniform(0, 0.25), scale=0.6 * float(half)
        )
        size = np.clip(0.55 * rng.random() + 0.45 * severity, 0, 1)
        lesions.append(
            Elevation(
                extent=outline,
                height=min(between(*height, size), 900 * float(half)),
                content=content * rng.uniform(0.85, 1.15),
                fading=fading,
                thinning=rng.uniform(0, 0.4),
                light=rng.uniform(-0.2, 0.15),
            )
        )
    return lesions


def _visible_retina(appearance: PatientAppearance) -> tuple[float, float]:
    """From where to where a scan shows retina, millimetres, within its ends and away from the optic disc."""
    view = appearance.view
    return view.centre - 0.47 * view.field, min(view.centre + 0.47 * view.field, appearance.disc - 0.5)


def _subretinal_deposits(severity: float, appearance: PatientAppearance, rng: Rng) -> list[Lesion]:
    """Reticular pseudodrusen: material above the epithelium, from a ripple of the ellipsoid zone to peaks through it.

    Stages 1 to 3 of Zweifel et al. (Ophthalmology 117:303, 2010).
    """
    lesions: list[Lesion] = []
    peaks = happens(rng, 0.65)
    number = round(between(1, 12, severity * rng.uniform(0.3, 1)) if peaks else between(5, 22, severity))
    step = rng.uniform(0.12, 0.5) if peaks else rng.uniform(0.09, 0.2)
    low, high = _visible_retina(appearance)
    centre = rng.uniform(low, high) if happens(rng, 0.5) else draw_place(appearance, rng, 1.2)
    height = between(28, 80, rng.random()) if peaks else between(9, 22, 0.5 * rng.random() + 0.5 * severity)
    content, fading = rng.uniform(0.45, 0.75), rng.uniform(0.1, 0.8)
    for turn in range(number):
        place = centre + (turn - (number - 1) / 2) * step + rng.normal(0, 0.3 * step)
        width = rng.uniform(0.035, 0.15) if peaks else rng.uniform(0.25, 0.45) * step
        outline = draw_extent(float(np.clip(place, low, high)), width, rng, power=(1.4, 3.0))
        size = height * rng.uniform(0.5, 1.2)
        lesions.append(Material(extent=outline, height=size, content=content, fading=fading))
    return lesions
