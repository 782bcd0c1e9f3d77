"""How hard synthetic scans are to classify: the ranges from which patients, devices and lesions are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

Rng = np.random.Generator
Range = tuple[float, float]  # lowest and highest of a uniform distribution
Counts = tuple[int, int]  # the fewest, and one more than the most


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """Ranges of what is drawn; the defaults are those of the easy scans.

    Heights are rows of about 4 micrometres, widths are fractions of a standard field, reflectivities 0..1.
    """

    # The device.
    field: Range = (1.0, 1.0)  # width of a scan, standard fields
    axial_scale: Range = (1.0, 1.0)  # rows in the place of one
    blur: Range = (1.0, 1.0)  # factor on a standard deviation of 0.7 rows and 0.4 columns of a scan 512 wide
    mean: Range = (30, 62)  # gray level of the whole scan
    gamma: Range = (0.8, 1.25)  # of the reflectivities
    speckle: Range = (0.09, 0.24)  # standard deviation of the gray levels as a fraction of them
    noise: Range = (4, 14)  # standard deviation of the gray levels where it is black, gray levels
    grain: Range = (0.45, 0.9)  # sideways blur of the speckle, columns of a scan 512 wide
    # The patient, whatever the class.
    tilt: float = 28  # standard deviation of the rows from the middle to the right end
    bow: float = 14  # standard deviation of the rows by which both ends stand higher than the middle
    thickness: Range = (0.92, 1.28)  # factor on all layers
    pit: Range = (1.0, 1.0)  # depth of the foveal pit, a fraction of the usual one
    bumps: Counts = (0, 1)  # of Bruch's membrane, with all that lies on it, which look like drusen
    bump_width: Range = (0.01, 0.02)
    bump_height: Range = (2, 4)
    mottling: Range = (0.0, 0.0)  # amplitude of the uneven reflectivity of the ellipsoid zone and the epithelium, 0..1
    opacities: Counts = (0, 1)  # in the vitreous, with broad shadows
    # The lesions.
    drusen: Counts = (4, 10)
    drusen_width: Range = (0.010, 0.022)
    drusen_height: Range = (10, 21)
    swelling_width: Range = (0.11, 0.22)
    swelling_height: Range = (32, 72)
    cysts: Counts = (6, 13)  # of an edema
    cyst_width: Range = (0.012, 0.034)
    cyst_height: Range = (9, 24)  # half of it, as the width
    cyst_light: Range = (0.015, 0.015)  # reflectivity of the fluid in cysts
    membrane_width: Range = (0.05, 0.10)
    membrane_height: Range = (30, 58)
    membrane_damage: Range = (1.0, 1.0)  # part of the loss of the layers above a membrane and of the torn epithelium
    least_pockets: int = 1  # of fluid beside a membrane
    pocket_chance: float = 0.6  # of fluid at each side of a membrane
    pocket_height: Range = (10, 24)
    membrane_drusen: Counts = (0, 1)  # beside a membrane


EASY: Final = Difficulty()
# Lesions are small, and every class has bumps, mottling, shadows and thick retinas that resemble them.
HARD: Final = Difficulty(
    field=(0.82, 1.23),
    axial_scale=(0.85, 1.19),
    blur=(0.77, 2.1),
    mean=(27, 67),
    gamma=(0.73, 1.39),
    speckle=(0.107, 0.31),
    noise=(4.4, 17.4),
    grain=(0.4, 1.21),
    tilt=33,
    bow=18,
    thickness=(0.87, 1.33),
    pit=(0.58, 1),
    bumps=(0, 4),
    bump_width=(0.01, 0.03),
    bump_height=(2, 6.7),
    mottling=(0, 0.28),
    opacities=(0, 3),
    drusen=(3, 8),
    drusen_width=(0.0086, 0.0193),
    drusen_height=(7.3, 15.9),
    swelling_width=(0.077, 0.2),
    swelling_height=(14, 50),
    cysts=(3, 8),
    cyst_width=(0.0093, 0.025),
    cyst_height=(6.3, 16.6),
    cyst_light=(0.015, 0.047),
    membrane_width=(0.033, 0.083),
    membrane_height=(15.6, 38),
    membrane_damage=(0.53, 1),
    least_pockets=0,
    pocket_chance=0.41,
    pocket_height=(5.7, 16.6),
    membrane_drusen=(0, 3),
)
DIFFICULTIES: Final = {"easy": EASY, "hard": HARD}


def draw_from(limits: Range, rng: Rng) -> float:
    """A number of a range. A range of one number takes nothing from rng, so that it does not change what follows."""
    low, high = limits
    return low if low == high else rng.uniform(low, high)


def draw_count(limits: Counts, rng: Rng) -> int:
    """A count of a range, which takes nothing from rng if it can be only one."""
    low, high = limits
    return low if low + 1 == high else int(rng.integers(low, high))
