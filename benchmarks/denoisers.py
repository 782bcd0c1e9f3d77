"""The denoisers side by side on synthetic scans: what each costs, how much speckle it removes, what is left of an edge.

ms: of one core for a scan of 496 rows, decoded and uncropped. ENL: the equivalent number of looks, mean squared divided
by variance of the gray levels, in 12x12 pixels of vitreous (the median patch). Edge: the step across the lower edge of
the pigment epithelium, from the two rows above it to the two below, as a fraction of that of the unfiltered scan, in
columns where the epithelium lies on Bruch's membrane. Prints a table for Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import time

import cv2
import numpy as np

from octprep import preprocessing
from octprep.arrays import Gray
from octprep.format.config import DENOISERS, Preprocessing
from octprep.synthetic import Phantom, scans
from octprep.synthetic.faults import encode

PATCH = 12  # pixels a side


def equivalent_looks(gray: Gray, truth: Phantom) -> list[float]:
    """The equivalent number of looks of each patch of vitreous well above the retina."""
    bottom = int(truth.ilm.min()) - 20
    corners = itertools.product(range(8, bottom - PATCH, PATCH), range(0, gray.shape[1] - PATCH, PATCH))
    patches = (gray[y : y + PATCH, x : x + PATCH].astype(np.float64) for y, x in corners)
    return [float(patch.mean() ** 2 / max(patch.var(), 1e-9)) for patch in patches]


def edge_step(gray: Gray, truth: Phantom) -> float:
    """The mean fall of the gray level across the lower edge of the epithelium, where that lies on Bruch's membrane."""
    columns = np.flatnonzero(truth.bruch - truth.rpe < 0.5)
    edge = truth.bruch[columns].round().astype(np.intp)
    above, below = (np.mean([gray[edge + row, columns] for row in rows]) for rows in ((-3, -2), (1, 2)))
    return float(above - below)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--scans", type=int, default=60, help="scans to measure; up to about 60, each of another patient"
    )
    options = parser.parse_args()
    cv2.setNumThreads(1)
    drawn = itertools.islice(scans(100, seed=8, faults=False), 0, 20 * options.scans, 20)
    truths = [truth for _, truth in drawn]
    grays = [preprocessing.decode(encode(truth.pixels)) for truth in truths]
    unfiltered_step = sum(edge_step(gray, truth) for gray, truth in zip(grays, truths, strict=True))
    print(f"{len(grays)} synthetic scans")
    print("| denoiser | strength | ms a scan | ENL | edge |\n|---|---|---|---|---|")
    for name, strength in DENOISERS.items():
        recipe = Preprocessing(denoise=name, denoise_strength=strength)
        cost, looks, step = 0.0, [], 0.0
        for gray, truth in zip(grays, truths, strict=True):
            start = time.perf_counter()
            denoised = preprocessing.denoise(gray, recipe)
            cost += time.perf_counter() - start
            looks += equivalent_looks(denoised, truth)
            step += edge_step(denoised, truth)
        print(
            f"| {name} | {strength:g} | {cost / len(grays) * 1e3:.2f} | {np.median(looks):.0f} | "
            f"{step / unfiltered_step:.2f} |"
        )


if __name__ == "__main__":
    main()
