"""The denoisers side by side on phantoms: what each costs, how much speckle it takes away, what is left of an edge.

ms: of one core for a scan of 496 rows, decoded and uncropped. ENL: the equivalent number of looks, mean squared over
variance of the gray levels, in 12x12 pixels of vitreous (the median patch). Edge: the step across the lower edge of the
pigment epithelium, from the two rows above it to the two below, beside that of the unfiltered scan, in columns where
the epithelium lies on Bruch's membrane. Prints a table for Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import time

import cv2
import numpy as np

from octprep import preprocessing
from octprep.format.config import DENOISERS, Preprocessing
from octprep.synthetic import Phantom, scans
from octprep.synthetic.faults import encode

PATCH = 12  # pixels a side


def looks(gray: preprocessing.border.Gray, phantom: Phantom) -> list[float]:
    """The equivalent number of looks of each patch of vitreous well above the retina."""
    bottom = int(phantom.ilm.min()) - 20
    patches = itertools.product(range(8, bottom - PATCH, PATCH), range(0, gray.shape[1] - PATCH, PATCH))
    parts = (gray[y : y + PATCH, x : x + PATCH].astype(np.float64) for y, x in patches)
    return [float(part.mean() ** 2 / max(part.var(), 1e-9)) for part in parts]


def step(gray: preprocessing.border.Gray, phantom: Phantom) -> float:
    """Mean gray levels by which it gets darker across the lower edge of the flat epithelium."""
    columns = np.flatnonzero(phantom.bruch - phantom.rpe < 0.5)
    at = phantom.bruch[columns].round().astype(np.intp)
    above, below = (np.mean([gray[at + k, columns] for k in rows]) for rows in ((-3, -2), (1, 2)))
    return float(above - below)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=60, help="of as many patients as that allows")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    drawn = itertools.islice(scans(100, seed=8, faults=False), 0, 20 * options.scans, 20)
    phantoms = [phantom for _, phantom in drawn]
    grays = [preprocessing.decode(encode(phantom.pixels)) for phantom in phantoms]
    plain = sum(step(gray, phantom) for gray, phantom in zip(grays, phantoms, strict=True))
    print(f"{len(grays)} phantoms")
    print("| denoiser | strength | ms a scan | ENL | edge |\n|---|---|---|---|---|")
    for name, strength in DENOISERS.items():
        recipe = Preprocessing(denoise=name, denoise_strength=strength)
        cost, enl, kept = 0.0, [], 0.0
        for gray, phantom in zip(grays, phantoms, strict=True):
            start = time.perf_counter()
            quiet = preprocessing.denoise(gray, recipe)
            cost += time.perf_counter() - start
            enl += looks(quiet, phantom)
            kept += step(quiet, phantom)
        print(f"| {name} | {strength:g} | {cost / len(grays) * 1e3:.2f} | {np.median(enl):.0f} | {kept / plain:.2f} |")


if __name__ == "__main__":
    main()
