"""How many images that are no scans of the training's kind a calibrated run marks as unfamiliar, kind by kind.

    octprep synthesize scans --patients 800 --seed 3 --difficulty hard
    octprep build scans shards --size 96 --split by-patient --fractions 0.5,0.25,0.25
    octtrain fit shards --run run --epochs 10
    octtrain calibrate run
    python -m benchmarks.unfamiliar run scans

Images are drawn, or made from the scans of the test split, at source resolution, and go through the preprocessing of
the run as `octtrain predict` does it. Beside the four signals together the table shows each alone; one that is not
used, a limit on the probability of the most probable class, chosen as the others are; and the accuracy of the model on
scans that were changed, as a change that does it no harm need not be flagged.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # not where a test imports it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep import preprocessing
from octprep.format import images_csv
from octtrain.calibration.features import predict_with_distances, with_features
from octtrain.calibration.patients import number_of_patient
from octtrain.calibration.unfamiliar import Distances, limit_of_patients
from octtrain.evaluation.evaluate import predict_split
from octtrain.prediction.classify import BATCH, LoadedRun, load_run

Gray = NDArray[np.uint8]
Rng = np.random.Generator

SHAPE = (496, 512)  # rows and columns of drawn images


def noise(rng: Rng) -> Gray:
    """White noise of some mean and contrast."""
    return _gray(rng.normal(rng.uniform(60, 190), rng.uniform(15, 70), SHAPE))


def smooth_noise(rng: Rng) -> Gray:
    """Noise whose power falls with the frequency, as that of photographs does."""
    rows, columns = SHAPE
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None])
    frequency[0, 0] = 1
    spectrum = (rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)) / frequency ** rng.uniform(
        1, 1.8
    )
    field = np.fft.irfft2(spectrum, s=SHAPE)
    return _gray(rng.uniform(80, 170) + rng.uniform(30, 60) * (field - field.mean()) / field.std())


def photograph(rng: Rng) -> Gray:
    """Overlapping ellipses of all sizes, each with a gray level, a gradient and a texture: "dead leaves" (Lee 2001)."""
    image = np.full(SHAPE, rng.uniform(0, 255))
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for _ in range(150):
        size = min(5 * rng.pareto(1.2) + 8, 220)
        axes = int(size), int(size * rng.uniform(0.4, 1))
        mask = np.zeros(SHAPE, np.uint8)
        centre = int(rng.uniform(0, SHAPE[1])), int(rng.uniform(0, SHAPE[0]))
        cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 1, -1)
        slope = rng.normal(0, 0.2, 2)
        leaf = rng.uniform(0, 255) + slope[0] * (rows - centre[1]) + slope[1] * (columns - centre[0])
        image = np.where(mask > 0, leaf, image)
    return _gray(cv2.GaussianBlur(image, (0, 0), 0.8) + rng.normal(0, 4, SHAPE))


def fundus(rng: Rng) -> Gray:
    """A bright disc on black with an optic disc and vessels, as a fundus photograph has them."""
    rows, columns = SHAPE
    radius = rng.uniform(0.4, 0.49) * rows
    y, x = np.mgrid[:rows, :columns] - np.array([rows / 2, columns / 2])[:, None, None]
    distance = np.hypot(x, y)
    image = rng.uniform(80, 150) * (1 - 0.35 * (distance / radius) ** 2)
    disc = np.array([rng.choice([-1, 1]) * rng.uniform(0.35, 0.5) * radius, rng.normal(0, 0.05 * radius)])
    image += 90 * np.exp(-((((x - disc[0]) ** 2 + (y - disc[1]) ** 2) / (0.12 * radius) ** 2) ** 2))
    image -= 35 * np.exp(-((x + disc[0] * 0.3) ** 2 + y**2) / (0.2 * radius) ** 2)
    canvas = _gray(image).copy()
    for _ in range(14):
        place, angle = disc.copy(), rng.uniform(0, 2 * np.pi)
        width = int(rng.integers(2, 7))
        for _ in range(60):
            step = 0.03 * radius * np.array([np.cos(angle), np.sin(angle)])
            start, end = (tuple(int(v) for v in p + np.array([columns / 2, rows / 2])) for p in (place, place + step))
            cv2.line(canvas, start, end, float(rng.uniform(40, 60)), width)
            place, angle = place + step, angle + rng.normal(0, 0.12)
    canvas = cv2.GaussianBlur(canvas, (0, 0), 1.2)
    return _gray(np.where(distance < radius, canvas + rng.normal(0, 4, SHAPE), rng.uniform(0, 6)))


def rotated_90(scan: Gray, rng: Rng) -> Gray:
    """A scan on its side."""
    return np.ascontiguousarray(np.rot90(scan, rng.choice([1, 3])))


def rotated_180(scan: Gray, rng: Rng) -> Gray:
    """A scan upside down."""
    return np.ascontiguousarray(np.rot90(scan, 2))


def inverted(scan: Gray, rng: Rng) -> Gray:
    """A scan in black on white."""
    return 255 - scan


def speckle(scan: Gray, rng: Rng) -> Gray:
    """A scan with speckle of one look, exponential as that of a single frame, over what it has."""
    return _gray(scan * rng.exponential(size=scan.shape))


def coarse_speckle(scan: Gray, rng: Rng) -> Gray:
    """A scan with speckle of one look in grains of four pixels."""
    rows, columns = scan.shape
    grains = rng.exponential(size=(rows // 4 + 1, columns // 4 + 1)).astype(np.float32)
    return _gray(scan * cv2.resize(grains, (columns, rows), interpolation=cv2.INTER_CUBIC))


def low_contrast(scan: Gray, rng: Rng) -> Gray:
    """A scan whose gray levels fill a fifth of their range."""
    return _gray(100 + 0.2 * scan)


def high_contrast(scan: Gray, rng: Rng) -> Gray:
    """A scan of black and white nearly alone."""
    return _gray(128 + 6 * (scan.astype(float) - np.quantile(scan, 0.7)))


DRAWN: dict[str, Callable[[Rng], Gray]] = {
    "white noise": noise,
    "1/f noise": smooth_noise,
    "photograph-like": photograph,
    "fundus-like": fundus,
}
CHANGED: dict[str, Callable[[Gray, Rng], Gray]] = {
    "on its side": rotated_90,
    "upside down": rotated_180,
    "inverted": inverted,
    "speckle of one look": speckle,
    "coarse speckle": coarse_speckle,
    "low contrast": low_contrast,
    "black and white": high_contrast,
}


def images_of_kind(kind: str, scans: list[Gray], count: int, seed: int = 0) -> Iterator[Gray]:
    """`count` images of a kind, drawn or made from scans in turn."""
    rng = np.random.default_rng([seed, *kind.encode()])
    for i in range(count):
        yield DRAWN[kind](rng) if kind in DRAWN else CHANGED[kind](scans[i % len(scans)], rng)


def _gray(values: Any) -> Gray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


class Row(NamedTuple):
    """What is measured of one kind of images."""

    kind: str
    images: int
    flagged: float  # share that is unfamiliar
    by_signal: dict[str, float]  # signal -> share
    least_confident: float  # share whose probability is below that of 1 % of val's patients
    accuracy: float | None  # of the model, where the images are scans of a known class


def measure(run: LoadedRun, images: Iterable[Gray], labels: Sequence[str] | None, least: float, kind: str) -> Row:
    """Preprocess and classify images, and apply the frozen limits. least: the least probability that is not flagged."""
    calibration = run.calibration
    assert calibration
    scans = [preprocessing.preprocess(image, run.run.manifest.recipe) for image in images]
    pixels = np.stack([scan.pixels for scan in scans])[..., None]
    network, _ = with_features(run.model)
    parts = [
        predict_with_distances(network, calibration.scans, pixels[i : i + BATCH], len(run.class_names), BATCH)
        for i in range(0, len(pixels), BATCH)
    ]
    probabilities = calibration.probabilities(np.concatenate([part for part, _ in parts]))
    confidence = np.array([scan.measurements.crop_confidence for scan in scans]).round(4)
    marks = calibration.marks(probabilities, Distances.joined([distances for _, distances in parts]), confidence)
    predicted = [run.class_names[i] for i in probabilities.argmax(axis=1)]
    return Row(
        kind=kind,
        images=len(scans),
        flagged=float(marks.is_unfamiliar.mean()),
        by_signal={name: float(flags.mean()) for name, flags in marks.unfamiliar.items()},
        least_confident=float((probabilities.max(axis=1) < least).mean()),
        accuracy=float(np.mean([p == t for p, t in zip(predicted, labels, strict=True)])) if labels else None,
    )


def least_probability(run: LoadedRun, rows: Sequence[images_csv.ImageRow]) -> float:
    """The probability of the most probable class that 99 % of val's patients keep with all scans."""
    trained, calibration = run.run, run.calibration
    assert calibration
    val = predict_split(run.model, trained.manifest, trained.shards, calibration.frozen.split, rows)
    confidence = calibration.probabilities(val.probabilities).max(axis=1).astype(np.float64)
    return -limit_of_patients(-confidence, number_of_patient(val.groups))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run that was calibrated")
    parser.add_argument("scans", type=Path, help="the source folder of its shards")
    parser.add_argument("--count", type=int, default=300, help="images of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    run = load_run(args.run, warn=print)
    rows = images_csv.read_checked(run.run.shards, run.run.manifest).rows
    least = least_probability(run, rows)
    rng = np.random.default_rng(args.seed)

    def read(split: str, count: int) -> tuple[list[Gray], list[str]]:
        own = [row for row in rows if row.split == split]
        drawn = [own[i] for i in rng.permutation(len(own))[:count]]
        return [preprocessing.read_image(args.scans / row.path)[0] for row in drawn], [row.label for row in drawn]

    signals = ("features", "pixels", "noise", "crop")
    print(f"| images | number | unfamiliar | {' | '.join(signals)} | least probable 1 % | accuracy |")
    print("|---|--:|--:|" + "--:|" * (len(signals) + 2))
    for split in ("val", "test"):
        show(measure(run, *read(split, args.count), least, f"scans of {split}"), signals)
    scans, labels = read("test", args.count)
    for kind in [*DRAWN, *CHANGED]:
        known = None if kind in DRAWN else labels
        show(measure(run, images_of_kind(kind, scans, len(scans), args.seed), known, least, kind), signals)


def show(row: Row, signals: Sequence[str]) -> None:
    each = " | ".join(f"{row.by_signal[name]:.1%}" for name in signals)
    accuracy = "" if row.accuracy is None else f"{row.accuracy:.1%}"
    print(
        f"| {row.kind} | {row.images} | {row.flagged:.1%} | {each} | {row.least_confident:.1%} | {accuracy} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
