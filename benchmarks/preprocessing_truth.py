"""Cleaning and cropping compared with the ground truth of synthetic scans, and what they cost.

Prints precision and recall of the pixels of fill; how often the crop holds the whole retina (inner limiting membrane to
Bruch's membrane), its height as a multiple of the retina's, and both at once, without and with flattening; how far the
pigment epithelium is from level in the scans that were flattened, in columns where nothing lifts it off Bruch's
membrane; and the ratio of the time of cleaning, cropping and the default denoising to that of decoding and an area
resize of the whole scan, on one core. With --src the time is measured on the scans of a folder instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from octprep import preprocessing
from octprep.arrays import Gray
from octprep.format.config import Preprocessing
from octprep.synthetic import DIFFICULTIES, Phantom, scans
from octprep.synthetic.faults import encode

TIMED = 300  # scans whose cost is measured
MAX_HEIGHT = 1.35  # of the crop, as a multiple of the retina's height, that still counts as tight


class FillCounts:
    """Pixels of fill: detected, true, and both."""

    def __init__(self) -> None:
        self.agreed = self.detected = self.true = 0

    def add(self, gray: Gray, truth: Phantom) -> None:
        """Count the pixels of one scan."""
        depths, is_fill = preprocessing.find_fill(gray), truth.fill > 0
        mask = np.zeros(gray.shape, bool) if depths is None else depths.mask() > 0
        self.agreed += int((mask & is_fill).sum())
        self.detected += int(mask.sum())
        self.true += int(is_fill.sum())


class CropMeasures:
    """How the crops of one recipe lie around the true retina."""

    def __init__(self, flatten: bool) -> None:
        self.recipe = Preprocessing(flatten=flatten)
        self.holds_all: list[bool] = []
        self.heights: list[float] = []  # multiples of the retina's
        self.distances: list[np.ndarray] = []  # rows from level, of the pigment epithelium where nothing lifts it
        self.flattened = 0  # scans

    def add(self, gray: Gray, truth: Phantom) -> None:
        """Measure the crop of one scan."""
        geometry = preprocessing.preprocess(gray, self.recipe).geometry
        top, bottom, left, right = geometry.crop
        ilm, rpe, bruch, retina = (line[left:right] for line in (truth.ilm, truth.rpe, truth.bruch, ~truth.disc))
        if geometry.rpe_curve:
            column = np.arange(right - left, dtype=np.float64)
            offset = preprocessing.curve_offset(geometry.rpe_curve, column, right - left)
            ilm, rpe, bruch = ilm - offset, rpe - offset, bruch - offset
            self.flattened += 1
        ilm, rpe, bruch = ilm[retina], rpe[retina], bruch[retina]
        upper, lower = float(ilm.min()), float(bruch.max())
        self.holds_all.append(top <= upper and lower <= bottom - 1)
        self.heights.append((bottom - top) / (lower - upper))
        flat = rpe[bruch - rpe < 0.5]
        if geometry.rpe_curve and flat.size:
            self.distances.append(np.abs(flat - np.median(flat)))

    def print(self) -> None:
        """Print a line, or two with flattening."""
        holds_all, heights = np.array(self.holds_all), np.array(self.heights)
        print(
            f"{'flattened crop' if self.recipe.flatten else 'crop'}: whole retina in {np.mean(holds_all):.2%}; as tall "
            f"as the retina times {np.median(heights):.2f} (median), {heights.max():.2f} (largest); whole and at most "
            f"{MAX_HEIGHT} times as tall in {np.mean(holds_all & (heights <= MAX_HEIGHT)):.2%}"
        )
        if self.recipe.flatten:
            percentile = np.percentile(np.concatenate(self.distances), 95)
            print(
                f"flattened {self.flattened / len(heights):.1%}, the others stay as they are; in 95 % of the columns "
                f"of those the pigment epithelium is off level by at most {percentile:.1f} rows"
            )


def seconds(work: Callable[[Any], Any], items: Iterable[Any]) -> float:
    """The shortest time of three passes over the items."""
    passes = []
    for _ in range(3):
        start = time.perf_counter()
        for item in items:
            work(item)
        passes.append(time.perf_counter() - start)
    return min(passes)


def clean_crop_denoise(gray: Gray) -> None:
    """What `preprocess` does before it resizes."""
    preprocessing.denoise(preprocessing.clean_and_crop(gray, Preprocessing()).pixels, Preprocessing())


def print_cost(files: list[bytes]) -> None:
    """Print what a scan takes on average. files: JPEGs."""
    grays = [preprocessing.decode(data) for data in files]
    minimum = seconds(preprocessing.decode, files)
    minimum += seconds(lambda gray: cv2.resize(gray, (224, 224), interpolation=cv2.INTER_AREA), grays)
    cost = seconds(clean_crop_denoise, grays)
    print(
        f"decode and resize {minimum / len(files) * 1e3:.2f} ms, "
        f"clean, crop and denoise {cost / len(files) * 1e3:.2f} ms\nratio {cost / minimum:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=1600, help="one scan of each, and some more as in a test set")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--difficulty", choices=DIFFICULTIES, default="default", help="of the synthetic scans")
    parser.add_argument("--src", type=Path, help="folder of scans whose preparation is timed")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    fill, crops = FillCounts(), [CropMeasures(flatten) for flatten in (False, True)]
    files = []
    for _, truth in scans(options.patients, options.seed, difficulty=options.difficulty, max_scans=1):
        files.append(encode(truth.pixels))
        gray = preprocessing.decode(files[-1])
        fill.add(gray, truth)
        for crop in crops:
            crop.add(gray, truth)
    print(f"{len(files):,} synthetic scans of {options.difficulty} difficulty, seed {options.seed}")
    print(f"pixels of fill: precision {fill.agreed / fill.detected:.4f}, recall {fill.agreed / fill.true:.4f}")
    for crop in crops:
        crop.print()
    if options.src:
        files = [path.read_bytes() for path in sorted(options.src.rglob("*.jpeg"))]
    print_cost(files[:: max(len(files) // TIMED, 1)][:TIMED])


if __name__ == "__main__":
    main()
