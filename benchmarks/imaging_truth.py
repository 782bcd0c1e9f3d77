"""Cleaning and cropping against the truth, on 2,000 phantoms, and what they cost beside decoding and resizing.

Prints precision and recall of border pixels; how often the crop holds the whole retina (inner limiting membrane to
Bruch's membrane), how tall it is beside the retina, and both at once, as it is and straightened; how far the pigment
epithelium is from level when it is straightened, in columns where nothing lifts it off Bruch's membrane; and last the
ratio of the time of cleaning, crop and the default denoising to that of decoding and an area resize of the whole scan,
on one core. With --src the time is measured on the scans of a folder instead.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.synthetic import scans
from octprep.synthetic.faults import encode

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


def cleaned_cropped_denoised(gray: preprocessing.border.Gray) -> None:
    """What `imaging.prepare` does before it resizes."""
    preprocessing.denoise(preprocessing.clean_and_crop(gray, Preprocessing()).pixels, Preprocessing())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--src", type=Path, help="folder of scans whose preparation is timed")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    right = found = there = 0
    crops: dict[bool, list[tuple[bool, float]]] = {False: [], True: []}
    files, off, bent = [], [], 0
    for _, phantom in itertools.islice(scans(max(options.scans // 12, 24), options.seed), options.scans):
        files.append(encode(phantom.pixels))
        gray = preprocessing.decode(files[-1])
        border, truth = preprocessing.find_border(gray), phantom.fill > 0
        mask = np.zeros(gray.shape, bool) if border is None else border.mask() > 0
        right, found, there = right + int((mask & truth).sum()), found + int(mask.sum()), there + int(truth.sum())
        for flatten, measured in crops.items():
            ready = preprocessing.preprocess(gray, Preprocessing(flatten=flatten))
            top, bottom, left, stop = ready.crop
            ilm, rpe, bruch = (line[left:stop] for line in (phantom.ilm, phantom.rpe, phantom.bruch))
            if ready.bend:
                moved = preprocessing.shift(ready.bend, np.arange(stop - left, dtype=np.float64), stop - left)
                ilm, rpe, bruch = ilm - moved, rpe - moved, bruch - moved
            upper, lower = float(ilm.min()), float(bruch.max())
            measured.append((top <= upper and lower <= bottom - 1, (bottom - top) / (lower - upper)))
            if flatten:
                flat = rpe[bruch - rpe < 0.5]
                off.append(np.abs(flat - np.median(flat)))
                bent += bool(ready.bend)
    print(f"{len(files):,} phantoms, seed {options.seed}")
    print(f"border pixels: precision {right / found:.4f}, recall {right / there:.4f}")
    for flatten, measured in crops.items():
        whole, heights = (np.array(column) for column in zip(*measured, strict=True))
        print(
            f"{'flattened crop' if flatten else 'crop'}: whole retina in {np.mean(whole):.2%}; as tall as the retina "
            f"times {np.median(heights):.2f} (median), {heights.max():.2f} (largest); "
            f"whole and at most 1.35 times as tall in {np.mean(whole & (heights <= 1.35)):.2%}"
        )
    print(
        f"flattened {bent:,}; in 95 % of the columns the pigment epithelium is off level by at most "
        f"{np.percentile(np.concatenate(off), 95):.1f} rows"
    )
    if options.src:
        files = [path.read_bytes() for path in sorted(options.src.rglob("*.jpeg"))]
    files = files[:: max(len(files) // TIMED, 1)][:TIMED]
    grays = [preprocessing.decode(data) for data in files]
    usual = seconds(preprocessing.decode, files)
    usual += seconds(lambda gray: cv2.resize(gray, (224, 224), interpolation=cv2.INTER_AREA), grays)
    ours = seconds(cleaned_cropped_denoised, grays)
    print(
        f"decode and resize {usual / len(files) * 1e3:.2f} ms, clean, crop and denoise {ours / len(files) * 1e3:.2f} ms"
    )
    print(f"ratio {ours / usual:.2f}")


if __name__ == "__main__":
    main()
