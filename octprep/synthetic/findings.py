"""What the findings of several diseases are drawn with: places, outlines, cysts, bright spots, membranes that pull."""

from __future__ import annotations

import numpy as np

from octprep.synthetic.anatomy import GCL, HENLE, INL, ONL, PatientAppearance
from octprep.synthetic.difficulty import Rng, between
from octprep.synthetic.lesions import Extent, Lesion, Traction
from octprep.synthetic.marks import Cysts, Foci, Mark
from octprep.synthetic.random_fields import RandomField

Findings = tuple[list[Lesion], list[Mark]]


def happens(rng: Rng, probability: float) -> bool:
    """True with a probability."""
    return bool(rng.random() < probability)


def draw_count(low: int, high: int, rng: Rng) -> int:
    """A whole number from `low` to one below `high`."""
    return int(rng.integers(low, high))


def draw_extent(
    centre: float,
    width: float,
    rng: Rng,
    *,
    power: tuple[float, float] = (1.8, 3.0),
    rough: float = 0.0,
    scale: float = 0.15,
) -> Extent:
    """A place and an outline. power: range of `Extent.power`; rough, scale: its unevenness, and over how many mm."""
    return Extent(
        centre=centre,
        width=width,
        power=rng.uniform(*power),
        skew=rng.uniform(-0.35, 0.35),
        drift=rng.uniform(-0.15, 0.15),
        peak=rng.uniform(-0.6, 0.6),
        rough=(rough, RandomField.draw(scale, rng)) if rough else None,
    )


def draw_place(appearance: PatientAppearance, rng: Rng, spread: float) -> float:
    """A position near the fovea, within the scan."""
    view = appearance.view
    reach = 0.44 * view.field
    return float(np.clip(rng.normal(0, spread), max(view.centre - reach, -3), min(view.centre + reach, 3)))


def draw_cysts(centre: float, severity: float, rng: Rng) -> Cysts:
    """A group of cysts: small ones in the inner nuclear layer, tall ones in Henle's layer, or across both."""
    kind = rng.random()
    upper, lower = (
        (INL, INL) if kind < 0.35 else (HENLE, ONL) if kind < 0.8 else (INL, ONL) if kind < 0.93 else (GCL, INL)
    )
    cell = between(0.06, 0.36, np.clip(0.35 * severity + 0.65 * rng.random(), 0, 1))
    if (upper, lower) in ((INL, INL), (GCL, INL)):
        cell *= 0.7
    return Cysts(
        upper=upper,
        lower=lower,
        centre=centre,
        width=max(between(0.12, 1.0, rng.random() * (0.5 + 0.5 * severity)), 0.9 * cell),
        cell=cell,
        tallness=rng.choice([1, 1, 2]) if upper != lower else 1,
        filled=rng.uniform(0.65, 1.0),
        wall=rng.uniform(0.06, 0.4),
        level=rng.uniform(0.02, 0.16),
        drift=rng.uniform(-0.2, 0.2),
        seed=int(rng.integers(2**32)),
    )


def draw_traction(centre: float, severity: float, rng: Rng) -> list[Lesion]:
    """An epiretinal membrane."""
    return [
        Traction(
            extent=draw_extent(centre, rng.uniform(0.8, 3.0), rng, power=(2, 6)),
            wrinkles=(between(4, 32, rng.random()), RandomField.draw(between(0.08, 0.6, rng.random()), rng)),
            thickness=rng.uniform(4, 16),
            brightness=rng.uniform(0.45, 0.75),
            filling=rng.uniform(-60, 160) * (0.4 + severity),
        )
    ]


def draw_foci(
    centre: float,
    reach: float,
    count: int,
    upper: int,
    lower: int,
    rng: Rng,
    *,
    shade: float,
    size: tuple[float, float] = (0.006, 0.02),
) -> Foci:
    """Bright spots around a centre. reach: millimetres; size: range of their half widths, millimetres."""
    spots = tuple(
        (float(centre + reach * rng.normal(0, 0.7)), float(rng.uniform(0.05, 0.95)), between(*size, rng.random()))
        for _ in range(int(count))
    )
    return Foci(spots=spots, upper=upper, lower=lower, brightness=rng.uniform(0.5, 0.85), shade=shade)
