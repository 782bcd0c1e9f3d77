"""Cleaning and cropping against the truth, on 2,000 phantoms, and what they cost beside decoding and resizing.

Prints precision and recall of border pixels, how often the crop holds the whole retina (inner limiting membrane to
Bruch's membrane), how tall it is beside the retina, and last the ratio of the time of cleaning, crop and the default
denoising to that of decoding and an area resize of the whole scan, on one core.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np

from octprep import imaging
from octprep.phantom import scans
from octprep.phantom.faults import encode
from octprep.schema import Recipe

TIMED = 300  # scans whose cost is measured


def seconds(work: Callable[[Any], Any], items: Iterable[Any]) -> float:
    """The shortest of three passes."""
    passes = []
    for _ in range(3):
        start = time.perf_counter()
        for item in items:
            work(item)
        passes.append(time.perf_counter() - start)
    return min(passes)


def cleaned_cropped_denoised(gray: imaging.border.Gray) -> None:
    """What `imaging.prepare` does before it resizes."""
    recipe, border = Recipe(), imaging.find_border(gray)
    if border is not None:
        left, right = border.trim()
        gray = imaging.clean(gray, border, border.mask())[:, left:right]
    found = imaging.find_retina(gray, recipe.margin_above, recipe.margin_below)
    imaging.denoise(gray[found.top : found.bottom], recipe)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    right = found = there = 0
    whole, heights, files = [], [], []
    for _, phantom in itertools.islice(scans(max(options.scans // 12, 24), options.seed), options.scans):
        files.append(encode(phantom.pixels))
        gray = imaging.decode(files[-1])
        border, truth = imaging.find_border(gray), phantom.border > 0
        mask = np.zeros(gray.shape, bool) if border is None else border.mask() > 0
        right, found, there = right + int((mask & truth).sum()), found + int(mask.sum()), there + int(truth.sum())
        top, bottom, left, stop = imaging.prepare(gray, Recipe()).crop
        upper, lower = phantom.ilm[left:stop].min(), phantom.bruch[left:stop].max()
        whole.append(top <= upper and lower <= bottom - 1)
        heights.append((bottom - top) / (lower - upper))
    print(f"{len(whole):,} phantoms, seed {options.seed}")
    print(f"border pixels: precision {right / found:.4f}, recall {right / there:.4f}")
    print(f"crop holds the whole retina in {np.mean(whole):.2%}")
    low, high = np.mean(np.array(heights) <= 1.35), max(heights)
    print(
        f"crop height / retina height: median {np.median(heights):.2f}, at most 1.35 in {low:.2%}, largest {high:.2f}"
    )
    files = files[:: max(len(files) // TIMED, 1)][:TIMED]
    grays = [imaging.decode(data) for data in files]
    usual = seconds(imaging.decode, files)
    usual += seconds(lambda gray: cv2.resize(gray, (224, 224), interpolation=cv2.INTER_AREA), grays)
    ours = seconds(cleaned_cropped_denoised, grays)
    print(
        f"decode and resize {usual / len(files) * 1e3:.2f} ms, clean, crop and denoise {ours / len(files) * 1e3:.2f} ms"
    )
    print(f"ratio {ours / usual:.2f}")


if __name__ == "__main__":
    main()
